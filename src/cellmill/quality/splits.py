"""Who trains and who tests: decided once over all parts, looked up in each."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill import keys
from cellmill.contracts import quality as quality_files
from cellmill.contracts import splits as contract
from cellmill.contracts.doublets import DoubletScores
from cellmill.errors import CellmillError, nearest
from cellmill.files import scratch
from cellmill.quality.select import Spill, group_sizes, select
from cellmill.quality.spec import CellRules, Quality, Split
from cellmill.quality.thresholds import KEPT, cell_outcomes, drop, filter_reasons, measured_columns

log = logging.getLogger("cellmill")


def assign_splits(
    parts: Sequence[str | PathLike[str]],
    *,
    labels: Sequence[str | PathLike[str]],
    thresholds: str | PathLike[str],
    doublets: Sequence[str | PathLike[str]] = (),
    duplicates: str | PathLike[str],
    rules: CellRules,
    out: str | PathLike[str],
) -> None:
    """Find the rare categories, and give every group its split, or every stratum its edges.

    By cell and by ``hash`` there is nothing to decide: a cell's key says its split.
    By group and ``balanced``, groups stand in the order of their keys and share out the kept cells in that order:
    each goes where its middle falls, so that a split is no further from its fraction than the largest group is large.
    By cell and ``balanced``, the cells of a stratum stand in the order of their keys, and each split takes its share.

    The result does not depend on parts or their order.

    Memory: one part, and a row per group; see :mod:`cellmill.quality.select` for strata.

    Raises:
        CellmillError: a listed cell or group that no kept cell has, or no cell to train on.
    """
    spec = rules.split
    is_subset = any("subset" in quality_files.read_labels(path, columns=[])[1] for path in labels)
    bounds, scores = quality_files.read_thresholds(thresholds), DoubletScores(doublets)
    listed = explicit_groups(spec)
    n_listed = len(listed)

    def cells(rare: frozenset[str]) -> Iterator[tuple[pa.Table, np.ndarray]]:
        for path, labels_path in zip(parts, labels, strict=True):
            yield _decided(path, labels_path, bounds, scores, duplicates, rules, rare)

    categories: Counter[str] = Counter()
    if rules.quality.rare is not None:
        for table, keep in cells(frozenset()):
            counted = pc.value_counts(table["category"].filter(keep).drop_null()).to_pylist()
            categories.update({pair["values"]: pair["counts"] for pair in counted})
    rare = rare_of(categories, rules.quality)
    rows: list[tuple[str, str, int, str | None, list[int] | None]] = []
    if spec.columns:
        sizes: Counter[str] = Counter()
        for table, keep in cells(rare):
            counted = pc.value_counts(table["group"].filter(keep)).to_pylist()
            sizes.update({pair["values"]: pair["counts"] for pair in counted})
        listed = _known(listed, sizes, spec, out, is_subset=is_subset)
        rows = [("group", group, sizes[group], split, None) for group, split in share_out(sizes, listed, spec).items()]
    else:
        if listed:
            found = _listed_cells(cells(rare), listed)
            listed = _known(listed, found, spec, out, is_subset=is_subset)
            rows = [("cell", cell, 1, listed[cell], None) for cell in sorted(found)]
        if spec.balanced:
            with scratch(out) as folder:
                rows += [
                    ("stratum", name, n, None, edges) for name, n, edges in _strata(cells(rare), spec, listed, folder)
                ]
    facts = {
        "by": spec.by,
        "method": "balanced" if spec.balanced else "hash",
        "rare": {name: categories[name] for name in sorted(rare)},
        **({"listed_not_there": n_listed - len(listed)} if is_subset else {}),
    }
    contract.write_splits(out, _table(rows), facts)


def _table(rows: list[tuple[str, str, int, str | None, list[int] | None]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(contract.SPLITS_SCHEMA)
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, contract.SPLITS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=contract.SPLITS_SCHEMA)


def _decided(
    quality: str | PathLike[str],
    labels: str | PathLike[str],
    bounds: dict[str, Any],
    scores: DoubletScores,
    duplicates: str | PathLike[str],
    rules: CellRules,
    rare: frozenset[str],
) -> tuple[pa.Table, np.ndarray]:
    """Ids and labels of a part, and which of its cells are kept."""
    table, facts = quality_files.read_quality(quality, columns=["cell_id", *measured_columns(rules.quality)])
    said, _ = quality_files.read_labels(labels)
    outcome = part_outcomes(
        table,
        said,
        part=facts["part"],
        thresholds=bounds,
        doublets=scores.of(facts["part"], table.num_rows)[1],
        duplicates=duplicates,
        spec=rules.quality,
        rare=rare,
    )
    return said.append_column("cell_id", table["cell_id"]), outcome == KEPT


def part_outcomes(
    measured: pa.Table,
    labels: pa.Table,
    *,
    part: str,
    thresholds: dict[str, Any],
    doublets: np.ndarray,
    duplicates: str | PathLike[str],
    spec: Quality,
    rare: frozenset[str] | set[str],
) -> np.ndarray:
    """Outcome (cells,) of a part by all rules: ``kept`` or the first reason why not."""
    filtered = filter_reasons(labels)
    outcome = cell_outcomes(measured, filtered=filtered, spec=spec, thresholds=thresholds, doublets=doublets)
    if spec.duplicates.rule == "drop":
        twins, _ = contract.read_duplicates(duplicates, part)
        copies = np.zeros(len(outcome), bool)
        copies[twins["row"].to_numpy()[~twins["first"].to_numpy()]] = True
        drop(outcome, copies, "duplicate content")
    if spec.rare is not None and spec.rare.rule == "drop" and rare:
        fails = pc.is_in(labels["category"], value_set=pa.array(sorted(rare), pa.large_string()))
        drop(outcome, fails.to_numpy(), f"rare {spec.rare.column}")
    return outcome


def rare_of(categories: Mapping[str, int], spec: Quality) -> frozenset[str]:
    """The categories with too few kept cells."""
    if spec.rare is None:
        return frozenset()
    return frozenset(name for name, cells in categories.items() if cells < spec.rare.min_cells)


# --- listed in the configuration


def explicit_groups(spec: Split) -> dict[str, str]:
    """Group or cell id, as :func:`cellmill.quality.labels.joined` writes it, to its split.

    Raises:
        CellmillError: a value that is listed twice, or of another number of columns.
    """
    found: dict[str, str] = {}
    width = max(1, len(spec.columns))
    for split, listed in spec.explicit.items():
        where = listed if isinstance(listed, str) else f"split.explicit.{split}"
        for value in _lines(listed) if isinstance(listed, str) else listed:
            values = value if isinstance(value, list) else value.split("\t") if isinstance(listed, str) else [value]
            if len(values) != width:
                raise CellmillError(where, f"{values} has {len(values)} values, expected {width}.", "Correct the list.")
            text = values[0] if width == 1 else json.dumps(values, ensure_ascii=False)
            if text in found:
                raise CellmillError(where, f"{text} is listed twice.", "Leave one out.")
            found[text] = split
    return found


def _lines(path: str) -> list[str]:
    try:
        return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CellmillError(
            path, f"not readable as text ({error}).", "It needs one cell id or group per line."
        ) from error


def _known(
    listed: Mapping[str, str], there: Mapping[str, int], spec: Split, where: object, *, is_subset: bool
) -> dict[str, str]:
    """What is listed and there: all of it, but in a subset, where others need not have been drawn."""
    known = {name: split for name, split in listed.items() if name in there}
    unknown = sorted(set(listed) - set(known))
    what = "groups" if spec.columns else "cell ids"
    if unknown and not (is_subset and known):
        close = nearest(unknown[0], list(there)[:10_000])
        raise CellmillError(
            where, f"split.explicit lists {len(unknown)} {what} that no kept cell has, as '{unknown[0]}'.", close
        )
    return known


def _listed_cells(cells: Iterator[tuple[pa.Table, np.ndarray]], listed: Mapping[str, str]) -> dict[str, int]:
    asked = pa.array(sorted(listed), pa.large_string())
    found: dict[str, int] = {}
    for table, keep in cells:
        ids = table["cell_id"].filter(keep)
        found.update(dict.fromkeys(ids.filter(pc.is_in(ids, value_set=asked)).to_pylist(), 1))
    return found


# --- groups


def share_out(sizes: Mapping[str, int], listed: Mapping[str, str], spec: Split) -> dict[str, str]:
    """The split of every group, in the order of their names."""
    names = sorted(set(sizes) - set(listed))
    rising = keys.hash_strings(names, seed=spec.seed, purpose="split")
    splits = np.array(list(spec.fractions), object)
    if not spec.balanced:
        found = dict(zip(names, splits[keys.assign_splits(rising, spec.fractions)], strict=True))
    else:
        order = sorted(range(len(names)), key=lambda i: (int(rising[i]), names[i]))
        cells = np.array([sizes[names[i]] for i in order], np.int64)
        middles = 2 * np.cumsum(cells) - cells  # twice, to stay whole
        by_name = sorted(spec.fractions)
        edges = np.cumsum([spec.fractions[name] for name in by_name])[:-1] * 2 * cells.sum()
        places = np.searchsorted(edges, middles, side="right")
        found = {names[i]: by_name[place] for i, place in zip(order, places, strict=True)}
    found.update(listed)
    empty = sorted({s for s, share in spec.fractions.items() if share} - set(found.values()))
    if empty:
        log.warning("no group falls into %s: there are %d groups", ", ".join(empty), len(sizes))
    return dict(sorted(found.items()))


# --- strata


def _strata(
    cells: Iterator[tuple[pa.Table, np.ndarray]], spec: Split, listed: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, int, list[int]]]:
    """Per stratum its name, its cells, and the keys at which the splits, by their names, begin."""
    import pandas as pd

    spill, codes = Spill(folder, "strata", np.uint64), dict[str, int]()
    for table, keep in cells:
        ids, strata = table["cell_id"], strata_of(table)
        free = keep & ~_is_listed(ids, listed)
        mine = strata[free]
        numbers, names = pd.factorize(mine)
        known = np.array([codes.setdefault(name, len(codes)) for name in names], np.int32)
        spill.append(known[numbers] if len(mine) else numbers, split_keys(ids, spec)[free])
    sizes = group_sizes(spill, len(codes))
    shares = np.cumsum([spec.fractions[name] for name in sorted(spec.fractions)])[:-1]
    ranks = np.floor(shares[None, :] * sizes[0][:, None] + 0.5).astype(np.int64)
    inside = ranks < sizes[0][:, None]
    edges = np.full(ranks.shape, 2**64 - 1, np.uint64)
    groups = np.repeat(np.arange(len(codes)), len(shares))[inside.ravel()]
    edges[inside] = select(spill, groups, ranks[inside], sizes)
    for name in sorted(codes):
        yield name, int(sizes[0][codes[name]]), edges[codes[name]].tolist()


def strata_of(labels: pa.Table) -> np.ndarray:
    """The stratum of each cell (cells,); one for all where none is asked for."""
    strata: np.ndarray = pc.fill_null(labels["stratum"], "").to_numpy(zero_copy_only=False)
    return strata


def split_keys(ids: pa.ChunkedArray, spec: Split) -> np.ndarray:
    """uint64 keys (cells,) of cell ids."""
    return keys.hash_strings(ids.combine_chunks(), seed=spec.seed, purpose="split")


def _is_listed(ids: pa.ChunkedArray, listed: Mapping[str, str]) -> np.ndarray:
    found: np.ndarray = pc.is_in(ids, value_set=pa.array(sorted(listed), pa.large_string())).to_numpy()
    return found


# --- in a part


def splits_of(ids: pa.ChunkedArray, labels: pa.Table, keep: np.ndarray, decided: pa.Table, spec: Split) -> np.ndarray:
    """The split of each kept cell of a part (cells,); of the others it says nothing.

    Raises:
        CellmillError: a kept cell of a group or stratum that was not counted.
    """
    names = np.array(list(spec.fractions), object)
    roles = {role: decided.filter(pc.equal(decided["role"], role)) for role in ("group", "stratum", "cell")}
    if spec.columns:
        return _looked_up(labels["group"].to_numpy(zero_copy_only=False), keep, roles["group"])
    if spec.balanced:
        strata, by_name = roles["stratum"], np.array(sorted(spec.fractions), object)
        number = dict(zip(strata["value"].to_pylist(), range(strata.num_rows), strict=True))
        edges = np.array(strata["edges"].to_pylist(), np.uint64).reshape(strata.num_rows, len(by_name) - 1)
        mine = strata_of(labels)
        listed = _is_listed(ids, dict.fromkeys(roles["cell"]["value"].to_pylist(), ""))
        free = keep & ~listed
        at = np.array([number[name] for name in mine[free]], np.int64)
        split = np.full(len(keep), names[0], object)
        split[free] = by_name[(split_keys(ids, spec)[free][:, None] >= edges[at]).sum(axis=1)]
    else:
        split = names[keys.assign_splits(split_keys(ids, spec), spec.fractions)]
    if roles["cell"].num_rows:
        at = pc.index_in(ids, value_set=roles["cell"]["value"].combine_chunks())
        there = at.is_valid().to_numpy()
        listed_splits = np.array(roles["cell"]["split"].to_pylist(), object)
        split[there] = listed_splits[at.drop_null().to_numpy()]
    return split


def _looked_up(groups: np.ndarray, keep: np.ndarray, decided: pa.Table) -> np.ndarray:
    place = dict(zip(decided["value"].to_pylist(), decided["split"].to_pylist(), strict=True))
    split = np.full(len(groups), next(iter(place.values()), ""), object)
    split[keep] = [place[group] for group in groups[keep]]
    return split
