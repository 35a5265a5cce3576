"""Published dictionaries: pickles read through an allow-list, which lets plain values in and nothing else."""

from __future__ import annotations

import io
import pickle
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.errors import CellmillError

_NUMPY_SCALARS = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype")}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY_SCALARS:
            import numpy as np

            return np.dtype if name == "dtype" else np._core.multiarray.scalar  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_dictionary(path: str | PathLike[str]) -> dict[str, Any]:
    """A pickled ``{str: str | int | float}``, whose every key and value is checked.

    Raises:
        CellmillError: it holds or asks for anything else. Nothing of it was run.
    """
    try:
        loaded = _Plain(io.BytesIO(Path(path).read_bytes())).load()
    except Exception as error:
        raise CellmillError(
            path,
            f"refused: {error}.",
            "Only dictionaries of strings and numbers are read from pickles; check its source.",
        ) from error
    if not isinstance(loaded, dict):
        raise CellmillError(path, f"holds a {type(loaded).__name__}, expected a dictionary.", "Check its source.")
    plain: dict[str, Any] = {}
    for key, value in loaded.items():
        number = value.item() if hasattr(value, "item") else value
        if not isinstance(key, str) or not isinstance(number, str | int | float):
            raise CellmillError(path, f"holds {key!r}: {type(value).__name__}.", "Check its source.")
        plain[key] = number
    return plain
