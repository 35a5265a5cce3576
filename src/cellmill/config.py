"""The one definition of every config key, and the check of all of it before the first job.

Light on purpose: it is read on every ``snakemake -n``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from cellmill.columns import Columns
from cellmill.config_problems import CONFIG_FILE, dataset_problems, export_problems, file_problems, tokenizer_problems
from cellmill.embedders import Embedder, OfTokens
from cellmill.embedders.problems import embedder_problems
from cellmill.errors import CellmillError, nearest
from cellmill.exports import Export, Exports
from cellmill.genes.files import gene_file_problems
from cellmill.genes.spec import GeneRules, Genes, VariableGenes
from cellmill.judge.spec import Judge, JudgeRules
from cellmill.pseudobulk.spec import Pseudobulk
from cellmill.publish.spec import Publish
from cellmill.quality.spec import CellRules, Duplicates, LabelRules, Quality, Split
from cellmill.sources import Census, ScBaseCount, Source, Tahoe
from cellmill.sources.download import Download
from cellmill.sources.obs_rules import Enrich, Join, MissingValues, ObsRules
from cellmill.sources.subset import Subset, SubsetRules
from cellmill.spec import Name, Organism, Spec
from cellmill.tokenizers import Tokenizer
from cellmill.vocabularies import files as vocabulary_files
from cellmill.vocabularies.spec import BuildVocabulary

DATASET_FOLDER = "config/datasets"


class Dataset(Spec):
    """One dataset: `config/datasets/<name>.yaml`."""

    title: str
    """A title for the report and the dataset card."""
    source: Source
    """Where the raw data come from."""
    exports: list[str]
    """Which exports to make, by path: `hf/cells`, `mds/tokens`, … as defined in config.yaml."""
    organism: Organism = "homo_sapiens"
    """For the dataset card; mitochondrial, ribosomal and haemoglobin genes are found in human and mouse alike."""
    citation: str | None = None
    """How to cite the data, as text or BibTeX, for the dataset card; `null`: not stated."""
    license: str | None = None
    """Licence of the data for the dataset card, by the Hub's name (`cc-by-4.0`); `null`: not stated."""
    counts: str = Field(default="auto", pattern=r"^(auto|X|raw|layers/.+)$")
    """Where the counts are: `X`, `raw`, `layers/<name>`, or `auto`: the first of X, raw, layers that holds counts."""
    cell_ids: Literal["barcode", "part_barcode"] = "barcode"
    """`barcode`: cell ids as found, which must be unique over all files; `part_barcode`: `<part>:<barcode>`."""
    keep_raw: bool = True
    """`false`: raw files are deleted when nothing more is read of them; other thresholds then fetch them again."""
    missing: MissingValues = None
    """Words that stand for missing values in obs: `true` for those that are known ("unsure", "not specified", …), a \
list of words, or `{words: […], columns: […]}`. `null`: none."""
    enrich: Enrich | None = None
    """What SRA and BioSample say of each sample, as in `{by: srx_accession, columns: [tissue, sex]}`. `null`: nothing \
is looked up."""
    join: list[Join] = []
    """Tables whose columns are joined to obs, as in `[{table: donors.csv, by: donor_id, columns: [age, sex]}]`."""
    subset: Subset | None = None
    """How many cells are taken, and which, as in `{cells: 10000, stratify: [cell_type]}`. `null`: all."""
    columns: Columns = Columns()
    """Which obs columns mean what."""
    genes: Genes = Genes()
    """How genes are named."""
    quality: Quality = Quality()
    """Which cells are kept."""
    split: Split = Split()
    """Who trains and who tests."""
    variable_genes: VariableGenes = VariableGenes()
    """Which genes vary."""
    pseudobulk: dict[Name, Pseudobulk] = {}
    """Profiles of groups of cells by name, as in `{by_donor: {by: [donor_id, cell_type], keep_cells: 5}}`."""
    tokenizers: list[Name] = ["rank"]
    """Tokenizers to run, by name in config.yaml; what an export needs is run in any case."""
    embedders: list[Name] = ["hvg", "pca"]
    """Embedders to run, by name in config.yaml; what an export needs is run in any case."""
    judge: Judge | None = Judge()
    """How embeddings are judged in the report. `null`, or neither labels nor batches: they are not."""
    publish: Publish = Publish()
    """Where it is published, once that is asked for."""

    @property
    def kept_columns(self) -> list[str]:
        """Obs columns that stay with the cells, each once, in a stable order."""
        named = [c for c in (self.columns.batch, self.columns.label) if c is not None]
        rare = [] if self.quality.rare is None else [self.quality.rare.column]
        grouped = [c for bulk in self.pseudobulk.values() for c in bulk.by if c != "split"]
        return list(dict.fromkeys([*named, *self.split.columns, *rare, *self.columns.keep, *grouped]))

    @property
    def obs_rules(self) -> ObsRules:
        """What `annotate_part` depends on."""
        looked_up = [] if self.enrich is None else [self.enrich.join]
        return ObsRules(missing=self.missing, joins=[*looked_up, *self.join])

    @property
    def judged(self) -> Quality:
        """`quality`, and before its filters those of the source: what decides which cells are kept."""
        own = self.source.cell_filters if isinstance(self.source, Census | Tahoe) else []
        return self.quality.model_copy(update={"filters": [*own, *self.quality.filters]}) if own else self.quality

    @property
    def judge_rules(self) -> JudgeRules | None:
        """What `judge_embedder` depends on; None: there is nothing to judge by."""
        if self.judge is None:
            return None
        labels = [c for c in [self.columns.label] if c is not None] if self.judge.labels is None else self.judge.labels
        rules = JudgeRules(
            labels=list(dict.fromkeys(labels)),
            batch=self.judge.batch or self.columns.batch,
            cells=self.judge.cells,
            tested_on=self.judge.tested_on or ("test" if "test" in self.split.fractions else None),
        )
        return rules if rules.columns else None

    @property
    def subset_rules(self) -> SubsetRules:
        """What `draw_subset` depends on, of a dataset that has a subset."""
        if self.subset is None:
            raise ValueError("this dataset has no subset")
        return SubsetRules(**self.subset.model_dump(), filters=list(self.judged.filters), cell_ids=self.cell_ids)

    @property
    def counts_of_members(self) -> str:
        """Where the members of a planned part have their counts."""
        return self.source.counts if isinstance(self.source, ScBaseCount) else self.counts

    @property
    def counts_as_found(self) -> str:
        """Where a part as found has the counts: those of a planned one are `X`."""
        return "X" if self.source.planned else self.counts

    @property
    def counts_in_raw(self) -> str:
        """Where `raw/` has the counts: those of a subset are `X`."""
        return self.counts_as_found if self.subset is None else "X"

    @property
    def exported_columns(self) -> list[str]:
        """Obs columns that exports write where they are not told which: those that stay, and what says of doublets."""
        from cellmill.contracts.counts import DOUBLET_COLUMNS

        return [*self.kept_columns, *(DOUBLET_COLUMNS if self.quality.doublets is not None else ())]

    @property
    def gene_rules(self) -> GeneRules:
        """What `measure_quality` depends on."""
        return GeneRules(organism=self.organism, **self.genes.model_dump(exclude={"space", "min_cells"}))

    @property
    def label_rules(self) -> LabelRules:
        """What `read_labels` depends on."""
        rare = self.quality.rare
        return LabelRules(
            filters=list(self.judged.filters),
            groups=self.split.columns,
            strata=self.split.stratify,
            category=None if rare is None else rare.column,
        )

    @property
    def threshold_rules(self) -> Quality:
        """What `set_thresholds` depends on: the rules that are judged before doublets, twins and rare categories."""
        return self.judged.model_copy(update={"doublets": None, "duplicates": Duplicates(), "rare": None})

    @property
    def doublet_rules(self) -> Quality:
        """What `score_doublets` depends on: the rules that are judged before, and how doublets are found."""
        found = self.quality.doublets and self.quality.doublets.model_copy(update={"rule": "report"})
        return self.threshold_rules.model_copy(update={"doublets": found})

    def doublet_shares(self, parts: Sequence[str]) -> list[str]:
        """The shares into which the batches are dealt out to be scored: one per part, and no more than 64."""
        if self.quality.doublets is None:
            return []
        return [str(i) for i in range(1 if self.columns.batch is None else min(len(parts), 64))]

    @property
    def cell_rules(self) -> CellRules:
        """What `process_part` depends on."""
        return CellRules(quality=self.judged, split=self.split, kept_columns=self.kept_columns)

    @property
    def gene_batch(self) -> str | None:
        """The obs column by whose batches genes are ranked; None: one ranking over all cells."""
        return self.columns.batch if self.variable_genes.by_batch else None


