"""The vectors of a part by a model of scvi-tools, row-aligned with its counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from cellmill.ahead import InOrder, ahead, workers
from cellmill.contracts import embedding as contract
from cellmill.contracts import genes as gene_files
from cellmill.contracts.counts import CountsPart, to_arrow
from cellmill.embedders import OfCells
from cellmill.embedders.device import described, faults_told
from cellmill.embedders.model_files import revision_of
from cellmill.embedders.normalize import counts_of
from cellmill.embedders.rates import Rates, matrix_peak
from cellmill.embedders.scvi_files import MODEL, SavedModel, read_model
from cellmill.embedders.scvi_model import Inputs, Latent, categories_of, inputs_of, open_model, text_of
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.progress import progress
from cellmill.sources.ledger import LEDGER, Ledger

log = logging.getLogger("cellmill")
BLOCK_ROWS = 4_096
SHOWN = 5
"""Unknown categories that an error names."""


def embed_scvi(
    processed: str | PathLike[str],
    *,
    genes: str | PathLike[str],
    model: str,
    spec: OfCells,
    batch: str | None,
    out: str | PathLike[str],
    manifest: str | PathLike[str],
    threads: int = 1,
    rates: str | PathLike[str] | None = None,
) -> None:
    """The latent mean of every kept cell.

    Args:
        model: the ``model.pt``, of ``fit_scvi`` or of a reference.
        batch: the dataset's batch column.
        threads: how many groups of cells are at work side by side, each in one thread; the bytes are the same.
        rates: where it is written how fast that was, with the peak of the device, which is measured for it.

    Raises:
        CellmillError: a model that cannot be read, too few of its genes, a GPU that fails,
            and, where its encoder is told batch and covariates, a category that it was not trained on.
    """
    table, _ = gene_files.read_genes(genes)
    saved = read_model(model)
    inputs = inputs_of(spec, table, batch=batch, saved=saved)
    if inputs.genes != saved.var_names:
        raise CellmillError(model, "was trained on other genes.", "Delete it and run snakemake again.")
    opened = open_model(saved)
    latent = Latent(opened, device=spec.device, where=model)
    with faults_told(processed), CountsPart(processed) as part:
        covariates = _Covariates(part, inputs, saved, opened) if latent.reads_covariates else None
        device = described(latent.device)
        found = {
            "embedder": spec.model_dump(mode="json"),
            "model": {
                "kind": "SCVI",
                "scvi_tools": str(saved.registry.get("scvi_version")),
                "revision": revision_of(str(Path(model).parent), Ledger(LEDGER)),
                "files": {MODEL: {"bytes": Path(model).stat().st_size, "sha256": sha256_of(model)}},
                "genes": len(inputs.genes),
                "genes_found": inputs.found,
                "reads_covariates": latent.reads_covariates,
            },
            "device": device,
            "written_by": {p: version(p) for p in ("numpy", "scvi-tools", "torch")},
        }
        peak = None if rates is None else matrix_peak(spec.device, "float32", threads=threads)
        began = time.perf_counter()
        contract.write(
            out,
            manifest,
            _vectors(part, latent, inputs, covariates, threads),
            shape=(part.n_cells, latent.dimensions),
            dtype=spec.dtype,
            facts=found,
        )
        speed = Rates(
            cells=part.n_cells,
            tokens=None,
            operations=part.n_cells * latent.operations,
            seconds=time.perf_counter() - began,
            device=device,
            precision="float32",
            peak=peak,
        )
        log.info("%s", speed)
        if rates is not None:
            speed.write(rates)


def _vectors(
    part: CountsPart, latent: Latent, inputs: Inputs, covariates: _Covariates | None, threads: int
) -> Iterator[np.ndarray]:
    """Vectors float32 (n, dimensions) of the cells in their order; reading goes on meanwhile."""

    def run(start: int, counts: sp.csr_matrix) -> np.ndarray:
        dense = np.zeros((latent.rows, latent.n_genes), np.float32)
        counts_of(counts, inputs.slots, dense)
        n = counts.shape[0]
        if covariates is None:
            return latent(dense, {"batch": np.zeros(n, np.int64), "categorical": [], "continuous": []})
        return latent(dense, covariates.rows(start, start + n))

    with workers(threads) as pool, progress(part.n_cells, "cells", "embedding") as counter:
        for start, stop, counts in ahead(part.blocks(BLOCK_ROWS), depth=1):
            done: list[np.ndarray] = []
            calls = InOrder(pool, take=done.append)
            for row in range(0, stop - start, latent.rows):
                calls.put(run, start + row, counts[row : row + latent.rows])
            calls.finish()
            yield np.concatenate(done)
            counter.update(stop - start)


class _Covariates:
    """Batch and covariates of a part as a model codes them.

    Raises:
        CellmillError: a column that is not there, a value that is missing, a category that the model does not know.
    """

    def __init__(self, part: CountsPart, inputs: Inputs, saved: SavedModel, model: Any) -> None:
        known = categories_of(model)
        if inputs.batch is None and saved.setup.get("batch_key") is not None:
            raise CellmillError(
                saved.path,
                f"tells its encoder the batch '{saved.setup['batch_key']}'; the dataset has none.",
                "Name columns.batch, or 'batch' of the embedder.",
            )
        n = part.n_cells
        self._batch = np.zeros(n, np.int64) if inputs.batch is None else _codes(part, inputs.batch, known[0])
        pairs = zip(inputs.categorical, known[1:], strict=True)
        self._categorical = [_codes(part, name, categories) for name, categories in pairs]
        self._continuous = [_numbers(part, name) for name in inputs.continuous]

    def rows(self, start: int, stop: int) -> dict[str, Any]:
        """Those of some cells, as ``Latent`` takes them."""
        return {
            "batch": self._batch[start:stop],
            "categorical": [v[start:stop] for v in self._categorical],
            "continuous": [v[start:stop] for v in self._continuous],
        }


def _codes(part: CountsPart, name: str, categories: list[Any]) -> np.ndarray:
    column = to_arrow(part.column(name)).cast(pa.string()).dictionary_encode()
    place = {text_of(value): code for code, value in enumerate(categories)}
    of = np.array([*(place.get(value, -1) for value in column.dictionary.to_pylist()), -1], np.int64)
    codes: np.ndarray = of[column.indices.fill_null(len(of) - 1).to_numpy(zero_copy_only=False)]
    if (codes < 0).any():
        unknown = sorted({str(v) for v in column.filter(pa.array(codes < 0)).unique().to_pylist()})
        shown = ", ".join(f"'{v}'" for v in unknown[:SHOWN]) + (", …" if len(unknown) > SHOWN else "")
        raise CellmillError(
            part.path,
            f"{(codes < 0).sum():,} cells have a '{name}' that the model was not trained on: {shown}.",
            "Its encoder is told the batch: take encode_covariates: false, split by another column, "
            "or train a reference further ('train').",
        )
    return codes


def _numbers(part: CountsPart, name: str) -> np.ndarray:
    values = part.column(name)
    try:
        numbers: np.ndarray = values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise CellmillError(part.path, f"'{name}' holds no numbers ({error}).", "Name a column of numbers.") from error
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise CellmillError(part.path, f"'{name}' is missing in {bad:,} cells.", "Fill it, or do not name it.")
    return numbers
