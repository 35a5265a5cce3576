"""``scvi``: latent means of a variational autoencoder, trained on the training cells by scvi-tools.

Source: Lopez et al., Nature Methods 2018 (https://doi.org/10.1038/s41592-018-0229-2); the model is scvi-tools' `SCVI`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cellmill.embedders.cell_vae import CellVae, Training
from cellmill.spec import Column, PositiveInt


class Scvi(CellVae):
    """Latent means of scvi-tools' `SCVI`, trained on the counts of the training cells; needs scvi-tools."""

    kind: Literal["scvi"] = "scvi"
    genes: Literal["variable", "all"] = "variable"
    """The genes that it sees."""
    n_genes: PositiveInt = 2000
    """How many of the variable genes, by rank."""
    categorical_covariates: list[Column] = []
    """More obs columns of text or whole numbers to correct for."""
    continuous_covariates: list[Column] = []
    """Obs columns of numbers to correct for."""
    encode_covariates: bool = False
    """Whether the encoder is told batch and covariates, too; then cells of a batch that is not in training are refused.
    Without, latent means depend on the counts alone."""
    n_latent: PositiveInt = 10
    """Dimensions."""
    n_layers: PositiveInt = 1
    """Hidden layers of the encoder and of the decoder."""
    n_hidden: PositiveInt = 128
    """Nodes of a hidden layer."""
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the encoder, in training."""
    gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb"
    """The distribution of the counts."""
    train: Training = Training()
    """How it is trained."""
