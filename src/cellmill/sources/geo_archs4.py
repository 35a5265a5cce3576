"""``geo_archs4``: samples of ARCHS4, which aligned the RNA-seq of GEO uniformly: bulk and single cell, by HDF5.

Layout (https://archs4.org): ``/data/expression`` genes × samples, ``/meta/samples/<field>``, ``/meta/genes/<field>``;
files of version 1 have ``/meta/Sample_<field>`` and a plain ``/meta/genes``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from cellmill.contracts.plan import Member
from cellmill.errors import CellmillError, nearest
from cellmill.sources.files import checked_name, member_name
from cellmill.sources.planned import Planned
from cellmill.sources.stores import is_address
from cellmill.spec import Column, Fraction, PositiveInt

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd

BLOCK_SAMPLES = 1 << 14
"""Samples of which a field is read at once."""
BLOCK_BYTES = 1 << 27
"""Counts in memory at once, as a dense block of samples."""
RULES = ("", "series", "keywords", "min_single_cell", "max_single_cell")
_ID = "geo_accession"
_SYMBOLS = ("symbol", "gene_symbol", "genes", "gene")
_ENSEMBL = ("ensembl_gene_id", "ensembl_gene", "ensembl_id", "ensembl")


class GeoArchs4(Planned):
    """Samples of a gene-level HDF5 file of ARCHS4, by series, by keyword, and as bulk or single cell.

    A row is a sample, and its id the GEO accession. What GEO says of it (`title`, `source_name_ch1`,
    `characteristics_ch1`, …) becomes obs; genes are known by Ensembl id where the file has it, else by symbol.
    A file at an address is fetched once for all parts; to plan, its table of samples is read by ranges.
    """

    kind: Literal["geo_archs4"] = "geo_archs4"
    file: Annotated[str, Field(min_length=1)]
    """A path or an address, as of `human_gene_v2.5.h5`."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Its checksum, where you know it."""
    series: list[Annotated[str, Field(pattern="^GSE[0-9]+$")]] = []
    """Series of which a sample must be; each must have one. None: any."""
    keywords: list[Annotated[str, Field(min_length=1)]] = []
    """Regular expressions of which one must be found in one of `fields`, whatever the case. None: any sample."""
    fields: Annotated[list[Column], Field(min_length=1)] = ["title", "source_name_ch1", "characteristics_ch1"]
    """Where keywords are looked for."""
    min_single_cell: Fraction | None = None
    """The least predicted probability that a sample is of single cells (`singlecellprobability`)."""
    max_single_cell: Fraction | None = None
    """The largest; `0.5` leaves bulk samples. Samples without a prediction pass neither bound."""
    part_cells: PositiveInt = 20_000
    """Samples in a part, at most."""

    @field_validator("keywords")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression ({error})") from None
        return value

    def of(self, part: str) -> GeoArchs4:
        """What concerns one part: which of its samples are taken; where they lie stands in the plan."""
        return self.model_copy(update={"file": "plan.tsv", "sha256": None, "part_cells": 20_000})

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        return {} if is_address(self.file) or (base / self.file).is_file() else {"file": None}

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts, so that a newer one is seen."""
        return [] if is_address(self.file) else [self.file]

    def problems(self, base: Path) -> list[str]:
        """What else is wrong, as far as can be known before anything runs."""
        low, high = self.min_single_cell, self.max_single_cell
        if low is not None and high is not None and low > high:
            return [f"min_single_cell: {low} is above max_single_cell, {high}; no sample can pass."]
        return []


@dataclass(frozen=True)
class _File:
    """Where an open file has its matrix and its tables."""

    where: object
    matrix: h5py.Dataset
    samples: dict[str, h5py.Dataset]
    """The fields of samples, each (samples,)."""
    genes: dict[str, h5py.Dataset]
    """The fields of genes, each (genes,)."""
    transposed: bool
    """Whether rows are samples."""

    @property
    def n_samples(self) -> int:
        return int(self.matrix.shape[0 if self.transposed else 1])

    @property
    def n_genes(self) -> int:
        return int(self.matrix.shape[1 if self.transposed else 0])

    def blocks(self, field: str, first: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """A field of the samples from the first up to the last, block by block: where it starts, and its values."""
        for start in range(first, stop, BLOCK_SAMPLES):
            yield start, _values(self.samples[field][start : min(start + BLOCK_SAMPLES, stop)])

    def of_samples(self, field: str, samples: np.ndarray) -> np.ndarray:
        """A field of some samples, by their places in the file, rising."""
        import numpy as np

        pieces = []
        for start in np.unique(samples // BLOCK_SAMPLES) * BLOCK_SAMPLES:
            inside = samples[(samples >= start) & (samples < start + BLOCK_SAMPLES)]
            found = self.samples[field][inside[0] : inside[-1] + 1]
            pieces.append(_values(found[inside - inside[0]]))
        return np.concatenate(pieces)


def _values(found: np.ndarray) -> np.ndarray:
    """Numbers as they are; texts stripped, None where they are empty."""
    import numpy as np

    if found.dtype.kind not in "SO":
        return found
    texts = (v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in found)
    return np.array([text.strip() or None for text in texts], object)


def _opened(file: h5py.File, where: object) -> _File:
    """The parts of a file of any version.

    Raises:
        CellmillError: not such a file.
    """
    import h5py

    fix = "Take a gene-level file of ARCHS4, as human_gene_v2.5.h5."
    matrix, meta = file.get("data/expression"), file.get("meta")
    if not isinstance(matrix, h5py.Dataset) or not isinstance(meta, h5py.Group) or matrix.ndim != 2:
        raise CellmillError(where, "no 'data/expression' or 'meta' in it.", fix)
    tables: dict[str, dict[str, h5py.Dataset]] = {}
    for name, older in (("samples", "Sample_"), ("genes", "gene_")):
        node = meta.get(name)
        fields = dict(node) if isinstance(node, h5py.Group) else {name: node} if node is not None else {}
        if not isinstance(node, h5py.Group):  # version 1
            fields |= {key.removeprefix(older): meta[key] for key in meta if key.startswith(older)}
        tables[name] = {k: v for k, v in fields.items() if isinstance(v, h5py.Dataset) and v.ndim == 1}
    if _ID not in tables["samples"] or not any(k in tables["genes"] for k in (*_SYMBOLS, *_ENSEMBL)):
        raise CellmillError(where, f"no '{_ID}' of samples, or no names of genes in it.", fix)
    samples = len(tables["samples"][_ID])
    genes = len(next(tables["genes"][k] for k in (*_ENSEMBL, *_SYMBOLS) if k in tables["genes"]))
    if matrix.shape not in ((genes, samples), (samples, genes)):
        said = f"data/expression is {matrix.shape[0]} × {matrix.shape[1]}, of {genes} genes and {samples} samples."
        raise CellmillError(where, said, "The file is damaged; get it again.")
    if matrix.dtype.kind not in "iu":
        raise CellmillError(where, f"data/expression holds {matrix.dtype}, not counts.", fix)
    kept = {k: v for k, v in tables["samples"].items() if len(v) == samples}
    of_genes = {k: v for k, v in tables["genes"].items() if len(v) == genes}
    return _File(where, matrix, kept, of_genes, transposed=matrix.shape != (genes, samples))


def _reasons(file: _File, source: GeoArchs4, first: int, stop: int) -> np.ndarray:
    """Why samples from the first up to the last are not taken: 0 where they are, else the place in ``RULES`` (int8)."""
    import numpy as np
    import pandas as pd

    reasons = np.zeros(stop - first, np.int8)

    def fail(rule: str, passes: np.ndarray) -> None:
        reasons[(reasons == 0) & ~passes] = RULES.index(rule)

    if source.series:
        pattern = re.compile(rf"(?<![A-Z0-9])(?:{'|'.join(source.series)})(?![0-9])")
        fail("series", _found_in(file, "series_id", first, stop, [pattern]))
    if source.keywords:
        patterns = [re.compile(keyword, re.IGNORECASE) for keyword in source.keywords]
        passes = np.zeros(len(reasons), bool)
        for field in source.fields:
            passes |= _found_in(file, field, first, stop, patterns)
        fail("keywords", passes)
    if source.min_single_cell is not None or source.max_single_cell is not None:
        field = _field(file, "singlecellprobability")
        said = np.concatenate([values for _, values in file.blocks(field, first, stop)])
        chance = pd.to_numeric(pd.Series(said), errors="coerce").to_numpy(float)
        if source.min_single_cell is not None:
            fail("min_single_cell", chance >= source.min_single_cell)
        if source.max_single_cell is not None:
            fail("max_single_cell", chance <= source.max_single_cell)
    return reasons


def _field(file: _File, name: str) -> str:
    if name not in file.samples:
        raise CellmillError(file.where, f"its samples have no field '{name}'.", nearest(name, file.samples))
    return name


def _found_in(file: _File, field: str, first: int, stop: int, patterns: Sequence[re.Pattern[str]]) -> np.ndarray:
    """Which samples have one of the patterns in a field (samples,); each different text is looked at once."""
    import numpy as np
    import pandas as pd

    found = np.zeros(stop - first, bool)
    for start, values in file.blocks(_field(file, field), first, stop):
        codes, texts = pd.factorize(values)
        hits = np.array([*(any(p.search(str(text)) for p in patterns) for text in texts), False], bool)
        found[start - first : start - first + len(values)] = hits[codes]
    return found


def windows(file: h5py.File, source: GeoArchs4, *, size: int | None, where: str) -> tuple[list[Member], dict[str, Any]]:
    """The samples of the file cut into windows with at most ``part_cells`` that are taken, and what was counted.

    Args:
        size: bytes of the file.
        where: its path or address, fit for errors.

    Raises:
        CellmillError: not such a file, a series without a sample, or no sample that is taken.
    """
    import numpy as np

    opened = _opened(file, where)
    n_samples = opened.n_samples
    if source.series:
        known: set[str] = set()
        for _, values in opened.blocks(_field(opened, "series_id"), 0, n_samples):
            known.update(series for text in set(values.tolist()) for series in re.findall("GSE[0-9]+", text or ""))
        for series in source.series:
            if series not in known:
                said = f"no sample of {where} is of {series}."
                raise CellmillError("source.series", said, "Correct it, or take a newer file.")
    reasons = _reasons(opened, source, 0, n_samples)
    taken = np.flatnonzero(reasons == 0)
    counted = np.bincount(reasons, minlength=len(RULES)).tolist()
    facts: dict[str, Any] = {
        "samples": n_samples,
        "dropped": {rule: n for rule, n in zip(RULES[1:], counted[1:], strict=True) if n},
        "taken": len(taken),
    }
    if not len(taken):
        said = ", ".join(f"{count:,} by {name}" for name, count in facts["dropped"].items())
        raise CellmillError("source", f"none of {n_samples:,} samples is taken (dropped: {said}).", "Ask for less.")
    name = checked_name("source.file", member_name(source.file))
    checksum = None if source.sha256 is None else f"sha256:{source.sha256}"
    members, start = list[Member](), 0
    for first in range(0, len(taken), source.part_cells):
        of_part = taken[first : first + source.part_cells]
        stop = int(of_part[-1]) + 1
        members.append(Member("", name, source.file, len(of_part), size, checksum, (start, stop)))
        start = stop
    return members, facts


def take_samples(path: Path, member: Member, source: GeoArchs4, out: Path) -> dict[str, Any]:
    """Write the samples of a window as h5ad: X (samples, genes) CSR uint32, obs of GEO's fields, var of the genes.

    Memory: a dense block of samples (``BLOCK_BYTES``) and one chunk of the file, and the obs table.

    Raises:
        CellmillError: not such a file, not the samples that were planned, or values that are no counts.
    """
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from cellmill.files import replacing
    from cellmill.matrix.reader import open_h5ad
    from cellmill.matrix.tables import storable
    from cellmill.matrix.writer import H5adWriter
    from cellmill.progress import progress

    with open_h5ad(path) as opened:
        file = _opened(opened, path)
        first, stop = member.rows or (0, file.n_samples)
        chosen = first + np.flatnonzero(_reasons(file, source, first, min(stop, file.n_samples)) == 0)
        if stop > file.n_samples or len(chosen) != member.cells:
            raise CellmillError(
                path,
                f"{len(chosen):,} of its samples {first:,} to {stop:,} are taken, and {member.cells:,} were planned.",
                "It has changed: delete plan.tsv, and it is planned anew.",
            )
        obs = pd.DataFrame({field: file.of_samples(field, chosen) for field in sorted(file.samples)})
        table = obs.drop(columns=_ID).set_axis(pd.Index(obs[_ID].astype(str), name=_ID))
        var = _var(file)
        with replacing(out) as aside:
            writer = H5adWriter(aside, n_genes=len(var), dtype=np.dtype(np.uint32))
            try:
                with progress(len(chosen), "cells", "reading samples") as counter:
                    for block in _blocks(file, chosen):
                        writer.append(sp.csr_matrix(block))
                        counter.update(len(block))
                writer.close(obs=storable(table), var=storable(var), uns={})
            except BaseException:
                writer.abandon()
                raise
    facts = {"rows": [first, stop], "cells": len(chosen), "cells_expected": member.cells}
    facts |= {"counts_from": "data/expression", "genes_lacking": 0}
    return {"cells": len(chosen), "genes": len(var), "rounded": False, "members": [{"member": member.name, **facts}]}


def _var(file: _File) -> pd.DataFrame:
    """The genes, by Ensembl id where the file has it and every gene one, else by symbol; with the other fields."""
    import pandas as pd

    table = pd.DataFrame({name: _values(data[:]) for name, data in sorted(file.genes.items())})
    symbol = next((name for name in _SYMBOLS if name in table), None)
    ensembl = next((name for name in _ENSEMBL if name in table and table[name].notna().all()), None)
    index = ensembl or symbol
    if index is None or table[index].isna().any():
        raise CellmillError(file.where, "a gene has no name in it.", "The file is damaged; get it again.")
    others = table.drop(columns=index)
    if ensembl and symbol and symbol != "gene_symbols":
        others = others.rename(columns={symbol: "gene_symbols"})
    return others.set_axis(pd.Index(table[index].astype(str), name=index))


def _blocks(file: _File, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Counts of the samples (n, genes) uint32, dense, in their order.

    Chunks are read as they lie, those of more samples than a block once for each of its blocks.
    """
    import numpy as np

    matrix, n_genes = file.matrix, file.n_genes
    chunk = matrix.chunks or (1_024, 64)
    wide, tall = (chunk[0], chunk[1]) if file.transposed else (chunk[1], chunk[0])
    rows = max(1, BLOCK_BYTES // (4 * n_genes))
    at = 0
    while at < len(samples):
        # no more than fit, and up to the last chunk of samples that ends with them, so that few are read twice
        last = min(at + rows, len(samples))
        if last < len(samples) and samples[last] // wide == samples[last - 1] // wide:
            start_of_chunk = int(np.searchsorted(samples, samples[last] // wide * wide))
            last = start_of_chunk if start_of_chunk > at else last
        block = np.zeros((last - at, n_genes), np.uint32)
        for lo, hi, first, stop in _runs(samples[at:last], wide):
            inside = samples[at + lo : at + hi] - first
            step = max(tall, (BLOCK_BYTES // (4 * (stop - first))) // tall * tall)
            for gene in range(0, n_genes, step):
                end = min(gene + step, n_genes)
                try:
                    found = matrix[first:stop, gene:end] if file.transposed else matrix[gene:end, first:stop].T
                except OSError as error:
                    raise CellmillError(
                        file.where, f"not readable ({error}).", "The file is damaged; get it again."
                    ) from error
                found = found[inside]
                if (matrix.dtype.kind == "i" and found.min(initial=0) < 0) or found.max(initial=0) > np.iinfo("u4").max:
                    raise CellmillError(file.where, "data/expression has values that are no counts.", "Get it again.")
                block[lo:hi, gene:end] = found
        yield block
        at = last


def _runs(samples: np.ndarray, wide: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of samples in one chunk: from and to in ``samples``, and the samples of the file to read for them."""
    import numpy as np

    chunks = samples // wide
    starts = np.flatnonzero(np.diff(chunks, prepend=-1))
    for lo, hi in zip(starts, [*starts[1:], len(samples)], strict=True):
        yield int(lo), int(hi), int(samples[lo]), int(samples[hi - 1]) + 1
