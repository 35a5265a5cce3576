"""Models over tokens, by the workflow."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from cellmill.contracts import embedding, vocabulary
from cellmill.files import sha256_of

from ..reference.slow_embeddings import slow_geneformer
from ..reference.slow_scgpt import slow_scgpt
from ..unit import scgpt_model
from ..unit.models import geneformer_config, save_model
from .project import Project


def test_a_model_of_the_configuration_embeds_every_cell(rerunnable: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors in the order of the cells, in an export, too; other weights make them anew, and nothing else does.

    Weights are safetensors (geneformer), PyTorch's own file (transformer) and scGPT's; jobs get a GPU each, and their
    rates stand beside their times.
    """
    base = rerunnable.results("pbmc68k")
    tokens = base / "tokenized" / "rank"
    laid = vocabulary.read(tokens / "vocabulary.json", tokens / "gene_tokens.parquet")
    config = geneformer_config(max(laid.tokens.values()) + 1, max_position_embeddings=2048)
    save_model(rerunnable.root / "models" / "mine", config)
    save_model(rerunnable.root / "models" / "same", config, form="torch")
    said = {"tokenizer": "rank", "model": "models/mine", "layers": [-1, 0]}
    var = anndata.read_h5ad(base / "processed" / "0.h5ad", backed="r").var
    genes = {symbol or gene for gene, symbol in var["gene_symbol"].items()}
    names = {name: i for i, name in enumerate(["<pad>", "<cls>", "<eoc>", *sorted(genes)])}
    scgpt_model.save(rerunnable.root / "models" / "scgpt", scgpt_model.make_net(size=len(names)), names=names)
    vocabulary_of_model = {"kind": "scgpt", "vocabulary": "models/scgpt/vocab.json"}
    rerunnable.edit_config(
        {
            "tokenizers": {"small": vocabulary_of_model},
            "embedders": {
                "scgpt": {"kind": "scgpt", "tokenizer": "small", "model": "models/scgpt"},
                "mine": {"kind": "geneformer", **said},
                "half": {"kind": "transformer", **said, "model": "models/same", "dtype": "float16"},
            },
            "exports": {
                "hf": {"vectors": {"kind": "tokens", "tokenizer": "rank", "embeddings": ["mine", "half", "scgpt"]}}
            },
        }
    )
    path = rerunnable.root / "config" / "datasets" / "pbmc68k.yaml"
    path.write_text(path.read_text().replace("exports: [", "exports: [hf/vectors, "))
    targets = ["--", "results/pbmc68k/hf/vectors/manifest.json"]
    made = {"build_vocabulary": 1, "tokenize_part": 1, "embed_tokens": 3, "export_hf": 1}
    assert rerunnable.planned(*targets) == made
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    two_gpus = ["--set-resources", "embed_tokens:gpu=1", "--set-threads", "embed_tokens=1", "--resources", "gpu=2"]
    rerunnable.run(*two_gpus, *targets)
    _rates_are_told(rerunnable, {"mine", "half", "scgpt"}, cells=len(anndata.read_h5ad(base / "processed" / "0.h5ad")))
    processed = anndata.read_h5ad(base / "processed" / "0.h5ad", backed="r").obs_names
    rows = pq.read_table(tokens / "0.parquet")
    assert list(processed) == rows["cell_id"].to_pylist()
    found = embedding.read(base / "embedded" / "mine" / "0.npy")
    some = list(range(0, len(rows), 50))
    cells = [rows["input_ids"][i].as_py() for i in some]
    model, special = rerunnable.root / "models" / "mine", bool(laid.prefix)
    expected = [slow_geneformer(model, cells, mode="cell", emb_layer=e, special=special) for e in said["layers"]]
    assert np.allclose(found[some], np.hstack(expected), rtol=1e-4, atol=1e-5)
    manifest = json.loads((base / "embedded" / "mine" / "0.json").read_text())
    weights = "model.safetensors"
    assert manifest["model"]["files"][weights]["sha256"] == sha256_of(model / weights)
    assert _exported(base / "hf" / "vectors", "mine", rows["cell_id"].to_pylist(), found)
    half = embedding.read(base / "embedded" / "half" / "0.npy")
    assert half.dtype == np.float16 and np.array_equal(half, found.astype(np.float16))
    cells = [pq.read_table(base / "tokenized" / "small" / "0.parquet")[c] for c in ("genes", "expressions")]
    slow = slow_scgpt(rerunnable.root / "models" / "scgpt", *([c[i].as_py() for i in some] for c in cells))
    assert np.allclose(embedding.read(base / "embedded" / "scgpt" / "0.npy")[some], slow, atol=1e-5)
    assert rerunnable.planned(*targets) == {}
    save_model(model, config, seed=1)
    assert rerunnable.planned(*targets) == {"embed_tokens": 1, "export_hf": 1}


