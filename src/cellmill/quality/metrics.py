"""Per-cell metrics, equal to ``scanpy.pp.calculate_qc_metrics``, in one pass over the counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cellmill.contracts import genes as gene_files
from cellmill.contracts import quality as contract
from cellmill.contracts.subset import read_drawn
from cellmill.errors import CellmillError
from cellmill.genes.identifiers import PartGenes
from cellmill.genes.mapping import name_genes
from cellmill.genes.sets import read_sets, with_sets
from cellmill.genes.spec import GeneRules
from cellmill.genes.table import GeneTable, read_gene_table
from cellmill.matrix.find import find_counts
from cellmill.matrix.reader import CountsFile
from cellmill.progress import progress
from cellmill.quality.content import content_hashes, gene_keys
from cellmill.quality.names import GENE_SETS, TOP, metric_of

log = logging.getLogger("cellmill")


_SMALL = 256
"""Counts below this are counted, those above sorted: nearly all counts of a cell are small."""


@numba.njit(cache=True, nogil=True)
def _row_metrics(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, sets: np.ndarray, n_sets: int, top: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Totals (n,) int64, percent of each gene set (n, sets), percent in the top genes (n, tops).

    ``sets`` (genes,) uint64 has a bit for each set that the gene is in; ``top`` rises.
    """
    n = len(indptr) - 1
    totals = np.zeros(n, np.int64)
    in_sets = np.zeros((n, n_sets), np.float64)
    in_top = np.zeros((n, len(top)), np.float64)
    sums = np.zeros(n_sets, np.int64)
    cells = np.zeros(_SMALL, np.int64)
    for i in range(n):
        lo, hi = indptr[i], indptr[i + 1]
        total, n_large = np.int64(0), 0
        sums[:] = 0
        cells[:] = 0
        for k in range(lo, hi):
            count = np.int64(data[k])
            total += count
            if count < _SMALL:
                cells[count] += 1
            else:
                n_large += 1
            member = sets[indices[k]]
            if member:
                for s in range(n_sets):
                    if member >> np.uint64(s) & np.uint64(1):
                        sums[s] += count
        totals[i] = total
        large = np.empty(n_large, np.int64)
        if n_large:
            m = 0
            for k in range(lo, hi):
                if data[k] >= _SMALL:
                    large[m] = data[k]
                    m += 1
            large.sort()
        running, taken, t = np.int64(0), np.int64(0), 0
        for step in range(n_large + _SMALL):
            value = large[n_large - 1 - step] if step < n_large else np.int64(_SMALL + n_large - 1 - step)
            times = np.int64(1) if step < n_large else cells[value]
            while t < len(top) and taken + times >= top[t]:
                in_top[i, t] = running + (top[t] - taken) * value
                t += 1
            running += times * value
            taken += times
        in_top[i, t:] = running
        for t in range(len(top)):
            in_top[i, t] = np.nan if total == 0 else 100.0 * in_top[i, t] / total
        for s in range(n_sets):
            in_sets[i, s] = np.nan if total == 0 else 100.0 * sums[s] / total
    return totals, in_sets, in_top


def cell_metrics(counts: Any, members: np.ndarray, gene_sets: Sequence[str] = GENE_SETS) -> dict[str, np.ndarray]:
    """Every metric of ``quality.names.METRICS`` for CSR counts (n, genes), and that of every other gene set.

    ``members`` (sets, genes) is boolean, of 64 sets at most. Percentages of a cell without counts are NaN.
    Source: scanpy's ``calculate_qc_metrics``, whose names these are.
    """
    bits = np.zeros(members.shape[1], np.uint64)
    for s, member in enumerate(members):
        bits[member] |= np.uint64(1 << s)
    totals, in_sets, in_top = _row_metrics(
        counts.data, counts.indices, counts.indptr, bits, len(members), np.array(TOP, np.int64)
    )
    n_genes = np.diff(counts.indptr).astype(np.int64)
    return {
        "n_genes_by_counts": n_genes,
        "log1p_n_genes_by_counts": np.log1p(n_genes.astype(np.float64)),
        "total_counts": totals,
        "log1p_total_counts": np.log1p(totals.astype(np.float64)),
        **{f"pct_counts_in_top_{n}_genes": in_top[:, t] for t, n in enumerate(TOP)},
        **{metric_of(s): in_sets[:, i] for i, s in enumerate(gene_sets)},
    }


def measure_quality(
    raw: str | PathLike[str],
    *,
    part: str,
    counts: str,
    genes: GeneRules,
    gene_table: str | PathLike[str] | None,
    cell_ids: str,
    batch: str | None,
    out: str | PathLike[str],
    out_genes: str | PathLike[str],
    gene_set_files: Sequence[str | PathLike[str]] = (),
    annotations: str | PathLike[str] | None = None,
    threads: int = 1,
) -> None:
    """Measure every cell of a raw part, and find where its counts are.

    ``counts: auto`` takes the first matrix that proves to hold counts, over every value.
    ``gene_set_files`` are the lists of ``genes.sets`` that are in files, in their order; ``annotations`` is
    ``{part}.obs.parquet``, where the part has one.

    Raises:
        CellmillError: no counts, an empty file, cell ids that stand there twice, no such column.
    """
    table = None if gene_table is None else read_gene_table(gene_table)
    named = read_sets(genes.sets, gene_set_files)
    find_counts(
        raw,
        counts,
        lambda where, why: _measure(
            raw, where, why, part, genes, table, named, cell_ids, batch, out, out_genes, annotations, threads
        ),
    )


