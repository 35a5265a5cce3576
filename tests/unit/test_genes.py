"""Gene names, the gene space, statistics and variable genes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_genes, read_space, variable_columns
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.genes.identifiers import PartGenes, resolve_genes
from cellmill.genes.space import unify_genes
from cellmill.genes.spec import Genes

from .stages import Made, make, measure, random_counts, split_raw, three_parts, write_raw

PLACENTA = "derived/placenta_ensembl_220.h5ad"
PBMC = "derived/pbmc68k_recovered_counts_700.h5ad"


def ensembl(n: int, version: str = "") -> list[str]:
    return [f"ENSG{i:011d}{version}" for i in range(n)]


# Names


def test_versions_come_off() -> None:
    """Of Ensembl ids; other names may have dots."""
    found = resolve_genes(pd.DataFrame(index=[*ensembl(19, ".12"), "RP11-34P13.7"]))
    assert found.gene_ids.tolist() == [*ensembl(19), "RP11-34P13.7"]
    assert found.gene_symbols.tolist() == [None] * 20


def test_the_copy_on_y_is_a_gene_of_its_own() -> None:
    """As in Ensembl's pseudoautosomal regions."""
    found = resolve_genes(pd.DataFrame(index=["ENSG00000228572.7", "ENSG00000228572.7_PAR_Y"]))
    assert found.gene_ids.tolist() == ["ENSG00000228572", "ENSG00000228572_PAR_Y"]


def test_mouse_versions_come_off() -> None:
    """Ensembl ids have the species in them."""
    assert resolve_genes(pd.DataFrame(index=["ENSMUSG00000000001.4"])).gene_ids.tolist() == ["ENSMUSG00000000001"]


@pytest.mark.parametrize("column", ["ensembl_id", "gene_ids", "gene_id", "feature_id"])
def test_ensembl_ids_are_found_in_the_usual_columns(column: str) -> None:
    """Then the index names the symbols."""
    var = pd.DataFrame({"n": 1, column: ensembl(3, ".1")}, index=["A", "B", "C"])
    found = resolve_genes(var)
    assert (found.taken_from, found.gene_ids.tolist(), found.gene_symbols.tolist()) == (
        column,
        ensembl(3),
        ["A", "B", "C"],
    )


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "symbol"])
def test_symbols_are_found_beside_ensembl_ids(column: str) -> None:
    """A missing or empty one is none."""
    var = pd.DataFrame({column: pd.Categorical(["A", None, ""])}, index=ensembl(3))
    assert resolve_genes(var).gene_symbols.tolist() == ["A", None, None]


def test_symbols_name_the_genes_where_nothing_else_does() -> None:
    """The index as it stands."""
    found = resolve_genes(pd.DataFrame({"gene_id": ["1", "2"]}, index=["A", "B.1"]))
    assert (found.taken_from, found.gene_ids.tolist(), found.gene_symbols.tolist()) == (
        "index",
        ["A", "B.1"],
        ["A", "B.1"],
    )


def test_a_column_that_is_mostly_not_ensembl_is_passed_over() -> None:
    """At least 90 % of the genes must have an Ensembl id."""
    var = pd.DataFrame({"gene_ids": [*ensembl(8), "x", "y"]}, index=[f"S{i}" for i in range(10)])
    assert resolve_genes(var).taken_from == "index"


def test_the_named_column_is_taken() -> None:
    """Whatever `auto` would take."""
    found = resolve_genes(pd.DataFrame({"mine": ["x", "y"]}, index=ensembl(2)), ids="mine")
    assert found.gene_ids.tolist() == ["x", "y"]


def test_a_missing_column_is_named_with_the_nearest() -> None:
    """And the config key."""
    with pytest.raises(CellmillError, match=r"no var column 'gene_idz' \(genes\.ids\).*Did you mean 'gene_ids'"):
        resolve_genes(pd.DataFrame({"gene_ids": ["a"]}, index=["b"]), ids="gene_idz")


@pytest.mark.parametrize("missing", [None, np.nan, ""])
def test_genes_without_a_name_are_refused(missing: Any) -> None:
    """With how many, and the row of the first."""
    var = pd.DataFrame({"mine": ["x", missing, missing]}, index=["A", "B", "C"])
    with pytest.raises(CellmillError, match=r"2 genes have no name in 'mine' .*row 1, 'B'"):
        resolve_genes(var, ids="mine")


