"""Models over tokens, by the workflow."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq

from cellmill.contracts import embedding, vocabulary
from cellmill.files import sha256_of

from ..reference.slow_embeddings import slow_geneformer
from ..reference.slow_scgpt import slow_scgpt
from ..unit import scgpt_model
from ..unit.models import geneformer_config, save_model
from .project import Project


def test_a_model_of_the_configuration_embeds_every_cell(rerunnable: Project) -> None:
    """Vectors in the order of the cells, in an export, too; other weights make them anew, and nothing else does."""
    base = rerunnable.results("pbmc68k")
    tokens = base / "tokenized" / "rank"
    laid = vocabulary.read(tokens / "vocabulary.json", tokens / "gene_tokens.parquet")
    config = geneformer_config(max(laid.tokens.values()) + 1, max_position_embeddings=2048)
    save_model(rerunnable.root / "models" / "mine", config)
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
                "half": {"kind": "transformer", **said, "dtype": "float16"},
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
    rerunnable.run(*targets)
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
    assert rerunnable.planned(*targets) == {"embed_tokens": 2, "export_hf": 1}


def _exported(folder: Path, name: str, ids: list[str], vectors: np.ndarray) -> bool:
    """Whether every cell of an export has its vector."""
    place = {cell: i for i, cell in enumerate(ids)}
    table = [row for file in folder.rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    given = [(place[row["cell_id"]], row[f"embedding_{name}"]) for row in table if f"embedding_{name}" in row]
    return len(given) == len(ids) and all(np.array_equal(np.float32(v), vectors[i]) for i, v in given)
