"""``hvg``: log-normalised values of the dataset's most variable genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellmill.spec import PositiveInt, Spec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    import scipy.sparse as sp


class Hvg(Spec):
    """log1p of counts per 10,000 over the most variable genes: the same genes, in the same order, for every cell."""

    kind: Literal["hvg"] = "hvg"
    n_genes: PositiveInt = 512
    """How many of the variable genes, by rank."""

    @property
    def learns(self) -> bool:
        """Whether a model is fitted before parts are embedded."""
        return False

    def embed(self, genes: pd.DataFrame, model: str | None) -> tuple[int, Callable[[sp.csr_matrix], np.ndarray]]:
        """The dimensions, and the function from CSR counts (n, genes) to vectors (n, dimensions) float32."""
        import numpy as np

        from cellmill.contracts.genes import variable_columns
        from cellmill.embedders.normalize import log_normalized, slots_of

        columns = variable_columns(genes, self.n_genes)
        slots = slots_of(columns, len(genes))
        return len(columns), lambda counts: log_normalized(counts, slots, len(columns)).astype(np.float32)
