"""``pseudobulk/{name}.h5ad``: sums of each part, then of all parts; whole numbers, so that no order changes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from cellmill.contracts import profiles as contract
from cellmill.contracts.counts import CountsPart, to_arrow
from cellmill.contracts.obs import to_pandas
from cellmill.contracts.versions import GROUP_SUMS, PSEUDOBULK
from cellmill.errors import CellmillError
from cellmill.keys import hash_strings
from cellmill.progress import progress
from cellmill.pseudobulk.groups import Sums, constants, groups_of, lowest
from cellmill.pseudobulk.spec import Pseudobulk

ROWS = 1_024


def sum_groups(
    processed: str | PathLike[str],
    *,
    spec: Pseudobulk,
    columns: Sequence[str],
    out: str | PathLike[str],
    threads: int = 1,
) -> None:
    """Add up the counts of each group of a part; behind the sums, the cells that may be kept beside the profile.

    Args:
        columns: obs columns that the profiles have where all cells of a group have the same value.

    Memory: a value for each group and gene of the part that has a count, and ``keep_cells`` cells of each group.
    """
    with CountsPart(processed, threads=threads) as part:
        values = {c: to_arrow(part.obs[c]) for c in dict.fromkeys([*columns, *spec.by, "split"])}
        codes, groups = groups_of([values[c] for c in spec.by])
        keys = hash_strings(part.cell_ids, seed=spec.seed, purpose="pseudobulk")
        chosen = lowest(codes, keys, spec.keep_cells)
        sums, cells = Sums(len(groups), part.n_genes), list[sp.csr_matrix]()
        is_chosen = np.zeros(part.n_cells, bool)
        is_chosen[chosen] = True
        with progress(part.n_cells, "cells", "adding up") as counter:
            for start, stop, counts in part.blocks():
                sums.add(codes[start:stop], counts)
                cells.append(counts[is_chosen[start:stop]])
                counter.update(stop - start)
        rows = np.flatnonzero(codes >= 0)
        of_groups, varies = {}, {}
        for name, found in values.items():
            of_groups[name], differs = constants(codes[rows], len(groups), found.take(pa.array(rows)))
            varies[name] = np.flatnonzero(differs).tolist()
        single = np.flatnonzero(is_chosen)
        obs = contract.Rows(
            group=[*groups, *(groups[code] for code in codes[single])],
            cell_id=pa.concat_arrays([pa.nulls(len(groups), pa.large_string()), part.cell_ids.take(pa.array(single))]),
            n_cells=np.concatenate([np.bincount(codes[rows], minlength=len(groups)), np.ones(len(single), np.int64)]),
            key=np.concatenate([np.zeros(len(groups), np.uint64), keys[single]]),
            columns={
                name: pa.concat_arrays([of_groups[name], found.take(pa.array(single))])
                for name, found in values.items()
            },
        )
        facts = {"part": part.facts["part"], "cells": part.n_cells, "groups": len(groups), "varies": varies}
        total = sums.total()
        contract.write_rows(
            out,
            [total[i : i + ROWS] for i in range(0, len(groups), ROWS)] + cells,
            obs=obs.table(),
            var=part.var,
            dtype=np.dtype(np.uint64),
            facts=facts,
            contract=GROUP_SUMS,
        )


def write_pseudobulk(
    sums: Sequence[str | PathLike[str]], *, name: str, spec: Pseudobulk, out: str | PathLike[str]
) -> None:
    """Add up the sums of all parts; profiles sorted by their values, then single cells by profile and key.

    A column has the value that all cells of the profile have, and is missing where they differ.

    Memory: a value for each group and gene that has a count, about three times 12 bytes.

    Raises:
        CellmillError: no group has ``min_cells`` cells.
    """
    parts = [contract.read_sums(path) for path in sums]
    texts = sorted({text for part in parts for text in part.rows.group})
    number = {text: i for i, text in enumerate(texts)}
    codes = [np.array([number[text] for text in part.rows.group], np.int64) for part in parts]
    n_cells = np.zeros(len(texts), np.int64)
    total = Sums(len(texts), len(parts[0].var))
    for part, mine in zip(parts, codes, strict=True):
        np.add.at(n_cells, mine[: part.groups], part.rows.n_cells[: part.groups])
        total.add(mine[: part.groups], part.counts[: part.groups])
    kept = np.flatnonzero(n_cells >= spec.min_cells)
    if not len(kept):
        most = int(n_cells.max(initial=0))
        raise CellmillError(
            f"pseudobulk.{name}",
            f"of {len(texts):,} groups none has {spec.min_cells:,} cells; the largest has {most:,}.",
            "Lower min_cells, or name fewer columns in by.",
        )
    place = np.full(len(texts), -1, np.int64)
    place[kept] = np.arange(len(kept))
    counts = total.total()[kept]
    values: sp.csr_matrix = counts
    if spec.method == "mean":
        per_cell = counts.data / np.repeat(n_cells[kept], np.diff(counts.indptr))
        values = sp.csr_matrix((per_cell.astype(np.float32), counts.indices, counts.indptr), counts.shape)
    single, of_single, cells = _single_cells(parts, codes, place, spec)
    rows, groups = (
        [np.arange(part.groups) for part in parts],
        np.concatenate([mine[: part.groups] for part, mine in zip(parts, codes, strict=True)]),
    )
    obs: dict[str, Any] = {
        "profile": pd.Categorical(["pseudobulk"] * len(kept) + ["cell"] * len(of_single)),
        "n_cells": np.concatenate([n_cells[kept], np.ones(len(of_single), np.int64)]),
    }
    across = 0
    for column in parts[0].rows.columns:
        found = contract.of_one_type([part.rows.columns[column] for part in parts])
        seen = pa.concat_arrays([f.take(pa.array(r)) for f, r in zip(found, rows, strict=True)])
        constant, differs = constants(groups, len(texts), seen)
        for part, mine in zip(parts, codes, strict=True):
            differs[mine[part.varies[column]]] = True
        constant = pc.if_else(pa.array(differs), pa.scalar(None, constant.type), constant).take(pa.array(kept))
        own = pa.concat_arrays([f.take(pa.array(s)) for f, s in zip(found, single, strict=True)]).take(cells)
        obs[column] = to_pandas(pa.chunked_array([pa.concat_arrays([constant, own])]))
        across += int(differs[kept].sum()) if column == "split" else 0
    ids = pa.concat_arrays([p.rows.cell_id.take(pa.array(s)) for p, s in zip(parts, single, strict=True)]).take(cells)
    index = [f"{name}:{_shown(texts[i])}" for i in kept] + ids.to_pylist()
    if len(set(index)) < len(index):
        raise CellmillError(f"pseudobulk.{name}", "a cell has the id of a profile.", "Take another name.")
    cell_counts = sp.vstack([p.counts[s] for p, s in zip(parts, single, strict=True)], "csr")[cells.to_numpy()]
    largest = max(int(m.data.max()) if m.nnz else 0 for m in (counts, cell_counts))
    dtype = np.dtype(np.float32) if spec.method == "mean" else np.min_scalar_type(max(largest, 1 << 8))
    in_groups, dropped = int(n_cells.sum()), np.setdiff1d(np.arange(len(texts)), kept)
    all_cells = sum(part.cells for part in parts)
    facts = {
        "pseudobulk": name,
        "spec": spec.model_dump(mode="json"),
        "profiles": len(kept),
        "cells": all_cells,
        "cells_in_profiles": int(n_cells[kept].sum()),
        "cells_without_value": all_cells - in_groups,
        "groups_dropped": len(dropped),
        "cells_dropped": int(n_cells[dropped].sum()),
        "single_cells": len(of_single),
        "profiles_across_splits": across,
    }
    contract.write_rows(
        out,
        [m[i : i + ROWS] for m in (values, cell_counts) for i in range(0, m.shape[0], ROWS)],
        obs=pd.DataFrame(obs, index=pd.Index(index, name="cell_id")),
        var=parts[0].var,
        dtype=dtype,
        facts=facts,
        contract=PSEUDOBULK,
    )


def _single_cells(
    parts: Sequence[contract.PartSums], codes: Sequence[np.ndarray], place: np.ndarray, spec: Pseudobulk
) -> tuple[list[np.ndarray], np.ndarray, pa.Array]:
    """Of each part the rows of its cells; of those that are kept, in order, the profile and the place among all."""
    rows = [np.arange(part.groups, len(part.rows.group)) for part in parts]
    of = np.concatenate([place[mine[r]] for mine, r in zip(codes, rows, strict=True)])
    keys = np.concatenate([part.rows.key[r] for part, r in zip(parts, rows, strict=True)])
    chosen = lowest(of, keys, spec.keep_cells)
    return rows, of[chosen], pa.array(chosen)


def _shown(group: str) -> str:
    """A group as the id of its profile: the value of one column, the JSON list of several."""
    values = json.loads(group)
    return values[0] if len(values) == 1 else group
