"""``published/…``: where exports and parts were published, with their checksums."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.contracts.versions import PUBLISHED
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing, write_json


@dataclass(frozen=True)
class PublishedPart:
    """A part of ``processed`` at an address."""

    part: str
    address: str
    bytes: int
    sha256: str
    md5: str


_LINE = re.compile(r"([^\t]+)\t([^\t]+)\t(\d+)\t([0-9a-f]{64})\t([0-9a-f]{32})")
_AGAIN = "Publish again: it is made anew."
_HEAD = "\t".join(f.name for f in fields(PublishedPart))


def write_parts(path: str | PathLike[str], parts: list[PublishedPart]) -> None:
    """A table, a line per part; the first line is the contract."""
    lines = [f"# {PUBLISHED}", _HEAD, *("\t".join(map(str, astuple(p))) for p in parts)]
    with replacing(path) as aside:
        aside.write_text("\n".join(lines) + "\n")


def read_parts(path: str | PathLike[str]) -> list[PublishedPart]:
    """The table, by part.

    Raises:
        CellmillError: not such a table, or of another version.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CellmillError(path, f"not readable ({error}).", _AGAIN) from error
    PUBLISHED.verify(path, lines[0].removeprefix("# ") if lines else None)
    if lines[1:2] != [_HEAD]:
        raise CellmillError(path, f"expected the columns {_HEAD.split()}.", _AGAIN)
    found = []
    for number, line in enumerate(lines[2:], start=3):
        match = _LINE.fullmatch(line)
        if match is None:
            raise CellmillError(f"{path}, line {number}", "is no part with its checksums.", _AGAIN)
        found.append(PublishedPart(match[1], match[2], int(match[3]), match[4], match[5]))
    return found


def as_source(parts: list[PublishedPart]) -> dict[str, Any]:
    """``source:`` of a dataset that begins with these parts."""
    return {"kind": "files", "files": {p.part: p.address for p in parts}, "sha256": {p.part: p.sha256 for p in parts}}


def write_export(path: str | PathLike[str], said: dict[str, Any]) -> None:
    """What was published of an export."""
    write_json(path, {"contract": str(PUBLISHED), **said})


def read_export(path: str | PathLike[str]) -> dict[str, Any]:
    """What was published of an export."""
    said: dict[str, Any] = read_json(path)
    PUBLISHED.verify(path, said.get("contract"))
    return said
