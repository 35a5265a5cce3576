"""``report/judged/{embedder}.json``: how well the vectors of an embedder tell labels apart and mix batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from cellmill.contracts.versions import JUDGED
from cellmill.files import read_json, write_json

DIGITS = 4
"""Decimals of a score: more would differ between machines."""


@dataclass(frozen=True)
class Score:
    """One number, or why there is none."""

    metric: str
    label: str | None
    """Obs column of the labels that it is measured by; None: it is measured without."""
    batch: str | None
    cells: int
    """How many it was measured on."""
    value: float | None
    """Between 0 and 1 (`kmeans_ari`: from -0.5), and the higher the better."""
    why: str | None = None


def write(path: str | PathLike[str], scores: Sequence[Score], facts: dict[str, Any]) -> None:
    """Write the scores, rounded, with what else is known of them."""
    rows = [asdict(s) | {"value": None if s.value is None else round(s.value, DIGITS) + 0.0} for s in scores]
    write_json(path, {"contract": str(JUDGED), **facts, "scores": rows})


def read(path: str | PathLike[str]) -> tuple[list[Score], dict[str, Any]]:
    """The scores, and the rest of the file."""
    said = read_json(path)
    JUDGED.verify(path, said.pop("contract", None))
    return [Score(**row) for row in said.pop("scores")], said
