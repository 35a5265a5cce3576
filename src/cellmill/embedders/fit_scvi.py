"""Train a model of scvi-tools on the gathered training cells, and write it as scvi-tools does."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.contracts import scvi as contract
from cellmill.contracts.versions import SCVI, TRAINING
from cellmill.embedders import OfCells
from cellmill.embedders.device import described, faults_told, find_device
from cellmill.embedders.gather_training import HELD_OUT, TRAINED, files_of
from cellmill.embedders.rates import Rates, matrix_peak, matrix_weights
from cellmill.embedders.scvi_files import MODEL, read_model
from cellmill.embedders.scvi_model import categories_of, example, extended, quiet, text_of
from cellmill.errors import CellmillError
from cellmill.files import replacing, sha256_of

log = logging.getLogger("cellmill")


def fit_scvi(
    training: str | PathLike[str],
    *,
    model: str | None,
    spec: OfCells,
    work: str | PathLike[str],
    out: str | PathLike[str],
    manifest: str | PathLike[str],
    rates: str | PathLike[str] | None = None,
) -> None:
    """Train the model of ``spec``, and write ``model.pt``, which ``SCVI.load`` reads.

    Args:
        training: what ``gather_training`` wrote.
        model: the ``model.pt`` of a reference, which is then trained as ``load_query_data`` prepares it.
        work: a folder for the checkpoint of the last epoch, from which an interrupted training goes on;
            gone afterwards.
        rates: where it is written how fast the epochs of this process were, with the peak of the device.

    On a CPU the bytes depend on the cells, the spec and the machine alone, also after an interruption.
    Memory: a few batches, the codes of the batch and covariates of all cells, and the model.

    Raises:
        CellmillError: the loss is not finite, a GPU fails, or there is none where one is asked for.
    """
    import torch

    settings = spec.train
    if settings is None:
        raise ValueError("nothing is trained")
    device = find_device(spec.device, out)
    facts = contract.read_manifest(training, TRAINING)
    checkpoint = _checkpoint(Path(work), Path(training), spec, model)
    n_cells, batch_size = facts["cells"][TRAINED], settings.batch_size
    max_epochs = settings.epochs(n_cells)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    fitted = _new(spec, Path(training), facts) if model is None else extended(read_model(model), _renamed(model, facts))
    cells = _cells(Path(training), facts, fitted, batch_size=batch_size, seed=settings.seed)
    if checkpoint.exists():
        log.info("going on from the checkpoint of an interrupted training")
    peak = None if rates is None else matrix_peak(spec.device, "float32")
    with quiet(), faults_told(out):
        from cellmill.embedders.scvi_training import train

        epochs = train(fitted, cells, settings, device=spec.device, max_epochs=max_epochs, checkpoint=checkpoint)
    _check_losses(epochs.losses, out)
    weights = matrix_weights(fitted.module.z_encoder, fitted.module.decoder)
    speed = Rates(
        cells=epochs.done * cells.n_train,
        tokens=None,
        operations=epochs.done * (3 * cells.n_train + cells.n_val) * 2.0 * weights,  # there, and twice as much back
        seconds=epochs.seconds,
        device=described(device),
        precision="float32",
        peak=peak,
    )
    log.info("%d epochs: %s", epochs.done, speed)
    _save(fitted, epochs.losses, n_cells=n_cells, out=Path(out))
    said = {
        "embedder": spec.model_dump(mode="json"),
        "training": {k: v for k, v in facts.items() if k not in ("contract", "categories")},
        "epochs": len(epochs.losses["elbo_train"]),
        "max_epochs": max_epochs,
        "losses": epochs.losses,
        "files": {MODEL: {"bytes": Path(out).stat().st_size, "sha256": sha256_of(out)}},
        "written_by": {p: version(p) for p in ("lightning", "numpy", "scvi-tools", "torch")},
    }
    contract.write_manifest(manifest, SCVI, said)
    if rates is not None:
        speed.write(rates)
    shutil.rmtree(work, ignore_errors=True)


def _checkpoint(work: Path, training: Path, spec: OfCells, model: str | None) -> Path:
    """Where the checkpoint of exactly this training is kept; those of others are removed."""
    files = {p.relative_to(training).as_posix(): sha256_of(p) for p in files_of(training)}
    versions = {p: version(p) for p in ("lightning", "scvi-tools", "torch")}
    said = [str(SCVI), spec.model_dump(mode="json"), files, versions, None if model is None else sha256_of(model)]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{digest[:32]}.ckpt"
    for other in work.iterdir():
        if other != path:
            other.unlink()
    return path


def _new(spec: OfCells, training: Path, facts: dict[str, Any]) -> Any:
    """A model that is not trained yet."""
    import pyarrow.parquet as pq

    if spec.kind != "scvi":
        raise ValueError("a reference needs its model")
    genes = pq.read_table(training / TRAINED / "genes.parquet", columns=["gene_id"])["gene_id"].to_pylist()
    rows = example(genes, categories=facts["categories"], numbers=facts["continuous"])
    with quiet() as scvi:
        scvi.model.SCVI.setup_anndata(
            rows,
            batch_key=facts["batch"],
            categorical_covariate_keys=facts["categorical"] or None,
            continuous_covariate_keys=facts["continuous"] or None,
        )
        return scvi.model.SCVI(
            rows,
            n_hidden=spec.n_hidden,
            n_latent=spec.n_latent,
            n_layers=spec.n_layers,
            dropout_rate=spec.dropout_rate,
            gene_likelihood=spec.gene_likelihood,
            encode_covariates=spec.encode_covariates,
        )


def _renamed(model: str, facts: dict[str, Any]) -> dict[str, list[Any]]:
    """The categories of the training cells by the model's own name of the column."""
    key = read_model(model).setup.get("batch_key")
    return {str(key) if n == facts["batch"] and key else n: v for n, v in facts["categories"].items()}


