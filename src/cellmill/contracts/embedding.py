"""``embedded/{embedder}/{part}.npy`` with ``{part}.json`` beside it: (kept cells, dimensions) of float32 or float16."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellmill.contracts.versions import EMBEDDING
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing, write_json

TYPES = {"float32": "<f4", "float16": "<f2"}


def write(
    path: str | PathLike[str],
    manifest: str | PathLike[str],
    blocks: Iterable[np.ndarray],
    *,
    shape: tuple[int, int],
    facts: dict[str, Any],
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write blocks of rows as they come; exactly ``shape`` of them, all finite in ``dtype``."""
    with replacing(path) as aside:
        with open(aside, "wb") as stream:
            header = {"descr": TYPES[dtype], "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            rows = 0
            for given in blocks:
                with np.errstate(over="ignore"):
                    block = np.ascontiguousarray(given, TYPES[dtype])
                if not np.isfinite(block).all():
                    raise _not_finite(path, np.asarray(given), block, rows)
                stream.write(block.tobytes())
                rows += len(block)
        if rows != shape[0]:
            raise CellmillError(path, f"{rows} vectors for {shape[0]} cells.", "Report this.")
    said = {"contract": str(EMBEDDING), "cells": shape[0], "dimensions": shape[1], "dtype": dtype}
    write_json(manifest, {**said, **facts})


def _not_finite(path: str | PathLike[str], given: np.ndarray, block: np.ndarray, first: int) -> CellmillError:
    row, column = (int(i) for i in np.argwhere(~np.isfinite(block))[0])
    value, where = given[row, column], f"the vector of row {first + row}"
    if not np.isfinite(value):
        return CellmillError(path, f"{where} is not finite.", "Report this.")
    ends = f"{block.dtype} ends at {np.finfo(block.dtype).max:,.0f}"
    return CellmillError(path, f"{where} has {value:,.0f}, and {ends}.", "Take dtype: float32 for this embedder.")


def read(path: str | PathLike[str]) -> np.ndarray:
    """The vectors (cells, dimensions), memory-mapped read-only."""
    said = read_json(Path(path).with_suffix(".json"))
    EMBEDDING.verify(path, said.get("contract"))
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CellmillError(path, f"not readable ({error}).", "Delete it and run snakemake again.") from error
    if vectors.shape != (said["cells"], said["dimensions"]) or vectors.dtype != TYPES[said["dtype"]]:
        raise CellmillError(
            path,
            f"shape {vectors.shape} of {vectors.dtype}, its manifest says otherwise.",
            "Delete both and run again.",
        )
    return vectors
