"""Models of scvi-tools, by the workflow."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellmill.contracts import embedding
from cellmill.embedders import Scvi
from cellmill.embedders.fit_scvi import fit_scvi

from .project import Project

TARGETS = ["--", "results/pbmc68k/embedded/vae/0.npy", "results/pbmc68k/embedded/old/0.npy"]
VAE = {"kind": "scvi", "n_genes": 200, "n_latent": 4, "n_hidden": 16, "train": {"max_epochs": 150, "seed": 5}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning and scvi-tools
def test_a_killed_training_goes_on_and_a_reference_gives_its_vectors(rerunnable: Project, tmp_path: Path) -> None:
    """kill -9 in mid-training, and again: the bytes of a training that nobody killed; scvi-tools' vectors."""
    import scvi

    base = rerunnable.results("pbmc68k")
    cells = anndata.read_h5ad(base / "processed" / "0.h5ad")
    cells.X = sp.csr_matrix(cells.X, dtype=np.float32)
    scvi.model.SCVI.setup_anndata(cells)
    reference = scvi.model.SCVI(cells, n_hidden=16, n_latent=3)
    reference.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    reference.save(str(rerunnable.root / "models" / "old"), overwrite=True)
    old = {"kind": "scvi_reference", "model": "models/old"}
    rerunnable.edit_config({"embedders": {"vae": VAE, "old": old}})
    assert rerunnable.planned(*TARGETS) == {"gather_training": 1, "fit_scvi": 1, "embed_scvi": 2}
    first = _killed_in_training(rerunnable)
    rerunnable.run("--notemp", *TARGETS)
    log = (rerunnable.root / "logs" / "fit_scvi" / "pbmc68k.vae.log").read_text()
    assert "going on from the checkpoint" in log and f"epoch {first} of" not in log and "epoch 150 of" in log
    folder = base / "embedded" / "vae"
    again = {"out": tmp_path / "again" / "model.pt", "manifest": tmp_path / "again" / "manifest.json"}
    fit_scvi(folder / "training", model=None, spec=Scvi(**VAE), work=tmp_path / "work", **again)
    assert again["out"].read_bytes() == (folder / "model" / "model.pt").read_bytes()
    assert not (folder / ".training").exists()
    found = embedding.read(base / "embedded" / "old" / "0.npy")
    assert np.allclose(found, reference.get_latent_representation(), rtol=1e-5, atol=1e-5)
    genes = json.loads((folder / "0.json").read_text())["model"]
    assert genes["genes"] == genes["genes_found"] == 200
    assert rerunnable.planned("--notemp", *TARGETS) == {}


def _killed_in_training(project: Project) -> int:
    """Kill a run when it has trained some epochs; the first of them, which need not be trained again."""
    log = project.root / "logs" / "fit_scvi" / "pbmc68k.vae.log"
    process = project.start(*TARGETS)
    try:
        until = time.monotonic() + 400
        while not log.exists() or "epoch 3 of" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list((project.results("pbmc68k") / "embedded" / "vae" / ".training").glob("*.ckpt"))
    return 1
