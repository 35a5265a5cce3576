"""Principal components as files: those that `fit_pca` wrote, and those of others."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellmill.contracts.genes import read_arrays
from cellmill.contracts.versions import PCA
from cellmill.embedders.count_spec import TARGET_SUM
from cellmill.embedders.reference_files import FIX
from cellmill.errors import CellmillError
from cellmill.genes.table import read_gene_list


@dataclass(frozen=True)
class Components:
    """What counts are projected on."""

    genes: list[str]
    """p names."""
    components: np.ndarray
    """float64 (k, p)."""
    mean: np.ndarray
    """float64 (p,)."""
    target_sum: float
    """What the normalised counts of a cell add up to."""

    def __post_init__(self) -> None:
        p = len(self.genes)
        for name, array, shape in (
            ("components", self.components, (len(self.components) if self.components.ndim else 0, p)),
            ("mean", self.mean, (p,)),
        ):
            if array.shape != shape or not array.size:
                raise ValueError(f"'{name}' is {array.shape}, and there are {p:,} genes")
            if not np.isfinite(array).all():
                raise ValueError(f"'{name}' has values that are not finite")
        if not (np.isfinite(self.target_sum) and self.target_sum > 0):
            raise ValueError(f"'target_sum' is {self.target_sum}")


def read_components(files: Sequence[str | Path]) -> Components:
    """Components from one ``.npz``, or from the files of a folder, ``components.npy``, ``mean.npy`` and ``genes.txt``.

    Nothing is unpickled.

    Raises:
        CellmillError: not readable, without one of them, of shapes that do not fit, or not finite.
    """
    where = files[0] if len(files) == 1 else Path(files[0]).parent
    arrays = _npz(files[0]) if Path(files[0]).suffix == ".npz" else _folder(files)
    missing = [name for name in ("components", "mean", "genes") if name not in arrays]
    if missing:
        raise CellmillError(where, f"has no {' and no '.join(missing)}.", FIX)
    try:
        if np.ndim(arrays["genes"]) != 1 or np.asarray(arrays["genes"]).dtype.kind != "U":
            raise ValueError("'genes' is no list of texts")
        return Components(
            [str(gene) for gene in arrays["genes"]],
            np.ascontiguousarray(arrays["components"], np.float64),
            np.ascontiguousarray(arrays["mean"], np.float64),
            float(np.asarray(arrays.get("target_sum", TARGET_SUM), np.float64).reshape(())),
        )
    except (ValueError, TypeError) as error:
        raise CellmillError(where, f"{error}.", FIX) from error


def _npz(path: str | Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            ours = "cellmill" in file.files
            arrays = {} if ours else {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CellmillError(path, f"not readable ({error}).", FIX) from error
    if not ours:
        return arrays
    return read_arrays(path, PCA)


def _folder(files: Sequence[str | Path]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for path in map(Path, files):
        if path.suffix != ".npy":
            arrays["genes"] = np.array(read_gene_list(path))
            continue
        try:
            arrays[path.stem] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CellmillError(path, f"not readable ({error}).", FIX) from error
    return arrays
