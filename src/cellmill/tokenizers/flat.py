"""Flat vocabularies, ``{token: id}`` in JSON, laid over the genes of a dataset."""

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
        CellmillError: ids that are no whole numbers from 0, or given twice; or no ``<cls>``, where one is asked for.
    """
    import numpy as np

    from cellmill.contracts.vocabulary import Vocabulary, read_tokens
    from cellmill.genes.identifiers import without_version

    tokens = read_tokens(path)
    if not isinstance(tokens, dict) or not tokens:
        raise CellmillError(path, "holds no map of token to id.", 'Expected JSON such as {"<pad>": 0, "<cls>": 1, …}.')
    for token, id_ in tokens.items():
        if not isinstance(id_, int) or isinstance(id_, bool) or id_ < 0:
            raise CellmillError(path, f"the id of '{token}' is {id_!r}.", "Ids are whole numbers from 0.")
    if len(set(tokens.values())) != len(tokens):
        by_id: dict[int, str] = {}
        token, other = next((t, by_id[i]) for t, i in tokens.items() if by_id.setdefault(i, t) != t)
        raise CellmillError(path, f"'{other}' and '{token}' have the id {tokens[token]}.", "Give each token its own.")
    if cls and "<cls>" not in tokens:
        raise CellmillError(path, "has no token '<cls>'.", "Add it, or set cls: false.")
    ids = [-1 if name is None else tokens.get(name, tokens.get(without_version(name), -1)) for name in names]
    special = (tokens["<cls>"],) if cls else ()
    return Vocabulary(tokens, np.array(ids, np.int32), np.full(len(ids), np.nan), prefix=special, suffix=())
