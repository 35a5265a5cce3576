"""Models over tokens: their vectors depend on the cell alone, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from cellmill.contracts import embedding
from cellmill.embedders import Geneformer, OfTokens, Transformer
from cellmill.embedders import embed_tokens as step
from cellmill.embedders.batches import GRAIN, Batch, Plan, fill, halving
from cellmill.embedders.embed_tokens import embed_tokens
from cellmill.embedders.encoder import Encoder
from cellmill.errors import CellmillError
from cellmill.files import sha256_of

from .models import cells_of, geneformer_config, save_model, write_tokens

SIZE = 60
LENGTHS = [9, 128, 40, 64, 5, 64, 90, 9, 127, 9, 33]
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}
OTHERS: dict[str, Any] = {
    "electra": lambda: ElectraModel(ElectraConfig(vocab_size=SIZE, max_position_embeddings=128, **SMALL)),
    "roberta": lambda: RobertaModel(
        RobertaConfig(vocab_size=SIZE, max_position_embeddings=130, pad_token_id=1, bos_token_id=2, **SMALL)
    ),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(
            vocab_size=SIZE,
            max_position_embeddings=128,
            local_attention=16,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            **SMALL,
        )
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Geneformer in small."""
    return save_model(tmp_path_factory.mktemp("models") / "geneformer", geneformer_config(SIZE))


def geneformer(model: Path, **options: Any) -> Geneformer:
    return Geneformer(tokenizer="t", model=str(model), **options)


def run(folder: Path, files: dict[str, Path], spec: OfTokens, **options: Any) -> np.ndarray:
    embed_tokens(**files, spec=spec, out=folder / "x.npy", manifest=folder / "x.json", **options)
    return np.asarray(embedding.read(folder / "x.npy"))


def made(folder: Path, lengths: list[int] = LENGTHS, **options: Any) -> dict[str, Path]:
    cells = cells_of(lengths, SIZE, special=options.get("special", False))
    return write_tokens(folder, cells, SIZE, **options)


