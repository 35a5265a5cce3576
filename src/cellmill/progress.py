"""Progress of long work: a bar on a terminal, a plain line every ten seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger("cellmill")
SECONDS_BETWEEN_LINES = 10.0


class Counter(Protocol):
    """Something that is told how much more was done."""

    def update(self, n: int) -> object: ...


class _Lines:
    def __init__(self, total: int | None, unit: str, what: str) -> None:
        self.total, self.unit, self.what = total, unit, what
        self.done = 0
        self.start = self.last = time.monotonic()

    def update(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(now)

    def say(self, now: float) -> None:
        of = f" of {self.total:,} ({100 * self.done / self.total:.0f} %)" if self.total else ""
        rate = self.done / max(now - self.start, 1e-9)
        log.info("%s: %s%s %s, %s %s/s", self.what, f"{self.done:,}", of, self.unit, f"{rate:,.0f}", self.unit)


@contextmanager
def progress(total: int | None, unit: str, what: str) -> Iterator[Counter]:
    """Yield a counter of ``unit`` (such as ``"cells"``), of which ``total`` are expected; call ``update(n)`` on it."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}", desc=what, leave=False, unit_scale=unit == "B") as bar:
            yield bar
    else:
        lines = _Lines(total, unit, what)
        yield lines
        lines.say(time.monotonic())
