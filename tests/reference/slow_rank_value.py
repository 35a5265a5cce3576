"""Rank-value encoding, slow and plain: one cell at a time, in Python."""

from __future__ import annotations

import numpy as np


def slow_rank_value(
    counts: list[int],
    total: float,
    *,
    token_ids: list[int],
    medians: list[float],
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
    max_len_tokens: int,
) -> list[int]:
    """Tokens of one cell, given as a count per gene.

    Genes with the same token are one gene, at the place and with the median of the first that is expressed.
    A gene's value is its counts per 10,000 over its median.
    Counts per 10,000 are float32, the quotient is float64, as in the published tokenizer
    (Theodoris et al., Nature 2023): that decides between near-ties.
    Equal values keep the order of the genes.
    """
    expressed: dict[int, tuple[int, float]] = {}
    for count, token, median in zip(counts, token_ids, medians, strict=True):
        if count > 0 and token >= 0:
            so_far, first_median = expressed.get(token, (0, median))
            expressed[token] = (so_far + count, first_median)
    one_over_total = np.float32(1.0 / float(np.float32(total)))
    values = []
    for token, (count, median) in expressed.items():
        scaled = np.float32(np.float32(count) * one_over_total) * np.float32(10_000)
        values.append((token, float(scaled) * (1.0 / median)))
    values.sort(key=lambda pair: -pair[1])  # stable
    room = max_len_tokens - len(prefix) - len(suffix)
    return [*prefix, *(token for token, _ in values[:room]), *suffix]
