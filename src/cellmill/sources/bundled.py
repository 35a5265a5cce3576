"""``bundled``: real cells that arrive with scanpy's wheel, so that the first run needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cellmill.errors import CellmillError
from cellmill.spec import Spec

LARGEST_ROUNDING = 0.1
"""How far a recovered count may lie from a whole number; it is 0.08 in the packaged file."""


class Bundled(Spec):
    """Data packaged with scanpy."""

    kind: Literal["bundled"] = "bundled"
    name: Literal["pbmc68k_reduced"]
    """`pbmc68k_reduced`: 700 blood cells of 10x Genomics' PBMC 68k, 765 genes."""

    @property
    def planned(self) -> bool:
        """Whether a job must plan the parts first."""
        return False

    def parts(self) -> list[str]:
        """Names of the parts."""
        return ["0"]

    def of(self, part: str) -> Bundled:
        """What concerns one part."""
        return self

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts."""
        return []

    def problems(self, base: Path) -> list[str]:
        """What else is wrong, as far as can be known before anything runs."""
        return []

    def packaged_file(self) -> Path | None:
        """The file inside scanpy, found without importing it."""
        scanpy = find_spec("scanpy")
        if scanpy is None or scanpy.origin is None:
            return None
        path = Path(scanpy.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
        return path if path.exists() else None

    def shown(self, key: str) -> str:
        """What is missing behind a key of ``local_files``, for an error."""
        return " in the installed scanpy"

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        return {"name": self.packaged_file()}


def recover_counts(packaged: Path, out: Path) -> str:
    """Write scanpy's ``pbmc68k_reduced`` as raw counts: h5ad, CSR, uint16, sorted, obs as it is there.

    The packaged ``raw`` holds ``log(1 + 1e4 * counts / n_counts)`` in float32; that is undone and rounded.

    Returns:
        A sentence that says so.

    Raises:
        CellmillError: a value is not a whole number within ``LARGEST_ROUNDING``: the packaged file is another one.
    """
    import warnings

    import anndata
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from cellmill.files import replacing
    from cellmill.matrix.writer import H5adWriter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is of an old anndata, and anndata says so
        found = anndata.read_h5ad(packaged)
    values = sp.csr_matrix(found.raw.X, dtype=np.float64)
    library_sizes = np.repeat(found.obs["n_counts"].to_numpy(np.float64), np.diff(values.indptr))
    values.data = np.expm1(values.data) * library_sizes / 1e4
    rounded = np.round(values.data)
    off = float(np.abs(values.data - rounded).max(initial=0.0))
    if not off <= LARGEST_ROUNDING or rounded.min(initial=0) < 0 or rounded.max(initial=0) > np.iinfo(np.uint16).max:
        raise CellmillError(
            packaged,
            f"no raw counts can be recovered: a value lies {off:.3g} from a whole number (at most {LARGEST_ROUNDING}).",
            "This version of scanpy packages another file; install the one of requirements.lock.",
        )
    values.data = rounded
    counts = values.astype(np.uint16)
    counts.eliminate_zeros()
    counts.sort_indices()
    with replacing(out) as aside:
        writer = H5adWriter(aside, n_genes=counts.shape[1], dtype=np.dtype(np.uint16))
        try:
            writer.append(counts)
            writer.close(obs=found.obs, var=pd.DataFrame(index=found.raw.var_names), uns={})
        except BaseException:
            writer.abandon()
            raise
    return f"Counts recovered from log-normalised values and library sizes; the largest rounding error is {off:.2f}."
