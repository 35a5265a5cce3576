"""Genes in few kept cells: counted over all parts, left out of the gene space, and told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import genes_in_few_cells, read_gene_cells, read_genes, read_mapping, read_space
from cellmill.errors import CellmillError
from cellmill.exports.export import gene_names, name_rows
from cellmill.files import sha256_of
from cellmill.genes.space import unify_genes
from cellmill.matrix import reader

from .stages import Made, count_cells, make, random_counts, split_raw, three_parts, write_raw

STRICT = {"mads": {"log1p_total_counts": 2}, "min_genes": 20, "min_counts": 40}


def sparse_file(folder: Path, *, cells: int = 200, genes: int = 120) -> Path:
    """Genes in any number of cells, from none to nearly all."""
    rng = np.random.default_rng(4)
    counts = random_counts(cells, genes, seed=4).multiply(rng.random((cells, genes)) < np.linspace(0, 1, genes) ** 2)
    return write_raw(folder / "raw.h5ad", sp.csr_matrix(counts.tocsr(), dtype=np.float32))


def kept_cells(made: Made, raws: dict[str, Path]) -> anndata.AnnData:
    """The cells that were kept, as they were found."""
    parts = []
    for part, raw in raws.items():
        with CountsPart(made.file(part, "h5ad")) as file:
            parts.append(anndata.read_h5ad(raw)[file.obs.index].copy())
    return anndata.concat(parts, join="outer", fill_value=0)


def dropped(made: Made, part: str) -> dict[str, dict[str, int]]:
    with CountsPart(made.file(part, "h5ad")) as file:
        return file.facts.get("genes_dropped", {})


@pytest.mark.parametrize("min_cells", [1, 3, 20])
@pytest.mark.parametrize("quality", [{"mads": {}}, STRICT], ids=["all cells", "few cells"])
def test_genes_are_those_that_scanpy_keeps(tmp_path: Path, min_cells: int, quality: dict[str, Any]) -> None:
    """`filter_genes(min_cells=…)` on the kept cells of all parts, and their counts."""
    raws = split_raw(sparse_file(tmp_path), tmp_path / "raws", three_parts(200))
    made = make(tmp_path / "m", raws, genes={"min_cells": min_cells}, quality=quality)
    expected = kept_cells(made, raws)
    before = expected.n_vars
    scanpy.pp.filter_genes(expected, min_cells=min_cells)
    assert 0 < expected.n_vars < before
    for part in raws:
        found = anndata.read_h5ad(made.file(part, "h5ad"))
        assert found.var_names.tolist() == sorted(expected.var_names)
        assert (found.X != expected[found.obs_names, found.var_names].X).nnz == 0


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_genes_of_real_cells_are_those_that_scanpy_keeps(shared_data: Path, tmp_path: Path) -> None:
    """After filter_cells by the same bounds."""
    raw = shared_data / "derived" / "placenta_ensembl_220.h5ad"
    made = make(tmp_path, {"0": raw}, genes={"min_cells": 5}, quality={"mads": {}, "min_genes": 1850})
    expected = anndata.read_h5ad(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.filter_cells(expected, min_genes=1850)
        scanpy.pp.filter_genes(expected, min_cells=5)
    with CountsPart(made.file("0", "h5ad")) as found:
        assert found.n_cells == expected.n_obs < 220
        assert found.var.index.tolist() == sorted(g.split(".")[0] for g in expected.var_names)


def test_neither_parts_nor_blocks_nor_their_order_change_the_genes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte; a gene that no part has often enough may have enough cells in all of them."""
    raw = sparse_file(tmp_path)
    spec = {"genes": {"min_cells": 15}, "quality": STRICT}
    raws = split_raw(raw, tmp_path / "raws", three_parts(200))
    one = make(tmp_path / "one", {"0": raw}, **spec)
    monkeypatch.setattr(reader.CountsFile.blocks, "__defaults__", (7,))
    three, back = make(tmp_path / "three", raws, **spec), make(tmp_path / "back", dict(reversed(raws.items())), **spec)
    assert len({sha256_of(m.folder / "space.parquet") for m in (one, three, back)}) == 1
    assert len({sha256_of(m.genes) for m in (one, three, back)}) == 1
    assert sha256_of(three.folder / "mapping.parquet") == sha256_of(back.folder / "mapping.parquet")
    kept = set(read_space(one.folder / "space.parquet")["gene_id"])
    found = pd.concat(
        [read_gene_cells(p).set_index("gene_id")["cells"] for p in three.files("gene_cells.parquet")], axis=1
    )
    assert (found.loc[sorted(kept)].max(axis=1) < 15).any()
    assert (found.sum(axis=1) >= 15).to_dict() == {g: g in kept for g in found.index}


@pytest.mark.parametrize("rule", ["sum", "drop"])
def test_columns_of_one_gene_count_a_cell_once(tmp_path: Path, rule: str) -> None:
    """Added up, a cell with a count in either; dropped, the first column alone."""
    genes = ["ENSG00000000001.1", "ENSG00000000001.2", "ENSG00000000002.1"]
    counts = np.array([[1, 1, 1], [1, 0, 1], [0, 2, 1], [0, 0, 3]], np.float32)
    raw = write_raw(tmp_path / "x.h5ad", counts, genes=genes)
    made = make(tmp_path, {"0": raw}, genes={"min_cells": 1, "duplicates": rule})
    found = read_gene_cells(made.file("0", "gene_cells.parquet"))
    assert dict(zip(found["gene_id"], found["cells"], strict=True)) == {
        "ENSG00000000001": 3 if rule == "sum" else 2,
        "ENSG00000000002": 4,
    }


