"""The training of a model of scvi-tools by Lightning, epoch by epoch, so that it can be interrupted anywhere.

Before every epoch the random numbers are seeded by the seed and the number of the epoch, and after it everything is
kept in a checkpoint: what goes on from there is what would have followed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping

from cellmill.ahead import ahead
from cellmill.embedders.cell_vae import Training
from cellmill.embedders.scvi_model import tensors
from cellmill.torch import CellStream

log = logging.getLogger("cellmill")


class Batches:
    """Batches of a stream as scvi-tools reads them, the next one read meanwhile."""

    def __init__(self, stream: CellStream, *, batch: str | None, categorical: Sequence[str], continuous: Sequence[str]):
        self.stream, self._batch = stream, batch
        self._categorical, self._continuous = list(categorical), list(continuous)

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for found in ahead(iter(self.stream)):
            zeros = np.zeros(len(found["row"]), np.int64)
            yield tensors(
                found["counts"],
                batch=zeros if self._batch is None else found[self._batch].numpy(),
                categorical=[found[name].numpy() for name in self._categorical],
                continuous=[found[name].numpy() for name in self._continuous],
            )


class Cells(LightningDataModule):
    """The cells that a model is trained on, and those that it is judged by, if any."""

    def __init__(self, trained: Batches, held_out: Batches | None) -> None:
        super().__init__()
        self.trained, self.held_out = trained, held_out
        self.n_train = trained.stream.n_cells
        self.n_val = 0 if held_out is None else held_out.stream.n_cells

    def train_dataloader(self) -> Any:
        return self.trained

    def val_dataloader(self) -> Any:
        return [] if self.held_out is None else self.held_out


class Epochs(Callback):
    """Seeds every epoch, and keeps a checkpoint and the losses of each that ended."""

    def __init__(self, checkpoint: Path, *, seed: int, stopping: EarlyStopping | None) -> None:
        self._checkpoint, self._seed, self._stopping = checkpoint, seed, stopping
        self.losses: dict[str, list[float]] = {}
        """Of each epoch, by scvi-tools' name."""
        self.done, self.seconds, self._began = 0, 0.0, 0.0
        """Epochs of this process, and how long they took, with what is judged and kept after each."""

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = state_dict["losses"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._began = time.perf_counter()
        if self._stopping is not None and self._stopping.stopped_epoch:
            trainer.should_stop = True  # it had stopped before it was interrupted

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        import torch

        epoch = trainer.current_epoch
        trainer.datamodule.trained.stream.set_epoch(epoch)
        torch.manual_seed(int(np.random.SeedSequence([self._seed, 1 + epoch]).generate_state(1, np.uint64)[0] >> 1))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        found: Mapping[str, Any] = trainer.callback_metrics
        for name in sorted(n for n in found if n.startswith(("elbo", "reconstruction_loss", "kl_local"))):
            self.losses.setdefault(name, []).append(float(found[name]))
        said = ", ".join(f"{n} {v[-1]:.2f}" for n, v in self.losses.items() if n.startswith("elbo"))
        log.info("epoch %d of at most %d: %s", trainer.current_epoch + 1, trainer.max_epochs, said)
        aside = self._checkpoint.with_suffix(".partial")
        trainer.save_checkpoint(aside)
        os.replace(aside, self._checkpoint)
        self.done, self.seconds = self.done + 1, time.perf_counter() - self._began


def train(model: Any, cells: Cells, spec: Training, *, device: str, max_epochs: int, checkpoint: Path) -> Epochs:
    """Train ``model`` in place by its own ``train``; goes on from ``checkpoint`` where that is there.

    A model is trained in one thread on the CPU: a product in several may add up in another order.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    stopping = None
    if spec.early_stopping:
        # Lightning asks it last of all callbacks at the end of an epoch, and after validation before that: the
        # checkpoint must hold what it decided.
        stopping = EarlyStopping("elbo_validation", patience=spec.patience, check_on_train_epoch_end=False)
    epochs = Epochs(checkpoint, seed=spec.seed, stopping=stopping)
    plan = {
        "lr": spec.learning_rate,
        "weight_decay": spec.weight_decay,
        "n_epochs_kl_warmup": spec.n_epochs_kl_warmup,
    }
    model.train(
        max_epochs=max_epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        datamodule=cells,
        plan_kwargs=plan,
        callbacks=[*([] if stopping is None else [stopping]), epochs],
        check_val_every_n_epoch=1,
        ckpt_path=str(checkpoint) if checkpoint.exists() else None,
        default_root_dir=str(checkpoint.parent),
        benchmark=False,  # it would choose kernels by their time
        enable_progress_bar=False,
        log_every_n_steps=1,
        plugins=[LightningEnvironment()],  # a job of SLURM is one process here
    )
    return epochs
