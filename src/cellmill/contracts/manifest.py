"""``{format}/{export}/manifest.json``: who finds it finds everything of the export."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill import __version__
from cellmill.contracts.versions import GENEFORMER, H5AD, HDF5, HF, MDS, PACKED, SCDL, ZARR
from cellmill.errors import CellmillError
from cellmill.files import read_json, sha256_of, write_json

NAME = "manifest.json"
CACHES = "cache-*.arrow"
"""What `datasets` leaves in a folder that it loaded from disk and then filtered, sorted or shuffled."""
CONTRACTS = {
    "hf": HF,
    "mds": MDS,
    "hdf5": HDF5,
    "h5ad": H5AD,
    "scdl": SCDL,
    "geneformer": GENEFORMER,
    "zarr": ZARR,
    "packed": PACKED,
}
_LIBRARIES = ("anndata", "h5py", "numpy", "pyarrow")


def write(folder: str | PathLike[str], said: dict[str, Any]) -> None:
    """Write the manifest last, with every file of the folder, its size and checksum."""
    base = Path(folder)
    files = {
        p.relative_to(base).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)}
        for p in sorted(base.rglob("*"))
        if p.is_file()
    }
    write_json(base / NAME, {**said, "files": files, "written_by": library_versions()})


def library_versions() -> dict[str, str]:
    """The versions of cellmill and of the libraries that write exports."""
    found = {"cellmill": __version__}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def read(path: str | PathLike[str]) -> dict[str, Any]:
    """The manifest of an export, given its folder or the file itself."""
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise CellmillError(path, "there is no manifest.json.", "It is no finished export of cellmill; run snakemake.")
    said: dict[str, Any] = read_json(file)
    format_ = str(said.get("export", "")).split("/")[0]
    if format_ not in CONTRACTS:
        raise CellmillError(file, f"found export '{said.get('export')}'.", f"Known formats: {', '.join(CONTRACTS)}.")
    CONTRACTS[format_].verify(file, said.get("contract"))
    return said


def verify(path: str | PathLike[str]) -> dict[str, Any]:
    """Read the whole export and compare every file with the manifest.

    Raises:
        CellmillError: a file is missing, surplus (caches of `datasets` aside), or other than it was written.
    """
    said = read(path)
    base = Path(path) if Path(path).is_dir() else Path(path).parent
    there = {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file() and not p.match(CACHES)} - {NAME}
    for name in sorted(there ^ set(said["files"])):
        state = "is missing" if name in said["files"] else "is not in the manifest"
        raise CellmillError(base, f"{name} {state}.", "Delete manifest.json and run snakemake again.")
    for name, expected in said["files"].items():
        found = sha256_of(base / name)
        if found != expected["sha256"]:
            raise CellmillError(
                base / name,
                f"sha256 {found[:12]}…, expected {expected['sha256'][:12]}….",
                "It was changed or damaged: delete manifest.json and run snakemake again.",
            )
    return said
