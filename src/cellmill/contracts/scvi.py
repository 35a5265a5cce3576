"""The cells that a model of scvi-tools is trained on, and the manifest of the model beside its ``model.pt``."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.contracts.versions import Contract
from cellmill.files import read_json, write_json

MANIFEST = "manifest.json"


def write_manifest(path: str | PathLike[str], contract: Contract, facts: dict[str, Any]) -> None:
    """Write ``manifest.json`` of this contract; the last file of its folder."""
    write_json(path, {"contract": str(contract), **facts})


def read_manifest(folder: str | PathLike[str], contract: Contract) -> dict[str, Any]:
    """What the manifest of a folder says.

    Raises:
        CellmillError: none of this contract, or of another version.
    """
    said: dict[str, Any] = read_json(Path(folder) / MANIFEST)
    contract.verify(folder, said.get("contract"))
    return said