class Config(Spec):
    """`config/config.yaml`: the datasets to make, and everything they refer to by name."""

    datasets: list[Name]
    """Which datasets to make: files in `config/datasets/`. On the command line: `--config 'datasets=["pbmc68k"]'`."""
    mirror: str | None = None
    """A folder with a `SHA256SUMS` that is asked before the network, for machines without internet. `null`: none."""
    download: Download = Download()
    """How files are fetched, as in `{connections: 8, mb_per_s: 50}`."""
    vocabularies: dict[Name, BuildVocabulary] = {}
    """Vocabularies over the genes of several datasets, by name. Each is made in a run that has all of its datasets."""
    tokenizers: dict[Name, Tokenizer] = {}
    """Tokenizers by name."""
    embedders: dict[Name, Embedder] = {}
    """Embedders by name."""
    exports: Exports = Exports()
    """Exports by format and name."""


class Project(Spec):
    """The whole checked configuration: what the workflow works from."""

    config: Config
    datasets: dict[str, Dataset]

    def vocabularies(self) -> list[str]:
        """Vocabularies to make: those of which every dataset is in this run."""
        return [name for name, spec in self.config.vocabularies.items() if set(spec.datasets) <= set(self.datasets)]

    def tokenizers_of(self, dataset: str) -> list[str]:
        """Tokenizers to run: those asked for and those that an export or an embedder needs."""
        exported = [t for e in self.exports_of(dataset).values() for t in e.tokenizers]
        embedded = [tokenizer_of(self.config.embedders[e]) for e in self.embedders_of(dataset)]
        return list(dict.fromkeys([*self.datasets[dataset].tokenizers, *exported, *filter(None, embedded)]))

    def embedders_of(self, dataset: str) -> list[str]:
        """Embedders to run: those asked for and those that an export needs."""
        spec = self.datasets[dataset]
        return list(
            dict.fromkeys([*spec.embedders, *(m for e in self.exports_of(dataset).values() for m in e.embedders)])
        )

    def exports_of(self, dataset: str) -> dict[str, Export]:
        """The dataset's exports by path, with their specs."""
        known = self.config.exports.by_path()
        return {path: known[path] for path in self.datasets[dataset].exports}

    def resolved(self, dataset: str) -> dict[str, Any]:
        """Everything that shapes this dataset, defaults filled in: what stands in `results/<dataset>/config.json`."""
        return {
            "dataset": self.datasets[dataset].model_dump(mode="json"),
            "tokenizers": {n: self.config.tokenizers[n].model_dump(mode="json") for n in self.tokenizers_of(dataset)},
            "embedders": {n: self.config.embedders[n].model_dump(mode="json") for n in self.embedders_of(dataset)},
            "exports": {p: e.model_dump(mode="json") for p, e in self.exports_of(dataset).items()},
        }


