"""What can be known of embedders before the first job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders import GeneList, OfCells, OfTokens, Pca
from cellmill.embedders.model_files import ledger_files, model_problem
from cellmill.embedders.reference_files import reference_problem
from cellmill.embedders.scvi_files import MODEL
from cellmill.errors import CellmillError, nearest
from cellmill.exports.geneformer import RANKED
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.tokenizers import ScGpt as ScGptTokens

if TYPE_CHECKING:
    from cellmill.config import Config, Dataset


def embedder_problems(config: Config, defined: dict[str, set[str]], made: set[str], base: Path) -> list[str]:
    """Tokens that an embedder cannot read, and of those in use models and files that are not there."""
    problems = _file_problems(config, made, base)
    for name, spec in config.embedders.items():
        if isinstance(spec, OfCells) and name in made:
            problems += [f"embedders.{name}{p}" for p in _cell_problems(spec, base)]
        if not isinstance(spec, OfTokens):
            continue
        where, known = f"embedders.{name}", defined["tokenizers"]
        if spec.tokenizer not in known:
            problems.append(
                f"{where}.tokenizer: no tokenizer '{spec.tokenizer}' is defined. {nearest(spec.tokenizer, known)}"
            )
        tokenizer = config.tokenizers.get(spec.tokenizer)
        absent = [] if tokenizer is None else [c for c in spec.columns if c not in tokenizer.columns]
        if tokenizer is not None and absent:
            writes = " and ".join(tokenizer.columns)
            problems.append(f"{where}.tokenizer: '{spec.tokenizer}' writes {writes}, no {' and '.join(absent)}.")
        elif tokenizer is not None and spec.kind == "scgpt" and not isinstance(tokenizer, ScGptTokens):
            said = f"scGPT reads tokens of the kind scgpt; '{spec.tokenizer}' is of the kind {tokenizer.kind}"
            problems.append(f"{where}.tokenizer: {said}.")
        elif isinstance(tokenizer, ScGptTokens) and not tokenizer.cls:
            said = f"cells of '{spec.tokenizer}' do not begin with <cls>"
            problems.append(f"{where}.tokenizer: {said}. Set its cls: true.")
        elif tokenizer is not None and spec.kind == "geneformer":
            if tokenizer.kind not in RANKED:
                said = f"Geneformer reads ranked genes; '{spec.tokenizer}' is of the kind {tokenizer.kind}"
                problems.append(f"{where}.tokenizer: {said}. Name one of the kind {', '.join(RANKED)}.")
            elif spec.pooling == "cls" and tokenizer.kind != "geneformer_v2":
                said = f"cells of '{spec.tokenizer}' do not begin with <cls>"
                problems.append(f"{where}.pooling: {said}. Take 'cell', or a tokenizer of the kind geneformer_v2.")
        problem = model_problem(spec.model, Ledger(LEDGER), base, kind=spec.kind) if name in made else None
        if problem is not None:
            problems.append(f"{where}.model: {problem}")
    return problems


def _file_problems(config: Config, made: set[str], base: Path) -> list[str]:
    """Lists of genes and references that are not there, or name a gene twice."""
    problems, ledger = [], Ledger(LEDGER)
    fits = [name for name, spec in config.embedders.items() if isinstance(spec, Pca) and spec.learns]
    fitted = [f"results/{dataset}/embedded/{name}/model/pca.npz" for dataset in config.datasets for name in fits]
    for name in sorted(made & config.embedders.keys()):
        spec = config.embedders[name]
        if isinstance(spec, Pca) and spec.reference is not None:
            problem = reference_problem(spec.reference, ledger, base, fitted)
            problems += [] if problem is None else [f"embedders.{name}.reference: {problem}"]
        elif isinstance(spec, GeneList):
            problems += [f"embedders.{name}.genes: {problem}" for problem in _list_problems(spec, ledger, base)]
    return problems


def _list_problems(spec: GeneList, ledger: Ledger, base: Path) -> list[str]:
    names = spec.genes
    if isinstance(names, str):
        path = base / ledger.path_of(names)
        if not path.is_file():
            known = [name for name in ledger.names if name.startswith("genes/")]
            return [] if names in ledger.names else [f"no file '{names}'. {nearest(names, known)}"]
        from cellmill.genes.table import read_gene_list

        try:
            names = read_gene_list(path)
        except CellmillError as error:
            return [str(error)]
    from cellmill.embedders.find_genes import repeated

    twice = repeated(names)
    return [] if twice is None else [f"'{twice}' stands there twice. Give every gene one place."]


def _cell_problems(spec: OfCells, base: Path) -> list[str]:
    """What is wrong with the model that an embedder names, or with how it is trained."""
    problems = []
    if spec.train is not None and spec.train.early_stopping and not spec.train.held_out:
        problems.append(".train.held_out: early stopping looks at held-out cells: let it be above 0.")
    if spec.kind == "scvi_reference" and not ledger_files(spec.model, Ledger(LEDGER)):
        if not (base / spec.model / MODEL).is_file():
            problems.append(f".model: no {MODEL} in '{spec.model}'. Name a folder that SCVI.save of scvi-tools wrote.")
    return problems


def column_problems(config: Config, dataset: Dataset) -> list[str]:
    """Obs columns that an embedder of the dataset reads and that do not stay with the cells."""
    exports = config.exports.by_path()
    names = [*dataset.embedders, *(e for path in dataset.exports if path in exports for e in exports[path].embedders)]
    problems = []
    for name in dict.fromkeys(names):
        spec = config.embedders.get(name)
        if not isinstance(spec, OfCells):
            continue
        asked = [] if spec.batch is None else [spec.batch]
        if spec.kind == "scvi":
            asked += [*spec.categorical_covariates, *spec.continuous_covariates]
        problems += [
            f"columns.keep: embedder '{name}' reads '{column}', which is not kept."
            for column in asked
            if column not in dataset.kept_columns
        ]
    return problems
