"""Gene names become tokens by rules: versions, case and duplicates are errors or counted, never surprises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cellmill.errors import CellmillError
from cellmill.genes.identifiers import without_version
from cellmill.vocabularies.spec import NameRules

_CLASHES = {
    "versions": ("have a version, or another than a name that is there", "Set versions to strip or keep."),
    "case": ("are there in another case", "Set case to first (one token) or keep (a token each)."),
    "duplicates": ("stand there twice", "Set duplicates to first, or give each gene one name."),
}


class Names:
    """Names gathered source by source, each once, in the order found.

    Args:
        rules: what becomes of versions, cases and duplicates.
        known: tokens that are there already and stay as they are.

    ``new``: tokens that were not known, with the number of cells over all sources, where sources know it.
    ``clashes``: to how many names each rule was applied.
    """

    def __init__(self, rules: NameRules, known: Iterable[str] = ()) -> None:
        self.rules = rules
        self.new: dict[str, int] = {}
        self.clashes: Counter[str] = Counter()
        self._known: set[str] = set()
        self._unversioned: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        for token in known:
            self._remember(token)

    def add(self, names: Iterable[str], *, cells: Iterable[int] | None = None, where: object) -> int:
        """Add the names of one source, and give how many of them are new.

        Raises:
            CellmillError: names that a rule calls an error; says how many, and the first.
        """
        before, found = len(self.new), dict[str, list[str]]((rule, []) for rule in _CLASHES)
        here: set[str] = set()
        names = list(names)
        for name, n in zip(names, [0] * len(names) if cells is None else cells, strict=True):
            token = self._token(name, found)
            if token in here:
                found["duplicates"].append(name)
                continue
            here.add(token)
            if token not in self._known:
                self._remember(token)
                self.new[token] = 0
            if token in self.new:
                self.new[token] += int(n)
        for rule, clashes in found.items():
            if clashes and getattr(self.rules, rule) == "error":
                what, fix = _CLASHES[rule]
                shown = ", ".join(clashes[:3]) + (", …" if len(clashes) > 3 else "")
                raise CellmillError(where, f"{len(clashes):,} of {len(names):,} names {what}: {shown}.", fix)
        self.clashes.update({rule: len(clashes) for rule, clashes in found.items()})
        return len(self.new) - before

    def _token(self, name: str, found: dict[str, list[str]]) -> str:
        """The token of a name: itself, or the one that the rules say it is."""
        if name in self._known:
            return name
        bare = without_version(name)
        other = self._unversioned.get(bare)
        if bare != name or other is not None:
            found["versions"].append(name if other is None else f"{name} ({other})")
            if self.rules.versions == "strip":
                name = other or bare
        other = self._folded.get(name.casefold(), name)
        if other != name and name not in self._known:
            found["case"].append(f"{name} ({other})")
            return other if self.rules.case == "first" else name
        return name

    def _remember(self, token: str) -> None:
        self._known.add(token)
        self._unversioned.setdefault(without_version(token), token)
        self._folded.setdefault(token.casefold(), token)
