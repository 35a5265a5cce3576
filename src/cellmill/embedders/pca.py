"""``pca``: exact principal components over the variable genes of the training cells.

The covariance is streamed: one pass per part, one sum, one eigendecomposition.
Values are rounded to a grid of 2^-22 (finer than float32 where they matter),
so that every sum is a sum of whole numbers:
the same components, to the last bit, for any parts, blocks, order and cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellmill.spec import PositiveInt, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

GRID_BITS = 22
"""Of the grid that values are rounded to."""


class Pca(Spec):
    """Exact principal components of log1p of counts per 10,000, fitted on the training cells."""

    kind: Literal["pca"] = "pca"
    n_genes: PositiveInt = 2000
    """How many of the variable genes, by rank."""
    n_components: PositiveInt = 50
    """Dimensions; fewer where the data have fewer."""

    @property
    def learns(self) -> bool:
        """Whether a model is fitted before parts are embedded."""
        return True

    def embed(self, genes: pd.DataFrame, model: str | None) -> tuple[int, Callable[[sp.csr_matrix], np.ndarray]]:
        """The dimensions, and the function from CSR counts (n, genes) to vectors (n, dimensions) float32."""
        import numpy as np

        from cellmill.contracts.genes import read_arrays
        from cellmill.contracts.versions import PCA
        from cellmill.embedders.normalize import slots_of
        from cellmill.embedders.project import project

        if model is None:
            raise ValueError("pca needs its model")
        fitted = read_arrays(model, PCA)
        components = np.ascontiguousarray(fitted["components"].T)
        slots = slots_of(fitted["columns"], len(genes))
        offset = fitted["offset"]
        return len(offset), lambda counts: project(counts, slots, components, offset)


def fit_pca(parts: Sequence[str | PathLike[str]], *, spec: Pca, out: str | PathLike[str]) -> None:
    """Principal components of the training cells of all parts; the largest loading of each is positive.

    Raises:
        CellmillError: fewer than two training cells, or no variable gene.
    """
    import numpy as np
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    from cellmill.contracts.genes import read_arrays, write_arrays
    from cellmill.contracts.versions import COVARIANCE, PCA
    from cellmill.errors import CellmillError

    total: dict[str, np.ndarray] = {}
    columns = np.zeros(0, np.int64)
    for path in parts:
        arrays = read_arrays(path, COVARIANCE)
        columns = arrays.pop("columns")
        total = {k: total[k] + a if k in total else a for k, a in arrays.items()}
    n, p = int(total["n"][0]), len(columns)
    if n < 2 or p == 0:
        raise CellmillError(
            out,
            f"{n} training cells and {p} variable genes; PCA needs at least two cells and one gene.",
            "Leave 'pca' out of this dataset's embedders, or keep more cells.",
        )
    upper = (total["high"].astype(np.float64) * 2.0**32 + total["low"].astype(np.float64)) * 2.0 ** (-2 * GRID_BITS)
    second = np.zeros((p, p))
    second[np.triu_indices(p)] = upper
    second += np.triu(second, 1).T
    mean = total["sums"].astype(np.float64) * 2.0**-GRID_BITS / n
    covariance = (second - n * np.outer(mean, mean)) / (n - 1)
    k = min(spec.n_components, p, n - 1)
    with threadpool_limits(1):
        variances, vectors = eigh(covariance, subset_by_index=(p - k, p - 1))
    components = vectors[:, ::-1].T
    signs = np.sign(components[np.arange(k), np.abs(components).argmax(axis=1)])
    components = components * signs[:, None]
    offset = np.array([np.add.reduce(row * mean) for row in components])
    write_arrays(
        out,
        {
            "columns": columns,
            "components": components,
            "mean": mean,
            "offset": offset,
            "explained_variance": np.maximum(variances[::-1], 0.0),
            "total_variance": np.array([np.trace(covariance)]),
        },
        str(PCA),
    )
