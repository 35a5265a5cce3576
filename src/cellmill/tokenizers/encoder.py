"""What every tokenizer is made of: a spec that lays a vocabulary over genes, and an encoder of blocks of counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cellmill.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

    from cellmill.contracts.vocabulary import Vocabulary


@dataclass(frozen=True)
class Rows:
    """What stands beside the counts of a block, cell by cell."""

    totals: np.ndarray
    """Library sizes, float64 (n,); 1 where the tokenizer does not ask for them."""
    keys: np.ndarray
    """uint64 (n,): a hash of the seed and the cell's id, from which everything random of the cell is drawn."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of a block, and what they say about the vocabulary."""

    columns: list[pa.Array]
    """One per column of the tokenizer, a row per cell."""
    expressed: np.ndarray
    """int64 (n,): genes of the cell that have a token and a count."""
    written: np.ndarray
    """int64 (n,): tokens of the cell, special ones included; of sentences the genes of the longest."""
    cut: np.ndarray
    """bool (n,): the cell has more genes than there is room for."""
    values_with_token: int
    """Stored values whose gene has a token."""
    counts_with_token: int
    """Their sum."""


class Encoder(Protocol):
    """Counts to tokens, block by block; holds no state, so that threads may share it."""

    @property
    def fields(self) -> list[pa.Field]:
        """Columns of the token file, in the smallest type that holds every value of the vocabulary."""
        ...

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        """Tokens of each row of CSR counts (n, genes) of any numeric type; sorted indices, whole numbers."""
        ...


class TokenizerSpec(Spec):
    """What all tokenizers share."""

    empty: Literal["keep", "drop", "refuse"] = "keep"
    """A cell without a gene of the vocabulary: `keep` it, `drop` it from every export of these tokens, or `refuse`."""

    @property
    def columns(self) -> dict[str, str]:
        """Columns of tokens by name, with the type that exports give them: that of the published format."""
        return {"input_ids": "list<int32>"}

    @property
    def shortest(self) -> int:
        """Cells with fewer tokens are as good as empty; 0: only those without a gene are."""
        return 0

    def needs(self) -> dict[str, str]:
        """Outside files by role: `resources/<name of the ledger>`, or what the user calls a vocabulary by."""
        return {}

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """Lay the vocabulary over the dataset's gene table (``genes/genes.parquet``)."""
        raise NotImplementedError

    def encoder(self, vocabulary: Vocabulary) -> Encoder:
        """The encoder of this spec."""
        raise NotImplementedError


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned type that holds ``largest``."""
    import numpy as np

    return np.min_scalar_type(largest)


def id_type(vocabulary: Vocabulary) -> np.dtype:
    """The smallest unsigned type that holds every id of the vocabulary."""
    return smallest_unsigned(max(vocabulary.tokens.values(), default=0))


def token_codes(token_ids: np.ndarray) -> np.ndarray:
    """int32 (genes,): the token of a column; -1 for none; -2 - token where several columns share it."""
    import numpy as np

    ids, inverse, number = np.unique(token_ids, return_inverse=True, return_counts=True)
    shared = (number[inverse] > 1) & (token_ids >= 0)
    codes: np.ndarray = np.where(shared, -2 - ids[inverse], token_ids).astype(np.int32)
    return codes
