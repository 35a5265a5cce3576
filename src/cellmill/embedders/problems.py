"""What can be known of models over tokens before the first job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders import OfTokens
from cellmill.embedders.model_files import model_problem
from cellmill.errors import nearest
from cellmill.exports.geneformer import RANKED
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.tokenizers import ScGpt as ScGptTokens

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
