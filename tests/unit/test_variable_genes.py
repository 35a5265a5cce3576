"""Variable genes by every flavor: sums that no cut of the data changes, exact variances, batches, edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellmill.config import ConfigError, load_project
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_clip, read_genes, read_sums, variable_columns
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.genes.clipped import expected_std
from cellmill.genes.spec import VariableGenes
from cellmill.genes.statistics import Sums, add_up
from cellmill.genes.variable import (
    Scores,
    cell_ranger_dispersion,
    normalized_dispersion,
    rank_by_batches,
    rank_by_median,
)

from .stages import Made, make, measure_variable_genes, random_counts, split_raw, three_parts, write_raw

FLAVORS = ["seurat", "cell_ranger", "seurat_v3", "dispersion"]
ALL_TRAIN: dict[str, Any] = {"fractions": {"train": 1.0}}
EVERY_FLAVOR = pytest.mark.parametrize("flavor", FLAVORS)
WITH_AND_WITHOUT = pytest.mark.parametrize("by_batch", [False, True], ids=["no batch", "batch"])


def ranked(made: Made, flavor: str, **options: Any) -> pd.DataFrame:
    """``genes.parquet`` of the same processed cells by another flavor."""
    spec = VariableGenes(flavor=flavor, **options)
    measure_variable_genes(replace(made, dataset=made.dataset.model_copy(update={"variable_genes": spec})))
    return read_genes(made.genes)[0]


def made_of(folder: Path, counts: np.ndarray, batch: list[Any] | None = None, **spec: Any) -> Made:
    """All cells train."""
    obs = None if batch is None else {"batch": batch}
    columns = {"columns": {"batch": "batch"}} if batch else {}
    raw = write_raw(folder / "x.h5ad", counts, obs=obs)
    return make(folder, {"0": raw}, **({"split": ALL_TRAIN} | columns | spec))


def rich_counts(cells: int, genes: int) -> np.ndarray:
    """Counts with means from 0.1 to 300, overdispersed."""
    rng = np.random.default_rng(12)
    rates = 10 ** rng.uniform(-1, 2.5, genes)
    return rng.poisson(rates * rng.gamma(3.0, 1 / 3, (cells, genes))).astype(np.float64)


# One result, however the cells are cut


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """The same cells of three batches as one part, as three parts, and as these in another order."""
    folder = tmp_path_factory.mktemp("cuts")
    counts = random_counts(400, 300, seed=8)
    batch = np.random.default_rng(1).choice(["b", "a", "ä"], 400, p=[0.5, 0.3, 0.2])
    raw = write_raw(folder / "raw.h5ad", counts, obs={"batch": batch})
    raws = split_raw(raw, folder / "raws", three_parts(400))
    columns = {"batch": "batch"}
    return [
        make(folder / "one", {"0": raw}, columns=columns),
        make(folder / "three", raws, columns=columns),
        make(folder / "backwards", dict(reversed(raws.items())), columns=columns),
    ]


@WITH_AND_WITHOUT
@EVERY_FLAVOR
def test_variable_genes_do_not_depend_on_parts_order_or_blocks(
    cuts: list[Made], flavor: str, by_batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte."""
    for made in cuts:
        ranked(made, flavor, by_batch=by_batch, n_top=50)
    digests = {sha256_of(made.genes) for made in cuts}
    monkeypatch.setattr(CountsPart.blocks, "__defaults__", (7,))
    ranked(cuts[1], flavor, by_batch=by_batch, n_top=50)
    assert digests == {sha256_of(cuts[1].genes)}


def test_statistics_over_all_cells_do_not_depend_on_the_flavor(cuts: list[Made]) -> None:
    """Nor on whether genes are ranked by batch."""
    columns = ["gene_id", "n_cells", "counts", "mean", "variance", "nonzero_median"]
    first = ranked(cuts[0], "seurat")[columns]
    for flavor in FLAVORS:
        for by_batch in (False, True):
            pd.testing.assert_frame_equal(ranked(cuts[0], flavor, by_batch=by_batch)[columns], first, check_exact=True)


# Exact variances


