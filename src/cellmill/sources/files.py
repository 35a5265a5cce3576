"""``files``: named paths and addresses, patterns of them, or a table of thousands."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cellmill.contracts.plan import Member, members_of, read_plan
from cellmill.errors import CellmillError, nearest
from cellmill.sources.checksums import is_checksum
from cellmill.sources.stores import is_address
from cellmill.spec import Name, PositiveInt, Spec

RESERVED_PARTS = frozenset({"duplicates", "splits", "ledger"})
"""Names that no part may have."""
TABLE_COLUMNS = ("address", "member", "part", "cells", "bytes", "sha256", "checksum")


class Files(Spec):
    """h5ad (also `.h5ad.gz`), zarr, and 10x `.h5` or matrix folders, by exactly one of `files`, `glob` and `table`.

    A path is relative to the working folder; an address begins with `http://`, `https://`, `gs://`, `s3://` or
    `hf://` (`hf://datasets/<owner>/<name>[@<revision>]/<path>`). At an address, a zarr store is a `.zarr.zip`, and a
    10x matrix folder a `.tar.gz`. `files` without `slice` is known before the first job: each is a part. With `glob`,
    `table` or `slice`, a first job plans the parts (`plan.tsv`), and the ids of cells get the name of their file before
    them.
    """

    kind: Literal["files"] = "files"
    files: dict[Name, str] = {}
    """Part name: path or address."""
    glob: list[Annotated[str, Field(min_length=1)]] = []
    """Patterns of paths, or of addresses of a store, as in `[data/*.h5ad, "gs://bucket/folder/*.h5ad"]`; looked up \
when the parts are planned."""
    table: str | None = None
    """A table with tabs between its columns: `address`, and where you know them `member` (the name of the file), \
`part`, `cells`, `bytes`, `sha256` or `checksum` (`md5:…`, `crc32c:…`). Other columns stay with the cells."""
    slice: PositiveInt | None = None
    """Cut h5ad files with more cells into so many rows; one at an address is fetched once for all its slices. \
`null`: files stay whole."""
    part_cells: PositiveInt = 250_000
    """Of what is planned: small files are bundled into parts of at most so many cells."""
    sha256: dict[Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}
    """Part name: checksum, where you know it. `resources/ledger.tsv` knows those of the shipped datasets."""

    genome: Annotated[str, Field(min_length=1)] | None = None
    """Of a 10x `.h5` with several genomes, the one to take, by its name there; `null`: each file has one."""

    @model_validator(mode="after")
    def _one_way(self) -> Files:
        if sum(map(bool, (self.files, self.glob, self.table))) != 1:
            raise ValueError("name the files by exactly one of 'files', 'glob' and 'table'")
        return self

    @property
    def planned(self) -> bool:
        """Whether a job must plan the parts first."""
        return not self.files or self.slice is not None

    def parts(self) -> list[str]:
        """Names of the parts, sorted, where they are known."""
        return [] if self.planned else sorted(self.files)

    def of(self, part: str) -> Files:
        """What concerns one part."""
        if self.planned:  # all else stands in the plan
            return Files(table="plan.tsv", genome=self.genome)
        chosen = {part: self.sha256[part]} if part in self.sha256 else {}
        return self.model_copy(update={"files": {k: v for k, v in self.files.items() if k == part}, "sha256": chosen})

    def shown(self, key: str) -> str:
        """The path behind a key of ``local_files``, for an error."""
        return f" '{self.table if key == 'table' else self.files[key.removeprefix('files.')]}'"

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        local = {f"files.{k}": base / v for k, v in self.files.items() if not is_address(v)}
        if self.table is not None and not (base / self.table).is_file():
            return {"table": None}
        return {key: path if path.exists() else None for key, path in local.items()}

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts, so that a newer one is seen."""
        return [] if self.table is None else [self.table]

    def problems(self, base: Path) -> list[str]:
        """What else is wrong, as far as can be known before anything runs."""
        if self.table is None or not (base / self.table).is_file():
            return []
        try:
            members = read_table(base / self.table)
        except CellmillError as error:
            return [f"table: {error}"]
        missing = [m.address for m in members if not is_address(m.address) and not (base / m.address).exists()]
        if missing:
            return [f"table: {len(missing)} of its files are not there, the first of them '{missing[0]}'."]
        return []


