"""Vectors of counts: lists of genes, references, types, and cells that have none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellmill.config import ConfigError, load_project
from cellmill.contracts import embedding
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_arrays, write_arrays
from cellmill.contracts.versions import PCA
from cellmill.embedders import OfCounts, parse_embedder
from cellmill.embedders import embed as embed_module
from cellmill.embedders.covariance import measure_covariance
from cellmill.embedders.embed import embed_part
from cellmill.embedders.pca import Pca, fit_pca
from cellmill.errors import CellmillError

from .stages import Made, make, random_counts, write_raw
from .test_config import CONFIG, HEART, change, load, problems

CELLS, GENES = 60, 30
IDS = [f"ENSG{i:011d}" for i in range(GENES)]
SYMBOLS = [None if i == 4 else "TWICE" if i in (5, 6) else f"SYM{i}" for i in range(GENES)]


def counts() -> sp.csr_matrix:
    """No cell is empty."""
    return sp.csr_matrix(random_counts(CELLS, GENES).toarray() + np.eye(CELLS, GENES, dtype=np.float32)[::-1] + 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    raw = write_raw(folder / "x.h5ad", counts(), genes=IDS, var={"gene_symbol": SYMBOLS})
    return make(folder, {"0": raw})


def spec_of(**values: Any) -> OfCounts:
    found: Any = parse_embedder(values)
    return found


def embed(made: Made, out: Path, spec: OfCounts, *files: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Vectors of the only part, and their manifest."""
    out.parent.mkdir(parents=True, exist_ok=True)
    said = out.with_suffix(".json")
    part = made.file("0", "h5ad")
    embed_part(part, genes=made.genes, files=[str(f) for f in files], spec=spec, out=out, manifest=said)
    return np.array(embedding.read(out)), json.loads(said.read_text())


def log1p(made: Made, target_sum: float = 1e4) -> np.ndarray:
    """float64 (cells, genes), by numpy."""
    with CountsPart(made.file("0", "h5ad")) as part:
        values = part.rows(0, part.n_cells).toarray().astype(np.float64)
    return np.log1p(values / values.sum(axis=1, keepdims=True) * target_sum)


# --- a list of genes


def test_genes_are_in_the_order_of_the_list(made: Made, tmp_path: Path) -> None:
    """By id, by id with a version, by symbol; what is absent is zero, counted and named."""
    asked = [IDS[7], "SYM3", "ENSG00000999999", f"{IDS[1]}.12", "NOGENE"]
    vectors, said = embed(made, tmp_path / "x.npy", spec_of(kind="genes", genes=asked))
    assert said["genes"] == {"asked": 5, "found": 3, "absent": ["ENSG00000999999", "NOGENE"]}
    np.testing.assert_allclose(vectors[:, [0, 1, 3]], log1p(made)[:, [7, 3, 1]], rtol=1e-6)
    assert not vectors[:, [2, 4]].any() and (said["dimensions"], said["dtype"]) == (5, "float32")


def test_a_list_can_be_a_file_and_its_values_counts(made: Made, tmp_path: Path) -> None:
    """The first column, its head passed over."""
    (tmp_path / "list.tsv").write_text("gene_symbol\tnote\nSYM9\ta\nSYM8\tb\n")
    spec = spec_of(kind="genes", genes="list.tsv", values="counts")
    vectors, _ = embed(made, tmp_path / "x.npy", spec, tmp_path / "list.tsv")
    found = anndata.read_h5ad(made.file("0", "h5ad"))
    assert np.array_equal(vectors, found.X[:, [9, 8]].toarray())


def test_the_library_size_is_over_all_genes(made: Made, tmp_path: Path) -> None:
    """And not over those of the list."""
    vectors, _ = embed(made, tmp_path / "x.npy", spec_of(kind="genes", genes=["SYM3"], target_sum=500.0))
    np.testing.assert_allclose(vectors[:, 0], log1p(made, 500)[:, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        (["SYM1", "SYM2", "SYM1"], r"'SYM1' stands there twice\. Give every gene one place"),
        ([f"{IDS[1]}.1", f"{IDS[1]}.2"], rf"'{IDS[1]}' stands there twice"),
        (["SYM1", IDS[1]], rf"'SYM1' and '{IDS[1]}' are one gene"),
        (["TWICE"], rf"'TWICE' is the symbol of several genes: {IDS[5]}, {IDS[6]}\. Name one"),
        (["SYM1", " "], r"name 2 of 2 is empty"),
        (["SIM1", "SIM2", "SYM3"], r"has 1 of 3 genes, fewer than 50%; not there: SIM1, SIM2\..*Did you mean 'SYM1'"),
    ],
)
def test_a_list_that_is_wrong_is_refused(made: Made, tmp_path: Path, genes: list[str], said: str) -> None:
    """Before anything is written."""
    with pytest.raises(CellmillError, match=said):
        embed(made, tmp_path / "x.npy", spec_of(kind="genes", genes=genes))
    assert not list(tmp_path.iterdir())