def tokenizer_of(embedder: Embedder) -> str | None:
    """The tokenizer whose tokens an embedder reads; None where it reads counts."""
    return embedder.tokenizer if isinstance(embedder, OfTokens) else None


class ConfigError(CellmillError):
    """Every problem of the configuration at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listing = "\n".join(f"  - {p}" for p in problems)
        super().__init__(
            "The configuration", f"has {count}:\n{listing}\n", "Every key is explained in config/README.md."
        )


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        problems.append(f"{path}: not readable ({error.strerror}). Run this in the folder that has config/.")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not valid YAML ({' '.join(str(error).split())}).")
        return {}
    if not isinstance(loaded, dict):
        problems.append(f"{path}: found {type(loaded).__name__}, expected keys and values.")
        return {}
    return loaded


def _known_keys(model: type[Spec], location: Iterable[Any]) -> list[str]:
    """The keys that are allowed at ``location`` of ``model``: walked through unions, maps and lists."""
    current: Any = model
    for step in location:
        current = _step(current, step)
    if not (isinstance(current, type) and issubclass(current, Spec)):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _step(annotation: Any, step: Any) -> Any:
    from typing import get_args, get_origin

    if isinstance(annotation, type) and issubclass(annotation, Spec):
        field = annotation.model_fields.get(str(step))
        return field.annotation if field else None
    args = get_args(annotation)
    if get_origin(annotation) in (dict, list):
        return args[-1]
    for arg in args:  # a union: the step is the discriminator's value
        for member in get_args(arg) or (arg,):
            if isinstance(member, type) and issubclass(member, Spec):
                kind = member.model_fields.get("kind")
                if kind is not None and kind.default == step:
                    return member
    return annotation


def _explain(where: str, model: type[Spec], error: ValidationError) -> list[str]:
    problems = []
    for entry in error.errors():
        location = [str(step) for step in entry["loc"]]
        shown = ".".join(location)
        kind, context = entry["type"], entry.get("ctx", {})
        if kind == "extra_forbidden":
            known = _known_keys(model, entry["loc"][:-1])
            text = f"unknown key '{location[-1]}'. {nearest(location[-1], known)}"
        elif kind == "missing":
            text = "this key is missing."
        elif kind == "union_tag_invalid":
            tags = [t.strip(" '") for t in str(context["expected_tags"]).split(",")]
            text = f"no kind '{context['tag']}'. {nearest(str(context['tag']), tags)}"
        elif kind == "union_tag_not_found":
            text = "this needs a 'kind'."
        else:
            found = entry["input"]
            text = entry["msg"].removeprefix("Value error, ").rstrip(".") + "."
            if kind != "value_error":
                text += f" Found: {found!r}."
        problems.append(f"{where}, {shown}: {text}")
    return problems


def _validated(model: type[Any], values: Any, where: str, problems: list[str]) -> Any:
    """The model of ``values``; where entries are wrong, that of the others, so that these are checked, too; or None."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems.extend(_explain(where, model, error))
        places = [entry["loc"] for entry in error.errors() if entry["loc"]]
    try:
        return model.model_validate(_without(values, places))
    except ValidationError:
        return None