@pytest.mark.parametrize("flavor", ["dispersion", "seurat_v3"])
def test_variances_include_what_lies_between_parts_and_batches(tmp_path: Path, flavor: str) -> None:
    """Parts whose means are four thousand million apart, and one count apart within; a float64 sum would lose this."""
    rng = np.random.default_rng(2)
    base = rng.poisson(3.0, (60, 40)).astype(np.float64)
    high = base.copy()
    high[:, 0] = 4_000_000_000 + (np.arange(60) % 2)
    names = [f"{part}{i}" for part in "lh" for i in range(60)]
    raws = {
        "low": write_raw(tmp_path / "low.h5ad", base, cells=names[:60]),
        "high": write_raw(tmp_path / "high.h5ad", high, cells=names[60:]),
    }
    spec = {"flavor": flavor}
    made = make(tmp_path, raws, split=ALL_TRAIN, variable_genes=spec)
    both = np.concatenate([base, high])
    (batch,) = add_up(made.files("npz")).batches.values()
    mean, variance = batch.mean_and_variance
    np.testing.assert_allclose(mean, both.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(variance, both.var(axis=0, ddof=1), rtol=1e-12)
    (alone,) = add_up([made.file("high", "npz")]).batches.values()
    assert alone.mean_and_variance[1][0] == pytest.approx(15 / 59, rel=1e-15)


def test_constant_counts_have_no_variance(tmp_path: Path) -> None:
    """However large they are."""
    n = 1000
    value = np.array([[(n * 3_999_999_999) >> 32], [(n * 3_999_999_999) & 0xFFFFFFFF]])
    square = n * 3_999_999_999**2
    sums = Sums(n, np.array([n]), value, np.array([[square >> 32], [square & 0xFFFFFFFF]]), "counts")
    assert sums.mean_and_variance[1].tolist() == [0.0]


def test_the_sums_of_each_scale_are_those_of_its_values(tmp_path: Path) -> None:
    """Counts, counts per 10,000, and log1p of these, per batch."""
    counts = random_counts(60, 30, seed=3).toarray().astype(np.float64) + (np.arange(30) == 0)
    batch = ["p", "q", "q"] * 20
    made = made_of(tmp_path, counts, batch)
    normalized = counts / counts.sum(axis=1, keepdims=True) * 1e4
    scales = {"seurat": normalized, "cell_ranger": np.log1p(normalized), "dispersion": counts}
    for flavor, values in scales.items():
        ranked(made, flavor, by_batch=True)
        found = add_up(made.files("npz")).batches
        assert list(found) == ["p", "q"]
        for name, sums in found.items():
            mine = values[np.array(batch) == name].astype(np.float64)
            mean, variance = sums.mean_and_variance
            assert sums.cells == len(mine)
            assert (sums.seen == (mine > 0).sum(axis=0)).all()
            np.testing.assert_allclose(mean, mine.mean(axis=0), rtol=1e-8)
            np.testing.assert_allclose(variance, mine.var(axis=0, ddof=1), rtol=1e-7, atol=1e-9)


# The flavor `dispersion`


def slow_dispersion(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Variance over mean of the genes in enough cells, NaN for the others."""
    mean, variance = counts.mean(axis=0), counts.var(axis=0, ddof=1)
    with np.errstate(invalid="ignore"):
        return np.where(((counts > 0).mean(axis=0) >= fraction) & (variance > 0), variance / mean, np.nan)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.3])
def test_dispersion_is_variance_over_mean_of_the_genes_in_enough_cells(tmp_path: Path, fraction: float) -> None:
    """Ranked by it; a gene in exactly that share of the cells is in enough of them."""
    counts = random_counts(50, 80, seed=6).toarray().astype(np.float64)
    counts[:, 0] = np.arange(50) < 15
    counts[:, 1] = 0
    found = ranked(made_of(tmp_path, counts), "dispersion", n_top=20, min_cells_fraction=fraction)
    expected = slow_dispersion(counts, fraction)
    np.testing.assert_allclose(found["variability"], expected, rtol=1e-12)
    assert not np.isnan(expected[0])
    order = np.argsort(-np.nan_to_num(expected, nan=-1), kind="stable")
    assert variable_columns(found, 20).tolist() == order[:20].tolist()
    assert (found["variable_rank"] >= 0).sum() == (~np.isnan(expected)).sum()


def test_dispersion_by_batch_counts_batches_first(tmp_path: Path) -> None:
    """Then the mean over batches, where a gene that is too rare in a batch counts as 0."""
    counts = random_counts(90, 60, seed=7).toarray().astype(np.float64)
    batch = np.array(["x", "y", "z"])[np.arange(90) % 3]
    made = made_of(tmp_path, counts, batch.tolist())
    found = ranked(made, "dispersion", n_top=15, min_cells_fraction=0.2, by_batch=True)
    each = np.stack([slow_dispersion(counts[batch == b], 0.2) for b in "xyz"])
    cutoff = -np.sort(-np.nan_to_num(each, nan=-1), axis=1)[:, 14:15]
    n_batches = (np.nan_to_num(each, nan=-1) >= cutoff).sum(axis=0)
    mean = np.nan_to_num(each).mean(axis=0)
    assert found["variable_batches"].tolist() == n_batches.tolist()
    np.testing.assert_allclose(found["variability"], mean, rtol=1e-12)
    assert variable_columns(found, 15).tolist() == np.lexsort((-mean, -n_batches))[:15].tolist()


# Batches


@EVERY_FLAVOR
def test_a_batch_of_one_cell_is_left_out(tmp_path: Path, flavor: str) -> None:
    """The others give what they give without it; the facts name it."""
    counts = random_counts(121, 200, seed=9).toarray() + (np.arange(200) % 50 == 0)
    batch = ["a", "b"] * 60 + ["alone"]
    with_it, without = (
        made_of(tmp_path / str(n), counts[:n], batch[:n], variable_genes={"n_top": 30}) for n in (121, 120)
    )
    columns = ["variability", "variable_rank", "variable_batches", "variable"]
    found, expected = (ranked(m, flavor, n_top=30, by_batch=True)[columns] for m in (with_it, without))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    facts = [read_genes(m.genes)[1] for m in (with_it, without)]
    assert [f["batches_left_out"] for f in facts] == [["alone"], []]
    assert [f["batches"] for f in facts] == [2, 2]


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "dispersion"])
def test_batches_of_one_cell_each_have_no_variable_gene(tmp_path: Path, flavor: str) -> None:
    """Nothing varies within them."""
    made = made_of(tmp_path, random_counts(5, 20).toarray() + 1, list("abcde"))
    found = ranked(made, flavor, by_batch=True)
    assert not found["variable"].any() and (found["variable_rank"] == -1).all()


def test_cells_without_a_batch_are_a_batch(tmp_path: Path) -> None:
    """Of the name that the quality table gives them."""
    batch = ["a", None] * 10
    made = made_of(tmp_path, random_counts(20, 10).toarray() + 1, batch)
    ranked(made, "seurat", by_batch=True)
    arrays = read_sums(made.file("0", "npz"))
    assert arrays["batches"].tolist() == ["(missing)", "a"]
    assert arrays["batch_cells"].tolist() == [10, 10]


def test_a_part_may_lack_a_batch_or_all_training_cells(tmp_path: Path) -> None:
    """Its file then has fewer batches, or none; the dataset's are those of all parts."""
    counts = random_counts(90, 100, seed=4).toarray() + 1.0
    raws = {}
    for part, rows, batch in (("p", slice(0, 40), "a"), ("q", slice(40, 89), "b"), ("r", slice(89, 90), "b")):
        cells = [f"c{i}" for i in range(90)][rows]
        obs = {"batch": [batch] * len(cells), "side": ["held out" if part == "r" else "in"] * len(cells)}
        raws[part] = write_raw(tmp_path / f"{part}.h5ad", counts[rows], cells=cells, obs=obs)
    split = next(
        s
        for s in ({"by": "side", "seed": seed, "fractions": {"train": 0.5, "test": 0.5}} for seed in range(50))
        if sides(s) == ("train", "test")
    )
    made = make(tmp_path, raws, split=split, columns={"batch": "batch"})
    for flavor in FLAVORS:
        ranked(made, flavor, by_batch=True, n_top=10)
        assert [read_sums(f)["batches"].tolist() for f in made.files("npz")] == [["a"], ["b"], []]
        assert read_genes(made.genes)[1]["batches"] == 2


def sides(split: dict[str, Any]) -> tuple[str, ...]:
    """The splits of the groups 'in' and 'held out'."""
    from cellmill.keys import assign_splits, hash_strings

    keys = hash_strings(["in", "held out"], seed=split["seed"], purpose="split")
    return tuple(np.array(list(split["fractions"]))[assign_splits(keys, split["fractions"])])


# Edges


@WITH_AND_WITHOUT
@EVERY_FLAVOR
def test_where_fewer_genes_vary_than_asked_for_all_that_do_are_variable(
    tmp_path: Path, flavor: str, by_batch: bool
) -> None:
    """A gene of which no cell has a count, and one that is alike in all cells, have no rank."""
    counts = rich_counts(160, 300)
    counts[:, 3] = 0
    counts[:, 40] = 5
    counts[:, 299] += 100_000 - counts.sum(axis=1)  # so that a constant count is constant when normalised, too
    made = made_of(tmp_path, counts, ["a", "b"] * 80)
    found = ranked(made, flavor, by_batch=by_batch, n_top=2000)
    varies = (counts.var(axis=0) > 0) & found["variability"].notna().to_numpy()
    assert varies.sum() >= 297
    assert found["variable"].tolist() == varies.tolist()
    assert sorted(found["variable_rank"][varies]) == list(range(varies.sum()))
    assert (found["variable_rank"][~varies] == -1).all()


def test_genes_of_equal_mean_are_one_bin() -> None:
    """Of both flavors with bins: scored against each other."""
    mean, variance = np.ones(6), np.array([1.0, 2, 4, 8, 16, 0])
    log = np.log(variance[:5])
    expected = [*(log - log.mean()) / log.std(ddof=1), np.nan]
    np.testing.assert_allclose(normalized_dispersion(mean, variance), expected, atol=1e-12)
    off = variance - np.median(variance)
    np.testing.assert_allclose(
        cell_ranger_dispersion(mean, variance), off / (np.median(np.abs(off)) / 0.6744897501960817)
    )


def test_percentiles_that_coincide_are_one_edge() -> None:
    """Many genes that no cell has share the lowest bin; genes above are binned as scanpy bins them."""
    rng = np.random.default_rng(0)
    mean = np.r_[np.zeros(70), rng.gamma(1.0, 1.0, 130)]
    variance = mean * rng.gamma(2.0, 1.0, 200)
    found = cell_ranger_dispersion(mean, variance)
    safe = np.where(mean == 0, 1e-12, mean)
    edges = np.r_[-np.inf, np.percentile(safe, np.arange(10, 105, 5)), np.inf]
    grouped = pd.Series(variance / safe).groupby(pd.cut(safe, edges, duplicates="drop"), observed=True)
    off = variance / safe - grouped.transform("median")
    mad = grouped.transform(lambda v: np.median(np.abs(v - np.median(v)))) / 0.6744897501960817
    np.testing.assert_allclose(found[70:], (off / mad)[70:])
    assert np.isnan(found[:70]).all()


def test_equal_genes_keep_the_order_of_the_gene_space() -> None:
    """In both rankings; what equals the last of n_top counts without batches, as in scanpy."""
    values = np.array([[1.0, 2, 2, 2, np.nan, 0]])
    varies, absent = ~np.isnan(values), np.zeros((1, 6), bool)
    one = rank_by_batches(Scores(values, varies, absent), spec=VariableGenes(n_top=2))
    assert one.rank.tolist() == [3, 0, 1, 2, -1, 4]
    assert one.variable.tolist() == [False, True, True, True, False, False]
    spec = VariableGenes(n_top=2, by_batch=True)
    assert rank_by_batches(Scores(values, varies, absent), spec=spec).variable.sum() == 2
    two = rank_by_median(np.nan_to_num(np.repeat(values, 2, axis=0)), np.repeat(varies, 2, axis=0), n_top=2)
    assert two.rank.tolist() == [3, 0, 1, 2, -1, 4]
    assert two.n_batches.tolist() == [0, 2, 2, 0, 0, 0]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 9])
