"""What the config keys have to do with each other and with the files at hand, as problems in words.

Light on purpose: it is read on every ``snakemake -n``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders.problems import column_problems
from cellmill.errors import nearest
from cellmill.exports.geneformer import RANKED
from cellmill.pseudobulk.spec import OWN_COLUMNS
from cellmill.quality.names import METRICS, metric_of
from cellmill.sources import GeoArchs4, ScBaseCount
from cellmill.sources.files import RESERVED_PARTS
from cellmill.sources.obs_rules import join_problems
from cellmill.vocabularies import files as vocabulary_files

if TYPE_CHECKING:
    from cellmill.config import Config, Dataset

CONFIG_FILE = "config/config.yaml"


def dataset_problems(config: Config, dataset: Dataset, defined: dict[str, set[str]]) -> list[str]:
    from cellmill.contracts.counts import RESERVED_COLUMNS

    problems = []
    for family in ("tokenizers", "embedders", "exports"):
        for name in getattr(dataset, family):
            if name not in defined[family]:
                said = f"{family}: '{name}' is not defined in {CONFIG_FILE}. {nearest(name, defined[family])}"
                problems.append(said)
    exports = config.exports.by_path()
    for path in dataset.exports:
        if path in exports:
            problems.extend(f"exports: {path}: {p}" for p in exports[path].problems(dataset))
    if dataset.variable_genes.by_batch and dataset.columns.batch is None:
        problems.append(
            "variable_genes.by_batch: there is no batch column. Name it in columns.batch, or set by_batch: false."
        )
    problems += _unknown_sets(dataset)
    problems += column_problems(config, dataset)
    if dataset.judge_rules is not None:
        problems += [
            f"judge: '{column}' does not stay with the cells. Name it in columns.keep."
            for column in dataset.judge_rules.columns
            if column not in dataset.kept_columns
        ]
        others, tested_on = set(dataset.split.fractions) - {"train"}, dataset.judge_rules.tested_on
        if tested_on is not None and tested_on not in others:
            problems.append(f"judge.tested_on: no split '{tested_on}' to test on. {nearest(tested_on, others)}")
    read = [(path, t) for path in dataset.exports if path in exports for t in exports[path].tokenizers]
    for path, name in read:
        writes = config.tokenizers[name].columns if name in config.tokenizers else {}
        problems.extend(
            f"exports: {path}: tokenizer '{name}' writes '{c}' itself; rename your column."
            for c in dataset.kept_columns
            if c in writes and c not in RESERVED_COLUMNS
        )
    for name in dict.fromkeys([*dataset.tokenizers, *(t for _, t in read)]):
        column = getattr(config.tokenizers.get(name), "library_size", None)
        if column is not None and column not in dataset.kept_columns:
            problems.append(
                f"columns.keep: tokenizer '{name}' takes the library size from '{column}', which is not kept."
            )
    return problems


def _unknown_sets(dataset: Dataset) -> list[str]:
    """Metrics and bounds of gene sets that the dataset does not have."""
    own = [metric_of(name) for name in dataset.genes.sets]
    problems = [
        f"quality.mads: no metric '{metric}'. {nearest(metric, [*METRICS, *own])}"
        for metric in dataset.quality.mads
        if metric not in METRICS and metric not in own
    ]
    return problems + [
        f"quality.max_pct: no gene set '{name}' in genes.sets. {nearest(name, dataset.genes.sets)}"
        for name in dataset.quality.max_pct
        if name not in dataset.genes.sets
    ]


def export_problems(config: Config, defined: dict[str, set[str]]) -> list[str]:
    problems = []
    for path, spec in config.exports.by_path().items():
        where = "exports." + path.replace("/", ".")
        for family, names, known in (
            ("tokenizer", spec.tokenizers, defined["tokenizers"]),
            ("embedder", spec.embedders, defined["embedders"]),
        ):
            for name in names:
                if name not in known:
                    problems.append(f"{where}: no {family} '{name}' is defined. {nearest(name, known)}")
        for name in spec.tokenizers if getattr(spec, "sentences", None) is not None else ():
            writes = config.tokenizers[name].columns if name in config.tokenizers else {"cell_sentence_1": ""}
            if "cell_sentence_1" not in writes:
                problems.append(
                    f"{where}: sentences: '{name}' is no tokenizer of kind sentence: it writes {' and '.join(writes)}."
                )
        if path.startswith("geneformer/"):
            for name in spec.tokenizers:
                kind = config.tokenizers[name].kind if name in config.tokenizers else RANKED[0]
                if kind not in RANKED:
                    problems.append(
                        f"{where}: Geneformer reads ranked genes; '{name}' is of the kind {kind}. "
                        f"Name a tokenizer of the kind {', '.join(RANKED)}, or take an export hf."
                    )
    return problems


def tokenizer_problems(config: Config, used: Iterable[str], base: Path) -> list[str]:
    """Vocabularies that a tokenizer in use asks for and that are not there, or cannot be made in this run."""
    problems = []
    for name in dict.fromkeys(used):
        needs = config.tokenizers[name].needs() if name in config.tokenizers else {}
        for role, file in needs.items():
            if file.startswith("resources/"):
                continue
            where = f"tokenizers.{name}.{role}"
            found = vocabulary_files.vocabulary_problems(file, config.vocabularies, base)
            problems += [f"{where}: {p}" for p in found]
            made_of = vocabulary_files.datasets_of(file, config.vocabularies)
            missing = [d for d in made_of if d not in config.datasets]
            if missing:
                said = f"'{file}' is made of the genes of {', '.join(missing)}, not in this run"
                problems.append(f"{where}: {said}. Add {'it' if len(missing) == 1 else 'them'} to datasets.")
    return problems


def file_problems(dataset: Dataset, base: Path) -> list[str]:
    """What can be known of the files before anything runs: that they are there, and that the columns are."""
    from cellmill.contracts.counts import DOUBLET_COLUMNS, RESERVED_COLUMNS

    problems = []
    reserved = RESERVED_COLUMNS.union(map(metric_of, dataset.genes.sets))
    reserved |= set() if dataset.quality.doublets is None else set(DOUBLET_COLUMNS)
    for column in dataset.kept_columns:
        if column in reserved:
            problems.append(f"columns: '{column}' is a column that cellmill itself writes; rename yours.")
    if dataset.pseudobulk:
        problems += [
            f"columns: '{c}' is a column of the profiles of pseudobulk; rename yours."
            for c in OWN_COLUMNS
            if c in dataset.kept_columns
        ]
    for part in sorted(RESERVED_PARTS.intersection(dataset.source.parts())):
        problems.append(f"source: no part can be called '{part}': cellmill writes quality/{part}.parquet itself.")
    problems += [f"source.{p}" for p in dataset.source.problems(base)]
    if dataset.source.planned and dataset.cell_ids == "part_barcode":
        problems.append("cell_ids: planned parts have ids by file already, and these depend on no part: take barcode.")
    if isinstance(dataset.source, ScBaseCount) and dataset.counts not in ("auto", "X"):
        problems.append(f"counts: '{dataset.counts}' of scbasecount is named in source.layer.")
    if isinstance(dataset.source, GeoArchs4) and dataset.counts not in ("auto", "X"):
        problems.append(f"counts: '{dataset.counts}': a file of ARCHS4 has one matrix; leave this out.")
    for name, path in dataset.split.files.items():
        if not (base / path).is_file():
            problems.append(f"split.explicit.{name}: no file '{path}'. A list of values stands in brackets.")
    asked_for = (dataset.enrich, dataset.join)
    problems += join_problems(*asked_for, None, base)[0]  # what the tables alone say
    for key, found in dataset.source.local_files(base).items():
        if found is None:
            problems.append(
                f"source.{key}: no such file{dataset.source.shown(key)}. "
                "Paths are relative to the folder that snakemake runs in."
            )
            continue
        columns = _obs_columns(found)
        if columns is None:
            continue
        said, columns = join_problems(*asked_for, columns, base)
        problems += [p for p in said if p not in problems]
        if columns is None:
            continue
        asked: list[tuple[str, str]] = [("columns.keep", c) for c in dataset.columns.keep]
        asked += [(f"columns.{r}", c) for r in ("batch", "label") if (c := getattr(dataset.columns, r)) is not None]
        asked += [("quality.filters", f.column) for f in dataset.quality.filters]
        asked += [("quality.rare", dataset.quality.rare.column)] if dataset.quality.rare is not None else []
        asked += [("subset.stratify", c) for c in (dataset.subset.stratify if dataset.subset is not None else [])]
        asked += [("missing.columns", c) for c in (dataset.missing.columns if dataset.missing is not None else [])]
        asked += [(f"pseudobulk.{n}.by", c) for n, bulk in dataset.pseudobulk.items() for c in bulk.by if c != "split"]
        asked += [("split.by", c) for c in dataset.split.columns]
        asked += [("split.stratify", c) for c in dataset.split.stratify]
        for key_, column in asked:
            if column not in columns:
                problems.append(f"{key_}: no column '{column}' in {found.name}. {nearest(column, columns)}")
    return problems


def _obs_columns(path: Path) -> list[str] | None:
    """Names of the obs columns of an h5ad file or a zarr folder, or None where it cannot be read so early."""
    import h5py

    from cellmill.matrix.zarr_store import obs_columns

    if path.is_dir():
        return obs_columns(path)
    try:
        with h5py.File(path, "r") as file:
            obs = file["obs"]
            if isinstance(obs, h5py.Group):
                return [str(c) for c in obs.attrs.get("column-order", [])]
            return [str(c) for c in obs.dtype.names or ()]
    except (OSError, KeyError):
        return None  # retrieve_part and measure_quality say what is wrong with it
