"""What embedders by models of scvi-tools share: how they are trained, and on what they run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cellmill.spec import Column, PositiveInt, Spec

CELLS_OF_400_EPOCHS = 20_000
"""scvi-tools' rule: up to so many cells 400 epochs, then as many fewer as there are more cells."""


class Training(Spec):
    """How a model of scvi-tools is trained on the training cells; names and defaults are those of scvi-tools."""

    max_epochs: PositiveInt | None = None
    """Passes over the training cells; `null`: 400 up to 20,000 cells, and as many fewer as there are more cells."""
    early_stopping: bool = False
    """Stop when the ELBO of the held-out cells did not fall for `patience` epochs."""
    patience: PositiveInt = 45
    """Epochs that early stopping waits."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training cells that the model is not trained on, but judged by; no other split is looked at."""
    batch_size: PositiveInt = 128
    """Cells of a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """Of Adam; 0 is advised where a reference is trained further."""
    n_epochs_kl_warmup: PositiveInt | None = 400
    """Epochs over which the weight of the KL divergence rises to 1; `null`: it is 1 from the start."""
    seed: int = 0
    """Of the weights, the held-out cells, the order of the cells and what is sampled."""

    def epochs(self, cells: int) -> int:
        """Passes over so many cells, at most."""
        return self.max_epochs or max(1, min(400, round(CELLS_OF_400_EPOCHS / max(cells, 1) * 400)))


class CellVae(Spec):
    train: Training | None = None
    """How it is trained; `null`: not at all."""
    batch: Column | None = None
    """Obs column of the batch; `null`: the dataset's `columns.batch`, and one batch where there is none."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the vectors in the file."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model is trained and runs; `cuda` asks the cluster for one GPU per job."""

    @property
    def learns(self) -> bool:
        """Whether a model is fitted before parts are embedded."""
        return self.train is not None

    @property
    def gpus(self) -> int:
        """GPUs that a job needs."""
        return int(self.device == "cuda")
