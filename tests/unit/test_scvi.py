"""Models of scvi-tools: trained on streamed cells, resumed, mapped onto; the vectors are those of scvi-tools."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellmill.config import Config, Dataset
from cellmill.contracts import embedding
from cellmill.embedders import OfCells, Scvi, ScviReference
from cellmill.embedders.cell_vae import Training
from cellmill.embedders.embed_scvi import embed_scvi
from cellmill.embedders.fit_scvi import fit_scvi
from cellmill.embedders.gather_training import gather_training
from cellmill.embedders.problems import column_problems, embedder_problems
from cellmill.embedders.scvi_files import read_model
from cellmill.errors import CellmillError
from cellmill.files import read_json

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and scvi-tools, which warn of many things
CELLS, GENES = 400, 40
SHORT = Training(max_epochs=3, batch_size=64, seed=3)
KEPT = {"columns": {"batch": "donor", "keep": ["lane", "age"]}, "split": {"fractions": {"train": 0.8, "test": 0.2}}}
COVARIATES = {"categorical_covariates": ["lane"], "continuous_covariates": ["age"], "encode_covariates": True}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The same cells in one part and in three."""
    folder = tmp_path_factory.mktemp("scvi")
    rng = np.random.default_rng(1)
    obs = {
        "donor": pd.Categorical(rng.choice(["d1", "d2", "d3"], CELLS)),
        "lane": rng.choice([1, 2, 10], CELLS),
        "age": rng.normal(50, 9, CELLS),
    }
    raw = write_raw(folder / "raw" / "all.h5ad", random_counts(CELLS, GENES), obs=obs)
    pieces = split_raw(raw, folder / "pieces", three_parts(CELLS))
    made = {}
    for name, raws in (("one", {"all": raw}), ("three", pieces)):
        (folder / name).mkdir()
        made[name] = make(folder / name, raws, **KEPT)
    return made


@dataclass(frozen=True)
class Run:
    """What a run of the three steps left behind."""

    folder: Path
    model: Path
    said: dict[str, Any]
    vectors: pd.DataFrame
    """float32, by cell id."""


def run(made: Made, folder: Path, spec: OfCells, *, batch: str | None = "donor", threads: int = 1) -> Run:
    folder.mkdir(exist_ok=True)
    model = folder / "model.pt"
    reference = f"{spec.model}/model.pt" if spec.kind == "scvi_reference" else None
    if spec.learns:
        gather(made, folder, spec, batch=batch)
        fit(folder, spec)
    vectors = []
    for part in made.parts:
        out, manifest = folder / f"{part}.npy", folder / f"{part}.json"
        given = str(model) if spec.learns else str(reference)
        files = {"genes": made.genes, "model": given, "out": out, "manifest": manifest}
        files["rates"] = folder / f"{part}.rates"
        embed_scvi(made.file(part, "h5ad"), **files, spec=spec, batch=batch, threads=threads)
        ids = anndata.read_h5ad(made.file(part, "h5ad"), backed="r").obs_names
        vectors.append(pd.DataFrame(np.asarray(embedding.read(out)), index=ids))
    said = read_json(folder / "manifest.json") if spec.learns else read_json(folder / f"{made.parts[0]}.json")
    return Run(folder, model, said, pd.concat(vectors).sort_index())


def gather(made: Made, folder: Path, spec: OfCells, *, batch: str | None = "donor") -> None:
    reference = f"{spec.model}/model.pt" if spec.kind == "scvi_reference" else None
    files = {"genes": made.genes, "model": reference, "out": folder / "training"}
    gather_training(made.files("h5ad"), **files, spec=spec, batch=batch)


def fit(folder: Path, spec: OfCells, *, out: Path | None = None) -> None:
    reference = f"{spec.model}/model.pt" if spec.kind == "scvi_reference" else None
    files = {"out": out or folder / "model.pt", "manifest": folder / "manifest.json", "work": folder / "work"}
    files["rates"] = folder / "fit.rates"
    fit_scvi(folder / "training", model=reference, spec=spec, **files)


def whole(made: Made, genes: list[str] | None = None) -> anndata.AnnData:
    """All processed cells in one AnnData, in the order of their ids."""
    found = anndata.concat([anndata.read_h5ad(p) for p in made.files("h5ad")])
    found = found[found.obs_names.argsort()] if genes is None else found[found.obs_names.argsort(), genes]
    found = found.copy()
    found.X = found.X.astype(np.float32)
    return found