def test_columns_of_one_gene_are_counted_as_merged() -> None:
    """Two versions of an id are one gene."""
    genes = resolve_genes(pd.DataFrame(index=["ENSG00000000001.1", "ENSG00000000001.2", "ENSG00000000002"]))
    assert genes.n_merged == 1


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_columns_of_one_gene_are_added_up(tmp_path: Path) -> None:
    """In the processed counts, in every cell."""
    counts = random_counts(30, 6)
    names = ["b", "a", "b", "c", "a", "b"]
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts, genes=names)})
    with CountsPart(made.file("0", "h5ad")) as part:
        found = pd.DataFrame(part.rows(0, part.n_cells).toarray(), columns=part.var.index, index=part.obs.index)
    expected = (
        pd.DataFrame(counts.toarray(), columns=names, index=[f"c{i}" for i in range(30)]).T.groupby(level=0).sum().T
    )
    assert found.columns.tolist() == ["a", "b", "c"]
    assert (found == expected.loc[found.index]).all(axis=None)


# The gene space


def part_genes(folder: Path, parts: dict[str, tuple[list[str], list[str | None]]]) -> list[Path]:
    from cellmill.contracts.genes import write_part_genes

    folder.mkdir(exist_ok=True)
    for name, (ids, symbols) in parts.items():
        write_part_genes(folder / name, PartGenes(np.array(ids, object), np.array(symbols, object), "index"))
    return [folder / name for name in parts]


def test_the_gene_space_is_the_union_in_the_order_of_ids(tmp_path: Path) -> None:
    """For any order of parts; the first symbol by name stays."""
    paths = part_genes(
        tmp_path, {"p": (["b", "a", "b"], [None, "S", "Z"]), "q": (["c", "b"], [None, "Y"]), "r": (["a"], ["T"])}
    )
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        chosen = [paths[i] for i in order]
        unify_genes(chosen, spec=Genes(), out=tmp_path / f"space{order}", out_mapping=tmp_path / "mapping")
    assert len({sha256_of(p) for p in tmp_path.glob("space*")}) == 1
    space = read_space(tmp_path / "space[0, 1, 2]")
    assert space["gene_id"].tolist() == ["a", "b", "c"]
    assert space["gene_symbol"].tolist() == ["S", "Y", None]


def test_parts_with_other_genes_stand_in_one_space(tmp_path: Path) -> None:
    """Counts go to the column of their gene; genes that a part does not have are 0 there."""
    counts = random_counts(20, 5)
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", counts, genes=["G3", "G1", "G9", "G10", "G2"]),
        "q": write_raw(
            tmp_path / "q.h5ad", counts, genes=["G1", "X", "G3", "a", "é"], cells=[f"d{i}" for i in range(20)]
        ),
    }
    made = make(tmp_path, raws)
    p, q = (anndata.read_h5ad(made.file(n, "h5ad")) for n in "pq")
    assert p.var_names.tolist() == q.var_names.tolist() == sorted({"G3", "G1", "G9", "G10", "G2", "X", "a", "é"})
    for found, names in ((p, ["G3", "G1", "G9", "G10", "G2"]), (q, ["G1", "X", "G3", "a", "é"])):
        rows = [int(i[1:]) for i in found.obs_names]
        assert (found[:, names].X.toarray() == counts[rows].toarray()).all()
        assert found[:, [g for g in found.var_names if g not in names]].X.nnz == 0


# Statistics


def training(made: Made) -> anndata.AnnData:
    """The training cells of all parts, counts in float64."""
    parts = [anndata.read_h5ad(path) for path in made.files("h5ad")]
    together = anndata.concat(parts) if len(parts) > 1 else parts[0]
    chosen = together[together.obs["split"] == "train"].copy()
    chosen.X = chosen.X.astype(np.float64)
    return chosen


