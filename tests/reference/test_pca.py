"""Embeddings against scikit-learn and scanpy, and their independence of parts and blocks."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy
from sklearn.decomposition import PCA as SklearnPca

from cellmill.contracts import embedding
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_arrays, read_genes, variable_columns
from cellmill.contracts.versions import PCA
from cellmill.embedders import Embedder, Hvg, Pca, covariance
from cellmill.embedders.covariance import measure_covariance
from cellmill.embedders.embed import embed_part
from cellmill.embedders.pca import fit_pca
from cellmill.errors import CellmillError
from cellmill.files import sha256_of

from ..unit.stages import Made, make, random_counts, split_raw, three_parts, write_raw

PLACENTA = "derived/placenta_ensembl_220.h5ad"
SPEC = Pca(n_genes=400, n_components=30)


def fit(made: Made, spec: Pca = SPEC) -> Path:
    """Both fitting steps over all parts; the model."""
    for part in made.parts:
        measure_covariance(
            made.file(part, "h5ad"), genes=made.genes, n_genes=spec.n_genes, out=made.file(part, "cov.npz")
        )
    fit_pca(made.files("cov.npz"), genes=made.genes, spec=spec, out=made.folder / "model.npz")
    return made.folder / "model.npz"


def embed(made: Made, spec: Embedder, model: Path | None = None) -> dict[str, np.ndarray]:
    """Vectors by cell id."""
    vectors = {}
    for part in made.parts:
        out = made.file(part, "npy")
        embed_part(
            made.file(part, "h5ad"),
            genes=made.genes,
            files=[] if model is None else [str(model)],
            spec=spec,
            out=out,
            manifest=out.with_suffix(".json"),
        )
        with CountsPart(made.file(part, "h5ad")) as counts:
            vectors |= dict(zip(counts.obs.index, embedding.read(out), strict=True))
    return vectors


def scanpy_values(made: Made, values: str = "log1p", target_sum: float = 1e4) -> anndata.AnnData:
    """All kept cells of the only part, as scanpy normalises them, in float64."""
    cells = anndata.read_h5ad(made.file("0", "h5ad"))
    cells.X = cells.X.astype(np.float64)
    if values != "counts":
        scanpy.pp.normalize_total(cells, target_sum=target_sum)
    if values == "log1p":
        scanpy.pp.log1p(cells)
    return cells


@pytest.fixture(scope="module")
def one(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Real cells in one part."""
    return make(tmp_path_factory.mktemp("one"), {"0": shared_data / PLACENTA})


