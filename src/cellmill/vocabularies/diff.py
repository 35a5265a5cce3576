"""How two vocabularies differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def diff(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Every change once, by rising id; all lists empty: the same vocabulary.

    ``moved``: a token with another id. ``renamed``: an id whose token is gone, and that a new token has.
    ``added``, ``removed``: tokens and ids of one side alone.
    """
    gone = {i: t for t, i in old.items() if t not in new}
    come = {i: t for t, i in new.items() if t not in old}
    both = sorted(gone.keys() & come.keys())
    moved = sorted((i, new[t], t) for t, i in old.items() if t in new and new[t] != i)
    return {
        "added": [{"token": come[i], "id": i} for i in sorted(come.keys() - gone.keys())],
        "removed": [{"token": gone[i], "id": i} for i in sorted(gone.keys() - come.keys())],
        "moved": [{"token": t, "id": i, "new_id": j} for i, j, t in moved],
        "renamed": [{"token": gone[i], "new_token": come[i], "id": i} for i in both],
    }


def table(changes: Mapping[str, list[dict[str, Any]]], *, rows: int = 20) -> str:
    """A line per change, at most ``rows`` of each kind, and how many there are."""
    lines = []
    for kind, found in changes.items():
        for change in found[:rows]:
            token = f"{change['token']} -> {change['new_token']}" if kind == "renamed" else change["token"]
            number = f"{change['id']} -> {change['new_id']}" if kind == "moved" else change["id"]
            lines.append(f"{kind:<8} {number!s:>15}  {token}")
        if len(found) > rows:
            lines.append(f"{kind:<8} {'':>15}  … {len(found) - rows:,} more (--json names all)")
    return "\n".join([*lines, ", ".join(f"{len(found):,} {kind}" for kind, found in changes.items())])