def read_table(path: Path) -> list[Member]:
    """The members that a table of files names, in its order; their part is empty where the table does not say.

    Raises:
        CellmillError: names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.reader((line for line in stream if not line.startswith("#")), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CellmillError(path, f"not readable as a table ({error}).", "Write text with tabs.") from error
    header = rows[0] if rows else []
    if "address" not in header:
        raise CellmillError(f"{path}, line 1", "no column 'address'.", nearest("address", header))
    if len(set(header)) < len(header):
        raise CellmillError(f"{path}, line 1", "a column stands there twice.", "Rename one.")
    members, names = list[Member](), dict[str, int]()
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        where = f"{path}, line {number} without comments"
        if len(row) != len(header):
            raise CellmillError(where, f"{len(row)} columns, expected {len(header)}.", "Separate them with tabs.")
        member = _from_row(where, {c: v.strip() or None for c, v in zip(header, row, strict=True)})
        if member.name in names:
            said = f"'{member.name}' is the name of line {names[member.name]}, too."
            raise CellmillError(where, said, "Give each file a name of its own in a column 'member'.")
        names[member.name] = number
        members.append(member)
    if not members:
        raise CellmillError(path, "it names no file.", "Give each file a line.")
    without = [m.name for m in members if not m.part]
    if without and len(without) < len(members):
        said = f"{len(without)} of {len(members)} files have no part, the first of them '{without[0]}'."
        raise CellmillError(path, said, "Fill the column 'part', or leave it out.")
    return members


def _from_row(where: str, row: dict[str, str | None]) -> Member:
    address, part, checksum, sha256 = (row.get(c) for c in ("address", "part", "checksum", "sha256"))
    if address is None:
        raise CellmillError(where, "it has no address.", "Give a path or an address.")
    if part in RESERVED_PARTS or (part is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", part)):
        raise CellmillError(
            where,
            f"no part can be called '{part}'.",
            "Use letters, digits, - and _; not the name of a file of cellmill.",
        )
    for column in ("cells", "bytes"):
        if not (row.get(column) or "0").isdecimal():
            raise CellmillError(where, f"{column} is '{row[column]}'.", "Give a whole number, or leave it empty.")
    checksum = f"sha256:{sha256}" if sha256 else checksum
    if checksum is not None and not is_checksum(checksum):
        raise CellmillError(where, f"'{checksum}' is no checksum.", "Give sha256, or md5:<hex> or crc32c:<base64>.")
    known = {c: None if row.get(c) is None else int(row[c] or 0) for c in ("cells", "bytes")}
    return Member(
        part=part or "",
        name=checked_name(where, row.get("member") or member_name(address)),
        address=address,
        cells=known["cells"],
        bytes=known["bytes"],
        checksum=checksum,
        about={c: v for c, v in row.items() if c not in TABLE_COLUMNS},
    )


def member_name(address: str) -> str:
    """The name of a file without its folder and its ending."""
    name = address.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"\.(h5ad|h5ad\.gz|h5|tar\.gz|tgz|zarr|zarr\.zip|parquet)$", "", name, flags=re.IGNORECASE)


def checked_name(where: object, name: str) -> str:
    """The name of a member, refused where it could not stand before the id of a cell or be that of a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ +-]*", name):
        raise CellmillError(where, f"no file can be called '{name}' here.", "Name it in a column 'member'.")
    return name


def shared_files(plan: str | PathLike[str], part: str) -> list[Member]:
    """Members of the part that are rows of a file at an address, which is fetched once for all parts that share it."""
    return [m for m in members_of(plan, part) if m.rows is not None and is_address(m.address)]


def shared_file(plan: str | PathLike[str], name: str) -> Member:
    """What the plan says of a file that parts share, by the name of its members: its address, size and checksum.

    Raises:
        CellmillError: the plan has no such file.
    """
    for member in read_plan(plan).members:
        if member.name == name and member.rows is not None and is_address(member.address):
            return member
    raise CellmillError(plan, f"no parts share a file '{name}'.", "Ask for one that they share.")


def sliced(member: Member, rows: int | None) -> list[Member]:
    """The member, or its slices where it is an h5ad file with more cells than ``rows``."""
    h5ad = member.address.partition("?")[0].lower().endswith(".h5ad")
    if rows is None or not h5ad or member.cells is None or member.cells <= rows:
        return [member]
    starts = range(0, member.cells, rows)
    ends = (min(start + rows, member.cells) for start in starts)
    return [replace(member, cells=e - s, rows=(s, e)) for s, e in zip(starts, ends, strict=True)]
