"""Files of ``processed``, ``tokenized`` and ``embedded``: read whole, and aligned with the cells of the part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import embedding
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.tokens import GROUP_ROWS, TokensPart
from cellmill.progress import progress

if TYPE_CHECKING:
    from cellmill.checks.check import Checked

BLOCK_ROWS = 4_096


def processed(checked: Checked) -> None:
    """Counts: sorted indices in the gene space, no stored zeros; ids once; totals and splits as the file says."""
    problems = checked.problems
    with CountsPart(checked.path) as part, progress(part.n_cells, "cells", "reading") as counter:
        obs, facts = part.obs, part.facts
        twice = obs.index[obs.index.duplicated()].astype(str)
        problems.many("cells twice", len(twice), ((f"cell '{c}'", "stands there twice") for c in twice))
        if len(obs) != part.n_cells:
            problems.add("rows", "obs", f"has {len(obs):,} rows, X has {part.n_cells:,}")
            return
        totals = obs["total_counts"].to_numpy() if "total_counts" in obs else None
        for start, stop, counts in part.blocks(BLOCK_ROWS):
            _look_at_counts(checked, start, counts, part.n_genes, obs.index)
            if totals is not None:
                sums = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
                measured = totals[start:stop]  # of all genes of the file, also of those that are not in the space
                bad = sums > measured if facts.get("genes_dropped") else sums != measured
                cells = ((r, obs.index[start + r], sums[r], measured[r]) for r in np.flatnonzero(bad).tolist())
                each = (
                    (f"row {start + r}, cell '{cell}'", f"has {found:,} counts, obs says {said:,}")
                    for r, cell, found, said in cells
                )
                problems.many("cells with another number of counts", int(bad.sum()), each)
            counter.update(stop - start)
        found = {str(k): int(v) for k, v in obs["split"].value_counts().items() if v}
        said = {k: v for k, v in facts["splits"].items() if v}
        if found != said:
            problems.add("splits of another size", "obs/split", f"found {found}, the file says {said}")
        checked.about = f"{part.n_cells:,} cells, {part.n_values:,} counts of {part.n_genes:,} genes"


def _look_at_counts(checked: Checked, start: int, counts: Any, n_genes: int, ids: Any) -> None:
    """Indices rise within a row and stay in the gene space; no zero is stored."""
    row_of = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    indices = counts.indices
    outside = (indices < 0) | (indices >= n_genes)
    unsorted = np.zeros(len(indices), np.bool_)
    unsorted[1:] = (indices[1:] <= indices[:-1]) & (row_of[1:] == row_of[:-1])
    for kind, bad in (
        ("genes outside the gene space", outside),
        ("genes that do not rise", unsorted),
        ("stored zeros", counts.data == 0),
    ):
        rows = start + np.unique(row_of[bad])
        each = ((f"X, row {r}, cell '{ids[r]}'", kind) for r in rows)
        checked.problems.many(kind, len(rows), each)


def tokenized(checked: Checked) -> None:
    """Tokens: every row group, the ids of the part's cells in their order, and the numbers that the file says."""
    problems = checked.problems
    beside = checked.path.parents[2] / "processed" / f"{checked.path.stem}.h5ad"
    ids = _ids_of(beside)
    with TokensPart(checked.path) as file, progress(file.n_cells, "cells", "reading") as counter:
        if ids is not None and len(ids) != file.n_cells:
            problems.add("rows", str(checked.path), f"{file.n_cells:,} cells, {beside} has {len(ids):,}")
            ids = None
        tokens = 0
        for start in range(0, file.n_cells, GROUP_ROWS):
            stop = min(start + GROUP_ROWS, file.n_cells)
            try:
                table = file.rows(start, stop)
            except (OSError, pa.ArrowException) as error:
                problems.add("files that cannot be read", f"rows {start} to {stop - 1}", f"not readable ({error})")
                return
            first = next(iter(file.fields))
            if not pa.types.is_large_string(file.fields[first]):
                tokens += pc.sum(pc.list_value_length(table[first])).as_py() or 0
            if ids is not None:
                found = table["cell_id"].combine_chunks().cast(pa.large_string())
                wrong = np.flatnonzero(pc.not_equal(found, ids[start:stop]).to_numpy(zero_copy_only=False))
                each = (
                    (f"row {start + r}", f"cell '{found[int(r)]}', expected '{ids[start + int(r)]}'") for r in wrong
                )
                problems.many("rows of another cell", len(wrong), each)
            counter.update(stop - start)
        if not pa.types.is_large_string(file.fields[first]) and tokens != file.facts["tokens"]:
            problems.add("numbers of tokens", first, f"found {tokens:,}, the file says {file.facts['tokens']:,}")
        checked.about = f"{file.n_cells:,} cells, {tokens:,} tokens" + _aligned(ids, beside)


def embedded(checked: Checked) -> None:
    """Vectors: as many as the part has cells, and finite."""
    vectors = embedding.read(checked.path)
    beside = checked.path.parents[2] / "processed" / f"{checked.path.stem}.h5ad"
    ids = _ids_of(beside)
    if ids is not None and len(ids) != len(vectors):
        text = f"{len(vectors):,} vectors, {beside} has {len(ids):,} cells"
        checked.problems.add("rows", str(checked.path), text)
    with progress(len(vectors), "cells", "reading") as counter:
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[start : start + BLOCK_ROWS]
            rows = start + np.flatnonzero(~np.isfinite(block).all(axis=1))
            each = ((f"row {r}", "the vector is not finite") for r in rows)
            checked.problems.many("vectors that are not finite", len(rows), each)
            counter.update(len(block))
    checked.about = f"{len(vectors):,} cells, {vectors.shape[1]:,} dimensions" + _aligned(ids, beside)


def _ids_of(path: Path) -> pa.Array | None:
    """The ids of a processed part, where it is at hand."""
    if not path.is_file():
        return None
    with CountsPart(path) as part:
        return part.cell_ids


def _aligned(ids: pa.Array | None, beside: Path) -> str:
    return f", aligned with {beside.parent.name}/{beside.name}" if ids is not None else ""
