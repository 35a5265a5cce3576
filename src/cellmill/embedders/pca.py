"""``pca``: exact principal components over the variable genes of the training cells.

The covariance is streamed: one pass per part, one sum, one eigendecomposition.
Values are rounded to a grid of 2^-22 (finer than float32 where they matter),
so that every sum is a sum of whole numbers:
the same components, to the last bit, for any parts, blocks, order and cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cellmill.embedders.count_spec import MIN_FOUND, CountEmbedder, Embedding
from cellmill.spec import Fraction, PositiveInt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from cellmill.sources.ledger import Ledger

GRID_BITS = 22
"""Of the grid that values are rounded to."""


class Pca(CountEmbedder):
    """Exact principal components of log1p of counts per 10,000, of the training cells or of a reference."""

    kind: Literal["pca"] = "pca"
    n_genes: PositiveInt = 2000
    """How many of the variable genes, by rank, are fitted; a reference has its own."""
    n_components: PositiveInt = 50
    """Dimensions; fewer where the data or the reference have fewer."""
    reference: str | None = Field(default=None, min_length=1)
    """Components that are applied in place of fitting: the `pca.npz` of another dataset, an `.npz` or a folder of your
    own, or a name of `resources/ledger.tsv`; docs/formats.md says what they hold. `null`: fit."""
    absent: Literal["mean", "zero"] = "mean"
    """A gene of the reference that the dataset does not have: as the reference's `mean`, so that it adds nothing;
    or as `zero` counts."""
    min_found: Fraction = MIN_FOUND
    """Share of the reference's genes that the dataset must have."""

    @property
    def learns(self) -> bool:
        return self.reference is None

    def files(self, ledger: Ledger, base: Path) -> list[str]:
        from cellmill.embedders.reference_files import reference_files

        return [] if self.reference is None else reference_files(self.reference, ledger, base)

    def embedding(self, genes: pd.DataFrame, files: Sequence[str]) -> Embedding:
        import numpy as np

        from cellmill.embedders.components import read_components
        from cellmill.embedders.find_genes import find_genes
        from cellmill.embedders.normalize import slots_of
        from cellmill.embedders.project import project

        model = read_components(files)
        found = find_genes(model.genes, genes, min_found=self.min_found, where=files[0])
        there = found.columns >= 0
        counted = there if self.absent == "mean" else np.ones_like(there)
        kept = model.components[: self.n_components]
        offset = np.array([np.add.reduce(row[counted] * model.mean[counted]) for row in kept])
        slots, components = slots_of(found.columns, len(genes)), np.ascontiguousarray(kept.T)
        facts: dict[str, Any] = {}
        if self.reference is not None:
            facts = {"genes": found.facts, "reference": _about(files, len(model.components))}
        return Embedding(
            len(offset), lambda counts: project(counts, slots, components, offset, model.target_sum), facts
        )


def _about(files: Sequence[str], components: int) -> dict[str, Any]:
    from pathlib import Path

    from cellmill.files import sha256_of

    paths = [Path(file) for file in files]
    said = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in paths}
    return {"components": components, "files": said}


def fit_pca(
    parts: Sequence[str | PathLike[str]], *, genes: str | PathLike[str], spec: Pca, out: str | PathLike[str]
) -> None:
    """Principal components of the training cells of all parts; the largest loading of each is positive.

    Raises:
        CellmillError: fewer than two training cells, or no variable gene.
    """
    import numpy as np
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    from cellmill.contracts.genes import read_arrays, read_genes, write_arrays
    from cellmill.contracts.versions import COVARIANCE, PCA
    from cellmill.embedders.count_spec import TARGET_SUM
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
    write_arrays(
        out,
        {
            "genes": read_genes(genes)[0]["gene_id"].to_numpy(str)[columns],
            "components": components,
            "mean": mean,
            "target_sum": np.array([TARGET_SUM]),
            "explained_variance": np.maximum(variances[::-1], 0.0),
            "total_variance": np.array([np.trace(covariance)]),
        },
        str(PCA),
    )
