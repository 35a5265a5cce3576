"""All tokenizers through the whole workflow, on the bundled cells, with vocabularies of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from .project import Project

KINDS = ("rank", "tahoe_x1", "scgpt", "binned", "log", "sentence")


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory, finished: Project) -> Project:
    """The vocabulary has ten genes, so that some cells are empty; `tahoe_x1` drops them, `scgpt` keeps them."""
    project = Project.create(tmp_path_factory.mktemp("tokenized"))
    genes = anndata.read_h5ad(finished.results("pbmc68k") / "processed" / "0.h5ad").var_names[:10]
    tokens = {"<pad>": 0, "<cls>": 1} | {g: i + 2 for i, g in enumerate(genes)}
    (project.root / "vocabulary.json").write_text(json.dumps(tokens))
    project.edit_config(
        {
            "tokenizers": {
                "tahoe_x1": {"vocabulary": "vocabulary.json", "shuffle": True},
                "scgpt": {"vocabulary": "vocabulary.json", "max_len_tokens": 4},
                "sentence": {"lengths": [5, 20]},
            },
            "exports": {
                "hf": {k: {"kind": "tokens", "tokenizer": k, "columns": ["bulk_labels"]} for k in KINDS},
                "mds": {"binned": {"kind": "tokens", "tokenizer": "binned"}},  # others are those of config.yaml
            },
        }
    )
    path = project.root / "config" / "datasets" / "pbmc68k.yaml"
    said = path.read_text()
    project.write_dataset("small", **yaml.safe_load(said) | _asked())
    project.run("--config", 'datasets=["small"]', "--set-threads", "tokenize_part=2")
    return project


def _asked() -> dict[str, list[str]]:
    exports = [
        *(f"hf/{k}" for k in KINDS),
        *("hf/expression", "hf/sentences", "hf/pairs", "mds/binned", "mds/tahoe_x1", "mds/counts", "hdf5/hvg"),
    ]
    return {"tokenizers": list(KINDS), "embedders": [], "exports": exports}


@pytest.mark.parametrize("kind", KINDS)
def test_exports_have_the_tokens_in_their_published_types(tokenized: Project, kind: str, tmp_path: Path) -> None:
    """load_dataset gives every cell that is not left out, with the columns of the tokenizer as in tokenized/."""
    import datasets

    stored = pq.read_table(tokenized.results("small") / "tokenized" / kind / "0.parquet").to_pylist()
    there = {row["cell_id"]: row for row in stored if not row["left_out"]}
    columns = [c for c in stored[0] if c not in ("cell_id", "left_out")]
    folder = tokenized.results("small") / "hf" / kind
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    seen = [row for split in loaded.values() for row in split]
    assert sorted(r["cell_id"] for r in seen) == sorted(there)
    assert all(row[c] == there[row["cell_id"]][c] for row in seen for c in columns)
    features = {c: str(loaded["train"].features[c]) for c in columns}
    if "genes" in columns:
        assert features == {"genes": "List(Value('int64'))", "expressions": "List(Value('float32'))"}
    assert list(seen[0]) == ["cell_id", *columns, "bulk_labels"]


def test_text_and_counts_are_those_of_the_processed_cells(tokenized: Project, tmp_path: Path) -> None:
    """Streamed: counts by gene, sentences of the tokenizer; in pairs each cell's caption and another one's."""
    import datasets

    def stream(name: str) -> list[dict[str, Any]]:
        folder = tokenized.results("small") / "hf" / name
        loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path), streaming=True)
        return [row for split in loaded.values() for row in split]

    processed = anndata.read_h5ad(tokenized.results("small") / "processed" / "0.h5ad")
    label = processed.obs["bulk_labels"].astype(str)
    counts = {row["cell_id"]: dict(zip(row["genes"], row["counts"], strict=True)) for row in stream("expression")}
    assert set(counts) == set(processed.obs_names)
    for cell, row in zip(processed.obs_names, processed.X.toarray(), strict=True):
        assert counts[cell] == {int(g): int(row[g]) for g in np.flatnonzero(row)}
    genes = pq.read_table(tokenized.results("small") / "hf" / "expression" / "genes.parquet")
    assert genes["gene_id"].to_pylist() == list(processed.var_names)
    stored = pq.read_table(tokenized.results("small") / "tokenized" / "sentence" / "0.parquet").to_pandas()
    expected = stored.set_index("cell_id")[["cell_sentence_1", "cell_sentence_2"]].T.to_dict()
    sentences = stream("sentences")
    assert {row.pop("sample_idx"): row for row in sentences} == expected
    pairs = stream("pairs")
    assert len(pairs) == 2 * len(label)
    assert all((label[row["sample_idx"]] == row["caption"]) == bool(row["label"]) for row in pairs)


def test_cells_that_are_left_out_are_counted_everywhere(tokenized: Project) -> None:
    """In the facts, the manifest, the card and the page; the ledger has them as kept."""
    said = tokenized.manifest("small", "hf/tahoe_x1")
    stored = pq.read_table(tokenized.results("small") / "tokenized" / "tahoe_x1" / "0.parquet").to_pandas()
    number = int(stored["left_out"].sum())
    assert 0 < number == sum(said["left_out"].values()) == said["ledger"]["kept"] - sum(said["splits"].values())
    assert said["tokens"]["tahoe_x1"]["cells_left_out"] == said["left_out"]
    card = (tokenized.results("small") / "hf" / "tahoe_x1" / "README.md").read_text()
    assert f"| kept, but left out here: no gene of the vocabulary | {number:,} |" in card
    assert "left_out" not in tokenized.manifest("small", "hf/scgpt")
    page = (tokenized.results("small") / "report" / "index.html").read_text()
    assert all(f"<tr><td>{kind}</td>" in page for kind in KINDS)


def test_tahoe_x1_has_the_counts_of_the_processed_cells(tokenized: Project) -> None:
    """In an order of its own, behind <cls> and -2; what scGPT keeps of a longer cell is among the same genes."""
    counts = anndata.read_h5ad(tokenized.results("small") / "processed" / "0.h5ad").X.toarray()[:, :10]
    read = {k: pq.read_table(tokenized.results("small") / "tokenized" / k / "0.parquet").to_pylist() for k in KINDS}
    for cell, tahoe, scgpt in zip(counts, read["tahoe_x1"], read["scgpt"], strict=True):
        expected = {int(g) + 2: float(cell[g]) for g in np.flatnonzero(cell)}
        assert (tahoe["genes"][0], tahoe["expressions"][0]) == (1, -2.0)
        assert dict(zip(tahoe["genes"][1:], tahoe["expressions"][1:], strict=True)) == expected
        assert set(scgpt["genes"][1:]) <= set(expected) and len(scgpt["genes"]) == min(4, len(expected) + 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of streaming itself
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files it leaves to the collector
def test_mds_has_tensors_of_tokens_and_the_counts(tokenized: Project, streaming: Any, tmp_path: Path) -> None:
    """StreamingDataset reads every cell that is not left out, and every cell with its counts."""
    base = tokenized.results("small")
    stored = pq.read_table(base / "tokenized" / "tahoe_x1" / "0.parquet").to_pylist()
    there = {row["cell_id"]: row for row in stored if not row["left_out"]}
    processed = anndata.read_h5ad(base / "processed" / "0.h5ad")
    names = json.loads((base / "mds" / "counts" / "genes.json").read_text())["gene_id"]
    assert names == list(processed.var_names)

    def cells(export: str) -> Iterator[dict]:
        for split in tokenized.manifest("small", f"mds/{export}")["facts"]["splits"]:
            remote, local = str(base / "mds" / export / split), str(tmp_path / export / split)
            yield from streaming.StreamingDataset(remote=remote, local=local, batch_size=1, allow_unsafe_types=True)

    seen = []
    for cell in cells("tahoe_x1"):
        row = there[cell["cell_id"]]
        assert (cell["genes"].dtype, cell["expressions"].dtype) == (torch.int64, torch.float32)
        assert cell["genes"].tolist() == row["genes"] and cell["expressions"].tolist() == row["expressions"]
        seen.append(cell["cell_id"])
    assert sorted(seen) == sorted(there)
    seen = []
    for cell in cells("counts"):
        expected = processed[cell["cell_id"]].X
        assert np.array_equal(cell["genes"], expected.indices) and np.array_equal(cell["counts"], expected.data)
        seen.append(cell["cell_id"])
    assert sorted(seen) == sorted(processed.obs_names)


def test_hdf5_has_the_variable_genes(tokenized: Project) -> None:
    """Dense, in the order of the gene space, and their ranks beside them as in genes.parquet."""
    base = tokenized.results("small")
    processed = anndata.read_h5ad(base / "processed" / "0.h5ad")
    genes = pq.read_table(base / "genes" / "genes.parquet").to_pandas()
    info = json.loads((base / "hdf5" / "hvg" / "hvg_info.json").read_text())
    ranked = genes[genes["variable"]].sort_values("variable_rank")
    assert info["hvg_names"] == ranked["gene_id"].tolist()
    assert info["statistics"]["total_cells_analyzed"] == (processed.obs["split"] == "train").sum()
    seen = []
    for split in tokenized.manifest("small", "hdf5/hvg")["facts"]["splits"]:
        with h5py.File(base / "hdf5" / "hvg" / split / "batch_0000.h5") as file:
            ids, names = list(file["cell_ids"].asstr()[:]), file["genes"].asstr()[:]
            assert np.array_equal(file["expression"][:], processed[ids, names].X.toarray())
            assert np.array_equal(file["obs/umi_count"][:], np.asarray(processed[ids].X.sum(axis=1)).ravel())
            assert list(names[info["hvg_indices"]]) == info["hvg_names"]
        seen += ids
    assert sorted(seen) == sorted(processed.obs_names)
