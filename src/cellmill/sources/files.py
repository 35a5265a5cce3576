"""``files``: named local paths and http(s) addresses, one part each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cellmill.spec import Name, Spec


class Files(Spec):
    """h5ad (also `.h5ad.gz`), zarr, and 10x `.h5` or matrix folders; local paths or http(s) addresses.

    At an address, a zarr store is a `.zarr.zip`, and a 10x matrix folder a `.tar.gz`.
    """

    kind: Literal["files"] = "files"
    files: dict[Name, str] = Field(min_length=1)
    """Part name: path (relative to the working folder) or address."""
    sha256: dict[Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}
    """Part name: checksum, where you know it. `resources/ledger.tsv` knows those of the shipped datasets."""

    genome: Annotated[str, Field(min_length=1)] | None = None
    """Of a 10x `.h5` with several genomes, the one to take, by its name there; `null`: each file has one."""

    def parts(self) -> list[str]:
        """Names of the parts, sorted."""
        return sorted(self.files)

    def shown(self, key: str) -> str:
        """The path behind a key of ``local_files``, for an error."""
        return f" '{self.files[key.removeprefix('files.')]}'"

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        local = {k: base / v for k, v in self.files.items() if not is_address(v)}
        return {f"files.{k}": p if p.exists() else None for k, p in local.items()}


def is_address(text: str) -> bool:
    """Whether this is an http(s) address and not a path."""
    return text.startswith(("http://", "https://"))
