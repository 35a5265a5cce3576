"""Cell sentences and negatives: seeded, uniform over all cells of another caption, at linear cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.errors import CellmillError
from cellmill.exports.hf import HfMultiplets
from cellmill.exports.rows import Header
from cellmill.keys import hash_strings, mix64


@numba.njit(cache=True, nogil=True)
def _top_genes(genes: np.ndarray, counts: np.ndarray, offsets: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Genes of each cell by falling count, equal counts in gene order, at most ``limit``; end to end, with offsets."""
    n = len(offsets) - 1
    out = np.empty(len(genes), np.int32)
    ends = np.zeros(n + 1, np.int32)
    end = 0
    for i in range(n):
        lo, hi = offsets[i], offsets[i + 1]
        order = np.argsort(-counts[lo:hi].astype(np.int64), kind="mergesort")
        for j in range(min(limit, hi - lo)):
            out[end] = genes[lo + order[j]]
            end += 1
        ends[i + 1] = end
    return out[:end], ends


def cell_sentences(genes: pa.LargeListArray, counts: pa.LargeListArray, names: pa.Array, limit: int) -> pa.Array:
    """A string per cell: gene names by falling expression, joined by spaces; unexpressed genes are never named."""
    offsets = genes.offsets.to_numpy()
    flat = (genes.values.to_numpy(), counts.values.to_numpy(), offsets)
    top, ends = _top_genes(*flat, limit)
    lists = pa.ListArray.from_arrays(pa.array(ends), names.take(pa.array(top)))
    return pc.binary_join(lists, " ").cast(pa.string())


@numba.njit(cache=True, nogil=True)
def _draw(
    keys: np.ndarray, codes: np.ndarray, by_caption: np.ndarray, starts: np.ndarray, sizes: np.ndarray, k: int
) -> np.ndarray:
    n = len(keys)
    out = np.empty((n, k), np.int64)
    drawn = np.empty(k, np.int64)
    for i in range(n):
        own = codes[i]
        others = n - sizes[own]
        state = keys[i]
        for j in range(k):
            while True:
                state += np.uint64(0x9E3779B97F4A7C15)
                r = np.int64(mix64(state) % np.uint64(others))
                known = False
                for q in range(j):
                    if drawn[q] == r:
                        known = True
                if not known:
                    break
            drawn[j] = r
            out[i, j] = by_caption[r if r < starts[own] else r + sizes[own]]
    return out


def draw_negatives(ids: pa.Array, captions: np.ndarray, *, k: int, seed: int, where: object) -> np.ndarray:
    """int64 (n, k): rows of ``k`` different cells per anchor, uniform over all whose caption is another.

    A draw depends on the seed, the anchor's id and the captions of the split alone.

    Raises:
        CellmillError: some caption leaves fewer than ``k`` cells; says how many there are.
    """
    codes, names = pd.factorize(captions, sort=True)
    sizes = np.bincount(codes, minlength=len(names))
    largest = int(sizes.argmax())
    if len(captions) - sizes[largest] < k:
        raise CellmillError(
            where,
            f"{k} negatives were asked for, but only {len(captions) - sizes[largest]} of {len(captions)} cells "
            f"have another caption than '{names[largest]}'.",
            "Ask for fewer negatives, or caption by another column.",
        )
    by_caption = np.argsort(codes, kind="stable")
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    keys = hash_strings(ids, seed=seed, purpose="negatives")
    return _draw(keys, codes, by_caption, starts, sizes, k)


def split_multiplets(
    rows: Iterable[tuple[str, pa.RecordBatch]], header: Header, spec: HfMultiplets, scratch: Path, *, group_rows: int
) -> Iterator[tuple[str, int, pa.Table]]:
    """``(split, file number, table)`` of the multiplets of every split."""
    symbols = header.genes["gene_symbol"].where(header.genes["gene_symbol"].fillna("") != "", header.genes["gene_id"])
    names = pa.array(symbols, pa.string())
    column = spec.caption or header.label
    if column is None:
        raise CellmillError(header.dataset, "no caption column.", "Set columns.label, or 'caption' of the export.")
    schema = pa.schema([("cell_id", pa.large_string()), ("sentence", pa.string()), ("caption", pa.string())])
    for split, mine in groupby(rows, key=lambda pair: pair[0]):
        path = scratch / f"{split}.arrow"
        with pa.ipc.new_file(path, schema) as writer:
            for _, batch in mine:
                sentence = cell_sentences(batch["genes"], batch["counts"], names, spec.sentence_genes)
                caption = batch[column].cast(pa.string())
                if caption.null_count:
                    first = batch["cell_id"].filter(caption.is_null())[0]
                    raise CellmillError(
                        f"{header.dataset}, split {split}",
                        f"cell '{first}' has no caption (column '{column}').",
                        "Caption by a column without gaps, or fill it before cellmill reads the file.",
                    )
                writer.write_batch(pa.RecordBatch.from_arrays([batch["cell_id"], sentence, caption], schema=schema))
        with pa.memory_map(str(path)) as stream:
            table = pa.ipc.open_file(stream).read_all()
            where = f"{header.dataset}, split {split}"
            ids = table["cell_id"].combine_chunks()
            captions = table["caption"].to_numpy()
            drawn = draw_negatives(ids, captions, k=spec.negatives, seed=spec.seed, where=where)
            for start in range(0, len(table), spec.cells_per_file):
                for group in range(start, min(start + spec.cells_per_file, len(table)), group_rows):
                    stop = min(group + group_rows, start + spec.cells_per_file, len(table))
                    yield split, start // spec.cells_per_file, _rows(table, drawn, group, stop, spec)


def _rows(table: pa.Table, drawn: np.ndarray, start: int, stop: int, spec: HfMultiplets) -> pa.Table:
    anchors = table.slice(start, stop - start)
    columns = {
        "sample_idx": anchors["cell_id"].cast(pa.string()),
        "cell_sentence_1": anchors["sentence"],
        "positive": anchors["caption"],
    }
    taken = [table.take(pa.array(drawn[start:stop, j])) for j in range(spec.negatives)]
    for j, negatives in enumerate(taken, 1):
        columns[f"negative_{j}_idx"] = negatives["cell_id"].cast(pa.string())
    if spec.resolve_negatives:
        for j, negatives in enumerate(taken, 1):
            columns[f"negative_{j}"] = negatives["caption" if j % 2 else "sentence"]
    return pa.table(columns)
