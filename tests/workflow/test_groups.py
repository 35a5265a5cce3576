"""Real cells of 26 donors: no donor on two sides, and the published tokens through the whole workflow."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from .project import Project


@pytest.fixture(scope="module")
def placenta(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Project:
    """220 placenta cells, split by donor, tokenized with the published dictionaries from the mirror."""
    project = Project.create(tmp_path_factory.mktemp("placenta"))
    project.edit_config(
        {
            "mirror": str(shared_data),
            "tokenizers": {
                "geneformer_v1": {"library_size": "n_counts"},
                "geneformer_v2": {"library_size": "n_counts"},
            },
        }
    )
    project.write_dataset(
        "placenta",
        title="Placenta",
        source={"kind": "files", "files": {"0": str(shared_data / "derived" / "placenta_ensembl_220.h5ad")}},
        columns={"label": "cell_type", "keep": ["tissue", "n_counts"]},
        quality={"mads": {}},
        split={"by": "donor_id", "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}},
        tokenizers=["geneformer_v1", "geneformer_v2", "rank"],
        exports=["hf/cells"],
    )
    project.run("--config", 'datasets=["placenta"]')
    return project


def test_no_donor_stands_on_two_sides(placenta: Project):
    """Every donor's cells are in one split, and every split has donors."""
    obs = anndata.read_h5ad(placenta.results("placenta") / "processed" / "0.h5ad").obs
    assert obs["donor_id"].nunique() == 26
    assert obs.groupby("donor_id", observed=True)["split"].nunique().max() == 1
    assert set(obs["split"].unique()) == {"train", "val", "test"}


def test_the_donors_of_the_exports_are_apart_too(placenta: Project):
    """The donors in hf/cells, read as a user reads them, are disjoint over the splits."""
    folder = placenta.results("placenta") / "hf" / "cells"
    donors = {s: set(pd.read_parquet(folder / s, columns=["donor_id"])["donor_id"]) for s in ("train", "val", "test")}
    assert not donors["train"] & donors["val"] and not donors["train"] & donors["test"]
    assert not donors["val"] & donors["test"]


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_tokens_equal_the_published_tokenizers_output(placenta: Project, shared_data: Path, version: str):
    """All 220 cells have exactly the tokens that the published tokenizer gave them, near-ties included."""
    path = placenta.results("placenta") / "tokenized" / f"geneformer_{version.lower()}" / "0.parquet"
    ours = pq.read_table(path).to_pandas()
    golden = pd.read_parquet(shared_data / "geneformer" / "golden" / f"placenta_ensembl_220.{version}.parquet")
    assert list(ours["cell_id"]) == list(golden["cell_id"])
    for mine, published in zip(ours["input_ids"], golden["input_ids"], strict=True):
        assert np.array_equal(mine, np.asarray(published).astype(np.uint16))


def test_dictionaries_come_verified_from_the_mirror(placenta: Project):
    """What the ledger names was retrieved without network, to resources/, and equals its checksum."""
    import hashlib

    rows = [line.split("\t") for line in (placenta.root / "resources" / "ledger.tsv").read_text().splitlines()]
    sums = {r[0]: r[3] for r in rows}
    retrieved = [p for p in (placenta.root / "resources").rglob("*.pkl")]
    assert len(retrieved) == 6
    for path in retrieved:
        name = path.relative_to(placenta.root / "resources").as_posix()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name]


def test_ensembl_genes_are_the_gene_space(placenta: Project):
    """Genes are keyed by Ensembl id without version, sorted, with their symbols beside them."""
    var = anndata.read_h5ad(placenta.results("placenta") / "processed" / "0.h5ad").var
    assert var.index.str.fullmatch(r"ENSG\d{11}").all() and var.index.is_monotonic_increasing
    assert var.loc["ENSG00000000003", "gene_symbol"] == "TSPAN6"


def test_mitochondrial_genes_are_found_by_symbol_or_id(placenta: Project):
    """Ensembl ids do not hide the mitochondrial genes."""
    quality = pd.read_parquet(placenta.results("placenta") / "quality" / "0.parquet")
    assert (quality["pct_counts_mt"] > 0).any()
    said = json.loads((placenta.results("placenta") / "quality" / "thresholds.json").read_text())
    assert said["cells"] == 220
