"""``pca``: exact principal components over the variable genes of the training cells."""

from __future__ import annotations

from typing import Literal

from cellmill.spec import PositiveInt, Spec


class Pca(Spec):
    """Exact principal components of log1p of counts per 10,000, fitted on the training cells."""

    kind: Literal["pca"] = "pca"
    n_genes: PositiveInt = 2000
    """How many of the variable genes, by rank."""
    n_components: PositiveInt = 50
    """Dimensions; fewer where the data have fewer."""
