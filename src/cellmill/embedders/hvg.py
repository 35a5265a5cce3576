"""``hvg``: log-normalised values of the dataset's most variable genes."""

from __future__ import annotations

from typing import Literal

from cellmill.spec import PositiveInt, Spec


class Hvg(Spec):
    """log1p of counts per 10,000 over the most variable genes: the same genes, in the same order, for every cell."""

    kind: Literal["hvg"] = "hvg"
    n_genes: PositiveInt = 512
    """How many of the variable genes, by rank."""
