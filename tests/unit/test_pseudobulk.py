"""Profiles of groups of cells: exact, the same for any parts, and every cell accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellmill.contracts.profiles import read_facts
from cellmill.errors import CellmillError
from cellmill.pseudobulk.groups import Sums
from cellmill.pseudobulk.profiles import sum_groups, write_pseudobulk
from cellmill.pseudobulk.spec import Pseudobulk

from .stages import Made, make, random_counts, three_parts, write_raw

CELLS = 240
BY = ["donor", "cell_type"]


def obs() -> dict[str, Any]:
    """Donors of one lab each; of the last donor few cells, and types that are missing here and there."""
    rng = np.random.default_rng(5)
    donor = np.array([f"d{i}" for i in rng.integers(0, 4, CELLS)], object)
    donor[:3] = "rare"
    types = np.array(["B", 'T "naïve"', None], object)[rng.choice(3, CELLS, p=[0.5, 0.4, 0.1])]
    lab = np.where(np.isin(donor, ["d0", "d1"]), "L1", "L2").astype(object)
    lab[donor == "d3"] = None
    return {
        "donor": donor,
        "cell_type": pd.Categorical(types),
        "lab": pd.Categorical(lab),
        "age": np.where(donor == "d2", rng.integers(20, 22, CELLS), 50),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> anndata.AnnData:
    folder = tmp_path_factory.mktemp("whole")
    return anndata.read_h5ad(write_raw(folder / "w.h5ad", random_counts(CELLS, 30, seed=2), obs=obs()))


def processed(folder: Path, whole: anndata.AnnData, parts: dict[str, np.ndarray]) -> Made:
    raws = {}
    for name, rows in parts.items():
        raws[name] = folder / f"{name}.raw.h5ad"
        whole[rows].copy().write_h5ad(raws[name])
    return make(
        folder / "out",
        raws,
        columns={"keep": ["lab", "age"]},
        quality={"mads": {}, "min_counts": 0, "min_genes": 0},
        pseudobulk={"p": {"by": BY}},
    )


@pytest.fixture(scope="module")
def one(whole: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return processed(tmp_path_factory.mktemp("one"), whole, {"all": np.arange(CELLS)})


@pytest.fixture(scope="module")
def three(whole: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return processed(tmp_path_factory.mktemp("three"), whole, three_parts(CELLS))


def profiles(made: Made, out: Path, *, parts: list[str] | None = None, **spec: Any) -> Path:
    asked = Pseudobulk(**({"by": BY, "min_cells": 5} | spec))
    files = []
    for part in parts or made.parts:
        files.append(out / f"{part}.h5ad")
        sum_groups(made.file(part, "h5ad"), spec=asked, columns=made.dataset.kept_columns, out=files[-1])
    write_pseudobulk(files, name="p", spec=asked, out=out / "p.h5ad")
    return out / "p.h5ad"


@pytest.mark.parametrize("method", ["sum", "mean"])
def test_a_profile_is_the_sum_or_the_mean_of_its_cells(
    whole: anndata.AnnData, three: Made, tmp_path: Path, method: str
):
    """Compared with pandas; a mean below 1 stays what it is, and the index says the values."""
    found = anndata.read_h5ad(profiles(three, tmp_path, method=method))
    table = pd.DataFrame(whole.X.toarray(), index=whole.obs_names, columns=whole.var_names)
    grouped = table.groupby([whole.obs["donor"].astype(str), whole.obs["cell_type"].astype(object)])
    expected = getattr(grouped, method)()[grouped.size() >= 5]
    assert found.n_obs == len(expected) == 8
    assert sorted(found.obs_names)[0] == 'p:["d0", "B"]'
    for i, (donor, kind) in enumerate(zip(found.obs["donor"], found.obs["cell_type"], strict=True)):
        wanted = expected.loc[(donor, kind), found.var_names].to_numpy(np.float64)
        row = found.X[i].toarray().ravel()
        np.testing.assert_array_equal(row, wanted.astype(np.float32) if method == "mean" else wanted)
        assert found.obs["n_cells"].iloc[i] == grouped.size()[(donor, kind)]
    assert found.X.dtype == (np.float32 if method == "mean" else np.uint16)
    if method == "mean":
        assert ((found.X.data > 0) & (found.X.data < 1)).any()
    assert list(found.var_names) == sorted(whole.var_names) and "gene_symbol" in found.var


def test_columns_stay_where_all_cells_of_a_profile_share_them(three: Made, tmp_path: Path):
    """Over all parts, missing values included; numbers stay numbers."""
    found = anndata.read_h5ad(profiles(three, tmp_path)).obs.set_index("donor")
    assert set(found.loc["d0", "lab"]) == {"L1"} and set(found.loc["d2", "lab"]) == {"L2"}
    assert found.loc["d3", "lab"].isna().all()
    assert found.loc["d2", "age"].isna().all() and set(found.loc["d0", "age"]) == {50}
    assert found["split"].isna().any() and set(found["profile"]) == {"pseudobulk"}


def test_every_kept_cell_is_accounted_for(whole: anndata.AnnData, three: Made, tmp_path: Path):
    """In a profile, in a group with too few cells, or without a value."""
    said = read_facts(profiles(three, tmp_path, keep_cells=2))
    types = whole.obs["cell_type"]
    assert said["cells_without_value"] == int(types.isna().sum()) > 0
    assert said["cells"] == CELLS == sum(said[f"cells_{k}"] for k in ("in_profiles", "without_value", "dropped"))
    assert said["groups_dropped"] >= 1 and said["profiles"] == 8 and said["single_cells"] == 16
    assert 0 < said["profiles_across_splits"] <= 8
    inside = read_facts(profiles(three, tmp_path / "s", by=[*BY, "split"], min_cells=1))
    assert inside["profiles_across_splits"] == 0


def test_the_bytes_are_the_same_for_any_parts(one: Made, three: Made, tmp_path: Path):
    """One part or three, in any order; single cells too."""
    made = [
        profiles(one, tmp_path / "a", keep_cells=3),
        profiles(three, tmp_path / "b", keep_cells=3),
        profiles(three, tmp_path / "c", keep_cells=3, parts=three.parts[::-1]),
    ]
    assert len({path.read_bytes() for path in made}) == 1


def test_single_cells_are_those_of_the_dataset(whole: anndata.AnnData, three: Made, tmp_path: Path):
    """Their counts, ids and columns, behind the profile; a larger draw holds a smaller one, another seed is another."""
    drawn = {}
    for n, seed in ((1, 0), (4, 0), (4, 1)):
        found = anndata.read_h5ad(profiles(three, tmp_path / f"{n}.{seed}", keep_cells=n, seed=seed))
        cells = found[found.obs["profile"] == "cell"]
        drawn[n, seed] = set(cells.obs_names)
        source = whole[cells.obs_names]
        np.testing.assert_array_equal(cells.X.toarray(), source.X.toarray()[:, source.var_names.argsort()])
        assert cells.obs["donor"].astype(str).tolist() == source.obs["donor"].astype(str).tolist()
        assert cells.obs["age"].tolist() == source.obs["age"].tolist() and set(cells.obs["n_cells"]) == {1}
        assert cells.obs.groupby(BY, observed=True).size().tolist() == [n] * 8
    assert drawn[1, 0] < drawn[4, 0] != drawn[4, 1]


def test_sums_can_be_the_source_of_another_dataset(three: Made, tmp_path: Path):
    """Profiles and single cells go through every stage; means are refused."""
    path = profiles(three, tmp_path, keep_cells=2)
    columns = {"label": "cell_type", "keep": ["profile", "n_cells"]}
    made = make(tmp_path / "next", {"p": path}, columns=columns, quality={"mads": {}})
    kept = anndata.read_h5ad(made.file("p", "h5ad"))
    np.testing.assert_array_equal(kept.X.toarray(), anndata.read_h5ad(path).X.toarray())
    assert kept.obs["profile"].value_counts().to_dict() == {"cell": 16, "pseudobulk": 8}
    with pytest.raises(CellmillError, match="no matrix of it holds counts"):
        make(tmp_path / "means", {"p": profiles(three, tmp_path / "m", method="mean")})


def test_no_profile_at_all_is_an_error(three: Made, tmp_path: Path):
    """It says how many cells the largest group has."""
    with pytest.raises(CellmillError, match=r"of \d+ groups none has 999 cells; the largest has"):
        profiles(three, tmp_path, min_cells=999)
    assert not (tmp_path / "p.h5ad").exists()


def test_sums_are_exact_beyond_32_bits():
    """And independent of how the rows were cut."""
    counts = sp.random(2_000, 50, 0.3, "csr", random_state=0)
    counts.data = np.random.default_rng(0).integers(1, 2**32, len(counts.data)).astype(np.uint32)
    counts = counts.astype(np.uint32)
    codes = np.random.default_rng(1).integers(-1, 7, 2_000)
    expected = np.stack([counts[codes == g].toarray().astype(object).sum(axis=0) for g in range(7)])
    for step in (1, 7, 2_000):
        sums = Sums(7, 50)
        for i in range(0, 2_000, step):
            sums.add(codes[i : i + step], counts[i : i + step])
        np.testing.assert_array_equal(sums.total().toarray(), expected.astype(np.int64))
