"""Loaders over a real run: every cell equals processed, and the blocks of docs/loaders.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellmill.torch import CellDataset, CellStream, Columns, Sequential

from .project import REPO, Project

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (REPO / "docs" / "loaders.md").read_text(), re.MULTILINE | re.DOTALL)
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def processed(finished: Project) -> anndata.AnnData:
    return anndata.read_h5ad(finished.results("pbmc68k") / "processed" / "0.h5ad")


@pytest.mark.parametrize("format_", ["scdl", "hdf5"])
def test_loaded_counts_are_the_processed_counts(format_: str, finished: Project, processed: anndata.AnnData):
    """Every cell of every split once, by its id, through dataset and stream."""
    seen: list[str] = []
    for split in SPLITS:
        path = finished.results("pbmc68k") / format_ / "counts" / split
        dataset = CellDataset(path)
        ids = dataset.obs("cell_id").decoded()
        expected = processed[ids].X.toarray()
        assert np.array_equal(dataset[:].batch()["counts"].to_dense().numpy(), expected)
        for batch in CellStream(path, batch_size=32):
            rows = batch["row"].numpy()
            assert np.array_equal(batch["counts"].to_dense().numpy(), expected[rows])
            seen += list(ids[rows])
    assert sorted(seen) == sorted(processed.obs_names)


def test_loaded_tokens_are_those_of_every_format(finished: Project):
    """Token files, hf and mds give the same tokens for the same cell; token files know the split."""
    base = finished.results("pbmc68k")

    def tokens(path: Path, **options: object) -> dict[str, list[int]]:
        stream = CellStream(path, sampler=Sequential(), **options)  # type: ignore[arg-type]
        found = {}
        names = stream.store.take(np.arange(stream.store.n_rows), ["cell_id"])["cell_id"].to_pylist()
        for batch in stream:
            for row, ids, mask in zip(batch["row"].tolist(), batch["input_ids"], batch["attention_mask"], strict=True):
                found[names[row]] = ids[mask].tolist()
        return found

    for split in SPLITS:
        made = tokens(base / "tokenized" / "rank", only={"split": split})
        assert made == tokens(base / "hf" / "cells" / split) == tokens(base / "mds" / "tokens" / split)


def test_loaded_embeddings_are_those_of_the_run(finished: Project, processed: anndata.AnnData):
    """Vectors of fixed size, by cell id."""
    vectors = np.load(finished.results("pbmc68k") / "embedded" / "pca" / "0.npy")
    row_of = {cell: i for i, cell in enumerate(processed.obs_names)}
    contents = Columns(["cell_id", "embedding_pca"])
    for batch in CellStream(finished.results("pbmc68k") / "hf" / "cells" / "val", contents=contents):
        rows = [row_of[cell] for cell in batch["cell_id"]]
        assert np.array_equal(batch["embedding_pca"].numpy(), vectors[rows])


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_python_block_of_the_page_runs(block: str, finished: Project):
    """As it stands, from the project folder, after `make run`."""
    environment = finished.environment() | {"PYTHONPATH": str(finished.root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=finished.root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