def _without(values: dict[str, Any], places: list[tuple[Any, ...]]) -> dict[str, Any]:
    """``values`` less the wrong entries alone; steps of a place that are no keys are kinds, which pydantic adds."""
    kept = deepcopy(values)
    for place in places:
        holder: Any = kept
        for step in place[:-1]:
            if isinstance(holder, dict) and isinstance(holder.get(step), dict):
                holder = holder[step]
        holder.pop(place[-1], None)
    return kept


def _named(values: Mapping[str, Any]) -> dict[str, set[str]]:
    """What the config file defines by name, right or wrong: a wrong definition is one problem, not one for each use."""

    def keys(value: Any) -> set[str]:
        return {str(k) for k in value} if isinstance(value, dict) else set()

    exports = values.get("exports")
    paths = (
        {f"{f}/{name}" for f, members in exports.items() for name in keys(members)}
        if isinstance(exports, dict)
        else set()
    )
    return {"tokenizers": keys(values.get("tokenizers")), "embedders": keys(values.get("embedders")), "exports": paths}


def load_project(values: Mapping[str, Any] | None = None, *, root: str | Path = ".") -> Project:
    """Read, validate and cross-check the whole configuration.

    Args:
        values: the merged top-level config (from Snakemake); read from ``config/config.yaml`` where absent.
        root: the working folder; all paths are relative to it.

    Raises:
        ConfigError: with every problem found, not only the first.
    """
    base, problems = Path(root), list[str]()
    if values is None:
        values = _read_yaml(base / CONFIG_FILE, problems)
    config: Config | None = _validated(Config, dict(values), CONFIG_FILE, problems)
    defined = _named(values)
    asked = values.get("datasets")
    names = config.datasets if config else [n for n in asked if isinstance(n, str)] if isinstance(asked, list) else []
    datasets: dict[str, Dataset] = {}
    available = sorted(p.stem for p in (base / DATASET_FOLDER).glob("*.yaml"))
    for name in dict.fromkeys(names):
        where = f"{DATASET_FOLDER}/{name}.yaml"
        if name not in available:
            problems.append(f"{CONFIG_FILE}, datasets: no file {where}. {nearest(name, available)}")
            continue
        if name == vocabulary_files.FOLDER:
            problems.append(f"{where}: no dataset can be called '{name}': results/{name}/ has other files.")
        dataset = _validated(Dataset, _read_yaml(base / where, problems), where, problems)
        if dataset is not None:
            datasets[name] = dataset
            if config is not None:
                problems.extend(f"{where}, {p}" for p in dataset_problems(config, dataset, defined))
            problems.extend(f"{where}, {p}" for p in file_problems(dataset, base))
            problems.extend(f"{where}, {p}" for p in gene_file_problems(dataset, base))
    if config is not None:
        problems.extend(f"{CONFIG_FILE}, {p}" for p in export_problems(config, defined))
        found = vocabulary_files.problems(config.vocabularies, available, base)
        problems.extend(f"{CONFIG_FILE}, {p}" for p in found)
        exports = config.exports.by_path()
        used = [t for d in datasets.values() for t in d.tokenizers]
        used += [t for d in datasets.values() for e in d.exports if e in exports for t in exports[e].tokenizers]
        made = {m for d in datasets.values() for m in d.embedders}
        made |= {m for d in datasets.values() for e in d.exports if e in exports for m in exports[e].embedders}
        used += [t for m in made if m in config.embedders and (t := tokenizer_of(config.embedders[m])) is not None]
        problems.extend(f"{CONFIG_FILE}, {p}" for p in tokenizer_problems(config, used, base))
        problems.extend(f"{CONFIG_FILE}, {p}" for p in embedder_problems(config, defined, made, base))
    if not names:
        problems.append(f"{CONFIG_FILE}, datasets: no dataset is named. {nearest('', available)}")
    if problems or config is None:
        raise ConfigError(problems)
    return Project(config=config, datasets=datasets)


def load_datasets(names: Sequence[str]) -> Project:
    """The configuration of this folder with these datasets in place of its own.

    Raises:
        CellmillError: there is none here, or it has problems.
    """
    path = Path(CONFIG_FILE)
    if not path.is_file():
        raise CellmillError(CONFIG_FILE, f"there is no such file in {Path.cwd()}.", "Go to the folder that has it.")
    problems = list[str]()
    values = _read_yaml(path, problems)
    if problems:
        raise ConfigError(problems)
    return load_project({**values, "datasets": list(names)})


def json_schema() -> dict[str, Any]:
    """The JSON schema of both kinds of config file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cellmill configuration",
        "config": Config.model_json_schema(),
        "dataset": Dataset.model_json_schema(),
    }


__all__ = ["CONFIG_FILE", "Columns", "Config", "ConfigError", "Dataset", "Project", "json_schema", "load_project"]
