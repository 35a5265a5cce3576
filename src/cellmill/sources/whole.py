"""Whole members of a catalogue, drawn at random until they have a number of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellmill.errors import CellmillError
from cellmill.keys import hash_strings


def draw_whole(
    names: Sequence[str], cells: np.ndarray, *, wanted: int | None, seed: int, what: str, known: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Indices (drawn,) of the members that are drawn, in the order of the draw, and what was counted.

    The order is that of a hash of the seed and the name, so that it depends on no other member, and a larger draw
    begins with a smaller one. The last member exceeds what is wanted.

    Args:
        names: unique, of the members that may be drawn.
        cells: of each (members,).
        wanted: cells; None: all members.
        what: what the members are, for errors; another word is another order.
        known: members of the catalogue, drawn or not, for errors.

    Raises:
        CellmillError: none may be drawn, or they have too few cells.
    """
    keys = hash_strings(list(names), seed=seed, purpose=what)
    order = np.lexsort((np.array(names, str), keys))
    sums = np.cumsum(cells[order])
    total = int(sums[-1]) if len(order) else 0
    if wanted is not None and total < wanted:
        raise CellmillError(
            "source.cells",
            f"{wanted:,} are asked for, but {len(order):,} of {known:,} {what} pass the filters, with {total:,} cells.",
            "Ask for fewer, or filter less.",
        )
    if not len(order):
        raise CellmillError("source.filters", f"none of {known:,} {what} passes.", "Filter less.")
    if wanted is not None:
        order = order[: int(np.searchsorted(sums, wanted)) + 1]
    return order, {"passing": len(sums), "cells_passing": total}