def _cells(training: Path, facts: dict[str, Any], model: Any, *, batch_size: int, seed: int) -> Any:
    """The streams of the cells, their categories coded as the model codes them."""
    from cellmill.embedders.scvi_training import Batches, Cells
    from cellmill.torch import CellStream, Counts, Sequential, Shuffled

    discrete = [*([] if facts["batch"] is None else [facts["batch"]]), *facts["categorical"]]
    known = categories_of(model)[0 if facts["batch"] is not None else 1 :]
    obs: dict[str, list[str] | None] = {n: [text_of(v) for v in c] for n, c in zip(discrete, known, strict=True)}
    obs |= dict.fromkeys(facts["continuous"])

    def batches(name: str) -> Batches:
        # A batch of one or two cells has no variance that could be learned from: other cells are left out every epoch.
        small = 0 < facts["cells"][name] % batch_size < 3 and facts["cells"][name] > batch_size
        stream = CellStream(
            training / name,
            batch_size=batch_size,
            sampler=Shuffled(seed) if name == TRAINED else Sequential(),
            contents=Counts("dense"),
            obs=obs,
            drop_last=small and name == TRAINED,
            ranks=(0, 1),
        )
        return Batches(stream, batch=facts["batch"], categorical=facts["categorical"], continuous=facts["continuous"])

    return Cells(batches(TRAINED), batches(HELD_OUT) if facts["cells"][HELD_OUT] else None)


def _check_losses(losses: dict[str, list[float]], out: object) -> None:
    import math

    bad = [i for i, values in enumerate(zip(*losses.values(), strict=True)) if not all(map(math.isfinite, values))]
    if bad:
        raise CellmillError(
            out, f"the loss is not finite from epoch {bad[0] + 1} on.", "Lower train.learning_rate, or filter cells."
        )


def _save(model: Any, losses: dict[str, list[float]], *, n_cells: int, out: Path) -> None:
    """What ``SCVI.save`` writes, of a model that says nothing of the run and the made-up rows."""
    import pandas as pd

    model.to_device("cpu")
    x = model.registry_["field_registries"]["X"]
    x["state_registry"]["n_obs"] = x["summary_stats"]["n_cells"] = n_cells
    model.registry_["_scvi_uuid"] = model.run_name_ = "cellmill"
    index = pd.RangeIndex(len(losses["elbo_train"]), name="epoch")
    model.history_ = {name: pd.DataFrame({name: values}, index=index) for name, values in losses.items()}
    with replacing(out) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = aside.with_suffix(".folder")
        try:
            model.save(str(folder), overwrite=True)
            os.replace(folder / MODEL, aside)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
