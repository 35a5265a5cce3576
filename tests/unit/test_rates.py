"""How fast a model ran: operations as PyTorch counts them, a peak that disturbs nobody, and where it is all written."""

from __future__ import annotations

import csv
import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cellmill.embedders import Geneformer, OfTokens, ScGpt
from cellmill.embedders.embed_tokens import embed_tokens
from cellmill.embedders.encoder import Encoder
from cellmill.embedders.rates import Rates, matrix_peak
from cellmill.embedders.scgpt_encoder import ScGptEncoder
from cellmill.operations.times import write_times

from . import scgpt_model
from .models import cells_of, geneformer_config, save_model, write_tokens

SIZE, LENGTHS = 60, [40, 7, 111]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "geneformer", geneformer_config(SIZE))


@pytest.mark.parametrize("layer", [0, -1])
def test_operations_are_those_that_pytorch_counts(model: Path, layer: int) -> None:
    """In the layers that are run, attention among them."""
    encoder = Encoder(model, layers=[layer])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for n in LENGTHS:
            encoder.pooled(np.full((1, n), 5), None, np.full((1, n), 1 / n, np.float32))
    assert sum(counter.get_flop_counts()["BertModel.encoder"].values()) == encoder.operations(np.array(LENGTHS))


def test_operations_of_scgpt_are_those_that_pytorch_counts(tmp_path: Path) -> None:
    """With the values' own layers, and one token in the last layer."""
    encoder = ScGptEncoder(scgpt_model.save(tmp_path / "m", scgpt_model.make_net()))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for n in LENGTHS:
            encoder.pooled(np.full((1, n), 5), None, np.ones((1, n), np.float32))
    assert counter.get_total_flops() == encoder.operations(np.array(LENGTHS))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_measured_in_a_moment_and_draws_no_number(precision: str) -> None:
    """Above 10 MFLOP/s on any machine; a training that is seeded goes on as if it had not been measured."""
    before, began = torch.get_rng_state(), time.process_time()
    assert matrix_peak("cpu", precision, threads=2) > 1e7
    assert time.process_time() - began < 5
    assert torch.equal(torch.get_rng_state(), before)


def test_rates_are_what_was_done_by_time() -> None:
    said = Rates(200, 30_000, 4e12, 8.0, "cpu (AVX2)", "float32", peak=2e12).said()
    assert (said["cells_per_s"], said["tokens_per_s"]) == (25, 3_750)
    assert (said["tflop_per_s"], said["peak_tflop_per_s"], said["peak_share"]) == (0.5, 2, 0.25)
    text = str(Rates(200, None, 4e12, 8.0, "cpu (AVX2)", "float32", peak=2e12))
    assert text == "25.0 cells/s, 0.5 TFLOP/s (25.0% of 2, the peak of float32 products)"
    assert Rates(0, 0, 0.0, 0.0, "cpu", "float32").said()["cells_per_s"] == 0


@pytest.mark.parametrize("kind", ["geneformer", "scgpt"])
def test_a_job_writes_its_rates_and_the_same_vectors(
    tmp_path: Path, model: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And its log ends with them."""
    spec: OfTokens = Geneformer(tokenizer="t", model=str(model))
    lengths = LENGTHS
    if kind == "scgpt":
        spec, lengths = ScGpt(tokenizer="t", model=str(tmp_path / "m")), [40, 7, 50]
        scgpt_model.save(tmp_path / "m", scgpt_model.make_net())
        files = scgpt_model.write_tokens(tmp_path, *scgpt_model.cells_of(lengths))
    else:
        files = write_tokens(tmp_path, cells_of(lengths, SIZE), SIZE)
    with caplog.at_level(logging.INFO, "cellmill"):
        embed_tokens(**files, spec=spec, out=tmp_path / "x.npy", manifest=tmp_path / "x.json", rates=tmp_path / "r")
    embed_tokens(**files, spec=spec, out=tmp_path / "y.npy", manifest=tmp_path / "y.json")
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()
    said = json.loads((tmp_path / "r").read_text())
    assert said["cells"] == 3 and said["tokens"] == sum(lengths) and said["precision"] == "float32"
    assert said["tokens_per_s"] * said["model_seconds"] == pytest.approx(sum(lengths), rel=1e-3)
    assert said["peak_share"] == pytest.approx(said["tflop_per_s"] / said["peak_tflop_per_s"], rel=2e-3)
    assert 0 < said["peak_share"] < 1
    last = [record.getMessage() for record in caplog.records][-1]
    assert "cells/s" in last and "tokens/s" in last and "the peak of float32 products" in last and "padding" in last


def test_rates_stand_in_the_table_and_picture_of_times(tmp_path: Path) -> None:
    """Of jobs that run a model; the picture has the middle part of each embedder."""
    folder = tmp_path / "benchmarks" / "embed_tokens"
    folder.mkdir(parents=True)
    for part, cells in enumerate((100, 300, 200)):
        (folder / f"cells.mine.{part}.jsonl").write_text(json.dumps({"s": 2.0}) + "\n")
        Rates(cells, 1_000 * cells, 1e9 * cells, 1.0, "cpu", "float32", peak=1e12).write(
            folder / f"cells.mine.{part}.rates.json"
        )
    other = tmp_path / "benchmarks" / "write_report"
    other.mkdir()
    (other / "cells.jsonl").write_text(json.dumps({"s": 1.0}) + "\n")
    table, figure = tmp_path / "times.tsv", tmp_path / "times.svg"
    assert write_times(tmp_path, "cells", table=table, figure=figure) == 4
    with table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = [[float(row[n]) for n in ("cells_per_s", "tokens_per_s", "tflop_per_s", "peak_share")] for row in rows[:3]]
    assert found == [[c, 1_000 * c, c / 1_000, c / 1_000] for c in (100, 300, 200)]
    assert rows[3]["rule"] == "write_report" and rows[3]["cells_per_s"] == rows[3]["peak_share"] == ""
    text = figure.read_text()
    assert "embed_tokens mine" in text and "0.2 TFLOP/s" in text and "of the device" in text
