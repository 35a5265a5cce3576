"""Gene sets and `genes.min_cells` through the whole workflow, from the configuration to the report."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy

from .project import Project

DATASET = ("--config", 'datasets=["blood"]')


@pytest.fixture(scope="module")
def blood(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The default dataset's cells in two files; a set by name, one by prefix, one in a file; genes in 60 cells."""
    project = Project.create(tmp_path_factory.mktemp("blood"))
    data = project.root / "data"
    data.mkdir()
    raw = anndata.read_h5ad(finished.results("pbmc68k") / "raw" / "0.h5ad")
    for part, rows in (("a", slice(0, 300)), ("b", slice(300, None))):
        raw[rows].copy().write_h5ad(data / f"{part}.h5ad")
    (data / "lymphoid.txt").write_text("CD3D\nCD79A\nNKG7\n")
    project.write_dataset(
        "blood",
        title="Blood",
        source={"kind": "files", "files": {"a": "data/a.h5ad", "b": "data/b.h5ad"}},
        genes={
            "sets": {
                "hla": ["HLA-*"],
                "calprotectin": ["S100A8", "s100a9", "S100A99"],
                "lymphoid": "data/lymphoid.txt",
            },
            "min_cells": 60,
        },
        quality={"mads": {"pct_counts_hla": 4}, "max_pct": {"calprotectin": 1.5}},
        tokenizers=[],
        embedders=[],
        exports=["scdl/counts"],
    )
    project.run(*DATASET)
    return project


def raw_cells(project: Project) -> anndata.AnnData:
    """Both files with the percentages by scanpy."""
    cells = anndata.concat([anndata.read_h5ad(project.root / "data" / f"{p}.h5ad") for p in "ab"])
    cells.X = cells.X.astype(np.float64)
    cells.var["hla"] = cells.var_names.str.startswith("HLA-")
    cells.var["calprotectin"] = cells.var_names.isin(["S100A8", "S100A9"])
    cells.var["lymphoid"] = cells.var_names.isin(["CD3D", "CD79A", "NKG7"])
    scanpy.pp.calculate_qc_metrics(cells, qc_vars=["hla", "calprotectin", "lymphoid"], percent_top=None, inplace=True)
    return cells


def processed(project: Project) -> anndata.AnnData:
    return anndata.concat([anndata.read_h5ad(project.results("blood") / "processed" / f"{p}.h5ad") for p in "ab"])


def test_kept_cells_have_the_percentages_of_scanpy(blood: Project):
    """And none lies beyond the bounds."""
    raw, found = raw_cells(blood), processed(blood)
    columns = ["pct_counts_hla", "pct_counts_calprotectin", "pct_counts_lymphoid"]
    assert (raw.var[["hla", "calprotectin", "lymphoid"]].sum() > 1).all()
    np.testing.assert_allclose(found.obs[columns], raw.obs.loc[found.obs_names, columns], rtol=1e-12)
    dropped = raw.obs.drop(found.obs_names)
    assert 0 < len(dropped) and found.obs["pct_counts_calprotectin"].max() <= 1.5
    assert dropped["pct_counts_calprotectin"].max() > 1.5


def test_genes_are_those_that_scanpy_keeps(blood: Project):
    """filter_genes on the kept cells of both parts."""
    found = processed(blood)
    raw = raw_cells(blood)[found.obs_names].copy()
    scanpy.pp.filter_genes(raw, min_cells=60)
    assert found.var_names.tolist() == sorted(raw.var_names) and 0 < found.n_vars < 765
    assert (found.X != raw[:, found.var_names].X).nnz == 0


def test_what_was_dropped_is_told_everywhere(blood: Project):
    """The mapping, the manifest, the ledger and the page of the report agree."""
    mapping = pd.read_parquet(blood.results("blood") / "genes" / "mapping.parquet")
    few = int((mapping["outcome"] == "min_cells").sum())
    said = blood.manifest("blood", "scdl/counts")
    assert said["genes"] == 765 - few == processed(blood).n_vars
    assert said["gene_names"]["names"] == {"as_found": 765 - few, "min_cells": few}
    lost = raw_cells(blood)[processed(blood).obs_names].X.sum() - processed(blood).X.sum()
    assert said["gene_names"]["counts_dropped"] == {"min_cells": lost}
    reasons = said["ledger"]["dropped"]
    assert reasons["max_pct_calprotectin"] > 0 and set(reasons) <= {"max_pct_calprotectin", "high pct_counts_hla"}
    page = (blood.results("blood") / "report" / "index.html").read_text()
    assert f'<td>a gene in fewer kept cells than genes.min_cells</td><td class="n">{few:,}</td>' in page
    assert '<td class="n">1: S100A99</td>' in page and "Counts of calprotectin (%)" in page


def test_a_rerun_does_what_changed(blood: Project):
    """Thresholds count cells again, `min_cells` does not, and a changed list is measured again."""
    path = blood.root / "config" / "datasets" / "blood.yaml"
    before = path.read_text()
    assert blood.planned(*DATASET) == {}
    for old, new, again, not_again in (
        ("min_cells: 60", "min_cells: 50", {"unify_genes", "process_part"}, {"measure_quality", "count_gene_cells"}),
        ("min_cells: 60", "min_cells: 0", {"unify_genes", "process_part"}, {"measure_quality", "count_gene_cells"}),
        ("calprotectin: 1.5", "calprotectin: 1", {"count_gene_cells", "unify_genes"}, {"measure_quality"}),
        ("- S100A99\n", "- S100B\n", {"measure_quality", "count_gene_cells"}, {"retrieve_part"}),
    ):
        path.write_text(before.replace(old, new))
        assert path.read_text() != before
        planned = set(blood.planned(*DATASET))
        assert again <= planned and not not_again & planned
    path.write_text(before)
    listed = blood.root / "data" / "lymphoid.txt"
    listed.write_text("CD3D\n")
    assert {"measure_quality", "count_gene_cells"} <= set(blood.planned(*DATASET))


def test_a_misspelt_set_ends_before_the_first_job(blood: Project):
    """With the nearest name."""
    path = blood.root / "config" / "datasets" / "blood.yaml"
    before = path.read_text()
    path.write_text(before.replace("HLA-*", "HLA_*"))
    output = blood.run("-n", *DATASET, expect=1)
    path.write_text(before)
    assert "genes.sets.hla: none of its 1 names is in any file: HLA_*." in output


def test_who_asks_for_no_fewest_cells_counts_none(finished: Project):
    """The default dataset has no pass for it, and its gene space hangs on no threshold."""
    assert not list((finished.results("pbmc68k") / "genes").glob("*.cells.parquet"))
    planned = finished.planned("--forcerun", "set_thresholds")
    assert "process_part" in planned and not {"unify_genes", "count_gene_cells"} & set(planned)
