"""Real symbols through the whole workflow, mapped by the gene table of the mirror."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from .project import Project


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Project:
    """100 breast cells, named by symbols, with `genes: {table: auto}`, and a part of ERCC and heart ids."""
    project = Project.create(tmp_path_factory.mktemp("genes"))
    project.edit_config({"mirror": str(shared_data)})
    h5ad = shared_data / "h5ad"
    project.write_dataset(
        "breast",
        title="Breast and heart",
        source={
            "kind": "files",
            "files": {
                "breast": str(h5ad / "breast_scllm_100.h5ad"),
                "heart": str(h5ad / "heart_cxg_schema_ercc_320.h5ad"),
            },
        },
        genes={"table": "auto"},
        quality={"mads": {}},
        embedders=[],
        tokenizers=["rank"],
        exports=["scdl/counts", "hf/plain"],
        cell_ids="part_barcode",
    )
    project.edit_config({"exports": {"hf": {"plain": {"kind": "tokens", "tokenizer": "rank"}}}})
    project.run("--config", 'datasets=["breast"]')
    return project


def test_symbols_become_ids_of_the_table(mapped: Project, shared_data: Path):
    """Every gene of every part is in the ledger's table, which came verified from the mirror."""
    table = mapped.root / "resources" / "genes" / "genes_homo_sapiens.csv.gz"
    assert table.read_bytes() == (shared_data / "genes" / table.name).read_bytes()
    known = {line.split(",")[0] for line in gzip.decompress(table.read_bytes()).decode().splitlines()}
    parts = [anndata.read_h5ad(mapped.results("breast") / "processed" / f"{p}.h5ad") for p in ("breast", "heart")]
    assert parts[0].var_names.equals(parts[1].var_names)
    assert set(parts[0].var_names) <= known
    assert parts[0].var.loc["ENSG00000075624", "gene_symbol"] == "ACTB"
    assert all(part.X.sum() > 0 for part in parts)


def test_what_became_of_names_is_told_everywhere(mapped: Project):
    """The mapping, the manifest, the card and the page of the report agree."""
    mapping = pd.read_parquet(mapped.results("breast") / "genes" / "mapping.parquet")
    outcomes = {k: int(v) for k, v in mapping["outcome"].value_counts().items()}
    assert outcomes["symbol"] > 17_000 and outcomes["spike_ins"] == 1 and outcomes["id"] > 100
    for export in ("scdl/counts", "hf/plain"):
        said = mapped.manifest("breast", export)["gene_names"]
        assert (said["table"], said["names"]) == ("genes_homo_sapiens.csv.gz", outcomes)
    card = (mapped.results("breast") / "hf" / "plain" / "README.md").read_text()
    page = (mapped.results("breast") / "report" / "index.html").read_text()
    assert (
        f"| unmapped | not in the gene table | {outcomes['unmapped']:,} | {said['counts_dropped']['unmapped']:,} |"
        in card
    )
    assert "genes_homo_sapiens.csv.gz" in page and f"{said['counts_dropped']['unmapped']:,}" in page


def test_a_table_that_nobody_asks_for_is_not_retrieved(finished: Project):
    """The default dataset needs no network; its names stay as found, and nothing is said of them."""
    assert not (finished.root / "resources" / "genes").exists()
    mapping = pd.read_parquet(finished.results("pbmc68k") / "genes" / "mapping.parquet")
    assert (mapping["outcome"] == "as_found").all() and (mapping["n_parts"] == 1).all()
    assert np.array_equal(mapping["gene_id"], mapping["name_as_found"])
    assert "gene_names" not in finished.manifest("pbmc68k", "hf/cells")


def test_other_rules_of_names_rerun_no_more_than_they_change(mapped: Project):
    """Another gene space leaves the measured cells alone."""
    path = mapped.root / "config" / "datasets" / "breast.yaml"
    before = path.read_text()
    path.write_text(before.replace("table: auto", "table: auto\n  space: intersection"))
    planned = mapped.planned("--config", 'datasets=["breast"]')
    path.write_text(before)
    assert planned["unify_genes"] == 1 and "measure_quality" not in planned and "retrieve_resource" not in planned
