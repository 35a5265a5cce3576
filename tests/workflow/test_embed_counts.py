"""Lists of genes and references, by the workflow."""

from __future__ import annotations

import json

import anndata
import numpy as np

from cellmill.contracts import embedding

from .project import Project


def test_genes_and_the_pca_of_another_dataset_embed_every_cell(rerunnable: Project) -> None:
    """Into obsm of both AnnData exports; a PCA of this run is made first, one of an earlier run is taken as it is."""
    base = rerunnable.results("pbmc68k")
    processed = anndata.read_h5ad(base / "processed" / "0.h5ad")
    genes = [*processed.var_names[:20], "NOGENE"]
    (rerunnable.root / "panel.txt").write_text("\n".join(genes))
    model = "results/{}/embedded/pca/model/pca.npz"
    embeddings = ["panel", "atlas"]
    rerunnable.edit_config(
        {
            "embedders": {
                "panel": {"kind": "genes", "genes": "panel.txt", "dtype": "float16"},
                "atlas": {"kind": "pca", "reference": model.format("pbmc68k"), "n_components": 7},
            },
            "exports": {
                "h5ad": {"atlas": {"kind": "counts", "embeddings": embeddings}},
                "zarr": {"atlas": {"kind": "counts", "embeddings": embeddings}},
            },
        }
    )
    source = {"kind": "files", "files": {"a": "results/pbmc68k/raw/0.h5ad"}}
    rerunnable.write_dataset(
        "query", title="Query", source=source, embedders=[], exports=["h5ad/atlas", "zarr/atlas"], tokenizers=[]
    )
    targets = [f"results/query/{format_}/atlas/manifest.json" for format_ in ("h5ad", "zarr")]
    asked = ["--config", 'datasets=["pbmc68k", "query"]', "--", *targets]
    planned = rerunnable.planned(*asked)
    assert planned["embed_part"] == 2 and "fit_pca" not in planned and "measure_covariance" not in planned
    rerunnable.run(*asked)
    found = rerunnable.results("query")
    own = anndata.read_h5ad(found / "processed" / "a.h5ad").obs_names
    rows = processed.obs_names.get_indexer(own)
    vectors = {name: embedding.read(found / "embedded" / name / "a.npy") for name in embeddings}
    fitted = embedding.read(base / "embedded" / "pca" / "0.npy")
    assert np.array_equal(vectors["atlas"][rows >= 0], fitted[rows[rows >= 0], :7])
    said = json.loads((found / "embedded" / "panel" / "a.json").read_text())
    assert said["genes"] == {"asked": 21, "found": 20, "absent": ["NOGENE"]} and said["dtype"] == "float16"
    assert vectors["panel"].dtype == np.float16 and not vectors["panel"][:, 20].any()
    for split in ("train", "val", "test"):
        whole = anndata.read_h5ad(found / "h5ad" / "atlas" / split / "cells.h5ad")
        stored = anndata.read_zarr(found / "zarr" / "atlas" / split / "dataset_0")
        assert list(whole.obs_names) == list(stored.obs_names) and (whole.X != stored.X).nnz == 0
        at = own.get_indexer(whole.obs_names)
        for name in embeddings:
            assert np.array_equal(whole.obsm[f"X_{name}"], vectors[name][at].astype(np.float32))
            assert np.array_equal(stored.obsm[f"X_{name}"], whole.obsm[f"X_{name}"])
    alone = ["--config", 'datasets=["query"]', "--", *targets]
    assert rerunnable.planned(*alone) == {}
