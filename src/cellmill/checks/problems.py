"""What is wrong with an artefact: every problem counted, the first few of each kind told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

SHOWN = 5
"""Problems of one kind that are told in full."""


class UnreadableError(Exception):
    """A reader cannot go on: which file, and why."""

    def __init__(self, file: str, why: str) -> None:
        self.file, self.why = file, why
        super().__init__(f"{file}: {why}")


class Problems:
    """Problems by kind, in the order in which kinds came up."""

    def __init__(self) -> None:
        self._told: dict[str, list[str]] = {}
        self._count: Counter[str] = Counter()

    def add(self, kind: str, where: str, found: str) -> None:
        """One problem: where (file, row, cell), and what was found against what was expected."""
        self.many(kind, 1, [(where, found)])

    def many(self, kind: str, total: int, each: Iterable[tuple[str, str]]) -> None:
        """``total`` problems of a kind; ``each`` is asked for as many as are still told in full."""
        if total:
            told = self._told.setdefault(kind, [])
            told.extend(f"{where}: {found}" for where, found in islice(each, SHOWN - len(told)))
            self._count[kind] += total

    def __len__(self) -> int:
        return self._count.total()

    def lines(self) -> Iterator[str]:
        """A line per problem that is told, and one for the others of its kind."""
        for kind, told in self._told.items():
            yield from told
            if more := self._count[kind] - len(told):
                yield f"… and {more:,} more: {kind}"
