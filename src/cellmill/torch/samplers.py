"""Which cells come in which batch: a sampler makes the plan of an epoch, and a plan gives rows for batches.

A plan depends on the sampler, its seed, the epoch, the batch size, the number of ranks, and the cells alone.
It knows no workers; ``level`` makes its batches as many on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellmill.errors import CellmillError
from cellmill.torch.kernels import permuted
from cellmill.torch.stores import BUFFER_ROWS

if TYPE_CHECKING:
    from cellmill.torch.obs import ObsColumn


class Cells(Protocol):
    """What a sampler may know of the cells: how many, how they lie, and their obs columns."""

    n_cells: int
    block_rows: int

    def obs(self, column: str) -> ObsColumn:
        """An obs column of these cells."""


TURN = 16
"""Batches that come from one lane before the next has its turn; as many as a worker sends at once."""
ROUNDS = 12
"""Rounds of the network that permutes cells (an even number): with 8, pairs of 5 or 10 cells come unevenly (chi-squared
test over 20,000 epochs); with 12, of no number from 4 to 200."""


@dataclass
class Plan:
    """The order of an epoch, and where it is cut."""

    bounds: np.ndarray
    """int64 (n_batches + 1,): batch ``i`` is what stands from ``bounds[i]`` to ``bounds[i + 1]`` of the order."""
    order: Callable[[int, int], np.ndarray]
    """The cells (int64) that stand from one place of the order to another."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Cells that are in no batch, by reason."""

    @property
    def n_batches(self) -> int:
        return len(self.bounds) - 1

    def rows(self, batch: int) -> np.ndarray:
        """The cells of a batch."""
        return self.order(int(self.bounds[batch]), int(self.bounds[batch + 1]))


class Sampler(Protocol):
    """Makes the plan of an epoch."""

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        """The plan of one epoch over all cells."""


@dataclass(frozen=True)
class Sequential:
    """Every cell once, as they are stored: for evaluation."""

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        return Plan(_cuts(cells.n_cells, batch_size), lambda start, stop: np.arange(start, stop, dtype=np.int64))


