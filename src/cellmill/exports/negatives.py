"""Negatives of a split: seeded, uniform over the eligible cells, exactly as many as asked for, at linear cost.

A cell is eligible for an anchor where it differs from it in every attribute: each caption, and the label.
A cell is drawn from a pool and refused where it is not eligible. So that refusals stay rare, the pool of an anchor is
narrowed first: while fewer than an eighth of it are eligible, the most frequent of the anchor's own values is taken
out of it. An own value that covers so much leaves room for few others: a pool has at most 8/7 m² children for
m attributes, and m generations, whatever the number of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numba
import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.errors import CellmillError
from cellmill.keys import hash_strings, mix64

ELIGIBLE = 8
"""At least one in so many cells of a pool is eligible for the anchors that draw from it."""
_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Pools:
    """What the anchors of a split draw from, and what they must differ in."""

    attributes: np.ndarray
    """int32 (m, n) codes."""
    eligible: np.ndarray
    """int64 (n,): eligible cells of each anchor."""
    rows: np.ndarray
    """int32: the rows of all pools, end to end, rising within each."""
    start: np.ndarray
    size: np.ndarray
    """int64 (pools,)."""
    pool: np.ndarray
    """int32 (n,): the pool of each anchor."""


def without_refinements(attributes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Attributes (n,) int32 of which none follows from another: who differs in the coarser differs in the finer."""
    kept = list(attributes)
    for mine in attributes:
        others = [a for a in kept if a is not mine]
        distinct = len(np.unique(mine))
        if any(len(np.unique(_together([mine, a]))) == distinct for a in others):
            kept = others
    return kept


def make_pools(attributes: Sequence[np.ndarray], *, scope: np.ndarray | None = None) -> Pools:
    """Pools of n cells, given m attributes (n,) int32; an anchor draws from the cells of its own ``scope`` alone."""
    codes = np.stack(attributes).astype(np.int32)
    n = codes.shape[1]
    scope = np.zeros(n, np.int32) if scope is None else scope
    eligible = _count_eligible(codes, scope)
    made: list[np.ndarray] = []
    pool = np.empty(n, np.int32)
    waiting = [(rows, rows) for rows in _groups(scope)]
    while waiting:
        rows, anchors = waiting.pop()
        narrow = eligible[anchors] * ELIGIBLE < len(rows)
        pool[anchors[~narrow]] = len(made)
        if not narrow.all():
            made.append(rows)
        if narrow.any():
            waiting += _children(codes, rows, anchors[narrow])
    size = np.array([len(rows) for rows in made], np.int64)
    return Pools(codes, eligible, np.concatenate(made), np.cumsum(size) - size, size, pool)


