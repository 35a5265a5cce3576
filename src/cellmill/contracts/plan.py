"""``plan.tsv``: which members make each part of a dataset whose catalogue is read first. The DAG reads it: light."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike, stat
from pathlib import Path
from typing import Any

from cellmill.contracts.versions import PLAN
from cellmill.errors import CellmillError
from cellmill.files import replacing

COLUMNS = ("part", "member", "address", "cells", "bytes", "checksum", "rows")
"""What every plan has; the columns that follow say more of each member, and stay with its cells."""
_AGAIN = "Delete it and run snakemake again: it is made anew."


@dataclass(frozen=True)
class Member:
    """One file of a part, or some of its rows; ``None`` where the catalogue does not know."""

    part: str
    name: str
    """Unique over the files of the dataset; stands before the ids of its cells."""
    address: str
    """An address, or a path relative to the working folder."""
    cells: int | None = None
    bytes: int | None = None
    """Of the whole file."""
    checksum: str | None = None
    """Kind and value, as in ``crc32c:n03x6A==``."""
    rows: tuple[int, int] | None = None
    """The rows that are taken, from the first up to but without the last; None: all."""
    about: dict[str, str | None] = field(default_factory=dict)

    def row(self) -> list[str]:
        """As it stands in the table; what is unknown or missing is empty."""
        rows = None if self.rows is None else f"{self.rows[0]}-{self.rows[1]}"
        fixed = (self.part, self.name, self.address, self.cells, self.bytes, self.checksum, rows)
        return ["" if value is None else str(value) for value in (*fixed, *self.about.values())]


@dataclass(frozen=True)
class Plan:
    """Members by part, both sorted, and what was counted on the way."""

    parts: dict[str, list[Member]]
    facts: dict[str, Any]

    @property
    def members(self) -> list[Member]:
        return [member for members in self.parts.values() for member in members]


def write_plan(path: str | PathLike[str], members: Iterable[Member], facts: dict[str, Any]) -> None:
    """Write the table: facts in its first line, then a row per member, sorted by part, name and rows."""
    ordered = sorted(members, key=lambda m: (m.part, m.name, m.rows or (0, 0)))
    about = list(dict.fromkeys(column for member in ordered for column in member.about))
    said = {"contract": str(PLAN), "members": len(ordered), **facts}
    with replacing(path) as aside, open(aside, "w", newline="", encoding="utf-8") as stream:
        stream.write(f"# {json.dumps(said, sort_keys=True, ensure_ascii=False)}\n")
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow([*COLUMNS, *about])
        for member in ordered:
            row = member.row()[: len(COLUMNS)]
            table.writerow([*row, *("" if (v := member.about.get(c)) is None else v for c in about)])


def read_plan(path: str | PathLike[str]) -> Plan:
    """Read a plan; another kind, version, or a table that is not whole is refused."""
    try:
        status = stat(path)
        return _read(str(path), status.st_mtime_ns, status.st_size)
    except (OSError, ValueError) as error:
        raise CellmillError(path, f"not readable as a plan ({error}).", _AGAIN) from error


@lru_cache(maxsize=64)
def _read(path: str, _changed: int, _size: int) -> Plan:
    with open(path, newline="", encoding="utf-8") as stream:
        if not stream.read().endswith("\n"):
            raise CellmillError(path, "it ends in the middle of a line.", _AGAIN)
        stream.seek(0)
        try:
            facts: dict[str, Any] = json.loads(stream.readline().removeprefix("# "))
            contract = facts.pop("contract", None)
        except (ValueError, AttributeError) as error:
            raise CellmillError(path, f"its first line is not that of a plan ({error}).", _AGAIN) from error
        PLAN.verify(path, contract)
        rows = csv.reader(stream, delimiter="\t")
        header = next(rows, [])
        if tuple(header[: len(COLUMNS)]) != COLUMNS:
            raise CellmillError(path, f"its columns are {', '.join(header) or 'none'}.", _AGAIN)
        parts: dict[str, list[Member]] = {}
        for row in rows:
            member = _member(path, header, row)
            parts.setdefault(member.part, []).append(member)
    found = sum(map(len, parts.values()))
    if found != facts.get("members"):
        raise CellmillError(path, f"{found} members, expected {facts.get('members')}.", _AGAIN)
    return Plan(parts, facts)


def _member(path: str, header: Sequence[str], row: Sequence[str]) -> Member:
    if len(row) != len(header):
        raise CellmillError(path, f"a row of {len(row)} columns, expected {len(header)}.", _AGAIN)
    values = [value or None for value in row]
    part, name, address, cells, size, checksum, rows = values[: len(COLUMNS)]
    first, _, last = (rows or "").partition("-")
    return Member(
        part=part or "",
        name=name or "",
        address=address or "",
        cells=None if cells is None else int(cells),
        bytes=None if size is None else int(size),
        checksum=checksum,
        rows=(int(first), int(last)) if rows else None,
        about=dict(zip(header[len(COLUMNS) :], values[len(COLUMNS) :], strict=True)),
    )


def members_of(path: str | PathLike[str], part: str) -> list[Member]:
    """The members of a part.

    Raises:
        CellmillError: the plan has no such part.
    """
    plan = read_plan(path)
    if part not in plan.parts:
        shown = f"{next(iter(plan.parts))} to {next(reversed(plan.parts))}" if plan.parts else "none"
        raise CellmillError(
            path, f"no part '{part}'; its {len(plan.parts)} parts are {shown}.", "Ask for one of these."
        )
    return plan.parts[part]


def digest(members: Iterable[Member]) -> str:
    """A checksum of all that a plan says of these members: another one, and the part is made anew."""
    sums = hashlib.sha256()
    for member in members:
        sums.update("\t".join([*member.row(), *member.about]).encode() + b"\n")
    return sums.hexdigest()


def plan_file(dataset: str) -> Path:
    """Where the plan of a dataset stands."""
    return Path(f"results/{dataset}/plan.tsv")