def test_cells_that_are_dropped_for_any_reason_do_not_count(tmp_path: Path) -> None:
    """By a filter, as a twin, and as one of a rare category."""
    counts = np.zeros((6, 4), np.float32)
    counts[:, 0] = [60, 60, 60, 60, 60, 61]
    for gene, cells in ((1, [0, 1]), (2, [2, 3]), (3, [4])):
        counts[cells, gene] = 5
    obs = {"ok": [False, True, True, True, True, True], "type": ["a", "a", "a", "a", "b", "a"]}
    raw = write_raw(tmp_path / "x.h5ad", counts, genes=["all", "filtered", "twins", "rare"], obs=obs)
    quality = {
        "mads": {},
        "filters": [{"column": "ok", "equals": True}],
        "duplicates": {"rule": "drop"},
        "rare": {"column": "type", "min_cells": 2, "rule": "drop"},
    }
    made = make(tmp_path, {"0": raw}, genes={"min_cells": 1}, quality=quality)
    found = read_gene_cells(made.file("0", "gene_cells.parquet"))
    cells = dict(zip(found["gene_id"], found["cells"], strict=True))
    assert cells == {"all": 3, "filtered": 1, "twins": 1, "rare": 0}
    assert read_space(tmp_path / "space.parquet")["gene_id"].tolist() == ["all", "filtered", "twins"]


@pytest.mark.parametrize("space", ["union", "intersection", "list"])
def test_genes_of_any_space_must_be_in_enough_cells(tmp_path: Path, space: str) -> None:
    """What is outside the space is that, whatever its cells; what is in it and too rare is `min_cells`; told alike."""
    ones = np.ones((4, 3), np.float32)
    ones[1:, 1] = 0
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", ones, genes=["A", "RARE", "P"]),
        "q": write_raw(tmp_path / "q.h5ad", ones, genes=["A", "RARE", "Q"], cells=list("wxyz")),
    }
    if space == "list":
        (tmp_path / "list.txt").write_text("A\nRARE\nP\nNOWHERE\n")
    chosen = str(tmp_path / "list.txt") if space == "list" else space
    made = make(tmp_path / "m", raws, genes={"space": chosen, "min_cells": 3})
    genes = {"union": ["A", "P", "Q"], "intersection": ["A"], "list": ["A", "P"]}[space]
    assert read_space(made.folder / "space.parquet")["gene_id"].tolist() == genes
    rows, facts = read_mapping(made.folder / "mapping.parquet")
    outcomes = dict(zip(rows["name_as_found"], rows["outcome"], strict=True))
    outside = {"union": [], "intersection": ["P", "Q"], "list": ["Q"]}[space]
    assert outcomes == dict.fromkeys(genes, "as_found") | dict.fromkeys(outside, "outside_space") | {
        "RARE": "min_cells"
    }
    assert (
        rows.loc[rows["outcome"] == "min_cells", "gene_id"].tolist()
        == ["RARE"]
        == [*genes_in_few_cells(made.folder / "mapping.parquet")]
    )
    assert dropped(made, "p")["min_cells"] == {"columns": 1, "counts": 1}
    said = gene_names(read_genes(made.genes)[1], made.ledger)["gene_names"]
    assert said["names"] == facts["outcomes"] and said["counts_dropped"]["min_cells"] == 2
    assert ("min_cells", "a gene in fewer kept cells than genes.min_cells", 1, 2) in name_rows(said)


def test_no_gene_that_is_left_is_refused(tmp_path: Path) -> None:
    """With the most frequent gene; nothing is written."""
    raw = write_raw(tmp_path / "x.h5ad", np.eye(4, dtype=np.float32) + 1)
    with pytest.raises(CellmillError, match=r"none of 4 genes is in 5 kept cells; the most frequent is in 4\. Lower"):
        make(tmp_path / "m", {"0": raw}, genes={"min_cells": 5})
    assert not (tmp_path / "m" / "space.parquet").exists() and not (tmp_path / "m" / "mapping.parquet").exists()


def test_without_it_the_bytes_are_the_same(tmp_path: Path) -> None:
    """`min_cells: 0` looks at no cell; genes of no cell stay."""
    raw = sparse_file(tmp_path)
    made = make(tmp_path / "m", {"0": raw})
    count_cells(made, {"0": raw}, [])
    out, out_mapping = tmp_path / "space.parquet", tmp_path / "mapping.parquet"
    cells = made.files("gene_cells.parquet")
    unify_genes(
        made.files("genes.parquet"), spec=made.dataset.genes, out=out, out_mapping=out_mapping, gene_cells=cells
    )
    assert sha256_of(out) == sha256_of(made.folder / "space.parquet")
    assert (read_gene_cells(cells[0])["cells"] == 0).any() and len(read_space(out)) == 120
