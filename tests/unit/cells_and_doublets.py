"""Made-up cells of a few types, and doublets: sums of two cells of different types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

GENES = 600


@dataclass(frozen=True)
class Planted:
    """Counts (cells, genes) float32, and which cells are doublets (cells,)."""

    counts: sp.csr_matrix
    doublet: np.ndarray


def planted(cells: int = 600, doublets: int = 40, *, types: int = 6, genes: int = GENES, seed: int = 0) -> Planted:
    """Cells of types that have marker genes of their own, in no order, and doublets among them."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, 1.0, genes) * np.where(
        rng.random((types, genes)) < 0.12, rng.gamma(4, 3.0, (types, genes)), 1
    )
    rates *= 900 / rates.sum(axis=1, keepdims=True)

    def cells_of(kinds: np.ndarray) -> np.ndarray:
        return rng.poisson(rates[kinds] * rng.gamma(12, 1 / 12, (len(kinds), 1)))

    first = rng.integers(0, types, doublets)
    second = (first + rng.integers(1, types, doublets)) % types
    counts = np.concatenate([cells_of(rng.integers(0, types, cells)), cells_of(first) + cells_of(second)])
    order = rng.permutation(len(counts))
    return Planted(sp.csr_matrix(counts[order].astype(np.float32)), np.arange(len(counts))[order] >= cells)
