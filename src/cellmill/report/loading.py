"""One line of Python per export: how to load it."""

from __future__ import annotations

import json

from cellmill.errors import CellmillError, nearest

_LINES = {
    "hf": "datasets.load_dataset({whole})",
    "mds": 'StreamingDataset(remote={train}, local="<cache folder>")',
    "hdf5": 'h5py.File({first})["expression"]',
    "h5ad": "anndata.read_h5ad({cells})",
    "scdl": "SingleCellMemMapDataset({train})",
    "geneformer": "datasets.load_from_disk({whole})",
    "zarr": "anndata.read_zarr({dataset})",
    "packed": "PackedRows({train})",
}


def how_to_load(dataset: str, path: str, kind: str, *, results: str = "results", encoding: str | None = None) -> str:
    """A line that loads the training split of an export, typed in the folder that snakemake ran in.

    Args:
        path: the export's name, such as ``hf/cells``.
        kind: the kind of its spec; all kinds of a format load alike so far.
        results: the folder of the results, where it is another.
        encoding: that of its spec, where it has one: tensors are pickled, which the reader must be told.
    """
    format_ = path.split("/")[0]
    if format_ not in _LINES:
        raise CellmillError(path, f"no format '{format_}' ({kind}).", nearest(format_, _LINES))
    base = f"{results}/{dataset}/{path}"
    train = f"{base}/train"
    files = {"first": f"{train}/batch_0000.h5", "cells": f"{train}/cells.h5ad", "dataset": f"{train}/dataset_0"}
    places = {"whole": base, "train": train, **files}
    line = _LINES[format_].format(**{k: json.dumps(v, ensure_ascii=False) for k, v in places.items()})
    return line if encoding != "tensors" else line.removesuffix(")") + ", allow_unsafe_types=True)"
