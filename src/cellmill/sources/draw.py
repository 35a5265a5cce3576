"""``subset:``: which cells of a dataset are drawn, over all parts, and a raw part that holds them alone."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.contracts import subset as contract
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing, scratch, write_json
from cellmill.keys import hash_strings
from cellmill.matrix.find import find_counts
from cellmill.matrix.reader import CountsFile
from cellmill.matrix.tables import storable
from cellmill.matrix.writer import H5adWriter
from cellmill.progress import progress
from cellmill.quality.labels import MISSING, filter_cells, refuse_unknown_values
from cellmill.quality.metrics import obs_strings, unique_cell_ids
from cellmill.quality.select import Spill, group_sizes, select
from cellmill.quality.thresholds import refuse_shared_ids
from cellmill.sources.subset import SubsetRules

log = logging.getLogger("cellmill")

Stratum = tuple[str | None, ...]
"""A value of each column of ``stratify``; None where it is missing."""
_GRID = 1 << 20


@dataclass(frozen=True)
class _Cells:
    """What the obs table of a part says of its cells: ids, keys (cells,) uint64, and the strata they are in."""

    ids: pa.Array
    keys: np.ndarray
    reasons: np.ndarray
    """The first filter that a cell fails (cells,), None where it passes all."""
    values: list[dict[str, int]]
    """Per filter the cells of each value."""
    codes: np.ndarray
    """The place of a cell's stratum in ``strata`` (cells,)."""
    strata: list[Stratum]

    @property
    def passes(self) -> np.ndarray:
        found: np.ndarray = pd.isna(self.reasons)
        return found


def _cells(file: CountsFile, part: str, rules: SubsetRules) -> _Cells:
    ids = pa.array(unique_cell_ids(file, part=part, cell_ids=rules.cell_ids), pa.large_string())
    reasons, values = filter_cells(file.obs, rules.filters, where=file.path)
    codes, strata = np.zeros(len(ids), np.int64), list[Stratum]([()])
    if rules.stratify:
        texts = [obs_strings(file.obs, column, file.path, missing=MISSING) for column in rules.stratify]
        codes, found = pd.factorize(pd.MultiIndex.from_arrays(texts))
        strata = [tuple(None if text == MISSING else text for text in stratum) for stratum in found]
    return _Cells(ids, hash_strings(ids, seed=rules.seed, purpose="subset"), reasons, values, codes, strata)


def _open(path: str | PathLike[str], counts: str, annotations: str | PathLike[str] | None) -> CountsFile:
    """A part for its tables: with the matrix that is named, else with any."""
    candidates = CountsFile.candidates(path) if counts == "auto" else [counts]
    if not candidates:
        raise CellmillError(path, "it has no matrix at all.", "Take a file with raw counts.")
    return CountsFile(path, candidates[0], annotations=annotations)


# --- how many of each stratum


def allocate(sizes: np.ndarray, cells: int, proportions: str) -> np.ndarray:
    """How many cells each stratum gives (strata,), int64; together ``cells``, and none more than its size (strata,).

    Think of the cells of each stratum as numbered from 0. With ``equal`` the least numbers are taken; with ``keep``,
    the least of (number + 1/2) / size: Webster's method (Sainte-Laguë). Where these are equal, the stratum that stands
    first comes first. More ``cells`` therefore never take one from a stratum, which the largest remainder can do.
    """
    sizes = np.asarray(sizes, np.int64)
    return _equal(sizes, cells) if proportions == "equal" else _proportional(sizes, cells)


def _equal(sizes: np.ndarray, cells: int) -> np.ndarray:
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the highest level that needs no more than the cells
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= cells else (low, level - 1)
    given = np.minimum(sizes, low)
    given[np.flatnonzero(sizes > low)[: cells - int(given.sum())]] += 1
    return given


def _proportional(sizes: np.ndarray, cells: int) -> np.ndarray:
    def given_at(divisor: int) -> np.ndarray:  # sizes / (divisor / _GRID), rounded half up
        rounded: np.ndarray = (2 * sizes * _GRID + divisor) // (2 * divisor)
        return rounded

    low, high = _GRID, 2 * _GRID * int(sizes.max(initial=0)) + 1
    while low < high:  # the least divisor that needs no more than the cells
        divisor = (low + high) // 2
        low, high = (low, divisor) if given_at(divisor).sum() <= cells else (divisor + 1, high)
    given = given_at(low)
    queue = [(-Fraction(int(n), 2 * int(k) + 1), i) for i, (n, k) in enumerate(zip(sizes, given, strict=True)) if n > k]
    heapq.heapify(queue)
    for _ in range(cells - int(given.sum())):
        i = queue[0][1]
        given[i] += 1
        heapq.heapreplace(queue, (-Fraction(int(sizes[i]), 2 * int(given[i]) + 1), i))
    return given


