"""What is to be sent, told before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cellmill.contracts.counts import CountsPart
from cellmill.errors import CellmillError
from cellmill.files import format_bytes
from cellmill.publish.http import LocalFile


@dataclass
class Plan:
    """Files by name with their bytes."""

    where: str
    send: dict[str, int] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)
    """Files that have arrived before, as they are here."""
    remove: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, *, done: bool) -> Iterator[str]:
        """The plan in words; every file where it is not ``done`` yet."""
        sent = "sent" if done else "would be sent"
        text = f"{self.where}: {_files(self.send)} {sent}, {_files(self.there)} there already"
        yield text + (f", {len(self.remove):,} removed" if self.remove else "") + "."
        if not done:
            yield from (f"  send    {name}  {format_bytes(size)}" for name, size in self.send.items())
            yield from (f"  remove  {name}" for name in self.remove)
        yield from (f"  {note}" for note in self.notes)


def _files(sizes: dict[str, int]) -> str:
    return f"{len(sizes):,} file{'' if len(sizes) == 1 else 's'} ({format_bytes(sum(sizes.values()))})"


def read_parts(parts: list[Path]) -> list[LocalFile]:
    """The parts with their checksums; anything but a processed part is refused."""
    if not parts:
        raise CellmillError("processed", "there is no part to publish.", "Make the dataset first: run snakemake.")
    for path in parts:
        with CountsPart(path):
            pass
    return [LocalFile.of(path) for path in sorted(parts)]
