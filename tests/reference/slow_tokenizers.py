"""Tokenizers, slow and plain: one cell at a time, in Python, as their definitions read."""

from __future__ import annotations

import math
from fractions import Fraction


def slow_genes(counts: list[int], token_ids: list[int]) -> list[tuple[int, int]]:
    """(token, count) of a cell given as a count per column: columns of one token add up, at the first with a count."""
    found: dict[int, int] = {}
    for count, token in zip(counts, token_ids, strict=True):
        if count > 0 and token >= 0:
            found[token] = found.get(token, 0) + count
    return list(found.items())


def slow_tahoe_x1(counts: list[int], token_ids: list[int], *, cls: int | None) -> tuple[list[int], list[float]]:
    """Genes and expressions: ``<cls>`` with -2, then what has a count, in the order of the columns."""
    genes = slow_genes(counts, token_ids)
    lead = [] if cls is None else [(cls, -2)]
    return [g for g, _ in [*lead, *genes]], [float(x) for _, x in [*lead, *genes]]


def slow_quantile_bin(count: int, counts: list[int], n_bins: int) -> range:
    """The bins that scGPT draws from for a count above 0: above all lower edges, up to the last equal one.

    The edges are the quantiles 0 to 1 of the cell's counts above 0, ``n_bins`` - 1 of them, linear in between.
    """
    expressed = sorted(c for c in counts if c > 0)
    n_edges = n_bins - 1
    edges = []
    for j in range(n_edges):
        place = Fraction(j, n_edges - 1) * (len(expressed) - 1)
        low, high = expressed[math.floor(place)], expressed[math.ceil(place)]
        edges.append(low + (high - low) * (place - math.floor(place)))
    left = sum(edge <= count for edge in edges)
    right = sum(edge < count for edge in edges)
    return range(right + 1, left + 1) if left > right else range(left, left + 1)


def slow_binned(counts: list[int], places: list[int], edges: list[int]) -> list[int]:
    """The bin of every gene that has a place: the last whose edge is not above the count."""
    by_place = {p: c for p, c in zip(places, counts, strict=True) if p >= 0}
    return [max(i for i, edge in enumerate(edges) if edge <= by_place[p]) for p in sorted(by_place)]


def slow_log(counts: list[int], places: list[int]) -> list[int]:
    """floor(log1p) of every gene that has a place."""
    by_place = {p: c for p, c in zip(places, counts, strict=True) if p >= 0}
    return [math.floor(math.log1p(by_place[p])) for p in sorted(by_place)]


def slow_sentence(counts: list[int], token_ids: list[int], names: list[str], length: int) -> str:
    """Names of genes with a count by falling count, equal counts in the order of the columns."""
    genes = sorted(slow_genes(counts, token_ids), key=lambda pair: -pair[1])  # stable
    return " ".join(names[token] for token, _ in genes[:length])
