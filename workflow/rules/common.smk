# What the files of this folder share: the checked configuration, and look-ups into it.
# Nothing here reads or writes data.
import atexit
import fcntl
import gc
import os
import re
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py  # for what is called at the exit: HDF5 that is loaded during it is torn down too late, and crashes
from snakemake.dag import DAG
from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.iocontainers import InputFiles

SRC = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SRC)
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(SRC)}; ")

from cellmill.config import ConfigError, load_project
from cellmill.contracts import versions
from cellmill.contracts.plan import digest, members_of, read_plan
from cellmill.errors import CellmillError
from cellmill.embedders import OfCells, OfTokens
from cellmill.embedders.model_files import model_files
from cellmill.genes.files import gene_list, gene_set_files, gene_table
from cellmill.operations.dag import look_up_inputs, mend_groups
from cellmill.operations.failures import cancel_leftovers, said_of_failures
from cellmill.operations.slurm import mend_looks
from cellmill.operations.times import write_times
from cellmill.sources.estimate import in_short
from cellmill.sources.files import shared_file, shared_files
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.sources.obs_rules import ENRICHED_TABLE
from cellmill.sources.stores import is_address
from cellmill.vocabularies.files import vocabulary_file

STARTED = time.time()
mend_groups(DAG, WorkflowError)
look_up_inputs(InputFiles)
if "snakemake_executor_plugin_slurm" in sys.modules:  # Snakemake loads all plugins that are installed
    mend_looks(sys.modules["snakemake_executor_plugin_slurm"])
# Of the millions of objects of a large DAG none goes away: looking for such takes a fifth of the time.
gc.set_threshold(100_000, 50, 50)

try:
    PROJECT = load_project(config)
except ConfigError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    dataset=r"(?!vocabularies/)[A-Za-z0-9_-]+",
    part=r"(?!(?:duplicates|splits|ledger)\.)[A-Za-z0-9_-]+",
    vocabulary="[A-Za-z0-9_-]+",
    pseudobulk="[A-Za-z0-9_-]+",
    tokenizer="[A-Za-z0-9_-]+",
    embedder="[A-Za-z0-9_-]+",
    member="[A-Za-z0-9][A-Za-z0-9._ +-]*",
    export="[A-Za-z0-9_-]+",
    resource="|".join(map(re.escape, Ledger(LEDGER).names)),
    share="[0-9]+",
    table=r"[0-9]+\.(csv|tsv|parquet)(\.gz)?",
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


@atexit.register
def say_what_it_is():
    """After a dry run, below Snakemake's table of jobs: how much the datasets are in all, and what they will take."""
    if not workflow.dryrun:
        return
    print("In all, made or not (cellmill plan has more):")
    for dataset in PROJECT.datasets:
        try:
            print(f"  {in_short(PROJECT, dataset)}")
        except CellmillError as error:
            print(f"  {dataset}: {error}")


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
    """The parts of the dataset; where a plan says which, it is made first."""
    if not dataset_of(wildcards).source.planned:
        return dataset_of(wildcards).source.parts()
    return list(read_or_stop(read_plan, checkpoints.plan_dataset.get(dataset=wildcards.dataset).output.plan).parts)


def read_or_stop(read, *args):
    """What a plan says; an error of ours becomes one that Snakemake shows without a traceback."""
    try:
        return read(*args)
    except CellmillError as error:
        raise WorkflowError(str(error))


def parts_so_far(wildcards):
    """The parts where they are known, None where a plan must be made first."""
    try:
        return parts_of(wildcards)
    except IncompleteCheckpointException:
        return None


def per_part(pattern):
    """An input function: ``pattern`` for every part of the dataset, other wildcards filled in."""

    def files(wildcards):
        return expand(pattern, part=parts_of(wildcards), **dict(wildcards.items()))

    return files