@pytest.fixture(scope="module")
def trained(datasets: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model whose encoder is told batch and covariates."""
    spec = Scvi(genes="all", n_latent=4, n_hidden=16, n_layers=2, train=SHORT, **COVARIATES)
    return run(datasets["one"], tmp_path_factory.mktemp("trained"), spec)


def test_scvi_tools_reads_the_model_and_gives_the_same_vectors(datasets: dict[str, Made], trained: Run) -> None:
    """`SCVI.load` over one AnnData of all cells, with batch, a covariate of whole numbers and one of fractions."""
    import scvi

    cells = whole(datasets["one"])
    model = scvi.model.SCVI.load(str(trained.folder), cells, accelerator="cpu")
    expected = model.get_latent_representation(cells)
    assert expected.std() > 0.01
    assert np.allclose(trained.vectors.to_numpy(), expected, rtol=1e-5, atol=1e-5)
    assert list(model.history["elbo_train"]["elbo_train"]) == trained.said["losses"]["elbo_train"]


def test_parts_and_threads_change_no_byte(datasets: dict[str, Made], trained: Run, tmp_path: Path) -> None:
    """The same cells in three parts in another order: the same model file, the same vectors."""
    spec = Scvi.model_validate(trained.said["embedder"])
    again = run(datasets["three"], tmp_path / "again", spec, threads=2)
    assert again.model.read_bytes() == trained.model.read_bytes() and again.said == trained.said
    assert again.vectors.equals(trained.vectors)


class Stop(logging.Handler):
    """Ends a training where it says that an epoch is over, before that is in the checkpoint."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.text = f"epoch {epoch} of"

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.text):
            raise InterruptedError(self.text)


def interrupted(folder: Path, spec: OfCells, *, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, logger = Stop(epoch), logging.getLogger("cellmill")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(handler)
    try:
        with pytest.raises(InterruptedError):
            fit(folder, spec)
    finally:
        logger.removeHandler(handler)


def epochs_of(folder: Path, spec: OfCells, caplog: Any) -> list[int]:
    """The epochs that a training goes through."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "cellmill"):
        fit(folder, spec)
    said = [r.getMessage() for r in caplog.records if r.name == "cellmill"]
    return [int(text.split()[1]) for text in said if text.startswith("epoch ")]


def test_an_interrupted_training_goes_on_to_the_same_bytes(
    datasets: dict[str, Made], trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """From the last whole epoch; the checkpoint of another spec is not taken."""
    spec = Scvi.model_validate(trained.said["embedder"])
    gather(datasets["one"], tmp_path, spec)
    interrupted(tmp_path, spec, epoch=3, monkeypatch=monkeypatch)
    assert len(list((tmp_path / "work").glob("*.ckpt"))) == 1 and not (tmp_path / "model.pt").exists()
    assert epochs_of(tmp_path, spec, caplog) == [3]
    assert (tmp_path / "model.pt").read_bytes() == trained.model.read_bytes()
    assert read_json(tmp_path / "manifest.json") == trained.said and not (tmp_path / "work").exists()
    whole_run, rest = read_json(trained.folder / "fit.rates"), read_json(tmp_path / "fit.rates")
    assert whole_run["cells"] == 3 * rest["cells"] > 0, "an epoch of three was left"
    assert 0 < rest["peak_share"] < 1 and 0 < whole_run["tflop_per_s"] < whole_run["peak_tflop_per_s"]
    interrupted(tmp_path, spec, epoch=2, monkeypatch=monkeypatch)
    assert epochs_of(tmp_path, spec.model_copy(update={"n_hidden": 8}), caplog) == [1, 2, 3]


def test_early_stopping_is_kept_by_the_checkpoint(
    datasets: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A run that was interrupted stops at the epoch at which the other one stops."""
    settings = Training(max_epochs=40, batch_size=64, early_stopping=True, patience=1, learning_rate=0.3)
    spec = Scvi(n_hidden=8, n_latent=2, train=settings)
    gather(datasets["one"], tmp_path, spec)
    fit(tmp_path, spec)
    whole_run, model = read_json(tmp_path / "manifest.json"), (tmp_path / "model.pt").read_bytes()
    assert 2 <= whole_run["epochs"] < 40
    interrupted(tmp_path, spec, epoch=whole_run["epochs"], monkeypatch=monkeypatch)
    fit(tmp_path, spec)
    assert read_json(tmp_path / "manifest.json") == whole_run and (tmp_path / "model.pt").read_bytes() == model
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # all epochs are over, and the model cannot be written
        fit(tmp_path, spec, out=tmp_path / "file" / "model.pt")
    assert epochs_of(tmp_path, spec, caplog) == [] and (tmp_path / "model.pt").read_bytes() == model


def test_the_training_is_as_good_as_that_of_scvi_tools(datasets: dict[str, Made], tmp_path: Path) -> None:
    """The ELBO after as many epochs over the same cells in one AnnData; no test cell is among them."""
    import scvi

    settings = Training(max_epochs=15, batch_size=64, held_out=0, n_epochs_kl_warmup=None, learning_rate=1e-2)
    spec = Scvi(genes="all", n_hidden=32, n_latent=4, gene_likelihood="nb", train=settings)
    gather(datasets["one"], tmp_path, spec)
    fit(tmp_path, spec)
    losses = read_json(tmp_path / "manifest.json")["losses"]["elbo_train"]
    cells = whole(datasets["one"])
    cells = cells[cells.obs["split"] == "train"].copy()
    assert read_json(tmp_path / "training" / "manifest.json")["cells"] == {"trained": len(cells), "held_out": 0}
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(cells, batch_key="donor")
    model = scvi.model.SCVI(cells, n_hidden=32, n_latent=4, gene_likelihood="nb")
    model.train(
        max_epochs=15,
        accelerator="cpu",
        train_size=1.0,
        batch_size=64,
        plan_kwargs={"lr": 1e-2, "n_epochs_kl_warmup": None},
        enable_progress_bar=False,
    )
    expected = model.history["elbo_train"]["elbo_train"].to_numpy(float)
    assert losses[-1] < 0.97 * losses[0] and expected[-1] < 0.97 * expected[0]
    assert losses[-1] == pytest.approx(expected[-1], rel=0.01)


# --- references


@dataclass(frozen=True)
class Reference:
    folder: Path
    genes: list[str]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "encode_covariates"])
