"""How long to go on with a server that fails: what is tried again, when, and what is said of it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import requests
import urllib3

from cellmill.errors import CellmillError

log = logging.getLogger("cellmill")
T = TypeVar("T")
_TRY_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Patience:
    """How long to go on with a server that fails.

    Waits double from ``first_wait_s`` to ``longest_wait_s``, between half and all of that at random;
    a longer ``Retry-After`` is honoured.
    """

    tries: int = 6
    """Tries in a row that bring nothing new."""
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    total_wait_s: float = 1_800.0
    """All waits of one file together."""
    timeout_s: float = 60.0
    """Longest silence of a connection."""


PATIENCE = Patience()


class AgainError(Exception):
    """This try failed; another one may not."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class Waits:
    """The waits between the tries of one file."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._failed, self._waited = patience, 0, 0.0
        self.tries = 0

    def after(self, again: AgainError, *, progress: bool = False) -> float | None:
        """Seconds to wait, ``None``: give up. ``progress``: the try that failed has brought something."""
        patience = self._patience
        self.tries += 1
        self._failed = 1 if progress else self._failed + 1
        wait = min(patience.first_wait_s * 2 ** (self._failed - 1), patience.longest_wait_s) * random.uniform(0.5, 1)
        wait = max(wait, again.wait_s or 0.0)
        if self._failed >= patience.tries or self._waited + wait > patience.total_wait_s:
            return None
        self._waited += wait
        return wait

    def given_up(self, again: AgainError) -> str:
        """What to say then."""
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        asked = f" (it asks to wait {again.wait_s:,.0f} s)" if again.wait_s else ""
        return f"gave up after {tries}; the last one: {again.reason}{asked}."


def persist(call: Callable[[], T], *, where: str, patience: Patience, fix: str) -> T:
    """What ``call`` gives, tried again where it raises ``AgainError``.

    Raises:
        CellmillError: patience came to its end.
    """
    waits = Waits(patience)
    while True:
        try:
            return call()
        except AgainError as error:
            again = error
        wait = waits.after(again)
        if wait is None:
            raise CellmillError(where, waits.given_up(again), fix)
        log.warning("%s: %s; next try in %.1f s", where, again.reason, wait)
        time.sleep(wait)


def is_passing(code: int) -> bool:
    """Whether an HTTP status says that another try may do."""
    return code in _TRY_AGAIN or code >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for: a number, or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def reason_of(error: BaseException) -> str:
    """The innermost cause in words that hold no address."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        wrapped = (getattr(cause, "reason", None), *cause.args)
        cause = next((e for e in wrapped if isinstance(e, BaseException)), None) or cause.__cause__ or cause.__context__
    for cause in reversed(chain):
        # requests' own errors are OSErrors, too, with the address in them
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror.lower()
        if isinstance(cause, TimeoutError):
            return "the server stayed silent for too long"
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return "the connection was cut"
    return type(chain[-1]).__name__
