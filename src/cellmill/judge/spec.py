"""How embeddings are judged: by which columns, on how many cells."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cellmill.spec import Column, Name, Spec

Cells = Annotated[int, Field(ge=100)]


class Judge(Spec):
    """How well the vectors of every embedder tell labels apart and mix batches, for the report."""

    labels: list[Column] | None = None
    """Obs columns of labels, of those that are kept; each gets a linear probe, too. `null`: `columns.label`."""
    batch: Column | None = None
    """Obs column of the batches that should mix. `null`: `columns.batch`."""
    cells: Cells = 10_000
    """How many cells are looked at, at most, and trained and tested on by a probe; drawn by a hash of their ids."""
    tested_on: Name | None = None
    """The split that a probe is tested on; it is trained on `train`. `null`: `test`, where there is one."""


class JudgeRules(Spec):
    """What `judge_embedder` depends on."""

    labels: list[Column]
    batch: Column | None
    cells: Cells
    tested_on: Name | None

    @property
    def columns(self) -> list[str]:
        """Every obs column that is read, each once."""
        return list(dict.fromkeys([*self.labels, *([] if self.batch is None else [self.batch])]))
