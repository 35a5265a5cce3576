# What the files of this folder share: the checked configuration, and look-ups into it.
# Nothing here reads or writes data.
import fcntl
import re
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

SRC = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SRC)
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(SRC)}; ")

from cellmill.config import ConfigError, load_project
from cellmill.contracts import versions
from cellmill.embedders import OfTokens
from cellmill.embedders.model_files import model_files
from cellmill.genes.files import gene_list, gene_set_files, gene_table
from cellmill.operations.failures import cancel_leftovers, said_of_failures
from cellmill.operations.times import write_times
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.vocabularies.files import vocabulary_file

STARTED = time.time()

try:
    PROJECT = load_project(config)
except ConfigError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    dataset=r"(?!vocabularies/)[A-Za-z0-9_-]+",
    part=r"(?!(?:duplicates|splits|ledger)\.)[A-Za-z0-9_-]+",
    vocabulary="[A-Za-z0-9_-]+",
    tokenizer="[A-Za-z0-9_-]+",
    embedder="[A-Za-z0-9_-]+",
    export="[A-Za-z0-9_-]+",
    resource="|".join(map(re.escape, Ledger(LEDGER).names)),
    share="[0-9]+",
    format="|".join(PROJECT.config.exports.formats()),
    target="zenodo|webdav",


onstart:
    take_lock()
    for left in cancel_leftovers(Path(".")):
        print(f"Cancelled {left}: a killed run of this folder had left it at work on the cluster.", file=sys.stderr)


onsuccess:
    write_all_times()


onerror:
    write_all_times()
    print(said_of_failures(Path("."), since=STARTED), file=sys.stderr)


def write_all_times():
    """Where the time went, of every dataset that has a report folder; differs from run to run, so no rule makes it."""
    for dataset in PROJECT.datasets:
        folder = Path(f"results/{dataset}/report")
        if folder.is_dir():
            write_times(Path("."), dataset, table=folder / "times.tsv", figure=folder / "times.svg")


def take_lock():
    """One run per folder. The kernel drops the lock when its holder dies, so a killed run leaves none behind."""
    global LOCK
    LOCK = open(".snakemake/cellmill.lock", "w")
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError("Another run is at work in this folder; wait for it, or stop it.")
    except OSError as error:
        print(f"This file system knows no locks ({error.strerror}); take care to start one run only.", file=sys.stderr)


def dataset_of(wildcards):
    """The spec of the dataset; a target of an unknown dataset says so."""
    if wildcards.dataset not in PROJECT.datasets:
        known = ", ".join(PROJECT.datasets)
        raise WorkflowError(
            f"No dataset '{wildcards.dataset}' in this run, which has: {known}. "
            f"Add it: --config 'datasets=[\"{wildcards.dataset}\"]'"
        )
    return PROJECT.datasets[wildcards.dataset]


def parts_of(wildcards):
    return dataset_of(wildcards).source.parts()


def per_part(pattern):
    """An input function: ``pattern`` for every part of the dataset, other wildcards filled in."""

    def files(wildcards):
        return expand(pattern, part=parts_of(wildcards), **dict(wildcards.items()))

    return files