def test_too_few_genes_for_a_curve_are_an_error(n: int) -> None:
    """The regression itself would end the process."""
    with pytest.raises(ValueError, match=f"{n} genes vary, 10 are needed"):
        expected_std(np.arange(12.0) + 1, np.r_[np.arange(n) + 1.0, np.zeros(12 - n)])


def test_genes_that_no_curve_fits_are_refused(tmp_path: Path) -> None:
    """With the reason, and what to do."""
    counts = np.tile(np.arange(1.0, 21.0), (30, 1))
    with pytest.raises(CellmillError, match=r"no curve .*0 genes vary.*Take another flavor in variable_genes"):
        made_of(tmp_path, counts, variable_genes={"flavor": "seurat_v3"})


def test_counts_are_clipped_at_their_clip_value(tmp_path: Path) -> None:
    """The normalised variance is that of the clipped counts, as one would write it down."""
    counts = rich_counts(100, 300)
    counts[5, 100:110] += 60 * counts[:, 100:110].mean(axis=0).round()
    made = made_of(tmp_path, counts)
    found = ranked(made, "seurat_v3", n_top=50)
    model = read_clip(made.folder / "clip.npz")
    assert (model.batches, model.left_out) == (["(all)"], [])
    mean, std = counts.mean(axis=0), model.std[0]
    clip = mean + std * np.sqrt(100)
    assert (counts > clip).any()
    expected = ((np.minimum(counts, clip) - mean) ** 2).sum(axis=0) / 99 / std**2
    np.testing.assert_allclose(found["variability"], expected, rtol=1e-9)


def test_ranking_by_batch_needs_a_batch_column(repo: Path, tmp_path: Path) -> None:
    """Said before the first job."""
    (tmp_path / "config/datasets").mkdir(parents=True)
    file = tmp_path / "config/datasets/d.yaml"
    text = "title: t\nsource: {kind: bundled, name: pbmc68k_reduced}\nexports: []\ntokenizers: []\nembedders: []\n"
    file.write_text(text + "variable_genes: {by_batch: true}\n")
    with pytest.raises(
        ConfigError, match=r"variable_genes\.by_batch: there is no batch column\. Name it in columns\.batch"
    ):
        load_project({"datasets": ["d"]}, root=tmp_path)
    file.write_text(text + "variable_genes: {by_batch: true}\ncolumns: {batch: louvain}\n")
    assert load_project({"datasets": ["d"]}, root=tmp_path).datasets["d"].gene_batch == "louvain"