# --- the draw


def draw_subset(
    found: Sequence[str | PathLike[str]],
    *,
    rules: SubsetRules,
    counts: str,
    out: str | PathLike[str],
    annotations: Sequence[str | PathLike[str]] = (),
) -> None:
    """Decide which cells of all parts are drawn: of each stratum those of the least keys, by a hash of the cell id.

    The counts are not read, and the result does not depend on parts or their order.

    Args:
        found: the parts as found, ``{part}.h5ad``.
        counts: as in the dataset's config.
        annotations: ``{part}.obs.parquet`` of each part, where they have one.

    Memory: the obs table of one part, and a row per part and stratum. Disk: 24 bytes per cell.

    Raises:
        CellmillError: too few cells pass the filters; an empty part, a cell id that stands there twice, a filter's
            value that no cell has, no such column.
    """
    number: dict[Stratum, int] = {}
    values, dropped = list[list[dict[str, int]]](), Counter[str]()
    sizes: list[tuple[np.ndarray, np.ndarray]] = []
    with scratch(out) as folder:
        spill = Spill(folder, "passing", np.uint64)
        of = dict(zip(map(str, found), annotations, strict=True)) if annotations else {}
        for i, path in enumerate(found):
            with _open(path, counts, of.get(str(path))) as file:
                if 0 in file.shape:
                    fix = "Leave this file out of the dataset, or get it again."
                    raise CellmillError(path, f"{file.shape[0]} cells × {file.shape[1]} genes.", fix)
                cells = _cells(file, Path(path).stem, rules)
            values.append(cells.values)
            codes = np.array([number.setdefault(s, len(number)) for s in cells.strata], np.int32)[cells.codes]
            dropped.update(cells.reasons[~cells.passes])
            sizes.append((np.bincount(codes), np.bincount(codes[cells.passes])))
            spill.append(codes[cells.passes], cells.keys[cells.passes])
            np.save(folder / f"{i}.keys.npy", cells.keys)
            np.save(folder / f"{i}.codes.npy", np.where(cells.passes, codes, -1))
        refuse_unknown_values(values, rules.filters, where=out)
        n_found, n_passed = (sum(int(n.sum()) for n in column) for column in zip(*sizes, strict=True))
        keys = {str(path): folder / f"{i}.keys.npy" for i, path in enumerate(found)}
        refuse_shared_ids(
            [str(path) for path in found],
            folder,
            cells=n_found,
            keys=lambda path: np.load(keys[path]),
            ids=lambda path: _ids(path, rules, counts, of.get(str(path))),
        )
        if rules.cells > n_passed:
            raise CellmillError(
                "subset.cells",
                f"{rules.cells:,} are asked for, but only {n_passed:,} of {n_found:,} cells pass quality.filters."
                if rules.filters
                else f"{rules.cells:,} are asked for, but there are only {n_found:,}.",
                f"Ask for at most {n_passed:,}, or leave 'subset:' out to take all.",
            )
        given, last = _decide(spill, list(number), rules)
        rows = []
        for i, path in enumerate(found):
            codes, part_keys = np.load(folder / f"{i}.codes.npy"), np.load(folder / f"{i}.keys.npy")
            drawn = np.bincount(codes[_is_drawn(codes, part_keys, given, last)], minlength=len(number))
            for stratum, code in number.items():
                n, passed = (int(column[code]) if code < len(column) else 0 for column in sizes[i])
                if n:
                    key = int(last[code]) if given[code] else None
                    rows.append((Path(path).stem, list(stratum), n, passed, int(drawn[code]), key))
    if sum(row[4] for row in rows) != rules.cells:
        raise CellmillError("subset.seed", "two cells have the same key of 64 bits.", "Take another seed.")
    facts = {
        "rules": rules.model_dump(mode="json"),
        "found": n_found,
        "dropped": dict(sorted(dropped.items())),
        "drawn": rules.cells,
        "strata": len(number),
    }
    rows.sort(key=lambda row: (row[0], _order(row[1])))
    arrays = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(contract.SUBSET_SCHEMA)]
    contract.write_subset(out, pa.Table.from_arrays(arrays, schema=contract.SUBSET_SCHEMA), facts)


def _ids(
    path: str | PathLike[str], rules: SubsetRules, counts: str, annotations: str | PathLike[str] | None
) -> pa.ChunkedArray:
    with _open(path, counts, annotations) as file:
        return pa.chunked_array([_cells(file, Path(path).stem, rules).ids])


def _order(stratum: Sequence[str | None]) -> list[tuple[bool, str]]:
    """By the values; missing ones last."""
    return [(value is None, value or "") for value in stratum]


