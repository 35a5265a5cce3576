"""The training cells of all parts in one shuffled archive, from which a model of scvi-tools is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import genes as gene_files
from cellmill.contracts import scvi as contract
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.versions import TRAINING
from cellmill.embedders import OfCells
from cellmill.embedders.scvi_files import SavedModel, read_model
from cellmill.embedders.scvi_model import Inputs, inputs_of
from cellmill.errors import CellmillError
from cellmill.exports.columns import checked_counts
from cellmill.exports.given import obs_schema
from cellmill.exports.rows import Header, PartFiles, common_schema, needs, ordered
from cellmill.files import replacing, scratch
from cellmill.keys import hash_strings
from cellmill.matrix.obs_table import ObsTable
from cellmill.packed.layout import OBS
from cellmill.packed.writer import PackedWriter

log = logging.getLogger("cellmill")
TRAINED, HELD_OUT = "trained", "held_out"
"""The two archives: cells that the model is trained on, and those that it is judged by."""
ROWS_PER_FILE = 1 << 20


@dataclass(frozen=True)
class _Scan:
    """What must be known before the first cell is written."""

    cells: dict[str, int]
    """Cells by split; the training cells stand first."""
    categories: dict[str, list[Any]]
    """Values of each column of categories among the training cells, sorted."""
    dtype: np.dtype[Any]
    obs: pa.Schema


def gather_training(
    parts: Sequence[str | PathLike[str]],
    *,
    genes: str | PathLike[str],
    model: str | None,
    spec: OfCells,
    batch: str | None,
    out: str | PathLike[str],
) -> None:
    """The counts of the training cells over the genes of the model, in the order of a hash of the cell id.

    Args:
        model: the ``model.pt`` of a reference.
        batch: the dataset's batch column.
        out: a folder, contract ``training``: a packed archive each of the cells that are trained on and held out.

    The bytes depend on the cells and the spec alone, not on parts or their order.
    Memory: bounded as in exports, and the obs table of a part.

    Raises:
        CellmillError: fewer than three cells to train on, no cell held out for early stopping,
            and a batch or covariate that is missing in a cell, or of another type than it must be.
    """
    if spec.train is None:
        raise ValueError("nothing is trained")
    table, _ = gene_files.read_genes(genes)
    saved = None if model is None else read_model(model)
    inputs = inputs_of(spec, table, batch=batch, saved=saved)
    _check_batch(inputs, saved)
    scan = _scan(parts, inputs)
    header = Header("training", scan.cells, table, scan.dtype, scan.obs)
    files = [PartFiles(str(p)) for p in parts]
    with replacing(out, directory=True) as folder:
        made = {name: _Archive(folder / name, inputs, scan) for name in (TRAINED, HELD_OUT)}
        with (
            scratch(folder / "rows") as spill,
            closing(ordered(files, header=header, columns=needs(counts=True), scratch=spill)) as rows,
        ):
            for split, found in rows:
                if split != "train":
                    break
                held = _held_out(found["cell_id"], share=spec.train.held_out, seed=spec.train.seed)
                for name, mine in ((TRAINED, ~held), (HELD_OUT, held)):
                    made[name].add(found.filter(pa.array(mine)), header)
        cells = {name: archive.close() for name, archive in made.items()}
        _check_cells(cells, spec, out)
        facts = {
            "cells": cells,
            "genes": len(inputs.genes),
            "genes_found": inputs.found,
            "cells_without_counts": sum(archive.empty for archive in made.values()),
            "categories": scan.categories,
            "batch": inputs.batch,
            "categorical": inputs.categorical,
            "continuous": inputs.continuous,
        }
        contract.write_manifest(folder / contract.MANIFEST, TRAINING, facts)
    log.info("%s cells to train on, %s held out", f"{cells[TRAINED]:,}", f"{cells[HELD_OUT]:,}")


def _check_batch(inputs: Inputs, saved: SavedModel | None) -> None:
    key = None if saved is None else saved.setup.get("batch_key")
    if saved is not None and key is not None and inputs.batch is None:
        raise CellmillError(
            saved.path, f"was set up with the batch '{key}'; the dataset has none.", "Name columns.batch, or 'batch'."
        )
    if saved is not None and saved.setup.get("size_factor_key") is not None:
        raise CellmillError(
            saved.path, "was set up with size factors, which are not trained on.", "Leave 'train' out, or use another."
        )


def _check_cells(cells: dict[str, int], spec: OfCells, out: object) -> None:
    if cells[TRAINED] < 3:
        raise CellmillError(
            out, f"{cells[TRAINED]} cells to train on; at least 3 are needed.", f"Leave '{spec.kind}' out."
        )
    if spec.train is not None and spec.train.early_stopping and not cells[HELD_OUT]:
        raise CellmillError(
            out,
            "no cell is held out, and early stopping looks at these.",
            "Raise train.held_out, or do not stop early.",
        )


def _held_out(ids: pa.Array, *, share: float, seed: int) -> np.ndarray:
    """bool (n,): the cells that are held out, by a hash of their ids."""
    keys = hash_strings(ids, seed=seed, purpose="held out")
    uniform: np.ndarray = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform < share


def _scan(parts: Sequence[str | PathLike[str]], inputs: Inputs) -> _Scan:
    """One look at the obs tables of all parts."""
    asked = [*inputs.discrete, *inputs.continuous]
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        raise CellmillError(parts[0], f"'{twice[0]}' is named twice.", "A column is the batch or one covariate.")
    cells: dict[str, int] = {"train": 0}
    values: dict[str, set[Any]] = {name: set() for name in inputs.discrete}
    dtype = np.dtype(np.uint8)
    for path in parts:
        with CountsPart(path) as part:
            for name in asked:
                part.column(name)
            split = part.column("split")
            for value, n in split.value_counts().items():
                cells[str(value)] = cells.get(str(value), 0) + int(n)
            training = pa.array((split == "train").to_numpy())
            obs = part.obs_table(asked)
            dtype = part.dtype
        for name in asked:
            column = obs[name].filter(training)
            bad = pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0
            if bad:
                raise CellmillError(
                    path,
                    f"'{name}' is missing in {bad:,} of {len(column):,} training cells.",
                    "Fill it, filter these cells (quality.filters), or do not name it.",
                )
            kind = column.type
            if name in values and pa.types.is_floating(kind):
                raise CellmillError(
                    path, f"'{name}' holds numbers with fractions, expected categories.", "Name it as continuous."
                )
            if name not in values and not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise CellmillError(path, f"'{name}' is {kind}, expected numbers.", "Name it as categorical.")
            if name in values:
                values[name].update(pc.unique(column).to_pylist())
    found = common_schema([PartFiles(str(p)) for p in parts], asked)
    types = [(f.name, pa.string() if f.name in values else pa.float64()) for f in found]
    return _Scan(cells, {n: sorted(v) for n, v in values.items()}, dtype, pa.schema(types))


class _Archive:
    """A packed archive of chosen genes, and what is known of its cells."""

    def __init__(self, folder: Path, inputs: Inputs, scan: _Scan) -> None:
        folder.mkdir()
        genes = pd.DataFrame({"gene_id": inputs.genes, "gene_symbol": [None] * len(inputs.genes)})
        self._slots, self.empty = inputs.slots, 0
        self._counts = PackedWriter(folder, genes=genes, dtype=scan.dtype, rows_per_file=ROWS_PER_FILE)
        kinds = {f.name: "string" if f.name in scan.categories else "float64" for f in scan.obs}
        self._obs = ObsTable(folder / OBS, obs_schema(kinds))

    def add(self, batch: pa.RecordBatch, header: Header) -> None:
        from cellmill.torch.kernels import choose_genes

        if not batch.num_rows:
            return
        offsets, genes, counts = choose_genes(*checked_counts(batch, header), self._slots)
        self.empty += int((np.diff(offsets) == 0).sum())
        self._counts.append(offsets, genes, counts)
        self._obs.add(batch)

    def close(self) -> int:
        """The number of cells."""
        self._obs.close()
        cells: int = self._counts.close()["cells"]
        return cells


def files_of(folder: str | PathLike[str]) -> Iterator[Path]:
    """Every file of a folder that ``gather_training`` wrote, sorted."""
    yield from sorted(p for p in Path(folder).rglob("*") if p.is_file())
