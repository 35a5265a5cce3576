"""Negatives, slowly and plainly: one anchor at a time, no arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..unit.test_keys import slow_key

MASK = (1 << 64) - 1


def eligible(anchor: int, attributes: Sequence[Sequence[Any]]) -> list[int]:
    """Rows that differ from the anchor in every attribute."""
    return [i for i in range(len(attributes[0])) if all(a[i] != a[anchor] for a in attributes)]


def coarsest(attributes: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Attributes less those that say nothing which another does not say."""
    kept = list(range(len(attributes)))
    for mine in range(len(attributes)):
        for other in kept:
            pairs = set(zip(attributes[mine], attributes[other], strict=True))
            if other != mine and len(pairs) == len(set(attributes[mine])):
                kept.remove(mine)
                break
    return [attributes[k] for k in kept]


def pool(anchor: int, attributes: Sequence[Sequence[Any]], scope: Sequence[Any]) -> list[int]:
    """What an anchor draws from: at least one in eight is eligible."""
    rows = [i for i in range(len(scope)) if scope[i] == scope[anchor]]
    good = set(eligible(anchor, attributes)).intersection(rows)
    while len(good) * 8 < len(rows):
        frequency = [Counter(a[i] for i in rows)[a[anchor]] for a in attributes]
        heaviest = attributes[frequency.index(max(frequency))]
        rows = [i for i in rows if heaviest[i] != heaviest[anchor]]
    return rows


def stream(id_: str, *, seed: int, purpose: str) -> Any:
    """Random uint64 of an anchor (splitmix64)."""
    state = slow_key(id_, seed=seed, purpose=purpose)
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        h = state
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & MASK
        yield h ^ (h >> 31)


def negatives(
    ids: list[str],
    attributes: Sequence[Sequence[Any]],
    anchor: int,
    *,
    anywhere: int,
    seed: int,
    batch: Sequence[Any] | None = None,
    in_batch: int = 0,
    out_of_batch: int = 0,
    hard: int = 0,
    candidates: int = 0,
    vectors: Sequence[Sequence[float]] | None = None,
) -> list[int]:
    """Rows of the negatives of one anchor, in their order."""
    attributes, one = coarsest(attributes), [0] * len(ids)
    taken: list[int] = []

    def draw(name: str, wanted: int, attributes: Sequence[Sequence[Any]], scope: Sequence[Any]) -> list[int]:
        rows, good, drawn = pool(anchor, attributes, scope), eligible(anchor, attributes), []
        numbers = stream(ids[anchor], seed=seed, purpose=f"negatives {name}")
        while len(drawn) < wanted:
            row = rows[next(numbers) % len(rows)]
            if row in good and row not in taken and row not in drawn:
                drawn.append(row)
        return drawn

    if in_batch:
        taken += draw("in_batch", in_batch, attributes, batch)
    if out_of_batch:
        taken += draw("out_of_batch", out_of_batch, [*attributes, batch], one)
    if hard:
        there = min(len(eligible(anchor, attributes)) - len(taken), max(candidates, hard))
        found = draw("hard", there, attributes, one)
        distance = {r: sum((x - y) ** 2 for x, y in zip(vectors[r], vectors[anchor], strict=True)) for r in found}
        taken += sorted(found, key=distance.__getitem__)[:hard]
    if anywhere:
        taken += draw("anywhere", anywhere, attributes, one)
    if in_batch or out_of_batch or hard:
        numbers = stream(ids[anchor], seed=seed, purpose="negatives shuffled")
        for j in range(len(taken) - 1, 0, -1):
            other = next(numbers) % (j + 1)
            taken[j], taken[other] = taken[other], taken[j]
    return taken
