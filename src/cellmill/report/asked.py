"""Genes that a list, a model or a vocabulary from outside asks for: how many the dataset has, and which it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.contracts import vocabulary as vocabulary_files
from cellmill.contracts.versions import EMBEDDING
from cellmill.files import read_json
from cellmill.vocabularies.check import SPECIAL_TOKEN

File = str | PathLike[str]


@dataclass(frozen=True)
class Asked:
    """What one embedder or tokenizer asks for."""

    by: str
    """Such as ``embedder panel``."""
    asked: int
    found: int
    absent: tuple[str, ...] | None
    """Names that the dataset lacks, in their order there; None where the file does not say them."""


def of_embedders(manifests: Sequence[File]) -> list[Asked]:
    """Of embedders that name genes or have a model with genes; the folder of a manifest names its embedder."""
    found = []
    for path in manifests:
        said = read_json(path)
        EMBEDDING.verify(path, said.get("contract"))
        by, model = f"embedder {Path(path).parent.name}", said.get("model", {})
        if "genes" in said:
            genes: dict[str, Any] = said["genes"]
            found.append(Asked(by, genes["asked"], genes["found"], tuple(genes["absent"])))
        elif said["embedder"]["kind"] == "scvi_reference":
            none = () if model["genes"] == model["genes_found"] else None
            found.append(Asked(by, model["genes"], model["genes_found"], none))
    return found


def of_tokenizers(vocabularies: Sequence[File], gene_tokens: Sequence[File]) -> list[Asked]:
    """Of vocabularies: their tokens but special ones; the folder of a file names its tokenizer."""
    found = []
    for path, genes in zip(vocabularies, gene_tokens, strict=True):
        laid = vocabulary_files.read(path, genes)
        used = set(laid.token_ids.tolist())
        names = {name: number for name, number in laid.tokens.items() if not SPECIAL_TOKEN.fullmatch(name)}
        absent = tuple(name for name, number in names.items() if number not in used)
        found.append(Asked(f"tokenizer {Path(path).parent.name}", len(names), len(names) - len(absent), absent))
    return found
