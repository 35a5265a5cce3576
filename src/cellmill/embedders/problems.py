"""What can be known of models over tokens before the first job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders import OfTokens
from cellmill.embedders.model_files import model_problem
from cellmill.errors import nearest
from cellmill.exports.geneformer import RANKED
from cellmill.sources.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from cellmill.config import Config


def embedder_problems(config: Config, defined: dict[str, set[str]], made: set[str], base: Path) -> list[str]:
    """Tokens that an embedder cannot read, and models that are not there, of those in use."""
    problems = []
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
