"""``resources/ledger.tsv``: every outside file by name, with version, address, checksum, size and licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cellmill.errors import CellmillError, nearest

COLUMNS = ("name", "version", "address", "sha256", "bytes", "licence", "note")
UNKNOWN = "-"
LEDGER = Path(__file__).resolve().parents[3] / "resources" / "ledger.tsv"
"""The ledger that comes with cellmill."""


@dataclass(frozen=True)
class Entry:
    """One outside file; ``None`` where the ledger says that it is unknown."""

    name: str
    version: str | None
    address: str
    sha256: str | None
    bytes: int | None
    licence: str | None
    note: str | None


class Ledger:
    """The ledger, read and checked.

    Args:
        path: a tab-separated table with the columns of ``COLUMNS``; ``-`` stands for unknown.

    Raises:
        CellmillError: a missing column or value, a name or address given twice, or what is no checksum, size or
            address; names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            lines = self.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CellmillError(path, f"not readable ({error}).", "Get it again: it belongs to cellmill.") from error
        header = lines[0].split("\t") if lines else []
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise self._problem(1, f"no column '{missing[0]}'.", f"The columns are, between tabs: {' '.join(COLUMNS)}.")
        self._by_name: dict[str, Entry] = {}
        self._by_address: dict[str, Entry] = {}
        for number, line in enumerate(lines[1:], start=2):
            if line.strip():
                self._add(number, header, line.split("\t"))

    def _problem(self, number: int, found: str, fix: str) -> CellmillError:
        return CellmillError(f"{self.path}, line {number}", found, fix)

    def _add(self, number: int, header: list[str], values: list[str]) -> None:
        if len(values) != len(header):
            raise self._problem(number, f"{len(values)} columns, expected {len(header)}.", "Separate them with tabs.")
        row = {c: None if v.strip() == UNKNOWN else v.strip() for c, v in zip(header, values, strict=True)}
        name, address, sha256, size = (row[column] for column in ("name", "address", "sha256", "bytes"))
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise self._problem(number, f"the name is '{name}'.", "Name the file that it becomes in resources/.")
        if not address or not address.startswith(("http://", "https://")):
            raise self._problem(number, f"the address is '{address}'.", "Give an http(s) address.")
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise self._problem(
                number, f"'{sha256}' is no sha256.", f"Give its 64 lower-case hexadecimal digits, or {UNKNOWN}."
            )
        if size is not None and not size.isdecimal():
            raise self._problem(number, f"'{size}' is no number of bytes.", f"Give a whole number, or {UNKNOWN}.")
        for what, value, known in (("name", name, self._by_name), ("address", address, self._by_address)):
            if value in known:
                raise self._problem(number, f"the {what} '{value}' is there already.", "Give each file one line.")
        entry = Entry(
            name=name,
            version=row["version"],
            address=address,
            sha256=sha256,
            bytes=None if size is None else int(size),
            licence=row["licence"],
            note=row["note"],
        )
        self._by_name[name] = self._by_address[address] = entry

    @property
    def names(self) -> list[str]:
        """Names of the files, as they stand there."""
        return list(self._by_name)

    def entry(self, name: str) -> Entry:
        """The file of this name.

        Raises:
            CellmillError: there is none; names the nearest.
        """
        if name not in self._by_name:
            raise CellmillError(self.path, f"no file '{name}'.", nearest(name, self._by_name))
        return self._by_name[name]

    def path_of(self, name: str) -> str:
        """Where the file ``name`` lies: below ``resources/`` where the ledger has it, else it is a path."""
        return f"resources/{name}" if name in self._by_name else name

    def by_address(self, address: str) -> Entry | None:
        """The file at this address, if the ledger knows it."""
        return self._by_address.get(address)


def retrieve_resource(name: str, out: Path, *, ledger: Path, mirror: Path | None) -> None:
    """Fetch the file ``name`` of the ledger to ``out`` (``resources/<name>``), verified.

    Raises:
        CellmillError: not in the ledger, or not to be had as the ledger describes it.
    """
    from cellmill.sources.fetch import fetch

    entry = Ledger(ledger).entry(name)
    fetch(entry.address, Path(out), sha256=entry.sha256, size=entry.bytes, mirror=mirror)
