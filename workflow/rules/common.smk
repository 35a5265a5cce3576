# What every rule file shares: the checked configuration, and look-ups into it.
# Nothing here reads or writes data.
import fcntl
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SRC = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SRC)
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(SRC)}; ")

from cellmill.config import ConfigError, load_project
from cellmill.contracts import versions

try:
    PROJECT = load_project(config)
except ConfigError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    part="[A-Za-z0-9_-]+",
    tokenizer="[A-Za-z0-9_-]+",
    embedder="[A-Za-z0-9_-]+",
    export="[A-Za-z0-9_-]+",
    resource=r"[A-Za-z0-9_./-]+\.pkl",


onstart:
    take_lock()


def take_lock():
    """One run per folder. The kernel drops the lock when its holder dies, so a killed run leaves none behind."""
    global LOCK
    LOCK = open(".snakemake/cellmill.lock", "w")
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError("Another run is at work in this folder; wait for it, or stop it.")


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
        "columns": plain(spec.columns),
        "kept_columns": spec.kept_columns,
        "split": plain(spec.split),
    }


def results_of(dataset):
    """Every file that a dataset ends in."""
    base = f"results/{dataset}"
    parts = PROJECT.datasets[dataset].source.parts()
    tokens = expand(base + "/tokenized/{t}/{p}.parquet", t=PROJECT.tokenizers_of(dataset), p=parts)
    vectors = expand(base + "/embedded/{e}/{p}.npy", e=PROJECT.embedders_of(dataset), p=parts)
    exports = expand(base + "/{x}/manifest.json", x=PROJECT.exports_of(dataset))
    return [f"{base}/config.json", *tokens, *vectors, *exports, f"{base}/report/index.html"]


def everything(wildcards):
    return [file for dataset in PROJECT.datasets for file in results_of(dataset)]