def _measure(
    raw: str | PathLike[str],
    where: str,
    why: str,
    part: str,
    rules: GeneRules,
    table: GeneTable | None,
    named: dict[str, list[str]],
    cell_ids: str,
    batch: str | None,
    out: str | PathLike[str],
    out_genes: str | PathLike[str],
    annotations: str | PathLike[str] | None,
    threads: int,
) -> None:
    with CountsFile(raw, where, threads=threads, annotations=annotations) as file:
        drawn = read_drawn(raw)
        if file.shape[1] == 0 or (file.shape[0] == 0 and drawn is None):
            fix = "Leave this file out of the dataset, or get it again."
            raise CellmillError(raw, f"{where} is {file.shape[0]} cells × {file.shape[1]} genes.", fix)
        genes = name_genes(file.var, rules=rules, table=table, where=raw)
        genes = with_sets(genes, named, table=table, where=raw)
        ids = unique_cell_ids(file, part=part, cell_ids=cell_ids)
        batches = obs_strings(file.obs, batch, raw)
        facts: dict[str, Any] = {
            "part": part,
            "cells": file.shape[0],
            "genes": file.shape[1],
            "counts": where,
            "why": why,
            "gene_ids": genes.taken_from,
            "genes_merged": genes.n_merged,
            "gene_sets": {name: int(mine.sum()) for name, mine in genes.sets.items()},
            "max_count": 0,
        } | ({} if drawn is None else {"subset": drawn})
        contract.write_quality(out, _batches(file, genes, ids, batches, facts), facts, gene_sets=genes.sets)
    gene_files.write_part_genes(out_genes, genes)
    log.info("%s: counts in %s (%s), genes named by %s", raw, where, facts["why"], genes.taken_from)


def _batches(
    file: CountsFile, genes: PartGenes, ids: np.ndarray, batches: np.ndarray, facts: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    measured, kept = genes.measured, genes.kept
    sets, members = list(genes.sets), np.stack([mine[measured] for mine in genes.sets.values()])
    schema = contract.quality_schema(sets)
    gene_codes, names = None, genes.gene_ids
    if genes.n_merged or not kept.all():
        codes, names = pd.factorize(np.where(kept, genes.gene_ids, np.array(None, object)))
        gene_codes = codes.astype(np.int32)
    keys = gene_keys(names)
    with progress(file.shape[0], "cells", "measuring") as counter:
        for block in file.blocks():
            by_gene = _by_gene(block.counts, gene_codes)
            facts["max_count"] = max(facts["max_count"], int(by_gene.data.max(initial=0)))
            rows = slice(block.start, block.stop)
            columns = {
                "cell_id": ids[rows],
                "batch": batches[rows],
                **cell_metrics(_columns(block.counts, measured), members, sets),
                **dict(zip(("content_1", "content_2"), content_hashes(by_gene, keys), strict=True)),
            }
            yield pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
            counter.update(block.counts.shape[0])


def _columns(counts: sp.csr_matrix, chosen: np.ndarray) -> sp.csr_matrix:
    """The chosen columns, in their order; the block itself where that is all."""
    return counts if chosen.all() else counts[:, np.flatnonzero(chosen)]


def _by_gene(counts: sp.csr_matrix, gene_codes: np.ndarray | None) -> sp.csr_matrix:
    """Counts by gene: columns that name the same gene added up, dropped ones (-1) left out; None: nothing to do."""
    if gene_codes is None:
        return counts
    kept = gene_codes >= 0
    counts, gene_codes = _columns(counts, kept), gene_codes[kept]
    arrays = (counts.data.astype(np.uint64), gene_codes[counts.indices], counts.indptr)
    merged = sp.csr_matrix(arrays, shape=(counts.shape[0], int(gene_codes.max(initial=-1)) + 1))
    merged.sum_duplicates()
    return merged


def unique_cell_ids(file: CountsFile, *, part: str, cell_ids: str) -> np.ndarray:
    """Cell ids (cells,) by the dataset's rule, each once.

    Raises:
        CellmillError: an id stands there twice; names it and its rows.
    """
    ids = file.cell_ids
    duplicated = pd.Index(ids).duplicated(keep=False)
    if duplicated.any():
        rows = np.flatnonzero(duplicated)
        first = ids[rows[0]]
        twins = np.flatnonzero(ids == first)
        raise CellmillError(
            file.path,
            f"{len(rows)} cells share their id with another: '{first}' is in rows {', '.join(map(str, twins[:5]))}.",
            "Make the obs index unique before cellmill reads the file (anndata: obs_names_make_unique).",
        )
    return ids if cell_ids == "barcode" else np.array([f"{part}:{i}" for i in ids], object)


def obs_strings(obs: pd.DataFrame, column: str | None, where: object, *, missing: str = "(missing)") -> np.ndarray:
    """A column of obs as strings (cells,); ``(all)`` everywhere where no column is named."""
    if column is None:
        return np.full(len(obs), "(all)", object)
    values = obs_column(obs, column, where)
    return values.astype(object).where(values.notna(), missing).astype(str).to_numpy(object)


def obs_column(obs: pd.DataFrame, column: str, where: object) -> pd.Series:
    """A column of obs, or an error that names the nearest."""
    from cellmill.errors import nearest

    if column not in obs.columns:
        raise CellmillError(where, f"no obs column '{column}'.", nearest(column, obs.columns))
    return obs[column]