@pytest.fixture(scope="module")
def three(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same cells in three parts, in another order."""
    folder = tmp_path_factory.mktemp("three")
    return make(folder, split_raw(shared_data / PLACENTA, folder / "raws", three_parts(220)))


def test_components_are_those_of_scikit_learn(one: Made) -> None:
    """Up to sign within 1e-4: vectors of all cells, fitted on the training cells, and explained variances."""
    spec = Pca(n_genes=2000, n_components=50)
    model = fit(one, spec)
    found = np.stack(list(embed(one, spec, model).values()))
    cells = scanpy_values(one)
    genes, _ = read_genes(one.genes)
    values = cells.X[:, np.sort(variable_columns(genes, spec.n_genes))].toarray()
    reference = SklearnPca(spec.n_components, svd_solver="full").fit(values[cells.obs["split"] == "train"])
    expected = reference.transform(values)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)
    fitted = read_arrays(model, PCA)
    np.testing.assert_allclose(fitted["explained_variance"], reference.explained_variance_, rtol=1e-7)
    ratio = fitted["explained_variance"] / fitted["total_variance"]
    np.testing.assert_allclose(ratio, reference.explained_variance_ratio_, rtol=1e-7)
    np.testing.assert_allclose(fitted["mean"], reference.mean_, atol=1e-7)


def test_the_largest_loading_of_a_component_is_positive(one: Made) -> None:
    """So that signs are the same everywhere."""
    components = read_arrays(fit(one), PCA)["components"]
    assert (components[np.arange(len(components)), np.abs(components).argmax(axis=1)] > 0).all()


def test_components_do_not_depend_on_parts(one: Made, three: Made) -> None:
    """Byte for byte, for the same cells in other parts and another order of parts."""
    assert sha256_of(fit(one)) == sha256_of(fit(three))
    fit_pca(three.files("cov.npz")[::-1], genes=three.genes, spec=SPEC, out=three.folder / "backwards.npz")
    assert sha256_of(three.folder / "backwards.npz") == sha256_of(three.folder / "model.npz")


@pytest.mark.parametrize("rows", [17, 100_000])
def test_components_do_not_depend_on_blocks(one: Made, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Byte for byte: sums of whole numbers."""
    expected = sha256_of(fit(one))
    monkeypatch.setattr(covariance, "BLOCK_ROWS", rows)
    assert sha256_of(fit(one)) == expected


@pytest.mark.parametrize("spec", [SPEC, Hvg(n_genes=300)], ids=lambda s: s.kind)
def test_the_vector_of_a_cell_does_not_depend_on_its_part(one: Made, three: Made, spec: Embedder) -> None:
    """Byte for byte."""
    model = fit(one) if spec.learns else None
    found, expected = embed(three, spec, model), embed(one, spec, model)
    assert found.keys() == expected.keys()
    assert all(found[cell].tobytes() == expected[cell].tobytes() for cell in expected)


@pytest.mark.parametrize("n_genes", [300, 5_000])
@pytest.mark.parametrize("target_sum", [1e4, 1e6])
@pytest.mark.parametrize("values", ["log1p", "normalized", "counts"])
def test_hvg_is_what_scanpy_normalises(one: Made, values: str, target_sum: float, n_genes: int) -> None:
    """Over the genes in the order of their rank, also over thousands; counts are as they were found."""
    found = np.stack(list(embed(one, Hvg(n_genes=n_genes, values=values, target_sum=target_sum)).values()))
    genes, _ = read_genes(one.genes)
    ranked = genes[genes["variable"]].sort_values("variable_rank")["gene_id"][:n_genes]
    expected = scanpy_values(one, values, target_sum)[:, ranked.to_numpy()].X.toarray()
    assert found.dtype == np.float32 and found.shape[1] == min(n_genes, genes["variable"].sum())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fewer_cells_than_components_give_fewer_components(tmp_path: Path) -> None:
    """One less than there are training cells."""
    made = make(
        tmp_path, {"0": write_raw(tmp_path / "x.h5ad", random_counts(6, 40))}, split={"fractions": {"train": 1}}
    )
    vectors = embed(made, Pca(), fit(made, Pca()))
    assert {v.shape for v in vectors.values()} == {(5,)}
    assert all(np.isfinite(v).all() for v in vectors.values())


def test_a_part_without_cells_has_no_vectors(tmp_path: Path) -> None:
    """Its files are there, and are read, all the same."""
    counts = random_counts(30, 20).toarray()
    counts[:4] = 0
    raw = write_raw(tmp_path / "x.h5ad", counts)
    made = make(tmp_path, split_raw(raw, tmp_path / "raws", {"p": np.arange(4), "q": np.arange(4, 30)}))
    assert len(embed(made, Pca(), fit(made, Pca()))) == 26
    assert embedding.read(made.file("p", "npy")).shape[0] == 0


def test_one_training_cell_is_too_few(tmp_path: Path) -> None:
    """With both numbers, and what to do."""
    counts = random_counts(1, 40).toarray() + 1
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)}, split={"fractions": {"train": 1}})
    with pytest.raises(CellmillError, match="1 training cells and 0 variable genes; PCA needs at least two cells"):
        fit(made, Pca())


def test_cells_that_are_all_alike_cannot_be_embedded(tmp_path: Path) -> None:
    """No gene varies, and the error says so."""
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", np.ones((60, 40), np.float32))})
    with pytest.raises(CellmillError, match=r"no gene varies\. Leave 'hvg' out"):
        embed(made, Hvg())
