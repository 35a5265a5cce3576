"""What embedders of counts share: the type of their vectors, what they need beside the counts, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cellmill.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from cellmill.sources.ledger import Ledger

TARGET_SUM = 10_000.0
"""Counts per cell after normalisation, where nothing else is said."""
MIN_FOUND = 0.5
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Embedding:
    """How counts become vectors."""

    width: int
    """Dimensions."""
    of: Callable[[sp.csr_matrix], np.ndarray]
    """From CSR counts (n, genes), no row of them empty, to vectors float32 (n, width), each of its cell alone."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the manifest says of it besides the spec."""


class CountEmbedder(Spec):
    dtype: Literal["float32", "float16"] = "float32"
    """Of the vectors in the file. A value that float16 cannot hold is an error."""

    @property
    def learns(self) -> bool:
        """Whether a model is fitted before parts are embedded."""
        return False

    def files(self, ledger: Ledger, base: Path) -> list[str]:
        """Outside files that the vectors depend on; those of the ledger need not be there yet."""
        return []

    def embedding(self, genes: pd.DataFrame, files: Sequence[str]) -> Embedding:
        """How it is done in this gene space; ``files`` are the fitted model, or those of ``files()``."""
        raise NotImplementedError


class ValueEmbedder(CountEmbedder):
    """Of embedders whose dimensions are genes."""

    values: Literal["log1p", "normalized", "counts"] = "log1p"
    """`log1p` of the normalised counts; or these; or the raw counts."""
    target_sum: PositiveFloat = TARGET_SUM
    """Normalised counts of a cell add up to this over all genes of the dataset."""
