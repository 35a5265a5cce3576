"""The one error of the house: where, what was found against what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CellmillError(Exception):
    """Bad input or a bad request, told in three parts.

    Raised before anything is written under its final name.
    A job that meets one ends with this text and a non-zero exit, without a traceback.
    """

    def __init__(self, where: object, found: str, fix: str) -> None:
        self.where, self.found, self.fix = str(where), found, fix
        super().__init__(f"{self.where}: {found} {fix}".rstrip())


def nearest(name: str, known: Iterable[str]) -> str:
    """A closing sentence that names what is there, and the nearest of it if one is near."""
    names = sorted(str(k) for k in known)
    if not names:
        return "There is none."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return f"There: {shown}." + (f" Did you mean '{close[0]}'?" if close else "")
