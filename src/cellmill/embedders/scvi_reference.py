"""``scvi_reference``: cells mapped onto a published or earlier model of scvi-tools, as its `load_query_data` does.

Source: Lotfollahi et al., Nature Biotechnology 2021 (https://doi.org/10.1038/s41587-021-01001-7).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellmill.embedders.cell_vae import CellVae, Training
from cellmill.spec import Fraction


class ScviReference(CellVae):
    """Latent means of an `SCVI` model that is there already, such as those of the CELLxGENE Census; needs scvi-tools.

    Genes that the dataset lacks are zero, and counted. Covariates other than the batch are obs columns of the names
    that the model was set up with; where its encoder is not told any (the default of scvi-tools), none is read.
    """

    kind: Literal["scvi_reference"] = "scvi_reference"
    model: str = Field(min_length=1)
    """Folder with the `model.pt` that `SCVI.save` wrote; what the ledger has below `resources/` is fetched."""
    gene_names: Literal["gene_id", "gene_symbol"] = "gene_id"
    """By which of the two the model names its genes; versions of Ensembl ids are not compared."""
    min_genes_found: Fraction = 0.8
    """Least share of the model's genes that the dataset must have; scvi-tools warns below 0.8."""
    train: Training | None = None
    """Trains the weights of new batches on the training cells, all others frozen; `null`: the model as it is."""