def _decide(spill: Spill, strata: list[Stratum], rules: SubsetRules) -> tuple[np.ndarray, np.ndarray]:
    """How many cells each stratum gives (strata,), and the key of the last of them (strata,) uint64."""
    sizes = group_sizes(spill, len(strata))
    order = np.array(sorted(range(len(strata)), key=lambda code: _order(strata[code])))
    given = np.zeros(len(strata), np.int64)
    given[order] = allocate(sizes[0][order], rules.cells, rules.proportions)
    giving = np.flatnonzero(given)
    last = np.zeros(len(strata), np.uint64)
    last[giving] = select(spill, giving, given[giving] - 1, sizes)
    without = int(((given == 0) & (sizes[0] > 0)).sum())
    if without:
        log.warning(
            "of %d of %d strata no cell is drawn: their share of %d is too small", without, len(strata), rules.cells
        )
    return given, last


def _is_drawn(codes: np.ndarray, keys: np.ndarray, given: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which cells (cells,) are drawn; ``codes`` is -1 where a filter drops them."""
    drawn: np.ndarray = (codes >= 0) & (given[codes] > 0) & (keys <= last[codes])
    return drawn


# --- in a part


def take_subset(
    found: str | PathLike[str],
    *,
    found_provenance: str | PathLike[str],
    subset: str | PathLike[str],
    counts: str,
    part: str,
    out: str | PathLike[str],
    provenance: str | PathLike[str],
    annotations: str | PathLike[str] | None = None,
    threads: int = 1,
) -> None:
    """Write the drawn cells of a part, none included, as h5ad: their counts as X, their obs, and all of var.

    ``counts: auto`` takes the first matrix that proves to hold counts, over every value of the part, drawn or not, so
    that the choice does not depend on the draw. Of a matrix that is named, rows that are not drawn are not looked at,
    and blocks without a drawn row not even read.

    Raises:
        CellmillError: no counts, or a part that is not the one of which cells were drawn.
    """
    table, decided = contract.read_subset(subset)
    rules = SubsetRules(**decided["rules"])
    mine = {tuple(row["stratum"]): row for row in table.to_pylist() if row["part"] == part}
    facts: dict[str, Any] = {}

    def take(where: str, why: str) -> None:
        with CountsFile(found, where, threads=threads, annotations=annotations) as file:
            cells = _cells(file, part, rules)
            drawn = _drawn_of(cells, mine, found)
            facts.update(
                part=part,
                found=len(drawn),
                dropped=dict(sorted(Counter(cells.reasons[~cells.passes]).items())),
                drawn=int(drawn.sum()),
                counts_from=where,
                why=why if counts == "auto" else "the config names it",
                rules=rules.model_dump(mode="json"),
            )
            _write_drawn(file, drawn, None if counts == "auto" else drawn, facts, out, threads)

    find_counts(found, counts, take)
    said = read_json(found_provenance)
    note = f"A subset: {facts['drawn']:,} of {facts['found']:,} cells, their counts from {facts['counts_from']}. "
    write_json(provenance, {**said, "note": note + f"What was found: {said['note'] or 'as is.'}", "subset": facts})


def _drawn_of(cells: _Cells, mine: dict[Stratum, dict[str, Any]], where: object) -> np.ndarray:
    """Which cells (cells,) of a part are drawn: as many of each stratum as were decided."""
    rows = [row for stratum in cells.strata if (row := mine.get(stratum)) is not None]
    if len(rows) == len(cells.strata) == len(mine):
        given = np.array([row["drawn"] for row in rows], np.int64)
        last = np.array([row["last"] or 0 for row in rows], np.uint64)
        drawn = _is_drawn(np.where(cells.passes, cells.codes, -1), cells.keys, given, last)
        there = {"found": cells.codes, "passed": cells.codes[cells.passes], "drawn": cells.codes[drawn]}
        if all(
            np.array_equal(np.bincount(codes, minlength=len(rows)), [row[key] for row in rows])
            for key, codes in there.items()
        ):
            return drawn
    raise CellmillError(
        where, "it is not the file that cells were drawn of.", "Delete raw/subset.parquet and run snakemake again."
    )


def _write_drawn(
    file: CountsFile,
    drawn: np.ndarray,
    wanted: np.ndarray | None,
    facts: dict[str, Any],
    out: str | PathLike[str],
    threads: int,
) -> None:
    with replacing(out) as aside:
        writer = H5adWriter(aside, n_genes=file.shape[1], dtype=np.dtype(np.uint32), threads=threads)
        try:
            with progress(int(drawn.sum()), "cells", "taking") as counter:
                for block in file.blocks(wanted=wanted):
                    counts = block.counts[drawn[block.start : block.stop]]
                    writer.append(counts)
                    counter.update(counts.shape[0])
            writer.close(obs=storable(file.obs[drawn]), var=storable(file.var), uns=contract.drawn_uns(facts))
        except BaseException:
            writer.abandon()
            raise