@pytest.fixture(scope="module", params=[PLACENTA, PBMC])
def real(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Real cells up to genes.parquet."""
    return make(tmp_path_factory.mktemp("real"), {"0": shared_data / request.param})


def test_statistics_are_those_of_the_training_cells(real: Made) -> None:
    """Mean and variance of counts per 10,000, cells and counts."""
    found, facts = read_genes(real.genes)
    cells = training(real)
    assert facts["train_cells"] == cells.n_obs < CountsPart(real.file("0", "h5ad")).n_cells
    assert (found["n_cells"] == (cells.X > 0).sum(axis=0).A1).all()
    assert (found["counts"] == cells.X.sum(axis=0).A1).all()
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    values = cells.X.toarray()
    np.testing.assert_allclose(found["mean"], values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["variance"], values.var(axis=0, ddof=1), rtol=1e-8, atol=1e-9)


def test_medians_are_within_their_bins(real: Made) -> None:
    """Within 0.4 % of the exact (lower) median of the values that are not zero; missing where there is none."""
    found, _ = read_genes(real.genes)
    cells = training(real)
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    for median, column in zip(found["nonzero_median"], sp.csc_matrix(cells.X).T, strict=True):
        if column.nnz == 0:
            assert np.isnan(median)
        else:
            exact = np.sort(column.data)[(column.nnz - 1) // 2]
            assert abs(median / exact - 1) <= 0.004


def test_variable_genes_are_those_of_scanpy(real: Made) -> None:
    """The same genes, the same dispersions, the same ranks."""
    found, facts = read_genes(real.genes)
    cells = training(real)
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)
    scanpy.pp.highly_variable_genes(cells, n_top_genes=min(2000, cells.n_vars))
    expected = cells.var["dispersions_norm"].to_numpy()
    np.testing.assert_allclose(found["variability"], expected, rtol=1e-6, atol=1e-6)
    n = facts["variable_genes"]
    assert n == found["variable"].sum() == min(2000, (~np.isnan(expected)).sum())
    assert (found["variable"] == cells.var["highly_variable"].to_numpy() & ~np.isnan(expected)).all()
    ranked = found["variability"].to_numpy()[variable_columns(found, n)]
    assert (np.diff(ranked) <= 0).all()
    assert sorted(found["variable_rank"][found["variable"]]) == list(range(n))


@pytest.mark.parametrize("file", [PLACENTA, PBMC])
def test_statistics_do_not_depend_on_parts_or_their_order(shared_data: Path, tmp_path: Path, file: str) -> None:
    """Byte for byte: one part, or the same cells in three parts in another order."""
    raw = shared_data / file
    rows = three_parts(anndata.read_h5ad(raw, backed="r").n_obs)
    one = make(tmp_path / "one", {"0": raw})
    raws = split_raw(raw, tmp_path / "raws", rows)
    three = make(tmp_path / "three", raws)
    backwards = make(tmp_path / "backwards", dict(reversed(raws.items())))
    assert sha256_of(one.genes) == sha256_of(three.genes) == sha256_of(backwards.genes)


def slow_statistics(made: Made) -> tuple[np.ndarray, np.ndarray]:
    values = training(made).X.toarray()
    values = values / values.sum(axis=1, keepdims=True) * 1e4
    return values.mean(axis=0), values.var(axis=0, ddof=min(1, len(values) - 1))


def never_expressed(counts: np.ndarray) -> np.ndarray:
    counts[:, 3] = 0
    return counts


AWKWARD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a gene is never expressed": never_expressed,
    "all cells are alike": lambda counts: np.tile(counts[0], (len(counts), 1)),
    "a single cell": lambda counts: counts[:1],
    "large counts": lambda counts: counts * 4000,
}


@pytest.mark.parametrize("change", AWKWARD.values(), ids=AWKWARD.keys())
def test_statistics_of_awkward_cells(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A gene that is never expressed, cells that are all alike, a single cell, large counts."""
    counts = change(random_counts(50, 20, seed=3).toarray() + (np.arange(20) % 3 == 0))
    split = {"fractions": {"train": 1.0}}
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)}, split=split)
    found, _ = read_genes(made.genes)
    mean, variance = slow_statistics(made)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-9)
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cells", [1, 2, 50])
def test_genes_that_do_not_vary_are_not_variable(tmp_path: Path, cells: int) -> None:
    """Cells that are all alike have no variable gene, nor has a single cell; rounding is no variance."""
    counts = np.tile(random_counts(1, 40, seed=4).toarray() + 1, (cells, 1))
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)}, split={"fractions": {"train": 1.0}})
    found, facts = read_genes(made.genes)
    assert (found["variance"] == 0).all()
    assert facts["variable_genes"] == 0
    assert not found["variable"].any()


def test_a_gene_in_one_cell_of_many_varies(tmp_path: Path) -> None:
    """However little that is."""
    counts = np.zeros((3000, 3), np.float32)
    counts[:, 0] = 10_000
    counts[7, 1] = 1
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)}, split={"fractions": {"train": 1.0}})
    found, _ = read_genes(made.genes)
    _, variance = slow_statistics(made)
    assert found["variance"][1] > 0
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-6, atol=1e-8)


def test_no_training_cell_is_an_error(tmp_path: Path) -> None:
    """With the ways out; a few cells may all fall into other splits."""
    raw = write_raw(tmp_path / "x.h5ad", np.ones((1, 3), np.float32))
    split = {"fractions": {"train": 1e-12, "test": 1 - 1e-12}}
    with pytest.raises(CellmillError, match=r"there is no training cell\. Choose another split\.seed"):
        make(tmp_path, {"0": raw}, split=split)


def test_measured_genes_have_a_row_per_column(tmp_path: Path) -> None:
    """As the raw file has them, before anything is merged."""
    from cellmill.contracts.genes import read_part_genes

    raw = write_raw(tmp_path / "x.h5ad", random_counts(10, 4), genes=[f"{g}.1" for g in ensembl(4)])
    measure(tmp_path, {"0": raw})
    assert read_part_genes(tmp_path / "0.genes.parquet").gene_ids.tolist() == ensembl(4)