def test_a_list_of_which_nothing_is_there_is_refused_whatever_is_allowed(made: Made, tmp_path: Path) -> None:
    """All zeros are no embedding."""
    with pytest.raises(CellmillError, match="has 0 of 1 genes"):
        embed(made, tmp_path / "x.npy", spec_of(kind="genes", genes=["NOGENE"], min_found=0))


@pytest.mark.parametrize("block", [1, 7])
def test_values_do_not_depend_on_blocks(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Wide vectors are made in shorter blocks."""
    spec = spec_of(kind="hvg", n_genes=20)
    expected, said = embed(made, tmp_path / "a.npy", spec)
    monkeypatch.setattr(embed_module, "BLOCK_VALUES", block * said["dimensions"])
    assert embed(made, tmp_path / "b.npy", spec)[0].tobytes() == expected.tobytes()


# --- types


@pytest.mark.parametrize("kind", ["hvg", "genes", "pca"])
def test_float16_is_float32_rounded(made: Made, tmp_path: Path, kind: str) -> None:
    """In the file, which says so."""
    files = [fitted(made, tmp_path)] if kind == "pca" else []
    more = {"genes": ["SYM1", "SYM2"]} if kind == "genes" else {}
    whole, _ = embed(made, tmp_path / "a.npy", spec_of(kind=kind, **more), *files)
    half, said = embed(made, tmp_path / "b.npy", spec_of(kind=kind, dtype="float16", **more), *files)
    assert said["dtype"] == "float16" and half.dtype == np.float16
    assert np.array_equal(half, whole.astype(np.float16))


def test_a_value_beyond_float16_is_refused(made: Made, tmp_path: Path) -> None:
    """With the value and what to do; no infinity is written."""
    spec = spec_of(kind="hvg", values="normalized", target_sum=1e7, dtype="float16")
    with pytest.raises(CellmillError, match=r"row \d+ has [\d,]+, and float16 ends at 65,504\. Take dtype"):
        embed(made, tmp_path / "x.npy", spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "dtype"), [(2_049, "float16"), ((1 << 24) + 1, "float32")])
def test_a_count_that_would_be_rounded_is_refused(tmp_path: Path, count: int, dtype: str) -> None:
    """Counts are whole numbers, or an error."""
    values = counts().toarray().astype(np.int64)
    values[3, 3] = count
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", sp.csr_matrix(values), genes=IDS)})
    genes = [IDS[3], IDS[2]]
    with pytest.raises(CellmillError, match=rf"counts in a cell; {dtype} has no place for every whole number above"):
        embed(made, tmp_path / "x.npy", spec_of(kind="genes", genes=genes, values="counts", dtype=dtype))
    embed(made, tmp_path / "y.npy", spec_of(kind="genes", genes=genes, dtype=dtype))


# --- a cell without counts


@pytest.mark.parametrize("kind", ["hvg", "genes", "pca"])
def test_a_cell_without_a_count_is_refused_and_counted(tmp_path: Path, kind: str) -> None:
    """A cell is judged by all genes of its file, and may have none of the gene space: no zeros are made up."""
    values = counts().toarray()
    values[[8, 20], :10] = 0
    (tmp_path / "space.txt").write_text("\n".join(IDS[:10]))
    raw = write_raw(tmp_path / "x.h5ad", values, genes=IDS)
    made = make(tmp_path, {"0": raw}, genes={"space": str(tmp_path / "space.txt")})
    files = [fitted(made, tmp_path)] if kind == "pca" else []
    more = {"genes": IDS[:2]} if kind == "genes" else {}
    with pytest.raises(CellmillError, match=r"2 of 60 cells have no count in the gene space, the first 'c8': .*No row"):
        embed(made, tmp_path / "out" / "x.npy", spec_of(kind=kind, **more), *files)
    assert not list((tmp_path / "out").iterdir())


# --- a reference


def fitted(made: Made, folder: Path, **options: Any) -> Path:
    """The components of a dataset, fitted."""
    spec = Pca(**{"n_genes": 20, "n_components": 5} | options)
    sums = folder / "cov.npz"
    measure_covariance(made.file("0", "h5ad"), genes=made.genes, n_genes=spec.n_genes, out=sums)
    fit_pca([sums], genes=made.genes, spec=spec, out=folder / "pca.npz")
    return folder / "pca.npz"


def reference(**options: Any) -> OfCounts:
    return spec_of(kind="pca", reference="given", **options)


def test_the_pca_of_a_dataset_is_a_reference_of_another(made: Made, tmp_path: Path) -> None:
    """On the same cells the vectors are the same bytes, whatever columns the genes are in the other."""
    model = fitted(made, tmp_path)
    expected, _ = embed(made, tmp_path / "a.npy", spec_of(kind="pca"), model)
    order = np.random.default_rng(0).permutation(GENES)
    more = sp.hstack([counts()[:, order], sp.csr_matrix((CELLS, 3), dtype=np.float32)]).tocsr()
    names = [IDS[i] for i in order] + [f"ENSG{i:011d}" for i in (900, 901, 902)]
    other = make(tmp_path / "other", {"0": write_raw(tmp_path / "other/x.h5ad", more, genes=names)})
    found, said = embed(other, tmp_path / "b.npy", reference(), model)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    p = len(read_arrays(model, PCA)["genes"])
    assert said["genes"] == {"asked": p, "found": p, "absent": []}
    assert said["reference"]["components"] == 5 and list(said["reference"]["files"]) == ["pca.npz"]


@pytest.mark.parametrize("absent", ["mean", "zero"])
@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "npz"])
def test_absent_genes_are_at_the_mean_or_zero(made: Made, tmp_path: Path, absent: str, as_folder: bool) -> None:
    """By the formula, in plain numpy, from files of somebody else."""
    rng = np.random.default_rng(1)
    names, there = ["SYM1", "NOGENE", f"{IDS[8]}.3", "SYM9"], [1, 8, 9]
    components, mean = rng.normal(size=(6, 4)), rng.random(4)
    if as_folder:
        (tmp_path / "genes.txt").write_text("\n".join(names))
        np.save(tmp_path / "components.npy", components)
        np.save(tmp_path / "mean.npy", mean)
        np.save(tmp_path / "target_sum.npy", 1e6)
        files = [tmp_path / f for f in ("components.npy", "mean.npy", "target_sum.npy", "genes.txt")]
    else:
        files = [tmp_path / "x.npz"]
        np.savez(files[0], components=components, mean=mean, genes=np.array(names), target_sum=[1e6])
    vectors, said = embed(made, tmp_path / "v.npy", reference(absent=absent, n_components=4), *files)
    values = np.repeat(mean[None] if absent == "mean" else np.zeros((1, 4)), CELLS, axis=0)
    values[:, [0, 2, 3]] = log1p(made, 1e6)[:, there]
    np.testing.assert_allclose(vectors, ((values - mean) @ components.T)[:, :4], rtol=1e-5, atol=1e-5)
    assert said["genes"] == {"asked": 4, "found": 3, "absent": ["NOGENE"]}
    assert said["reference"]["components"] == 6 and set(said["reference"]["files"]) == {f.name for f in files}


def arrays(**changed: Any) -> dict[str, Any]:
    """A reference of three genes and two components."""
    whole = {"components": np.ones((2, 3)), "mean": np.ones(3), "genes": np.array(["SYM1", "SYM2", "SYM3"])}
    return {k: v for k, v in (whole | changed).items() if v is not None}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mean": None, "genes": None}, r"has no mean and no genes\. docs/formats\.md, pca"),
        ({"components": np.ones((2, 4))}, r"'components' is \(2, 4\), and there are 3 genes"),
        ({"components": np.ones(3)}, r"'components' is \(3,\), and there are 3 genes"),
        ({"components": np.ones((0, 3))}, r"'components' is \(0, 3\)"),
        ({"mean": np.ones(2)}, r"'mean' is \(2,\), and there are 3 genes"),
        ({"mean": np.array([1, np.nan, 1])}, r"'mean' has values that are not finite"),
        ({"components": np.full((2, 3), np.inf)}, r"'components' has values that are not finite"),
        ({"components": np.array([["a", "b", "c"]])}, r"could not convert string"),
        ({"target_sum": -1.0}, r"'target_sum' is -1"),
        ({"target_sum": np.ones(2)}, r"cannot reshape"),
        ({"genes": np.arange(3)}, r"'genes' is no list of texts"),
        ({"genes": np.array(["SYM1", "SYM2", "SYM1"])}, r"'SYM1' stands there twice"),
        ({"genes": np.array(["SYM1", "no", "nor"])}, r"has 1 of 3 genes, fewer than 50%; not there: no, nor"),
        ({"genes": np.array(["SYM1", {}, "SYM3"], object)}, r"not readable \(Object arrays cannot be loaded"),
    ],
)
def test_a_reference_that_is_wrong_is_refused(made: Made, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    """Before anything is written; nothing is unpickled."""
    np.savez(tmp_path / "x.npz", **arrays(**changed))
    with pytest.raises(CellmillError, match=said):
        embed(made, tmp_path / "out" / "x.npy", reference(), tmp_path / "x.npz")
    assert not list((tmp_path / "out").iterdir())


def test_a_reference_of_another_contract_is_refused(made: Made, tmp_path: Path) -> None:
    """A file of ours that is something else."""
    write_arrays(tmp_path / "x.npz", arrays(), "covariance 2")
    with pytest.raises(CellmillError, match="found covariance 2, expected 'pca 2'"):
        embed(made, tmp_path / "x.npy", reference(), tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_a_reference_that_is_no_npz_is_refused(made: Made, tmp_path: Path, content: bytes) -> None:
    """By an error that names it."""
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CellmillError, match=r"x\.npz: not readable"):
        embed(made, tmp_path / "x.npy", reference(), tmp_path / "x.npz")


# --- what is known before the first job


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_raw(tmp_path / "a.h5ad", np.ones((2, 3), np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "genes", "genes": "no.txt"}, r"pca\.genes: no file 'no\.txt'\. There: genes/"),
        ({"kind": "genes", "genes": ["A", "B", "A"]}, r"pca\.genes: 'A' stands there twice"),
        ({"kind": "genes", "genes": "twice.txt"}, r"pca\.genes: 'ENSG00000000001' stands there twice"),
        ({"kind": "genes", "genes": "empty.txt"}, r"pca\.genes: .*empty\.txt: is empty"),
        ({"kind": "pca", "reference": "no.npz"}, r"pca\.reference: no file 'no\.npz', and no PCA that this run fits"),
        ({"kind": "pca", "reference": "a.h5ad"}, r"pca\.reference: 'a\.h5ad' is no \.npz"),
        ({"kind": "pca", "reference": "folder"}, r"pca\.reference: no mean\.npy and no genes\.txt or .* in 'folder'"),
        (
            {"kind": "pca", "reference": "results/liver/embedded/other/model/pca.npz"},
            r"no file 'results/liver/embedded/other/model/pca\.npz', and no PCA that this run fits",
        ),
    ],
)
def test_files_that_are_not_there_are_told_at_once(root: Path, values: dict[str, Any], said: str) -> None:
    """Of embedders that the run uses."""
    (root / "twice.txt").write_text("ENSG00000000001.1\nENSG00000000001.2\n")
    (root / "empty.txt").write_text("")
    (root / "folder").mkdir()
    np.save(root / "folder" / "components.npy", np.ones((1, 1)))
    (found,) = problems(root, HEART, change(CONFIG, "embedders.pca", values))
    assert re.search(said, found), found


def test_a_pca_of_the_same_run_is_made_first(root: Path) -> None:
    """It need not be there yet; nor need files of embedders that nobody uses."""
    spec = {"kind": "pca", "reference": "results/heart/embedded/fitted/model/pca.npz"}
    config = change(change(CONFIG, "embedders.pca", spec), "embedders.fitted", {"kind": "pca"})
    config = change(config, "embedders.unused", {"kind": "genes", "genes": "nowhere.txt"})
    assert not load(root, HEART, config).config.embedders["pca"].learns
    with pytest.raises(ConfigError):
        load_project({**config, "datasets": ["nobody"]}, root=root)
