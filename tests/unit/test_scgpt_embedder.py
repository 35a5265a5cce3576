"""scGPT's checkpoints: PyTorch's own layers and a slow restatement give the same vectors; what does not fit is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellmill.contracts import embedding
from cellmill.embedders import ScGpt
from cellmill.embedders.batches import Plan, fill, fill_values
from cellmill.embedders.embed_tokens import embed_tokens
from cellmill.embedders.scgpt_encoder import ScGptEncoder
from cellmill.errors import CellmillError
from cellmill.files import sha256_of

from ..reference.slow_scgpt import slow_scgpt
from .scgpt_model import ARGS, VOCABULARY, cells_of, make_net, save, write_tokens

LENGTHS = [9, 55, 40, 2, 5, 40, 33, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "scgpt", make_net())


def run(folder: Path, model: Path, files: dict[str, Path], **options: Any) -> np.ndarray:
    spec = ScGpt(tokenizer="t", model=str(model))
    embed_tokens(**files, spec=spec, out=folder / "x.npy", manifest=folder / "x.json", **options)
    return np.asarray(embedding.read(folder / "x.npy"))


@pytest.mark.parametrize("flash", [True, False], ids=["Wqkv", "in_proj"])
def test_vectors_are_those_of_the_published_rule(tmp_path: Path, flash: bool) -> None:
    """Of either naming, against NumPy in double precision, and against PyTorch's encoder layers on padded cells."""
    net = make_net(seed=3)
    folder = save(tmp_path / "m", net, flash=flash)
    genes, values = cells_of(LENGTHS)
    found = run(tmp_path, folder, write_tokens(tmp_path, genes, values))
    np.testing.assert_allclose(found, slow_scgpt(folder, genes, values), atol=2e-6)
    longest = max(LENGTHS)
    ids = torch.tensor([g + [VOCABULARY["<pad>"]] * (longest - len(g)) for g in genes])
    levels = torch.tensor([v + [-2.0] * (longest - len(v)) for v in values])
    with torch.no_grad():
        expected = net.cells(ids, levels, ids == VOCABULARY["<pad>"]).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found[1:] @ found[0]).max() < 0.9999  # cells differ


def test_a_vector_depends_on_nothing_but_its_cell(tmp_path: Path, model: Path) -> None:
    """The same bytes for any number of threads, part layout and order; of length 1."""
    genes, values = cells_of(LENGTHS)
    expected = run(tmp_path, model, write_tokens(tmp_path, genes, values))
    assert np.array_equal(run(tmp_path, model, write_tokens(tmp_path, genes, values), threads=3), expected)
    rows = [6, 0, 3]
    part = write_tokens(tmp_path, [genes[i] for i in rows], [values[i] for i in rows], name="q")
    assert np.array_equal(run(tmp_path, model, part), expected[rows])
    assert np.linalg.norm(expected, axis=1) == pytest.approx(np.ones(len(LENGTHS)), abs=1e-6)


def test_padded_batches_give_nearly_the_same(model: Path) -> None:
    """As on a GPU, within 1e-5."""
    genes, values = cells_of(LENGTHS)
    ids, levels, offsets = np.concatenate(genes), np.concatenate(values), np.cumsum([0, *LENGTHS])
    encoder = ScGptEncoder(model)

    def vectors(tokens: int) -> np.ndarray:
        found = np.full((len(genes), encoder.dimensions), np.nan, np.float32)
        for batch in Plan(tokens, 64).batches(np.diff(offsets)):
            laid, mask, _ = fill(batch, ids, offsets, pool="first", around=(1, 0), pad=VOCABULARY["<pad>"])
            done = encoder.pooled(laid, mask, fill_values(batch, levels, offsets))
            found[batch.cells] = done.numpy()[: len(batch.cells)]
        return found

    assert np.abs(vectors(300) - vectors(0)).max() < 1e-5


def test_the_manifest_says_which_model(tmp_path: Path, model: Path) -> None:
    """All three files with their sha256."""
    run(tmp_path, model, write_tokens(tmp_path, *cells_of(LENGTHS)))
    said = json.loads((tmp_path / "x.json").read_text())
    assert said["dimensions"] == 32 and said["vectors"] == [{"layer": 0, "columns": [0, 32]}]
    assert {n: f["sha256"] for n, f in said["model"]["files"].items()} == {
        n: sha256_of(model / n) for n in ("args.json", "vocab.json", "best_model.pt")
    }


def test_a_vocabulary_without_special_tokens_gets_them_at_its_end(tmp_path: Path) -> None:
    """In scGPT's order, as the rows of its embedding are."""
    genes_alone = {name: i for name, i in VOCABULARY.items() if not name.startswith("<")}
    folder = save(tmp_path / "m", make_net(), names=genes_alone)
    assert ScGptEncoder(folder).tokens == VOCABULARY


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("value_encoder.norm.bias"), r"1 missing: value_encoder\.norm\.bias\)"),
        (lambda w: w.update({"dsbn.bns.0.weight": torch.ones(1)}), r"1 not known: dsbn\.bns\.0\.weight\)"),
        (
            lambda w: w.update({"encoder.enc_norm.weight": torch.ones(31)}),
            r"1 of another shape: encoder\.enc_norm\.weight \(31,\) for \(32,\)",
        ),
        (lambda w: w.update({"decoder.fc.weight": _Evil()}), "is no file of weights"),
        (lambda w: w.update({"decoder.fc.weight": "text"}), "holds more than tensors by name"),
    ],
    ids=["missing", "unknown", "shape", "pickle", "text"],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    """All of them are listed; nothing in a pickle is run."""
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "m", make_net(), change=change)
    with pytest.raises(CellmillError, match=said):
        ScGptEncoder(folder)
    assert not Path("was_run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({k: v for k, v in ARGS.items() if k != "nheads"}, "has no whole number for nheads"),
        (ARGS | {"input_emb_style": "category"}, "input_emb_style is 'category', expected 'continuous'"),
        (ARGS | {"nlayers": 4}, r"12 missing: transformer_encoder\.layers\.3\.linear1\.bias"),
    ],
)
def test_a_model_of_another_make_is_refused(tmp_path: Path, args: dict[str, Any], said: str) -> None:
    """By what args.json says."""
    with pytest.raises(CellmillError, match=said):
        ScGptEncoder(save(tmp_path / "m", make_net(), args=args))


def test_tokens_that_do_not_fit_are_refused(tmp_path: Path, model: Path) -> None:
    """Of another vocabulary, without <cls>, with another value of it, and cells without a gene."""
    genes, values = cells_of(LENGTHS)
    swapped = VOCABULARY | {"G0": 1, "G1": 0}
    with pytest.raises(CellmillError, match=r"vocab\.json has the id 0 for 'G0', 't' has 1; 2 tokens differ"):
        run(tmp_path, model, write_tokens(tmp_path, genes, values, names=swapped))
    with pytest.raises(CellmillError, match=r"do not begin with <cls>\. Set cls: true of 't'"):
        run(tmp_path, model, write_tokens(tmp_path, genes, values, cls=False))
    with pytest.raises(CellmillError, match=r"<cls> has the value 0, the model's is -2\. Set cls_value: -2 of 't'"):
        run(tmp_path, model, write_tokens(tmp_path, genes, [[0.0, *v[1:]] for v in values]))
    with pytest.raises(CellmillError, match="cell 'c1' has no gene of the vocabulary"):
        run(tmp_path, model, write_tokens(tmp_path, [genes[0], genes[1][:1]], [values[0], values[1][:1]]))
    assert not (tmp_path / "x.npy").exists()