def reference(request: Any, datasets: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A model of scvi-tools' own making, on other donors, in another gene order, with genes that the dataset lacks."""
    import scvi

    cells = whole(datasets["one"])
    names = [*cells.var_names[::-1][: GENES - 3], "ENSG90000000001.3", "ENSG90000000002"]
    made = anndata.AnnData(
        random_counts(200, len(names), seed=7),
        obs=pd.DataFrame({"sample": np.repeat(["s1", "s2"], 100)}, index=[f"r{i}" for i in range(200)]),
        var=pd.DataFrame(index=names),
    )
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(made, batch_key="sample")
    model = scvi.model.SCVI(made, n_hidden=16, n_latent=3, n_layers=2, encode_covariates=request.param)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("reference")
    model.save(str(folder), overwrite=True)
    return Reference(folder, names)


def mapped(cells: anndata.AnnData, reference: Reference, **query: Any) -> Any:
    """Query mapping as scvi-tools documents it."""
    import scvi

    scvi.model.SCVI.prepare_query_anndata(cells, str(reference.folder))
    return scvi.model.SCVI.load_query_data(cells, str(reference.folder), accelerator="cpu", **query)


def test_a_reference_gives_the_vectors_of_scvi_tools(
    datasets: dict[str, Made], reference: Reference, tmp_path: Path
) -> None:
    """Absent genes are zero and counted; a batch that is new to the encoder is refused by name."""
    spec = ScviReference(model=str(reference.folder))
    if read_model(reference.folder / "model.pt").init["encode_covariates"]:
        with pytest.raises(CellmillError, match=r"a 'donor' that the model was not trained on: 'd1', 'd2', 'd3'"):
            run(datasets["three"], tmp_path / "refused", spec)
        return
    found = run(datasets["three"], tmp_path / "found", spec)
    cells = whole(datasets["one"])
    cells.obs["sample"] = cells.obs["donor"].astype(str)
    query = mapped(cells, reference)
    query.is_trained_ = True
    expected = query.get_latent_representation()
    assert np.allclose(found.vectors.to_numpy(), expected, rtol=1e-5, atol=1e-5)
    assert found.said["model"]["genes"] == GENES - 1 and found.said["model"]["genes_found"] == GENES - 3
    with pytest.raises(CellmillError, match=rf"37 of its {GENES - 1} genes are in the dataset \(95%\)"):
        run(datasets["one"], tmp_path / "few", spec.model_copy(update={"min_genes_found": 0.96}))
    without = run(datasets["one"], tmp_path / "without", spec, batch=None)
    assert without.vectors.equals(found.vectors)


def test_a_reference_is_trained_on_new_batches_alone(
    datasets: dict[str, Made], reference: Reference, tmp_path: Path
) -> None:
    """As `load_query_data` prepares it: the weights of old genes and batches stay, and scvi-tools reads the result."""
    import scvi

    spec = ScviReference(model=str(reference.folder), train=SHORT.model_copy(update={"weight_decay": 0.0}))
    found = run(datasets["three"], tmp_path / "found", spec)
    old, new = read_model(reference.folder / "model.pt"), read_model(found.model)
    assert list(new.field("batch")["categorical_mapping"]) == ["s1", "s2", "d1", "d2", "d3"]
    name = "decoder.px_decoder.fc_layers.Layer 0.0.weight"
    before, after = old.state[name], new.state[name]
    assert after.shape[1] == before.shape[1] + 3 and torch.equal(after[:, : before.shape[1]], before)
    cells = whole(datasets["one"])
    cells.obs["sample"] = cells.obs["donor"].astype(str)
    query = mapped(cells, reference)
    frozen = {k for k, p in query.module.named_parameters() if not p.requires_grad}
    assert frozen and all(torch.equal(new.state[k], old.state[k]) for k in frozen)
    loaded = scvi.model.SCVI.load(str(found.folder), cells, accelerator="cpu")
    assert np.allclose(found.vectors.to_numpy(), loaded.get_latent_representation(), rtol=1e-5, atol=1e-5)
    assert read_json(found.folder / "training" / "manifest.json")["genes_found"] == GENES - 3


# --- refusals


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_a_model_file_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call in the pickle is refused by name, and so is what is no archive of torch."""
    monkeypatch.chdir(tmp_path)
    torch.save({"attr_dict": Evil()}, tmp_path / "model.pt")
    with pytest.raises(CellmillError, match=r"it asks for (posix|nt)\.mkdir"):
        read_model(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CellmillError, match="no file of PyTorch"):
        read_model(tmp_path / "model.pt")
    torch.save({"attr_dict": {"registry_": {"model_name": "TOTALVI"}, "init_params_": {}}}, tmp_path / "model.pt")
    with pytest.raises(CellmillError, match="TOTALVI"):
        read_model(tmp_path / "model.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categorical_covariates": ["age"]}, "'age' holds numbers with fractions"),
        ({"batch": "lane", "continuous_covariates": ["donor"]}, "'donor' is string, expected numbers"),
        ({"categorical_covariates": ["donor"]}, "'donor' is named twice"),
        ({"batch": "doner"}, "Did you mean 'donor'"),
        ({"train": Training(early_stopping=True, held_out=0)}, "no cell is held out"),
    ],
    ids=["fractions", "text", "twice", "misspelt", "nothing held out"],
)
def test_what_cannot_be_trained_on_is_refused(
    datasets: dict[str, Made], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Before anything is written."""
    with pytest.raises(CellmillError, match=message):
        gather(datasets["one"], tmp_path, Scvi(**options))
    assert not list(tmp_path.iterdir())


def test_the_configuration_is_checked_before_the_first_job(tmp_path: Path) -> None:
    """Columns that do not stay, a folder without a model, early stopping that has nothing to look at."""
    vae = {"kind": "scvi", "categorical_covariates": ["lane"], "train": {"early_stopping": True, "held_out": 0}}
    old = {"kind": "scvi_reference", "model": "models/old"}
    config = Config.model_validate({"datasets": ["d"], "embedders": {"vae": vae, "old": old}})
    source = {"kind": "files", "files": {"p": "p.h5ad"}}
    dataset = Dataset.model_validate({"title": "t", "source": source, "exports": [], "embedders": ["vae", "old"]})
    assert column_problems(config, dataset) == ["columns.keep: embedder 'vae' reads 'lane', which is not kept."]
    found = embedder_problems(config, {"tokenizers": set()}, {"vae", "old"}, tmp_path)
    assert [text.split(": ")[0] for text in found] == ["embedders.vae.train.held_out", "embedders.old.model"]
    assert embedder_problems(config, {"tokenizers": set()}, set(), tmp_path) == []
