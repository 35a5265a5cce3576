"""Which files a model is made of."""

from __future__ import annotations

from pathlib import Path

from cellmill.embedders.model_files import SCGPT, model_files, model_problem, revision_of, weights_of
from cellmill.sources.ledger import COLUMNS, Ledger

ROW = "geneformer/6L/{file}\tabc123\thttps://example.org/{file}\t-\t-\tApache-2.0\t-"


def ledger(folder: Path) -> Ledger:
    """Of two files of one model, and one of another folder below it."""
    rows = [ROW.format(file=f) for f in ("config.json", "model.safetensors", "old/config.json")]
    (folder / "ledger.tsv").write_text("\n".join(["\t".join(COLUMNS), *rows]) + "\n")
    return Ledger(folder / "ledger.tsv")


def test_a_model_of_the_ledger_need_not_be_there(tmp_path: Path) -> None:
    """Its files are fetched, and its revision is the version of the ledger."""
    known, model = ledger(tmp_path), "resources/geneformer/6L"
    expected = [f"{model}/config.json", f"{model}/model.safetensors"]
    for name in (model, model + "/"):
        assert model_files(name, known, tmp_path, kind="geneformer") == expected
    assert model_problem(model, known, tmp_path, kind="geneformer") is None and revision_of(model, known) == "abc123"


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    """In pieces with their index; other pickles in the folder are not weights."""
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).touch()
    assert [p.name for p in weights_of(folder)] == ["pytorch_model.bin"]
    pieces = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    for name in pieces:
        (folder / name).touch()
    files = model_files("m", ledger(tmp_path), tmp_path, kind="transformer")
    assert files == ["m/config.json", *(f"m/{name}" for name in pieces)]
    assert revision_of("m", ledger(tmp_path)) is None


def test_scgpt_has_three_files(tmp_path: Path) -> None:
    """By fixed names; those that are not there are named before the first job."""
    folder = tmp_path / "m"
    folder.mkdir()
    assert model_files("m", ledger(tmp_path), tmp_path, kind="scgpt") == [f"m/{name}" for name in SCGPT]
    (folder / "args.json").touch()
    said = model_problem("m", ledger(tmp_path), tmp_path, kind="scgpt")
    assert said == "no vocab.json, best_model.pt in 'm'. Name a folder with an scGPT model."