def _rates_are_told(project: Project, embedders: set[str], *, cells: int) -> None:
    """In the log of each job, in the table of the dataset's times; and two jobs at once had two GPUs."""
    with (project.results("pbmc68k") / "report" / "times.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["rule"] == "embed_tokens"]
    assert {row["job"] for row in rows} == {f"{name}.0" for name in embedders}
    gpus = set()
    for row in rows:
        assert 0 < float(row["peak_share"]) < 1 and 0 < float(row["cells_per_s"]) < float(row["tokens_per_s"])
        assert float(row["seconds"]) > cells / float(row["cells_per_s"])
        log = (project.root / "logs" / "embed_tokens" / f"pbmc68k.{row['job']}.log").read_text()
        assert "cells/s" in log and "the peak of float32 products" in log
        gpus |= set(re.findall(r"runs on GPU (\d) of 0, 1", log))
    assert gpus == {"0", "1"}


def test_a_job_that_dies_is_tried_twice_more_and_then_told_with_its_part(rerunnable: Project) -> None:
    """As one whose GPU fails must be: each time a process of its own; what it leaves behind is nothing."""
    base = rerunnable.results("pbmc68k")
    tokens = base / "tokenized" / "rank"
    laid = vocabulary.read(tokens / "vocabulary.json", tokens / "gene_tokens.parquet")
    config = geneformer_config(max(laid.tokens.values()) + 1, max_position_embeddings=2048)
    save_model(rerunnable.root / "models" / "mine", config)
    mine = {"kind": "geneformer", "tokenizer": "rank", "model": "models/mine"}
    rerunnable.edit_config({"embedders": {"mine": mine}})
    vectors = base / "embedded" / "mine" / "0.npy"
    output = _killed(rerunnable, 3, "--", f"results/pbmc68k/{vectors.relative_to(base)}", expect=1)
    assert output.count("Trying to restart job") == 2 and not vectors.exists()
    assert "embed_tokens pbmc68k.mine.0: its log ends without an error: killed, or out of memory" in output
    output = _killed(rerunnable, 1, "--", f"results/pbmc68k/{vectors.relative_to(base)}", expect=0)
    assert output.count("Trying to restart job") == 1
    assert len(embedding.read(vectors)) == len(pq.read_table(tokens / "0.parquet"))


def _killed(project: Project, times: int, *args: str, expect: int) -> str:
    """What a run says of which the first so many processes that embed tokens are killed with -9."""
    process, killed = project.start(*args), set[int]()
    until = time.monotonic() + 300
    while len(killed) < times and process.poll() is None and time.monotonic() < until:
        for pid in _embedding(process.pid) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    output, _ = process.communicate(timeout=300)
    assert (process.returncode, len(killed)) == (expect, times), output
    return output


def _embedding(group: int) -> set[int]:
    """Processes of the group that run the script of the rule."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *rest = path.read_bytes().split(b"\0")
            if b"python" in program and any(word.endswith(b"embed_tokens.py") for word in rest):
                found |= {int(path.parent.name)} if os.getpgid(int(path.parent.name)) == group else set()
        except OSError:
            continue  # it has ended meanwhile
    return found


def _exported(folder: Path, name: str, ids: list[str], vectors: np.ndarray) -> bool:
    """Whether every cell of an export has its vector."""
    place = {cell: i for i, cell in enumerate(ids)}
    table = [row for file in folder.rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    given = [(place[row["cell_id"]], row[f"embedding_{name}"]) for row in table if f"embedding_{name}" in row]
    return len(given) == len(ids) and all(np.array_equal(np.float32(v), vectors[i]) for i, v in given)