def _children(codes: np.ndarray, rows: np.ndarray, anchors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """``(rows, anchors)``: the pool less the most frequent own value of these anchors; of equals the first."""
    weight = np.empty((len(codes), len(anchors)), np.int64)
    for a, code in enumerate(codes):
        values, found = np.unique(code[rows], return_counts=True)
        at = np.minimum(np.searchsorted(values, code[anchors]), len(values) - 1)
        weight[a] = np.where(values[at] == code[anchors], found[at], 0)
    heaviest = weight.argmax(axis=0)
    children = []
    for a in np.unique(heaviest):
        mine = anchors[heaviest == a]
        for value in np.unique(codes[a, mine]):
            children.append((rows[codes[a, rows] != value], mine[codes[a, mine] == value]))
    return children


def _groups(scope: np.ndarray) -> list[np.ndarray]:
    """The rows (int32, rising) of each value."""
    order = np.argsort(scope, kind="stable").astype(np.int32)
    return np.split(order, np.flatnonzero(np.diff(scope[order])) + 1)


def _together(attributes: Sequence[np.ndarray]) -> np.ndarray:
    """Codes (n,) int64 of the combinations."""
    code = attributes[0].astype(np.int64)
    for more in attributes[1:]:
        code = pd.factorize(code * (int(more.max()) + 1) + more)[0]
    return code


def _count_eligible(codes: np.ndarray, scope: np.ndarray) -> np.ndarray:
    """Cells of the scope that differ in every attribute, by inclusion and exclusion."""
    total = np.zeros(codes.shape[1], np.int64)
    for size in range(len(codes) + 1):
        for chosen in combinations(codes, size):
            same = pd.factorize(_together([scope, *chosen]))[0]
            total += (-1) ** size * np.bincount(same)[same]
    return total


@numba.njit(cache=True, nogil=True)
def _draw(
    keys: np.ndarray,
    first: int,
    codes: np.ndarray,
    rows: np.ndarray,
    start: np.ndarray,
    size: np.ndarray,
    pool: np.ndarray,
    wanted: np.ndarray,
    taken: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill ``out[i, :wanted[i]]`` with eligible rows that are neither in ``taken[i]`` nor there yet."""
    for i in range(len(keys)):
        anchor = first + i
        state, mine = keys[i], pool[anchor]
        begin, cells = start[mine], np.uint64(size[mine])
        for j in range(wanted[i]):
            while True:
                state += _STEP
                row = rows[begin + np.int64(mix64(state) % cells)]
                good = True
                for a in range(codes.shape[0]):
                    good &= codes[a, row] != codes[a, anchor]
                if good:
                    for q in range(taken.shape[1]):
                        good &= taken[i, q] != row
                    for q in range(j):
                        good &= out[i, q] != row
                if good:
                    break
            out[i, j] = row


@numba.njit(cache=True, nogil=True)
def _nearest(vectors: np.ndarray, anchors: np.ndarray, rows: np.ndarray, there: np.ndarray, out: np.ndarray) -> None:
    """The rows nearest to each anchor (squared Euclidean distance, in float64), nearest first; of equals the first."""
    for i in range(len(rows)):
        distance = np.empty(there[i], np.float64)
        for j in range(there[i]):
            total = 0.0
            for d in range(vectors.shape[1]):
                step = np.float64(vectors[rows[i, j], d]) - np.float64(anchors[i, d])
                total += step * step
            distance[j] = total
        order = np.argsort(distance, kind="mergesort")
        for j in range(out.shape[1]):
            out[i, j] = rows[i, order[j]]


@numba.njit(cache=True, nogil=True)
def _shuffle(keys: np.ndarray, drawn: np.ndarray) -> None:
    for i in range(len(keys)):
        state = keys[i]
        for j in range(drawn.shape[1] - 1, 0, -1):
            state += _STEP
            other = np.int64(mix64(state) % np.uint64(j + 1))
            drawn[i, j], drawn[i, other] = drawn[i, other], drawn[i, j]


@dataclass(frozen=True)
class Wanted:
    """How many negatives of which kind; ``hard`` ones are the nearest of ``candidates`` that are drawn."""

    anywhere: int
    in_batch: int = 0
    out_of_batch: int = 0
    hard: int = 0
    candidates: int = 0

    @property
    def all(self) -> int:
        return self.anywhere + self.in_batch + self.out_of_batch + self.hard


class Negatives:
    """Draws for the anchors of one split.

    What is drawn depends on the seed, the anchor's id, and the attributes, batches and vectors of the split alone.
    Memory: about 16 bytes per cell and attribute, and 4 bytes per cell for each of the (few) pools.

    Args:
        attributes: captions and label as codes (n,) int32.
        batch: codes (n,) int32, where negatives of the same or of another batch are wanted.
        vectors: float32 (n, d), where hard ones are wanted; may lie on disk.

    Raises:
        CellmillError: an anchor has fewer eligible cells than are asked for; says how many there are.
    """

    def __init__(
        self,
        attributes: Sequence[np.ndarray],
        wanted: Wanted,
        *,
        ids: pa.Array,
        seed: int,
        where: object,
        batch: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ) -> None:
        self._wanted, self._seed, self._vectors = wanted, seed, vectors
        distinct = without_refinements(attributes)
        anywhere = make_pools(distinct)
        self._check(anywhere, wanted.all, "", ids, where)
        self._steps: list[tuple[str, Pools, int]] = []
        if wanted.in_batch:
            self._steps.append(("in_batch", make_pools(distinct, scope=batch), wanted.in_batch))
            self._check(self._steps[-1][1], wanted.in_batch, " of its own batch", ids, where)
        if wanted.out_of_batch:
            assert batch is not None
            other = make_pools([*distinct, batch])
            self._steps.append(("out_of_batch", other, wanted.out_of_batch))
            self._check(other, wanted.out_of_batch, " of another batch", ids, where)
        self._anywhere = anywhere
        self.fewest = int(anywhere.eligible.min())
        """Eligible cells of the anchor that has the fewest."""

    @staticmethod
    def _check(pools: Pools, wanted: int, which: str, ids: pa.Array, where: object) -> None:
        fewest = int(pools.eligible.argmin())
        if pools.eligible[fewest] < wanted:
            short = int((pools.eligible < wanted).sum())
            raise CellmillError(
                where,
                f"{wanted} negatives{which} were asked for, but cell '{ids[fewest]}' has only "
                f"{pools.eligible[fewest]:,} of {len(pools.eligible):,} cells{which} with another caption and label "
                f"({short:,} cells have too few).",
                "Ask for fewer negatives, caption by another column, or leave these cells out with quality.filters.",
            )

    def of(self, start: int, ids: pa.Array) -> np.ndarray:
        """int32 (len(ids), k): rows of the negatives of the anchors from row ``start`` on, whose ids these are."""
        n, wanted = len(ids), self._wanted
        taken = np.empty((n, 0), np.int32)
        for name, pools, number in self._steps:
            drawn = self._drawn(name, pools, np.full(n, number), start, ids, taken)
            taken = np.concatenate([taken, drawn], axis=1)
        if wanted.hard:
            left = self._anywhere.eligible[start : start + n] - taken.shape[1]
            there = np.minimum(left, max(wanted.candidates, wanted.hard))
            found = self._drawn("hard", self._anywhere, there, start, ids, taken)
            assert self._vectors is not None
            nearest = np.empty((n, wanted.hard), np.int32)
            _nearest(self._vectors, np.array(self._vectors[start : start + n]), found, there, nearest)
            taken = np.concatenate([taken, nearest], axis=1)
        if wanted.anywhere:
            drawn = self._drawn("anywhere", self._anywhere, np.full(n, wanted.anywhere), start, ids, taken)
            taken = np.concatenate([taken, drawn], axis=1)
        if wanted.anywhere < wanted.all:  # else every order is as likely already
            _shuffle(hash_strings(ids, seed=self._seed, purpose="negatives shuffled"), taken)
        return taken

    def _drawn(
        self, name: str, pools: Pools, wanted: np.ndarray, start: int, ids: pa.Array, taken: np.ndarray
    ) -> np.ndarray:
        keys = hash_strings(ids, seed=self._seed, purpose=f"negatives {name}")
        out = np.full((len(ids), int(wanted.max(initial=0))), -1, np.int32)
        flat = (pools.attributes, pools.rows, pools.start, pools.size, pools.pool)
        _draw(keys, start, *flat, wanted.astype(np.int64), taken, out)
        return out
