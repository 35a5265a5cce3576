"""Flat vocabularies, ``{token: id}``, laid over the genes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    from cellmill.contracts.vocabulary import Vocabulary


def lay_over(path: str, names: Sequence[str | None], *, cls: bool) -> Vocabulary:
    """The vocabulary of a file; ``names`` are what it may call each column of the counts, None for no name.

    Ensembl ids are also looked up without their version.

    Raises:
        CellmillError: no vocabulary (``cellmill.vocabularies.load_tokens``); or no ``<cls>``, where one is asked for.
    """
    import numpy as np

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.genes.identifiers import without_version
    from cellmill.vocabularies import load_tokens

    tokens = load_tokens(path)
    if cls and "<cls>" not in tokens:
        raise CellmillError(path, "has no token '<cls>'.", "Add it, or set cls: false.")
    ids = [-1 if name is None else tokens.get(name, tokens.get(without_version(name), -1)) for name in names]
    special = (tokens["<cls>"],) if cls else ()
    return Vocabulary(tokens, np.array(ids, np.int32), np.full(len(ids), np.nan), prefix=special, suffix=())