def spare_threads(wildcards):
    """Threads for one part: 1 where there are parts for all cores, more where cores would idle; 4 at most."""
    return max(1, min(4, (workflow.cores or 1) // len(parts_of(wildcards))))


def plain(spec):
    return spec.model_dump(mode="json")


def export_spec(wildcards, format_):
    """The spec of ``{format}/{export}`` of the run's config."""
    known = PROJECT.config.exports.by_path()
    path = f"{format_}/{wildcards.export}"
    if path not in known:
        raise WorkflowError(f"No export '{path}' in config/config.yaml, which has: {', '.join(known)}.")
    return known[path]


def about(wildcards):
    """What manifests and cards say of a dataset."""
    spec = dataset_of(wildcards)
    return {
        "dataset": wildcards.dataset,
        "title": spec.title,
        "organism": spec.organism,
        "license": spec.license,
        "citation": spec.citation,
        "columns": plain(spec.columns),
        "kept_columns": spec.exported_columns,
        "split": plain(spec.split),
    }


def results_of(dataset):
    """Every file that a dataset ends in."""
    base = f"results/{dataset}"
    parts = PROJECT.datasets[dataset].source.parts()
    tokens = expand(f"{base}/tokenized/{{t}}/{{p}}.parquet", t=PROJECT.tokenizers_of(dataset), p=parts)
    vectors = expand(f"{base}/embedded/{{e}}/{{p}}.npy", e=PROJECT.embedders_of(dataset), p=parts)
    exports = expand(f"{base}/{{x}}/manifest.json", x=PROJECT.exports_of(dataset))
    return [f"{base}/config.json", *tokens, *vectors, *exports, f"{base}/report/index.html"]


def everything(wildcards):
    made = [f"results/vocabularies/{name}.json" for name in PROJECT.vocabularies()]
    return [*made, *(file for dataset in PROJECT.datasets for file in results_of(dataset))]


# --- raw data


def local_file(wildcards):
    """The part's file where it is local, so that a newer one is seen."""
    found = dataset_of(wildcards).source.local_files(Path("."))
    return [str(p) for key, p in found.items() if key == f"files.{wildcards.part}" and p is not None]


def whole_datasets():
    """A pattern of the names of datasets that are taken whole; an unknown name is one."""
    drawn = "|".join(name for name, spec in PROJECT.datasets.items() if spec.subset is not None)
    return rf"(?!(?:{drawn})/)[A-Za-z0-9_-]+" if drawn else "[A-Za-z0-9_-]+"


def drawn_datasets():
    """A pattern of the names of datasets that have a subset; of none where none has."""
    return "|".join(name for name, spec in PROJECT.datasets.items() if spec.subset is not None) or "(?!)"


def subset_table(wildcards):
    """What was drawn, where the dataset has a subset."""
    needed = dataset_of(wildcards).subset is not None
    return [f"results/{wildcards.dataset}/raw/subset.parquet"] if needed else []


# --- cells


def doublet_scores(wildcards):
    """The scores of all batches, where the dataset looks for doublets."""
    pattern = f"results/{wildcards.dataset}/quality/doublets/{{s}}.parquet"
    return expand(pattern, s=dataset_of(wildcards).doublet_shares)


def doublet_rules(wildcards):
    """The rules of a dataset that looks for doublets."""
    spec = dataset_of(wildcards)
    if wildcards.share not in spec.doublet_shares:
        raise WorkflowError(
            f"No share {wildcards.share} of the batches of '{wildcards.dataset}', which has {len(spec.doublet_shares)}: "
            "quality.doublets asks for doublets, and there is a share for each of up to 64 parts."
        )
    return spec.doublet_rules


def doublet_memory(wildcards, attempt):
    """In MB: what Scrublet makes of the largest batch that is allowed, dense matrices of its variable genes."""
    return (2000 + doublet_rules(wildcards).doublets.max_batch_cells // 2) * attempt


# --- genes


def table_of_genes(wildcards):
    """The gene table, where the dataset asks for one."""
    spec = dataset_of(wildcards)
    return gene_table(spec.genes.table, spec.organism)


def list_of_genes(wildcards):
    """The list of genes that is the gene space, where the dataset names one."""
    return gene_list(dataset_of(wildcards).genes.space)


def lists_of_sets(wildcards):
    """The gene sets of the dataset that are lists in files, in their order."""
    return gene_set_files(dataset_of(wildcards).genes.sets)


def gene_cells(wildcards):
    """In how many kept cells each gene is, of every part, where the dataset asks for a fewest number."""
    pattern = f"results/{wildcards.dataset}/genes/{{p}}.cells.parquet"
    return expand(pattern, p=parts_of(wildcards)) if dataset_of(wildcards).genes.min_cells else []


def clip_model(wildcards):
    """The model that counts are clipped by, where the flavor of the variable genes has one."""
    needed = dataset_of(wildcards).variable_genes.clips
    return [f"results/{wildcards.dataset}/genes/clipped/model.npz"] if needed else []


def clipped_sums(wildcards):
    """The sums of clipped counts of every part, where the flavor of the variable genes needs them."""
    pattern = f"results/{wildcards.dataset}/genes/clipped/part_{{p}}.npz"
    return expand(pattern, p=parts_of(wildcards)) if dataset_of(wildcards).variable_genes.clips else []


# --- vocabularies


def vocabulary_spec(wildcards):
    known = PROJECT.config.vocabularies
    if wildcards.vocabulary not in known:
        raise WorkflowError(
            f"No vocabulary '{wildcards.vocabulary}' in config/config.yaml, which has: {', '.join(known) or 'none'}."
        )
    return known[wildcards.vocabulary]


def vocabulary_genes(wildcards):
    """The genes of every dataset of the vocabulary."""
    return expand("results/{dataset}/genes/genes.parquet", dataset=vocabulary_spec(wildcards).datasets)


def extended_vocabulary(wildcards):
    """The vocabulary that it extends, where it does."""
    name = vocabulary_spec(wildcards).extends
    return [] if name is None else [vocabulary_file(name, PROJECT.config.vocabularies)]


# --- tokenizers


def tokenizer_spec(wildcards):
    known = PROJECT.config.tokenizers
    if wildcards.tokenizer not in known:
        raise WorkflowError(
            f"No tokenizer '{wildcards.tokenizer}' in config/config.yaml, which has: {', '.join(known)}."
        )
    return known[wildcards.tokenizer]


def tokenizer_files(wildcards):
    """The outside files of a tokenizer; a vocabulary of the configuration is made first."""
    return [vocabulary_file(name, PROJECT.config.vocabularies) for name in tokenizer_spec(wildcards).needs().values()]


# --- embedders


def token_embedders():
    """A pattern of the names of embedders that run a model over tokens; of none where none does."""
    return "|".join(n for n, e in PROJECT.config.embedders.items() if isinstance(e, OfTokens)) or "(?!)"


def count_embedders():
    """A pattern of the names of the others; an unknown name is one."""
    return rf"(?!(?:{token_embedders()})/)[A-Za-z0-9_-]+"


def embedder_tokens(pattern):
    """An input function: a file of the tokenizer whose tokens the embedder reads."""

    def file(wildcards):
        return expand(pattern, tokenizer=embedder_spec(wildcards).tokenizer, **dict(wildcards.items()))[0]

    return file


def embedder_files(wildcards):
    """The files of the embedder's model; those of the ledger are fetched first."""
    return model_files(embedder_spec(wildcards).model, Ledger(LEDGER))


def embedder_spec(wildcards):
    known = PROJECT.config.embedders
    if wildcards.embedder not in known:
        raise WorkflowError(f"No embedder '{wildcards.embedder}' in config/config.yaml, which has: {', '.join(known)}.")
    return known[wildcards.embedder]


def embedder_model(wildcards):
    """The fitted model, where the embedder learns one."""
    folder = f"results/{wildcards.dataset}/embedded/{wildcards.embedder}/model"
    return [f"{folder}/pca.npz"] if embedder_spec(wildcards).learns else []


# --- exports


def export_tokens(format_):
    def files(wildcards):
        pattern = f"results/{wildcards.dataset}/tokenized/{{t}}/{{p}}.parquet"
        return expand(pattern, t=export_spec(wildcards, format_).tokenizers, p=parts_of(wildcards))

    return files


def export_embeddings(format_):
    def files(wildcards):
        pattern = f"results/{wildcards.dataset}/embedded/{{e}}/{{p}}.npy"
        return expand(pattern, e=export_spec(wildcards, format_).embedders, p=parts_of(wildcards))

    return files


def export_vocabulary(format_):
    def files(wildcards):
        pattern = f"results/{wildcards.dataset}/tokenized/{{t}}/vocabulary.json"
        return expand(pattern, t=export_spec(wildcards, format_).tokenizers)

    return files


# --- publishing


def publish_target(wildcards, target):
    """Where the dataset is published, which its file must say."""
    found = getattr(dataset_of(wildcards).publish, target)
    if found is None:
        raise WorkflowError(
            f"Dataset '{wildcards.dataset}' does not say where it is published: add 'publish: {{{target}: …}}' "
            f"to config/datasets/{wildcards.dataset}.yaml (config/README.md has its keys)."
        )
    return plain(found)


# --- report


def umap_embedding(wildcards):
    """The embedding the UMAP is drawn from: the first PCA of the dataset, else its first embedder, else none."""
    names = PROJECT.embedders_of(wildcards.dataset)
    first = next((n for n in names if PROJECT.config.embedders[n].kind == "pca"), next(iter(names), None))
    return expand(f"results/{wildcards.dataset}/embedded/{first}/{{p}}.npy", p=parts_of(wildcards)) if first else []


def figures(wildcards):
    """The figures of the page."""
    names = ["cells.svg", "quality.svg", "genes.svg", "umap.png"]
    if dataset_of(wildcards).quality.doublets is not None:
        names.append("doublets.svg")
    return [f"results/{wildcards.dataset}/report/{name}" for name in names]


def all_tokens(wildcards):
    pattern = f"results/{wildcards.dataset}/tokenized/{{t}}/{{p}}.parquet"
    return expand(pattern, t=PROJECT.tokenizers_of(wildcards.dataset), p=parts_of(wildcards))


def export_manifests(wildcards):
    return [f"results/{wildcards.dataset}/{path}/manifest.json" for path in PROJECT.exports_of(wildcards.dataset)]