def test_a_vector_depends_on_nothing_but_its_cell(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes for any number of threads, batch size, part layout, order and window."""
    files, cells = made(tmp_path), cells_of(LENGTHS, SIZE)
    expected = run(tmp_path, files, geneformer(model))
    assert np.array_equal(run(tmp_path, files, geneformer(model), threads=3), expected)
    assert np.array_equal(run(tmp_path, files, geneformer(model, batch_tokens=7)), expected)
    monkeypatch.setattr(step, "WINDOW_CELLS", 4)
    assert np.array_equal(run(tmp_path, files, geneformer(model)), expected)
    for name, rows in {"a": [10, 3], "b": [4], "c": [0, 9, 8, 7, 6, 5, 2, 1]}.items():
        part = write_tokens(tmp_path, [cells[i] for i in rows], SIZE, name=name)
        assert np.array_equal(run(tmp_path, part, geneformer(model)), expected[rows])


def test_padded_batches_give_nearly_the_same(model: Path) -> None:
    """As on a GPU, whatever else is in the batch: within 1e-5 in float32, the longest cells among them."""
    cells = cells_of(LENGTHS, SIZE)
    values, offsets = np.concatenate(cells), np.cumsum([0, *map(len, cells)])
    encoder = Encoder(model, layers=[-1, 0])

    def vectors(tokens: int) -> np.ndarray:
        found = np.full((len(cells), encoder.dimensions), np.nan, np.float32)
        for batch in Plan(tokens, 128).batches(np.diff(offsets)):
            filled = fill(batch, values, offsets, pool="mean", around=(0, 0), pad=0)
            found[batch.cells] = encoder.pooled(*filled).numpy()[: len(batch.cells)]
        return found

    expected = vectors(0)
    for tokens in (1, 300, 100_000):
        assert np.abs(vectors(tokens) - expected).max() < 1e-5


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 4_000))
@settings(max_examples=60, deadline=None)
def test_every_cell_is_in_one_batch_of_a_shape_of_its_length(lengths: list[int], tokens: int) -> None:
    """Widths are no wider than need be, rows follow from the width, and one row is always spare."""
    batches = list(Plan(tokens, 500).batches(np.array(lengths, np.int64)))
    assert sorted(np.concatenate([b.cells for b in batches]).tolist() if batches else []) == list(range(len(lengths)))
    for batch in batches:
        most = max(lengths[c] for c in batch.cells)
        assert most <= batch.width < most + GRAIN and batch.width <= 500
        assert len(batch.cells) < batch.rows == max(2, tokens // batch.width)
    assert [b.width for b in batches] == sorted((b.width for b in batches), reverse=True)


def test_a_full_memory_halves_the_batch() -> None:
    """Every cell comes out once, in batches that fit; where one cell does not fit, the error comes out."""
    batch = Batch(np.arange(20), 10, 21)

    def encode(some: Batch, most: int) -> list[int]:
        if some.rows * some.width > most:
            raise torch.OutOfMemoryError
        return some.cells.tolist()

    done = list(halving(lambda b: encode(b, 60), batch, full=torch.OutOfMemoryError))
    assert sorted(c for _, cells in done for c in cells) == list(range(20))
    assert all(len(b.cells) < b.rows <= 6 for b, _ in done)
    with pytest.raises(torch.OutOfMemoryError):
        list(halving(lambda b: encode(b, 19), batch, full=torch.OutOfMemoryError))


def test_a_gpu_whose_memory_is_full_goes_on_with_halves(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole step, in batches as on a GPU, of a model whose memory ends at 300 tokens: told, and no cell is lost."""
    files, pooled = made(tmp_path), Encoder.pooled
    expected = run(tmp_path, files, geneformer(model))
    shapes = []

    def small(self: Encoder, ids: np.ndarray, *args: Any) -> torch.Tensor:
        if ids.size > 300:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        shapes.append(ids.shape)
        return pooled(self, ids, *args)

    monkeypatch.setattr(step, "Plan", lambda _, longest: Plan(700, longest))
    monkeypatch.setattr(Encoder, "pooled", small)
    assert np.abs(run(tmp_path, files, geneformer(model)) - expected).max() < 1e-5
    assert "memory was full at 10 rows of 64 tokens: went on with half or less" in caplog.text
    assert max(rows * width for rows, width in shapes) <= 300
    monkeypatch.setattr(step, "Plan", lambda _, longest: Plan(400, longest))
    monkeypatch.setattr(Encoder, "pooled", lambda *_: small(*_[:1], np.empty((400, 1))))
    (tmp_path / "x.npy").unlink()
    with pytest.raises(CellmillError, match=r"p\.parquet: the smallest batch does not fit into the GPU's memory"):
        run(tmp_path, files, geneformer(model))
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(
            "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    ],
    ids=["access", "cublas", "cudnn"],
)
def test_a_gpu_that_fails_ends_the_job_with_its_part(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """In one sentence, with nothing left behind; Snakemake then starts another process."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Encoder, "pooled", fail)
    with pytest.raises(CellmillError) as told:
        run(tmp_path, made(tmp_path), geneformer(model))
    assert f"p.parquet: the GPU failed ({str(error).splitlines()[0]})." in str(told.value)
    assert not [path for path in tmp_path.iterdir() if "x." in path.name]


def test_an_error_of_the_program_stays_what_it_is(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its traceback in the log."""

    def fail(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Encoder, "pooled", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(tmp_path, made(tmp_path), geneformer(model))


@pytest.mark.parametrize("kind", [Geneformer, Transformer])
@pytest.mark.parametrize("form", ["pieces", "torch", "torch pieces"])
def test_every_format_of_weights_gives_the_same(
    tmp_path: Path, model: Path, form: str, kind: type[Geneformer] | type[Transformer]
) -> None:
    """safetensors and PyTorch's own, in one or several files; each file's sha256 is in the manifest."""
    files = made(tmp_path)
    expected = run(tmp_path, files, kind(tokenizer="t", model=str(model)))
    other = save_model(tmp_path / "other", geneformer_config(SIZE), form=form)
    (other / "training_args.bin").write_bytes(b"not read")
    assert np.array_equal(run(tmp_path, files, kind(tokenizer="t", model=str(other))), expected)
    said = json.loads((tmp_path / "x.json").read_text())["model"]["files"]
    assert (len(said) > 3) == form.endswith("pieces") and "training_args.bin" not in said
    assert {n: f["sha256"] for n, f in said.items()} == {n: sha256_of(other / n) for n in said}


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_run",)


def test_nothing_in_a_pickle_is_run(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In weights of PyTorch's own format, as a zip file and as a plain pickle."""
    monkeypatch.chdir(tmp_path)
    folder = save_model(tmp_path / "m", geneformer_config(SIZE), form="torch")
    for write in (lambda p: torch.save({"x": _Evil()}, p), lambda p: p.write_bytes(pickle.dumps(_Evil()))):
        write(folder / "pytorch_model.bin")
        with pytest.raises(CellmillError, match="is no model that transformers can load"):
            Encoder(folder, layers=[0])
    assert not Path("was_run").exists()


def test_several_layers_stand_side_by_side(tmp_path: Path, model: Path) -> None:
    """In the order asked for; the manifest gives the columns of each."""
    files = made(tmp_path)
    layers = [0, -3, -1]
    apart = [run(tmp_path, files, geneformer(model, layers=[layer])) for layer in layers]
    assert np.array_equal(run(tmp_path, files, geneformer(model, layers=layers)), np.hstack(apart))
    said = json.loads((tmp_path / "x.json").read_text())
    assert said["vectors"][1] == {"layer": -3, "columns": [32, 64]} and said["dimensions"] == 96
    assert said["precision"] == "float32" and said["device"].startswith("cpu") and "torch" in said["written_by"]


@pytest.mark.parametrize("name", OTHERS)
def test_any_encoder_gives_its_hidden_states(tmp_path: Path, name: str) -> None:
    """Those of `output_hidden_states` of the whole model, pooled by every rule; <cls> and <eos> are not in the mean."""
    torch.manual_seed(0)
    OTHERS[name]().save_pretrained(tmp_path / "m")
    whole = AutoModel.from_pretrained(tmp_path / "m").eval()
    cells = cells_of(LENGTHS, SIZE, special=True)
    files = made(tmp_path, special=True)
    with torch.no_grad():
        states = [whole(input_ids=torch.tensor([c]), output_hidden_states=True).hidden_states for c in cells]
    by: dict[str, Any] = {"mean": lambda h: h[1:-1].mean(dim=0), "first": lambda h: h[0], "last": lambda h: h[-1]}
    for pooling, rule in by.items():
        spec = Transformer(tokenizer="t", model=str(tmp_path / "m"), pooling=pooling, layers=[0, -1])
        expected = torch.stack([torch.cat([rule(h[3][0]), rule(h[2][0])]) for h in states]).numpy()
        assert np.allclose(run(tmp_path, files, spec), expected, atol=2e-5), pooling


def test_vectors_can_be_float16(tmp_path: Path, model: Path) -> None:
    """Rounded, and said in the manifest."""
    files = made(tmp_path)
    half = run(tmp_path, files, geneformer(model, dtype="float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, run(tmp_path, files, geneformer(model)).astype(np.float16))


def test_a_part_without_cells_has_no_vectors(tmp_path: Path, model: Path) -> None:
    """And still as many dimensions."""
    assert run(tmp_path, write_tokens(tmp_path, [], SIZE), geneformer(model)).shape == (0, 32)


@pytest.mark.parametrize(
    ("lengths", "facts", "options", "said"),
    [
        ([9, 0, 5, 0], {}, {}, r"cell 'c1' has no gene of the vocabulary, and 2 of the 4 cells from row 0 on"),
        ([9, 2], {"special": True}, {}, "cell 'c1' has no gene"),
        ([9, 8, 7], {"left_out": [False, True, True]}, {}, "2 of 3 cells are left out by the tokenizer"),
        ([9, 129], {}, {}, r"has cells of 129 tokens and more, .* takes 128\. Set max_len_tokens of 't' to 128"),
        ([9, 300], {}, {}, "has cells of 288 tokens and more"),
        ([9], {}, {"pooling": "cls"}, "its cells do not begin with <cls>"),
        ([9], {}, {"layers": [-4]}, "has 3 layers; layer -4 was asked for"),
    ],
)
def test_what_has_no_vector_is_refused(
    tmp_path: Path, model: Path, lengths: list[int], facts: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    """Before a file is there."""
    files = made(tmp_path, lengths, **facts)
    with pytest.raises(CellmillError, match=said):
        run(tmp_path, files, geneformer(model, **options))
    assert not (tmp_path / "x.npy").exists() and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path, size: int) -> None:
    """Geneformer's must be the same; any other model's may be larger, as many are padded."""
    other = save_model(tmp_path / "m", geneformer_config(size))
    files = made(tmp_path)
    with pytest.raises(CellmillError, match=f"knows {size} tokens, the vocabulary of 't' has {SIZE}"):
        run(tmp_path, files, geneformer(other))
    loose = Transformer(tokenizer="t", model=str(other))
    if size > SIZE:
        assert run(tmp_path, files, loose).shape == (len(LENGTHS), 32)
    else:
        with pytest.raises(CellmillError, match="knows 59 tokens"):
            run(tmp_path, files, loose)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """transformers would draw them at random; a damaged or absent file is told, too."""
    folder = save_model(tmp_path / "m", geneformer_config(SIZE), form="torch")
    path = folder / "pytorch_model.bin"
    kept = {k: v for k, v in torch.load(path).items() if "layer.1.output.dense" not in k}
    torch.save(kept, path)
    with pytest.raises(CellmillError, match=r"2 weights are missing .* the first: encoder\.layer\.1\.output\.dense"):
        Encoder(folder, layers=[0])
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(CellmillError, match="is no model that transformers can load"):
        Encoder(folder, layers=[0])
    path.unlink()
    with pytest.raises(CellmillError, match=r"has no config\.json, or no weights"):
        Encoder(folder, layers=[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path, model: Path) -> None:
    """With the two ways out."""
    with pytest.raises(CellmillError, match=r"PyTorch finds no GPU here.*or with device: cpu"):
        run(tmp_path, made(tmp_path), geneformer(model, device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_nearly_the_same(tmp_path: Path, model: Path) -> None:
    """float32 within 1e-4; in another part layout the same bytes."""
    files, cells = made(tmp_path), cells_of(LENGTHS, SIZE)
    gpu = geneformer(model, device="cuda", precision="float32")
    found = run(tmp_path, files, gpu)
    assert np.abs(found - run(tmp_path, files, geneformer(model))).max() < 1e-4
    assert np.array_equal(run(tmp_path, write_tokens(tmp_path, cells[3:5], SIZE, name="b"), gpu), found[3:5])