def spare_threads(wildcards):
    """Threads for one part: 1 where there are parts for all cores, more where cores would idle; 4 at most."""
    parts = parts_so_far(wildcards)
    return 1 if parts is None else max(1, min(4, (workflow.cores or 1) // len(parts)))


def by_input(base, per_gb, only=None):
    """A resource that grows with what the job reads, and with the attempt: ``base``, and so much for each GB of input.

    MB of memory are what docs/scale.md shows of the rule, with Snakemake's two processes in the job (250 MB) and some room.
    ``only`` names the input that counts, where memory grows with no other.
    """

    def amount(wildcards, input, attempt):
        files = input if only is None else input.get(only) or []
        size = sum(
            os.path.getsize(path) for path in ([files] if isinstance(files, str) else files) if os.path.isfile(path)
        )
        return int((base + per_gb * size / 1e9) * attempt)

    return amount


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
    """Every file that a dataset ends in, and functions that give those of its parts."""
    base = f"results/{dataset}"

    def per_name(pattern, names):
        return lambda _: expand(pattern, n=names, p=parts_of(SimpleNamespace(dataset=dataset)))

    return [
        f"{base}/config.json",
        per_name(f"{base}/tokenized/{{n}}/{{p}}.parquet", PROJECT.tokenizers_of(dataset)),
        per_name(f"{base}/embedded/{{n}}/{{p}}.npy", PROJECT.embedders_of(dataset)),
        *pseudobulk_files(SimpleNamespace(dataset=dataset)),
        *expand(f"{base}/{{x}}/manifest.json", x=PROJECT.exports_of(dataset)),
        f"{base}/report/index.html",
    ]


def everything():
    """What all datasets end in; where parts are planned, the files of the others do not wait for the plan."""
    made = [f"results/vocabularies/{name}.json" for name in PROJECT.vocabularies()]
    return [*made, *(file for dataset in PROJECT.datasets for file in results_of(dataset))]


# --- raw data


def catalogue_files(wildcards):
    """Local files that decide the parts, so that a newer one is seen."""
    return dataset_of(wildcards).source.catalogue_files()


def plan_of(wildcards):
    """The plan, where the dataset has one; a new one makes only those parts anew that it changes."""
    if not dataset_of(wildcards).source.planned:
        return []
    return ancient(checkpoints.plan_dataset.get(dataset=wildcards.dataset).output.plan)


def members(wildcards):
    """What the plan says of the part; none where there is no plan."""
    if not dataset_of(wildcards).source.planned:
        return []
    plan = checkpoints.plan_dataset.get(dataset=wildcards.dataset).output.plan
    return read_or_stop(members_of, plan, wildcards.part)


def whole_files(wildcards):
    """The files at addresses of which the part takes some rows."""
    if not dataset_of(wildcards).source.planned:
        return []
    plan = checkpoints.plan_dataset.get(dataset=wildcards.dataset).output.plan
    found = dict.fromkeys(member.name for member in read_or_stop(shared_files, plan, wildcards.part))
    return [f"results/{wildcards.dataset}/whole/{name}.h5" for name in found]


def whole_file_digest(wildcards):
    """Another one where the plan says something else of a file that parts share."""
    plan = checkpoints.plan_dataset.get(dataset=wildcards.dataset).output.plan
    return digest([read_or_stop(shared_file, plan, wildcards.member)])


def billed_project(wildcards):
    """The project that a store bills whose requester pays."""
    return getattr(dataset_of(wildcards).source, "requester_pays", None)


def about_whole_files(wildcards):
    """What is known of these, which goes when they go."""
    return [str(Path(path).with_suffix(".json")) for path in whole_files(wildcards)]


def members_digest(wildcards):
    """Another one where the plan says something else of the part."""
    found = members(wildcards)
    return digest(found) if found else None


def counts_of_members(wildcards):
    """Where members have their counts; of a part that is one file, that changes nothing."""
    spec = dataset_of(wildcards)
    return spec.counts_of_members if spec.source.planned else "auto"


def local_file(wildcards):
    """The part's files where they are local, so that a newer one is seen."""
    spec = dataset_of(wildcards).source
    if spec.planned:
        return list(dict.fromkeys(m.address for m in members(wildcards) if not is_address(m.address)))
    found = spec.local_files(Path("."))
    return [str(p) for key, p in found.items() if key == f"files.{wildcards.part}" and p is not None]


def datasets_where(test):
    """A pattern of the names of datasets; of none where there is none."""
    return "|".join(name for name, spec in PROJECT.datasets.items() if test(spec)) or "(?!)"


def run_datasets():
    """Of all datasets of this run; what is there of others, such as a PCA that is a reference, is taken as it is."""
    return datasets_where(lambda spec: True)


def whole_datasets():
    """A pattern of the names of datasets that are taken whole and keep their raw files; an unknown name is one."""
    others = datasets_where(lambda spec: spec.subset is not None or not spec.keep_raw)
    return rf"(?!(?:{others})/)[A-Za-z0-9_-]+"


def passing_datasets():
    """Of those that are taken whole and whose raw files go when they were read."""
    return datasets_where(lambda spec: spec.subset is None and not spec.keep_raw)


def drawn_datasets():
    """Of those that have a subset."""
    return datasets_where(lambda spec: spec.subset is not None)


def drawn_kept_datasets():
    """Of those that have a subset and keep it."""
    return datasets_where(lambda spec: spec.subset is not None and spec.keep_raw)


def drawn_passing_datasets():
    """Of those that have a subset, which goes when it was read."""
    return datasets_where(lambda spec: spec.subset is not None and not spec.keep_raw)


def planned_datasets():
    """Of those whose parts a plan names."""
    return datasets_where(lambda spec: spec.source.planned)


def subset_table(wildcards):
    """What was drawn, where the dataset has a subset."""
    needed = dataset_of(wildcards).subset is not None
    return [f"results/{wildcards.dataset}/raw/subset.parquet"] if needed else []


def annotated_datasets(*, drawn):
    """A pattern of the names of datasets whose obs tables are changed or added to, with a subset or without."""
    return datasets_where(lambda spec: spec.obs_rules.needed and (spec.subset is not None) == drawn)


def annotation_files(wildcards, folder, parts):
    """What is changed or added in obs of these parts, where the dataset has rules for that."""
    needed = dataset_of(wildcards).obs_rules.needed
    pattern = f"results/{wildcards.dataset}/{folder}/{{p}}.obs.parquet"
    return expand(pattern, p=parts()) if needed else []


def raw_annotations(wildcards):
    """Those of a part; a subset has the columns in its raw file."""
    drawn = dataset_of(wildcards).subset is not None
    return [] if drawn else annotation_files(wildcards, "raw", lambda: [wildcards.part])


def found_annotations(wildcards):
    """Those of a part that a subset is drawn of."""
    return annotation_files(wildcards, "found", lambda: [wildcards.part])


def all_annotations(wildcards):
    """Those of every part, as it was found."""
    folder = "raw" if dataset_of(wildcards).subset is None else "found"
    return annotation_files(wildcards, folder, lambda: parts_of(wildcards))


def joined_tables(wildcards):
    """The table of each join, in their order; those of an address are fetched first."""
    spec, folder = dataset_of(wildcards), f"results/{wildcards.dataset}/tables"
    enriched = [] if spec.enrich is None else [f"{folder}/{ENRICHED_TABLE}"]
    named = ((f"{folder}/{i}{join.ending}", join.table) for i, join in enumerate(spec.join))
    return [*enriched, *(fetched if is_address(table) else table for fetched, table in named)]


def enrichment(wildcards):
    """What is looked up of the samples of the dataset."""
    spec = dataset_of(wildcards).enrich
    if spec is None:
        raise WorkflowError(f"Dataset '{wildcards.dataset}' has no 'enrich:' (config/README.md has its keys).")
    return spec


def found_parts(wildcards):
    """Every part as it was found."""
    folder = "raw" if dataset_of(wildcards).subset is None else "found"
    return expand(f"results/{wildcards.dataset}/{folder}/{{p}}.h5ad", p=parts_of(wildcards))


def table_address(wildcards):
    """The address of a table that is joined."""
    joins = dataset_of(wildcards).join
    known = {f"{i}{join.ending}": join.table for i, join in enumerate(joins) if is_address(join.table)}
    if wildcards.table not in known:
        raise WorkflowError(f"No table {wildcards.table} is joined in '{wildcards.dataset}'; there: {', '.join(known)}")
    return known[wildcards.table]


# --- cells


def doublet_scores(wildcards):
    """The scores of all batches, where the dataset looks for doublets."""
    pattern = f"results/{wildcards.dataset}/quality/doublets/{{s}}.parquet"
    return expand(pattern, s=doublet_shares(wildcards))


def doublet_shares(wildcards):
    """The shares of the batches of a dataset that looks for doublets."""
    spec = dataset_of(wildcards)
    return spec.doublet_shares(parts_of(wildcards)) if spec.quality.doublets is not None else []


def doublet_rules(wildcards):
    """The rules of a dataset that looks for doublets."""
    spec, parts = dataset_of(wildcards), parts_so_far(wildcards)
    shares = None if parts is None else spec.doublet_shares(parts)
    if spec.quality.doublets is None or (shares is not None and wildcards.share not in shares):
        raise WorkflowError(
            f"No share {wildcards.share} of the batches of '{wildcards.dataset}', which has {len(shares or [])}: "
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


def gene_memory(wildcards, input, attempt):
    """In MB: sums and histograms of every gene; of each batch, too, where genes are ranked by batch."""
    return by_input(1000, 2000 if dataset_of(wildcards).variable_genes.by_batch else 100)(wildcards, input, attempt)


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


# --- pseudo-bulk


def pseudobulk_spec(wildcards):
    """Which cells make a profile together."""
    known = dataset_of(wildcards).pseudobulk
    if wildcards.pseudobulk not in known:
        raise WorkflowError(
            f"No pseudobulk '{wildcards.pseudobulk}' in '{wildcards.dataset}', which has: {', '.join(known) or 'none'}."
        )
    return known[wildcards.pseudobulk]


def pseudobulk_files(wildcards):
    """The profiles that the dataset asks for."""
    return [f"results/{wildcards.dataset}/pseudobulk/{name}.h5ad" for name in dataset_of(wildcards).pseudobulk]


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


def cell_embedders():
    """A pattern of the names of embedders that run a model of scvi-tools; of none where none does."""
    return "|".join(n for n, e in PROJECT.config.embedders.items() if isinstance(e, OfCells)) or "(?!)"


def trained_cell_embedders():
    """Of those that train it."""
    found = [n for n, e in PROJECT.config.embedders.items() if isinstance(e, OfCells) and e.learns]
    return "|".join(found) or "(?!)"


def count_embedders():
    """A pattern of the names of the others; an unknown name is one."""
    return rf"(?!(?:{token_embedders()}|{cell_embedders()})/)[A-Za-z0-9_-]+"


def embedder_tokens(pattern):
    """An input function: a file of the tokenizer whose tokens the embedder reads."""

    def file(wildcards):
        return expand(pattern, tokenizer=embedder_spec(wildcards).tokenizer, **dict(wildcards.items()))[0]

    return file


def embedder_files(wildcards):
    """The files of the embedder's model; those of the ledger are fetched first."""
    spec = embedder_spec(wildcards)
    return model_files(spec.model, Ledger(LEDGER), kind=spec.kind)


def embedder_reference(wildcards):
    """The model that is there already, where the embedder names one; those of the ledger are fetched first."""
    model = getattr(embedder_spec(wildcards), "model", None)
    return [] if model is None else [f"{Path(model).as_posix()}/model.pt"]


def cell_model(wildcards):
    """The model of scvi-tools that a part goes through: trained on the dataset, or as it is."""
    trained = f"results/{wildcards.dataset}/embedded/{wildcards.embedder}/model/model.pt"
    return [trained] if embedder_spec(wildcards).learns else embedder_reference(wildcards)


def checkpoint_folder(wildcards):
    """Where a training that is interrupted keeps its last epoch; no output, which Snakemake would delete."""
    return f"results/{wildcards.dataset}/embedded/{wildcards.embedder}/.training"


def embedder_spec(wildcards):
    known = PROJECT.config.embedders
    if wildcards.embedder not in known:
        raise WorkflowError(f"No embedder '{wildcards.embedder}' in config/config.yaml, which has: {', '.join(known)}.")
    return known[wildcards.embedder]


def by_gene_pairs(base, per_pair):
    """Memory that grows with the square of the embedder's genes: ``base`` MB, and so many bytes for each two of them."""
    return lambda wildcards, attempt: int((base + per_pair * embedder_spec(wildcards).n_genes ** 2 / 1e6) * attempt)


def with_device(of_cpu):
    """Memory of what runs a model: on a GPU, CUDA and its libraries take 3 GB of the host besides."""
    return lambda wildcards, input, attempt: (
        of_cpu(wildcards, input, attempt) + (3000 * attempt if embedder_spec(wildcards).gpus else 0)
    )


def embedder_model(wildcards):
    """The fitted model where the embedder learns one, else its outside files; those of the ledger are fetched first."""
    spec = embedder_spec(wildcards)
    fitted = f"results/{wildcards.dataset}/embedded/{wildcards.embedder}/model/pca.npz"
    return [fitted] if spec.learns else spec.files(Ledger(LEDGER), Path("."))


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
    if judged_embedders(wildcards):
        names.append("embedders.svg")
    return [f"results/{wildcards.dataset}/report/{name}" for name in names]


def judge_rules(wildcards):
    """How embeddings are judged, which the dataset must say."""
    found = dataset_of(wildcards).judge_rules
    if found is None:
        raise WorkflowError(
            f"Dataset '{wildcards.dataset}' has nothing to judge embeddings by: name columns.label or columns.batch "
            f"in config/datasets/{wildcards.dataset}.yaml (config/README.md, judge:)."
        )
    return found


def judged_embedders(wildcards):
    """What every embedder of the dataset scores, where there is something to judge by."""
    if dataset_of(wildcards).judge_rules is None:
        return []
    names = PROJECT.embedders_of(wildcards.dataset)
    return [f"results/{wildcards.dataset}/report/judged/{name}.json" for name in names]


def all_tokens(wildcards):
    pattern = f"results/{wildcards.dataset}/tokenized/{{t}}/{{p}}.parquet"
    return expand(pattern, t=PROJECT.tokenizers_of(wildcards.dataset), p=parts_of(wildcards))


def embedding_manifests(wildcards):
    """Of each embedder that of one part: what it says of genes is the same in all."""
    pattern = f"results/{wildcards.dataset}/embedded/{{e}}/{{p}}.json"
    return expand(pattern, e=PROJECT.embedders_of(wildcards.dataset), p=parts_of(wildcards)[:1])


def outside_vocabularies(name):
    """An input function: a file of each tokenizer of the dataset whose vocabulary is from outside."""

    def files(wildcards):
        tokenizers = PROJECT.tokenizers_of(wildcards.dataset)
        from_outside = [t for t in tokenizers if PROJECT.config.tokenizers[t].needs()]
        return expand(f"results/{wildcards.dataset}/tokenized/{{t}}/{name}", t=from_outside)

    return files


def export_manifests(wildcards):
    return [f"results/{wildcards.dataset}/{path}/manifest.json" for path in PROJECT.exports_of(wildcards.dataset)]
