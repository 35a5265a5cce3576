"""``embedded/{embedder}/{part}.npy`` with ``{part}.json`` beside it: float32 (kept cells, dimensions)."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from cellmill.contracts.versions import EMBEDDING
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing, write_json


def write(
    path: str | PathLike[str],
    manifest: str | PathLike[str],
    blocks: Iterable[np.ndarray],
    *,
    shape: tuple[int, int],
    facts: dict[str, Any],
) -> None:
    """Write blocks of rows as they come; exactly ``shape`` of them, all finite."""
    with replacing(path) as aside:
        with open(aside, "wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            rows = 0
            for block in blocks:
                if not np.isfinite(block).all():
                    bad = rows + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                    raise CellmillError(path, f"the vector of row {bad} is not finite.", "Report this.")
                stream.write(np.ascontiguousarray(block, "<f4").tobytes())
                rows += len(block)
        if rows != shape[0]:
            raise CellmillError(path, f"{rows} vectors for {shape[0]} cells.", "Report this.")
    write_json(manifest, {"contract": str(EMBEDDING), "cells": shape[0], "dimensions": shape[1], **facts})


def read(path: str | PathLike[str]) -> np.ndarray:
    """The vectors (cells, dimensions), memory-mapped read-only."""
    said = read_json(Path(path).with_suffix(".json"))
    EMBEDDING.verify(path, said.get("contract"))
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CellmillError(path, f"not readable ({error}).", "Delete it and run snakemake again.") from error
    if vectors.shape != (said["cells"], said["dimensions"]):
        raise CellmillError(path, f"shape {vectors.shape}, its manifest says otherwise.", "Delete both and run again.")
    return vectors
