"""Is it a vocabulary: every id from 0 to n - 1 once, every token a name of its own?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any

from cellmill.contracts import flat_vocabulary as files
from cellmill.errors import CellmillError

SPECIAL_TOKEN = re.compile(r"<[^<>]+>|\[[A-Z]+\]")
JUNK = re.compile(r"<junk(\d+)>")


def load_tokens(path: str | PathLike[str]) -> dict[str, int]:
    """The vocabulary of a file of any format of ``contracts.flat_vocabulary``, by rising id.

    Raises:
        CellmillError: no vocabulary, one with holes or with an id twice, or changed since its provenance was written.
    """
    values = files.read(path)
    found = problems(values)
    if found:
        raise CellmillError(path, f"is no vocabulary: {' '.join(found)}", "Make it again, or get another.")
    return dict(sorted(values.items(), key=lambda item: item[1]))


def problems(values: Mapping[str, Any]) -> list[str]:
    """Why this is no vocabulary: ids that are not 0 to n - 1 each once, tokens that are no names."""
    if not values:
        return ["It has no token."]
    said = [
        _said("tokens have no whole number as id", [f"{t!r}: {i!r}" for t, i in values.items() if type(i) is not int]),
        _said(
            "tokens are empty, not printable or have spaces around them", [repr(t) for t in values if not is_name(t)]
        ),
    ]
    ids = [i for i in values.values() if type(i) is int]
    if len(ids) == len(values):
        twice = {i for i, n in Counter(ids).items() if n > 1}
        missing = sorted(set(range(len(values))) - set(ids))
        said.append(_said("tokens share an id", [f"{t} ({i})" for t, i in values.items() if i in twice]))
        said.append(_said(f"ids of 0 to {len(values) - 1} are missing", [str(i) for i in missing]))
    return [s for s in said if s]


def is_name(text: str) -> bool:
    """Whether this can be a token or a gene: it is seen as it is, on one line."""
    return bool(text) and text.isprintable() and text == text.strip()


def name_problems(tokens: Iterable[str], *, versions: str = "error", case: str = "error") -> list[str]:
    """What may not be meant: ids with versions, and tokens that differ only in case; ``keep`` means it is."""
    from cellmill.genes.identifiers import without_version

    tokens = list(tokens)
    versioned = [t for t in tokens if without_version(t) != t] if versions == "error" else []
    clashes = _alike(tokens, str.casefold) if case == "error" else []
    same = _alike(tokens, without_version)
    found = (
        _said("Ensembl ids have a version", versioned),
        _said("genes have several tokens, by their versions", same if versions == "error" else []),
        _said("names are there in several cases", clashes),
    )
    return [s for s in found if s]


def kinds(tokens: Iterable[str]) -> dict[str, int]:
    """How many tokens there are, and of these how many special ones, junk and genes."""
    tokens = list(tokens)
    junk = sum(JUNK.fullmatch(t) is not None for t in tokens)
    special = sum(SPECIAL_TOKEN.fullmatch(t) is not None for t in tokens) - junk
    return {"tokens": len(tokens), "special": special, "genes": len(tokens) - special - junk, "junk": junk}


def _alike(tokens: list[str], key: Callable[[str], str]) -> list[str]:
    groups = defaultdict(list)
    for token in tokens:
        groups[key(token)].append(token)
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _said(what: str, found: list[str]) -> str:
    """``3 ids are missing (5, 6, …).``, or nothing."""
    shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
    return f"{len(found):,} {what} ({shown})." if found else ""