@dataclass(frozen=True)
class Shuffled:
    """Every cell once: blocks of rows in random order, cells mixed in a buffer of some of these blocks."""

    seed: int = 0
    buffer_rows: int = BUFFER_ROWS
    """Cells among which a batch is drawn, over all lanes; more mix better, and take more memory."""
    block_rows: int | None = None
    """Rows that stay together on the way into the buffer; ``None``: what the store decodes at once."""
    lanes: int = 4
    """Parts of the buffer that take turns: a worker has lanes of its own, where the number of workers divides it."""

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        n, block = cells.n_cells, self.block_rows or cells.block_rows
        blocks = np.random.default_rng([self.seed, epoch]).permutation(-(-n // block))
        begins = np.concatenate([[0], np.cumsum(np.minimum(block, n - blocks * block))])
        # Batches of a lane's part of the buffer: whole turns.
        fill = max(1, self.buffer_rows // self.lanes // batch_size // TURN) * TURN
        mixed: dict[int, np.ndarray] = {}

        def of_fill(number: int) -> np.ndarray:
            """The cells of one lane's part of the buffer, mixed; the last few are kept."""
            if number not in mixed:
                while len(mixed) >= 2 * self.lanes:
                    mixed.pop(next(iter(mixed)))
                start, stop = number * fill * batch_size, min((number + 1) * fill * batch_size, n)
                first, last = np.searchsorted(begins, [start, stop - 1], side="right") - 1
                runs = [
                    np.arange(max(begins[b], start), min(begins[b + 1], stop)) + (blocks[b] * block - begins[b])
                    for b in range(first, last + 1)
                ]
                mixed[number] = np.random.default_rng([self.seed, epoch, number]).permutation(np.concatenate(runs))
            return mixed[number]

        def order(start: int, stop: int) -> np.ndarray:
            found = []
            while start < stop:
                batch, skip = divmod(start, batch_size)
                number, within = _in_lanes(batch, fill=fill, lanes=self.lanes, ranks=ranks, batches=n // batch_size)
                begin = within * batch_size + skip
                take = min(stop - start, batch_size - skip)
                found.append(of_fill(number)[begin : begin + take])
                start += take
            return np.concatenate(found) if found else np.empty(0, np.int64)

        return Plan(_cuts(n, batch_size), order)


@dataclass(frozen=True)
class Permuted:
    """Every cell once, all in random order: for stores whose rows lie open, such as ``scdl``.

    A place of the order is computed when its batch is made, so that nothing is held for a cell.
    """

    seed: int = 0

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        n = cells.n_cells
        keys = np.random.SeedSequence([self.seed, epoch]).generate_state(ROUNDS, np.uint64)

        def order(start: int, stop: int) -> np.ndarray:
            out = np.empty(stop - start, np.int64)
            permuted(start, math.isqrt(n - 1) + 1, n, keys, out)
            return out

        return Plan(_cuts(n, batch_size), order)


def _in_lanes(batch: int, *, fill: int, lanes: int, ranks: int, batches: int) -> tuple[int, int]:
    """Which fill a batch is from, and which of its batches.

    Fills stand in groups of ``lanes`` for each rank.
    A rank has its own fills in a group, and takes ``TURN`` batches from each in turn.
    Fills that make no whole group come one after another.
    """
    size = fill * lanes * ranks
    group, at = divmod(batch, size)
    if (group + 1) * size > batches:
        return divmod(batch, fill)
    step, rank = divmod(at, ranks)
    turn, within = divmod(step, TURN)
    around, lane = divmod(turn, lanes)
    return group * lanes * ranks + lane * ranks + rank, around * TURN + within


@dataclass(frozen=True)
class Weighted:
    """Cells drawn with replacement, each as likely as its weight says."""

    weights: str | Sequence[float] | np.ndarray
    """One for each cell, none negative; or the obs column that holds them."""
    seed: int = 0
    n_draws: int | None = None
    """Cells in an epoch; ``None``: as many as there are."""

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        column = isinstance(self.weights, str)
        weights = np.asarray(cells.obs(self.weights).values if isinstance(self.weights, str) else self.weights, float)
        where = f"weights '{self.weights}'" if column else "weights"
        if weights.shape != (cells.n_cells,):
            fix = "Give one for each cell."
            raise CellmillError(where, f"{weights.shape} weights for {cells.n_cells:,} cells.", fix)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise CellmillError(where, "one is negative or not a number, or all are 0.", "Give weights of 0 or more.")
        edges, end = np.cumsum(weights), np.flatnonzero(weights)[-1]

        def order(start: int, stop: int) -> np.ndarray:
            drawn = _uniform(self.seed, epoch, start, stop) * edges[-1]
            return np.minimum(np.searchsorted(edges, drawn, side="right"), end)  # rounding may lead behind the end

        return Plan(_cuts(cells.n_cells if self.n_draws is None else self.n_draws, batch_size), order)


@dataclass(frozen=True)
class Balanced:
    """Cells drawn with replacement, each class as likely as the others, and the cells of a class alike."""

    by: str
    """The obs column of the classes; cells without a value are left out, and counted."""
    seed: int = 0
    n_draws: int | None = None
    """Cells in an epoch; ``None``: as many as have a class."""

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        rows, begins, missing = _groups(cells, self.by)
        sizes = np.diff(begins)
        classes = np.flatnonzero(sizes)
        n = len(rows) if self.n_draws is None else self.n_draws

        def order(start: int, stop: int) -> np.ndarray:
            drawn = _uniform(self.seed, epoch, 2 * start, 2 * stop)
            class_ = classes[np.minimum((drawn[::2] * len(classes)).astype(np.int64), len(classes) - 1)]
            within = np.minimum((drawn[1::2] * sizes[class_]).astype(np.int64), sizes[class_] - 1)
            return rows[begins[class_] + within].astype(np.int64)

        return Plan(_cuts(n, batch_size), order, left_out=missing)


@dataclass(frozen=True)
class Grouped:
    """Every cell once, each batch from one group, batches of all groups in random order."""

    by: str
    """The obs column of the groups; cells without a value are left out, and counted."""
    seed: int = 0

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        rows, begins, missing = _groups(cells, self.by)
        return _by_group(rows, begins, seed=self.seed, epoch=epoch, batch_size=batch_size, left_out=missing)


@dataclass(frozen=True)
class WithControls:
    """Every perturbed cell once: batches of one perturbation in one group, each with controls of the same group."""

    perturbation: str
    """The obs column of the perturbations."""
    control: str
    """Its value for controls."""
    within: str | None = None
    """The obs column that controls must share, such as donor or plate; ``None``: all cells are one group."""
    n_controls: int | None = None
    """Controls in a batch, drawn with replacement from epoch to epoch; ``None``: as many as perturbed cells."""
    without_controls: str = "refuse"
    """Perturbed cells of a group that has no control: ``refuse``, or ``leave_out``, and count them."""
    seed: int = 0

    def plan(self, cells: Cells, *, epoch: int, batch_size: int, ranks: int = 1) -> Plan:
        column = cells.obs(self.perturbation)
        names = [] if column.categories is None else list(column.categories)
        if self.control not in names:
            from cellmill.errors import nearest

            where = f"obs column '{self.perturbation}'"
            raise CellmillError(where, f"has no value '{self.control}'.", nearest(self.control, names))
        drug = column.values.astype(np.int64)
        group, n_groups = _codes(cells, self.within)
        known = (drug >= 0) & (group >= 0)
        is_control = known & (drug == names.index(self.control))
        left_out = {"without a perturbation or group": int((~known).sum())} if not known.all() else {}
        controls, control_begins = _sorted_by(np.where(is_control, group, -1), n_groups)
        has_controls = np.diff(control_begins) > 0
        perturbed = known & ~is_control
        alone = perturbed & ~has_controls[group]
        if alone.any():
            if self.without_controls != "leave_out":
                groups = sorted({str(cells.obs(str(self.within)).categories[g]) for g in np.unique(group[alone])})  # type: ignore[index]
                raise CellmillError(
                    f"obs column '{self.within}'",
                    f"{len(groups)} groups have perturbed cells and no '{self.control}': {', '.join(groups[:5])}.",
                    "Choose another 'within', or without_controls='leave_out'.",
                )
            left_out["in a group without controls"] = int(alone.sum())
            perturbed &= ~alone
        rows, begins = _sorted_by(np.where(perturbed, group * len(names) + drug, -1), n_groups * len(names))
        plan = _by_group(rows, begins, seed=self.seed, epoch=epoch, batch_size=batch_size, left_out=left_out)
        sets = plan.order

        def order(start: int, stop: int) -> np.ndarray:
            cells_of = sets(start, stop)
            mine = int(group[cells_of[0]])
            drawn = np.random.default_rng([self.seed, epoch, start]).random(self.n_controls or stop - start)
            first, last = control_begins[mine], control_begins[mine + 1]
            chosen = first + np.minimum((drawn * (last - first)).astype(np.int64), last - first - 1)
            return np.concatenate([cells_of, controls[chosen].astype(np.int64)])

        return Plan(plan.bounds, order, left_out=left_out)


def checked_ranks(where: str, batch_size: int, ranks: tuple[int, int] | None) -> tuple[int, int]:
    """Rank and number of ranks; ``None``: those of ``torch.distributed``, or (0, 1) where it is not initialised.

    Raises:
        CellmillError: there is no such rank, or batches would be empty.
    """
    from torch import distributed

    if ranks is None and distributed.is_available() and distributed.is_initialized():
        ranks = distributed.get_rank(), distributed.get_world_size()
    rank, number = ranks or (0, 1)
    if batch_size < 1 or not 0 <= rank < number:
        found = f"batch_size {batch_size}, rank {rank} of {number}."
        raise CellmillError(where, found, "Batches hold 1 cell or more; ranks count from 0.")
    return rank, number


def level(plan: Plan, *, ranks: int, batch_size: int, drop_last: bool) -> Plan:
    """The same plan with as many batches on every rank: batch ``i`` goes to rank ``i % ranks``.

    Nothing is padded, and no cell comes twice.
    With ``drop_last``, batches smaller than ``batch_size`` are dropped, then the last ones that ranks cannot share;
    ``left_out`` counts their cells.
    Without, the last of the largest batches are halved until the ranks can share them.

    Raises:
        CellmillError: there are fewer cells than ranks.
    """
    sizes, begins = np.diff(plan.bounds), plan.bounds[:-1]
    if drop_last:
        keep = np.flatnonzero(sizes == batch_size)
        keep = keep[: len(keep) - len(keep) % ranks]
        dropped = int(sizes.sum() - sizes[keep].sum())
        left_out = plan.left_out | ({"in batches that were dropped": dropped} if dropped else {})
        if len(keep) == 0:
            found = f"{int(sizes.sum()):,} cells make no full batch of {batch_size} for each of {ranks} ranks."
            raise CellmillError("drop_last", found, "Take smaller batches, or drop_last=False.")
        return _picked(plan, begins[keep], sizes[keep], left_out)
    while len(sizes) % ranks:
        at = len(sizes) - 1 - int(np.argmax(sizes[::-1]))
        half = int(sizes[at]) // 2
        if not half:
            found = f"{int(sizes.sum()):,} batches of one cell cannot be shared by {ranks} ranks."
            raise CellmillError("ranks", found, "Take fewer ranks, or drop_last=True.")
        begins = np.insert(begins, at + 1, begins[at] + sizes[at] - half)
        sizes = np.insert(sizes, at + 1, half)
        sizes[at] -= half
    return _picked(plan, begins, sizes, plan.left_out)


def _picked(plan: Plan, begins: np.ndarray, sizes: np.ndarray, left_out: dict[str, int]) -> Plan:
    """A plan of some pieces of another's order."""
    bounds = np.concatenate([[0], np.cumsum(sizes)])

    def order(start: int, stop: int) -> np.ndarray:
        piece = int(np.searchsorted(bounds, start, side="right")) - 1
        begin = int(begins[piece]) + start - int(bounds[piece])
        return plan.order(begin, begin + stop - start)

    return Plan(bounds, order, left_out=left_out)


def _cuts(n: int, batch_size: int) -> np.ndarray:
    return np.append(np.arange(0, n, batch_size, dtype=np.int64), n) if n else np.zeros(1, np.int64)


def _codes(cells: Cells, column: str | None) -> tuple[np.ndarray, int]:
    """Codes (n_cells,) int64 of a column of categories or whole numbers, -1 for missing, and how many there are."""
    if column is None:
        return np.zeros(cells.n_cells, np.int64), 1
    found = cells.obs(column)
    if found.categories is not None:
        return found.values.astype(np.int64), len(found.categories)
    if found.values.dtype.kind == "f":
        raise CellmillError(f"obs column '{column}'", "holds fractions.", "Group by text or whole numbers.")
    names, codes = np.unique(found.values, return_inverse=True)
    return codes.astype(np.int64), len(names)


def _sorted_by(codes: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells with a code, by rising code (4 bytes each, up to 4 billion), and where each code begins."""
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes, 0, sorter=order) :]
    begins = np.concatenate([[0], np.cumsum(np.bincount(codes[order], minlength=n_codes))])
    return order.astype(np.uint32 if len(codes) < 1 << 32 else np.int64), begins


def _groups(cells: Cells, column: str) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    codes, n_codes = _codes(cells, column)
    missing = int((codes < 0).sum())
    return *_sorted_by(codes, n_codes), {f"without {column}": missing} if missing else {}


def _by_group(
    rows: np.ndarray, begins: np.ndarray, *, seed: int, epoch: int, batch_size: int, left_out: dict[str, int]
) -> Plan:
    """Cells mixed within their groups, cut into batches of one group, in random order."""
    rng = np.random.default_rng([seed, epoch])
    mixed, starts = rows.copy(), [np.empty(0, np.int64)]
    for first, last in pairwise(begins):
        if last > first:
            rng.shuffle(mixed[first:last])
            starts.append(np.arange(first, last, batch_size, dtype=np.int64))
    pieces = np.concatenate(starts)
    sizes = np.diff(np.append(pieces, len(rows)))
    turn = rng.permutation(len(pieces))
    whole = Plan(np.append(pieces, len(rows)), lambda a, b: mixed[a:b].astype(np.int64))
    return _picked(whole, pieces[turn], sizes[turn], left_out)


def _uniform(seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    """Numbers of [0, 1) by their place in an epoch, so that any piece can be drawn by itself (splitmix64)."""
    key = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    with np.errstate(over="ignore"):
        h = key + np.arange(start, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return (h >> np.uint64(11)).astype(np.float64) * 2.0**-53
