"""What can be known of embedders before the first job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders import GeneList, OfTokens, Pca
from cellmill.embedders.model_files import model_problem
from cellmill.embedders.reference_files import reference_problem
from cellmill.errors import CellmillError, nearest
from cellmill.exports.geneformer import RANKED
from cellmill.sources.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from cellmill.config import Config


def embedder_problems(config: Config, defined: dict[str, set[str]], made: set[str], base: Path) -> list[str]:
    """Tokens that an embedder cannot read, and of those in use models and files that are not there."""
    problems = _file_problems(config, made, base)
    for name, spec in config.embedders.items():
        if not isinstance(spec, OfTokens):
            continue
        where, known = f"embedders.{name}", defined["tokenizers"]
        if spec.tokenizer not in known:
            problems.append(
                f"{where}.tokenizer: no tokenizer '{spec.tokenizer}' is defined. {nearest(spec.tokenizer, known)}"
            )
        tokenizer = config.tokenizers.get(spec.tokenizer)
        if tokenizer is not None and "input_ids" not in tokenizer.columns:
            problems.append(
                f"{where}.tokenizer: '{spec.tokenizer}' writes {' and '.join(tokenizer.columns)}, no input_ids."
            )
        elif tokenizer is not None and spec.kind == "geneformer":
            if tokenizer.kind not in RANKED:
                said = f"Geneformer reads ranked genes; '{spec.tokenizer}' is of the kind {tokenizer.kind}"
                problems.append(f"{where}.tokenizer: {said}. Name one of the kind {', '.join(RANKED)}.")
            elif spec.pooling == "cls" and tokenizer.kind != "geneformer_v2":
                said = f"cells of '{spec.tokenizer}' do not begin with <cls>"
                problems.append(f"{where}.pooling: {said}. Take 'cell', or a tokenizer of the kind geneformer_v2.")
        problem = model_problem(spec.model, Ledger(LEDGER), base) if name in made else None
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
