"""``bundled``: real cells that arrive with scanpy's wheel, so that the first run needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cellmill.spec import Spec


class Bundled(Spec):
    """Data packaged with scanpy."""

    kind: Literal["bundled"] = "bundled"
    name: Literal["pbmc68k_reduced"]
    """`pbmc68k_reduced`: 700 blood cells of 10x Genomics' PBMC 68k, 765 genes."""

    def parts(self) -> list[str]:
        """Names of the parts."""
        return ["0"]

    def packaged_file(self) -> Path | None:
        """The file inside scanpy, found without importing it."""
        scanpy = find_spec("scanpy")
        if scanpy is None or scanpy.origin is None:
            return None
        path = Path(scanpy.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
        return path if path.exists() else None

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        return {"name": self.packaged_file()}
