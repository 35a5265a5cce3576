"""How a vocabulary grows: at its end, or over its junk; no other id ever moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cellmill.vocabularies.check import JUNK


def grown(
    tokens: Mapping[str, int], new: Iterable[str], *, pad_to_multiple_of: int = 1, reuse_junk: bool = False
) -> dict[str, int]:
    """``tokens`` (ids 0 to n - 1) and the ``new`` ones that it does not have (none is junk), in their order, then junk.

    Every token of ``tokens`` keeps its id; with ``reuse_junk``, junk tokens give theirs to new ones, the lowest first.
    Growing again by the same names changes nothing.
    """
    made = dict(tokens)
    added = [token for token in dict.fromkeys(new) if token not in made]
    junk = sorted((t for t in made if JUNK.fullmatch(t)), key=made.__getitem__) if reuse_junk else []
    free = [made.pop(token) for token in junk[: len(added)]]
    made |= zip(added, [*free, *range(len(tokens), len(tokens) + len(added) - len(free))], strict=True)
    number = 1 + max((int(found[1]) for token in tokens if (found := JUNK.fullmatch(token))), default=-1)
    fill = -len(made) % pad_to_multiple_of
    made |= {f"<junk{number + i}>": len(made) + i for i in range(fill)}
    return dict(sorted(made.items(), key=lambda item: item[1]))
