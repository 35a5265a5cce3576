"""``pseudobulk:``: which cells make a profile together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from cellmill.spec import Column, PositiveInt, Spec

OWN_COLUMNS = ("profile", "n_cells")
"""Obs columns of the profiles that cellmill writes itself."""


class Pseudobulk(Spec):
    """The kept cells that have the same value in each column of `by`, as one profile over all parts.

    `results/<dataset>/pseudobulk/<name>.h5ad` holds them in the dataset's gene space. Cells without a value in a column
    of `by` make no profile, and are counted.
    """

    by: list[Column] = Field(min_length=1)
    """The obs columns, as `[donor_id, cell_type]`; `split` may be one, so that no profile has cells of two splits."""
    method: Literal["sum", "mean"] = "sum"
    """`sum`: counts, which another dataset can take as its source; `mean`: counts per cell in float32, for analysis."""
    min_cells: PositiveInt = 10
    """Groups with fewer cells make no profile, and are counted."""
    keep_cells: int = Field(default=0, ge=0)
    """So many single cells of each profile stand behind the profiles, all where there are fewer; drawn by a hash of \
the cell id."""
    seed: int = 0
    """Another seed, other single cells."""

    @field_validator("by")
    @classmethod
    def _columns_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names a column twice")
        return value
