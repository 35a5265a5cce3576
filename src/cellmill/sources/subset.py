"""``subset:``: how many cells of a dataset are taken, and which."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from cellmill.quality.spec import Filter
from cellmill.spec import Column, PositiveInt, Spec


class Subset(Spec):
    """Cells drawn over all parts before anything is measured, by a hash of the cell id.

    Exactly `cells` cells that pass `quality.filters` are drawn; fixed bounds and thresholds then judge the drawn ones.
    The draw depends neither on the parts nor on their order, and a larger one contains a smaller one of the same seed.
    """

    cells: PositiveInt
    """How many cells, exactly; where fewer pass `quality.filters`, that is an error."""
    stratify: list[Column] = []
    """Obs columns of which every combination of values is a stratum, as `[cell_type, tissue]`; a missing value counts \
as a value. `[]`: one stratum."""
    proportions: Literal["keep", "equal"] = "keep"
    """`keep`: each stratum gives its share of the cells, rounded, so that one of less than about half a cell gives \
none; `equal`: all strata give the same number, small ones all that they have, the others the rest."""
    seed: int = 0
    """Another seed, another draw."""

    @field_validator("stratify")
    @classmethod
    def _columns_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names a column twice")
        return value


class SubsetRules(Subset):
    """What decides which cells are drawn: all that `draw_subset` depends on."""

    filters: list[Filter] = []
    cell_ids: Literal["barcode", "part_barcode"] = "barcode"
