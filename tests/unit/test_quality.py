"""Metrics, thresholds, and what becomes of every cell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scanpy
import scipy.sparse as sp

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.quality import LABELS_SCHEMA, read_cells, read_quality, read_thresholds, write_labels
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.genes.identifiers import SET_IDS, PartGenes, resolve_genes
from cellmill.matrix import reader
from cellmill.quality.metrics import cell_metrics
from cellmill.quality.names import GENE_SETS, HARD_BOUNDS, METRICS, TOP
from cellmill.quality.spec import Quality
from cellmill.quality.thresholds import set_thresholds

from .stages import make, measure, random_counts, split_raw, three_parts, write_raw

RAW = "derived/placenta_ensembl_220.h5ad"


def scanpy_metrics(counts: sp.csr_matrix, members: np.ndarray) -> pd.DataFrame:
    var = pd.DataFrame(dict(zip(GENE_SETS, members, strict=True)), index=[f"g{i}" for i in range(counts.shape[1])])
    made = anndata.AnnData(
        counts.astype(np.float64), obs=pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])]), var=var
    )
    found, _ = scanpy.pp.calculate_qc_metrics(made, qc_vars=list(GENE_SETS), percent_top=TOP)
    return found


def assert_scanpy_agrees(counts: sp.csr_matrix, members: np.ndarray) -> None:
    found, expected = cell_metrics(counts, members), scanpy_metrics(counts, members)
    assert tuple(found) == METRICS
    for metric in METRICS:
        np.testing.assert_allclose(found[metric], expected[metric], rtol=1e-12, err_msg=metric)


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("file", [RAW, "derived/pbmc68k_recovered_counts_700.h5ad", "h5ad/wu2020_200.h5ad"])
def test_metrics_are_those_of_scanpy(shared_data: Path, file: str) -> None:
    """On real cells, with the gene sets found there."""
    raw = anndata.read_h5ad(shared_data / file)
    genes = resolve_genes(raw.var)
    members = np.stack([genes.member(s) for s in GENE_SETS])
    assert members.any(axis=1).sum() >= 2
    assert_scanpy_agrees(sp.csr_matrix(raw.X).astype(np.uint32), members)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_random_counts_are_those_of_scanpy(seed: int) -> None:
    """Sparse and dense cells, large counts, random gene sets."""
    rng = np.random.default_rng(seed)
    counts = random_counts(40, 700, seed=seed)
    counts.data = counts.data * rng.integers(1, 4_000_000, counts.nnz)
    thinned = counts.multiply(rng.random((40, 1)) > rng.random((40, 700)) * 0.9).tocsr()
    thinned.eliminate_zeros()
    assert_scanpy_agrees(thinned.astype(np.uint32), rng.random((3, 700)) < 0.2)


def test_percentages_of_a_cell_without_counts_are_missing() -> None:
    """There is nothing that they could be a share of."""
    found = cell_metrics(sp.csr_matrix((1, 5), dtype=np.uint32), np.ones((3, 5), bool))
    assert all(np.isnan(found[m][0]) == m.startswith("pct_") for m in METRICS)


def test_a_cell_may_have_more_counts_than_uint32_holds() -> None:
    """Sums are 64 bits wide."""
    counts = sp.csr_matrix(np.full((1, 3), 2**32 - 1, np.uint32))
    assert cell_metrics(counts, np.ones((3, 3), bool))["total_counts"].tolist() == [3 * (2**32 - 1)]


# Gene sets


def gene_table(shared_data: Path, organism: str) -> pd.DataFrame:
    names = ["id", "symbol", "version", "length", "biotype"]
    return pd.read_csv(shared_data / "genes" / f"genes_{organism}.csv.gz", names=names, keep_default_na=False)


def expected_set(shared_data: Path, organism: str, name: str, column: str) -> set[str]:
    table = pd.read_csv(shared_data / "genes/qc_gene_sets.tsv", sep="\t")
    return set(table[(table["organism"] == organism) & (table["set"] == name)][column])


@pytest.mark.parametrize("organism", ["homo_sapiens", "mus_musculus"])
@pytest.mark.parametrize(("name", "gene_set"), [("mito", "mt"), ("ribo", "ribo"), ("hemoglobin", "hb")])
def test_gene_sets_are_the_published_ones(shared_data: Path, organism: str, name: str, gene_set: str) -> None:
    """Among all genes of the organism, pseudogenes included, none more and none less."""
    genes = gene_table(shared_data, organism)
    found = PartGenes(genes["id"].to_numpy(object), genes["symbol"].to_numpy(object), "id").member(gene_set)
    expected = expected_set(shared_data, organism, name, "symbol")
    if (organism, gene_set) == ("mus_musculus", "hb"):
        expected |= {"Hbq1a", "Hbq1b"}  # coding, too, though the table leaves them out
    assert set(genes["symbol"][found]) == expected


@pytest.mark.parametrize("organism", ["homo_sapiens", "mus_musculus"])
@pytest.mark.parametrize("gene_set", GENE_SETS)
def test_gene_sets_are_known_by_id_too(shared_data: Path, organism: str, gene_set: str) -> None:
    """Among all genes of the organism, data without symbols have the same sets."""
    genes = gene_table(shared_data, organism)
    ids, symbols = genes["id"].to_numpy(object), genes["symbol"].to_numpy(object)
    by_id, by_symbol = PartGenes(ids, np.full(len(ids), None, object), "id"), PartGenes(ids, symbols, "id")
    assert by_id.member(gene_set).any()
    assert by_id.member(gene_set).tolist() == by_symbol.member(gene_set).tolist()
    assert by_id.member(gene_set).sum() == sum(i.startswith(ids[0][:7]) for i in SET_IDS[gene_set])


# Measuring


def test_counts_are_found_where_they_are(tmp_path: Path) -> None:
    """`auto` takes the first matrix whose every value is a count, and says why not the others."""
    counts = random_counts(20, 10)
    made = anndata.AnnData(counts * 0.5, layers={"b": counts, "a": counts * 1.5})
    made.write_h5ad(tmp_path / "x.h5ad")
    _, facts = read_quality(*measure(tmp_path, {"0": tmp_path / "x.h5ad"}))
    assert facts["counts"] == "layers/b"
    assert "X does not hold counts" in facts["why"]
    assert facts["max_count"] == counts.max()


def test_a_file_without_counts_is_refused(tmp_path: Path) -> None:
    """Each matrix with its first value that is no count."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(20, 10) * 0.3)
    with pytest.raises(CellmillError, match=r"no matrix of it holds counts: X does not hold counts: cell 'c\d+'"):
        measure(tmp_path, {"0": raw})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5ad"]


def test_a_named_matrix_that_holds_no_counts_is_refused(tmp_path: Path) -> None:
    """It is not replaced by another one behind the user's back."""
    counts = random_counts(20, 10)
    anndata.AnnData(counts * 0.5, layers={"a": counts}).write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(CellmillError, match="X does not hold counts"):
        measure(tmp_path, {"0": tmp_path / "x.h5ad"}, counts="X")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_file_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Both numbers stand in the error."""
    raw = write_raw(tmp_path / "x.h5ad", sp.csr_matrix(shape, dtype=np.float32))
    with pytest.raises(CellmillError, match=rf"X is {shape[0]} cells × {shape[1]} genes"):
        measure(tmp_path, {"0": raw})


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cell_ids_that_stand_there_twice_are_named(tmp_path: Path) -> None:
    """With their rows."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(4, 10), cells=["a", "b", "a", "c"])
    with pytest.raises(CellmillError, match="2 cells share their id with another: 'a' is in rows 0, 2"):
        measure(tmp_path, {"0": raw})


def test_a_missing_batch_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    """As what is there stands in the error."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(4, 10), obs={"donor_id": list("abcd")})
    with pytest.raises(CellmillError, match=r"no obs column 'donor'.*Did you mean 'donor_id'"):
        measure(tmp_path, {"0": raw}, batch="donor")


def test_blocks_do_not_change_the_measured_bytes_of_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is a cut of the same cells."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(100, 30))
    (whole,) = measure(tmp_path / "a", {"0": raw})
    monkeypatch.setattr(reader.CountsFile.blocks, "__defaults__", (7,))
    (cut,) = measure(tmp_path / "b", {"0": raw})
    assert read_quality(whole)[0].equals(read_quality(cut)[0])


# Thresholds


def thresholds(parts: list[Path], *, spec: Quality, out: Path) -> None:
    """``set_thresholds`` of quality files without any filter."""
    labels = [p.with_name(p.name.replace("quality", "labels")) for p in parts]
    for part, path in zip(parts, labels, strict=True):
        nothing = pa.nulls(read_quality(part, columns=[])[0].num_rows)
        write_labels(path, pa.table([nothing.cast(f.type) for f in LABELS_SCHEMA], LABELS_SCHEMA), {"filters": []})
    set_thresholds(parts, labels=labels, spec=spec, out=out)


SPEC = Quality(mads={"log1p_total_counts": 2, "pct_counts_mt": 1.5, "n_genes_by_counts": None}, min_batch_cells=20)


def two_batches(folder: Path, *, cells: int = 300, small: int = 10) -> Path:
    counts = random_counts(cells, 40, seed=5)
    batch = np.where(np.arange(cells) % 3 == 0, "x", "y").astype(object)
    batch[:small] = "small"
    names = [f"MT-{i}" if i < 5 else f"G{i}" for i in range(40)]
    return write_raw(folder / "raw.h5ad", counts, genes=names, obs={"batch": batch})


def test_thresholds_are_median_and_mads_of_each_batch(tmp_path: Path) -> None:
    """Exactly, over the cells that pass the fixed bounds."""
    (quality,) = measure(tmp_path, {"0": two_batches(tmp_path)}, batch="batch")
    spec = SPEC.model_copy(update={"min_counts": 25})
    thresholds([quality], spec=spec, out=tmp_path / "t.json")
    found, table = read_thresholds(tmp_path / "t.json"), read_quality(quality)[0].to_pandas()
    table = table[table["total_counts"] >= 25]
    for batch in ("x", "y"):
        values = table[table["batch"] == batch]["log1p_total_counts"].to_numpy()
        median = np.median(values)
        mad = np.median(np.abs(values - median))
        bound = found["batches"][batch]["bounds"]["log1p_total_counts"]
        expected = {"median": median, "mad": mad, "lower": median - 2 * mad, "upper": median + 2 * mad}
        assert bound == {"applied": True, **expected}


def test_only_too_much_mitochondrial_is_bad(tmp_path: Path) -> None:
    """There is no lower bound."""
    (quality,) = measure(tmp_path, {"0": two_batches(tmp_path)}, batch="batch")
    thresholds([quality], spec=SPEC, out=tmp_path / "t.json")
    bound = read_thresholds(tmp_path / "t.json")["dataset"]["pct_counts_mt"]
    assert bound["lower"] is None
    assert bound["upper"] == bound["median"] + 1.5 * bound["mad"]


def test_a_small_batch_takes_the_thresholds_of_the_dataset(tmp_path: Path) -> None:
    """And the file says so."""
    (quality,) = measure(tmp_path, {"0": two_batches(tmp_path)}, batch="batch")
    thresholds([quality], spec=SPEC, out=tmp_path / "t.json")
    found = read_thresholds(tmp_path / "t.json")
    small = found["batches"]["small"]
    assert small == {"cells": 10, "thresholds_of": "dataset", "bounds": found["dataset"]}
    assert found["batches"]["x"]["thresholds_of"] == "batch"


def test_thresholds_do_not_depend_on_parts_or_their_order(tmp_path: Path) -> None:
    """Byte for byte."""
    raw = two_batches(tmp_path)
    whole = measure(tmp_path / "one", {"0": raw}, batch="batch")
    cut = measure(tmp_path / "three", split_raw(raw, tmp_path / "raws", three_parts(300)), batch="batch")
    for name, parts in (("a", whole), ("b", cut), ("c", cut[::-1])):
        thresholds(parts, spec=SPEC, out=tmp_path / name)
    assert len({sha256_of(tmp_path / n) for n in "abc"}) == 1


def test_a_cell_id_in_two_parts_is_named_with_both(tmp_path: Path) -> None:
    """With the ways out."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(30, 10))
    raws = split_raw(raw, tmp_path / "raws", {"p": np.arange(20), "q": np.arange(19, 30)})
    parts = measure(tmp_path, raws)
    expected = rf"{parts[1].name}: cell id 'c19' stands in .*{parts[0].name}, too\. Set 'cell_ids: part_barcode'"
    with pytest.raises(CellmillError, match=expected):
        thresholds(parts, spec=SPEC, out=tmp_path / "t.json")
    thresholds(measure(tmp_path, raws, cell_ids="part_barcode"), spec=SPEC, out=tmp_path / "t.json")


def test_a_deviation_of_zero_is_not_applied(tmp_path: Path) -> None:
    """It would drop every cell but those at the median; the file says why."""
    counts = np.ones((60, 10), np.float32)
    counts[0] = 50
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)}, quality={"mads": {"total_counts": 3}})
    bound = read_thresholds(made.thresholds)["dataset"]["total_counts"]
    assert bound == {"applied": False, "why": "the median absolute deviation is 0", "median": 10.0, "mad": 0.0}
    with CountsPart(made.file("0", "h5ad")) as part:
        assert part.n_cells == 60


def test_a_dataset_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    """The bounds stand in the error."""
    parts = measure(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", random_counts(30, 10))})
    spec = Quality(min_counts=10_000, min_genes=3, max_pct_mt=5)
    with pytest.raises(
        CellmillError, match=r"none of 30 cells passes min_counts 10000, min_genes 3, max_pct_mt 5\. Lower"
    ):
        thresholds(parts, spec=spec, out=tmp_path / "t.json")


def test_the_type_of_counts_holds_the_largest_of_all_parts(tmp_path: Path) -> None:
    """Also where columns of one gene are added up."""
    big = np.zeros((3, 3), np.float32)
    big[1] = [200, 100, 0]
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", np.ones((3, 3), np.float32), genes=["a", "b", "c"]),
        "q": write_raw(
            tmp_path / "q.h5ad",
            big,
            genes=["ENSG00000000001.1", "ENSG00000000001.2", "ENSG00000000003.1"],
            cells=list("xyz"),
        ),
    }
    parts = measure(tmp_path, raws)
    thresholds(parts, spec=SPEC, out=tmp_path / "t.json")
    found = read_thresholds(tmp_path / "t.json")
    assert (found["max_count"], found["counts_dtype"]) == (300, "uint16")


# What becomes of every cell

STRICT = {"mads": {"log1p_total_counts": 1.5, "pct_counts_mt": 2}, "min_genes": 13, "min_counts": 20, "max_pct_mt": 60}


def test_every_raw_cell_has_exactly_one_outcome(tmp_path: Path) -> None:
    """Raw = kept + dropped by reason, in the file, in its facts and in the processed part."""
    raw = two_batches(tmp_path)
    raws = split_raw(raw, tmp_path / "raws", three_parts(300))
    made = make(tmp_path / "made", raws, quality=STRICT, columns={"batch": "batch"})
    outcomes: Counter[str] = Counter()
    seen: list[str] = []
    for part, source in raws.items():
        table, facts = read_cells(made.file(part, "cells.parquet"))
        table = table.to_pandas()
        assert table["cell_id"].tolist() == anndata.read_h5ad(source).obs_names.tolist()
        assert facts["raw_cells"] == len(table) == facts["cells"] + sum(facts["dropped"].values())
        assert facts["dropped"] == Counter(table["outcome"][table["outcome"] != "kept"])
        with CountsPart(made.file(part, "h5ad")) as counts:
            kept = table[table["outcome"] == "kept"]
            assert counts.obs.index.tolist() == kept["cell_id"].tolist()
            assert counts.obs["split"].tolist() == kept["split"].tolist()
            assert facts["splits"] == counts.obs["split"].value_counts().to_dict()
        assert table["split"].isna().tolist() == (table["outcome"] != "kept").tolist()
        outcomes.update(table["outcome"])
        seen += table["cell_id"].tolist()
    assert len(seen) == len(set(seen)) == 300 == sum(outcomes.values())
    assert {"kept", "min_counts", "min_genes", "high pct_counts_mt", "low log1p_total_counts"} <= set(outcomes)


def test_outcomes_equal_the_slow_reference(tmp_path: Path) -> None:
    """The first reason counts, in the order: fixed bounds, then metrics as in the config."""
    made = make(tmp_path, {"0": two_batches(tmp_path)}, quality=STRICT, columns={"batch": "batch"})
    bounds = read_thresholds(made.thresholds)["batches"]
    rows = read_quality(made.file("0", "quality.parquet"))[0].to_pylist()

    def outcome(row: dict[str, Any]) -> str:
        if row["total_counts"] < 20:
            return "min_counts"
        if row["n_genes_by_counts"] < 13:
            return "min_genes"
        if row["pct_counts_mt"] > 60:
            return "max_pct_mt"
        for metric in STRICT["mads"]:
            bound = bounds[row["batch"]]["bounds"][metric]
            if bound["lower"] is not None and row[metric] < bound["lower"]:
                return f"low {metric}"
            if row[metric] > bound["upper"]:
                return f"high {metric}"
        return "kept"

    found = read_cells(made.file("0", "cells.parquet"))[0]["outcome"].to_pylist()
    assert found == [outcome(row) for row in rows]


BOUNDED = {
    **{"min_counts": 10, "max_counts": 60, "min_genes": 10, "max_genes": 20},
    **{"max_pct_mt": 20, "max_pct_ribo": 25, "max_pct_hb": 8},
}


def test_every_hard_bound_drops_what_lies_beyond_it(tmp_path: Path) -> None:
    """A cell on the bound stays; the first that fails is the reason, in the order of the documents."""
    names = [*(f"MT-{i}" for i in range(6)), *(f"RPL{i}" for i in range(3, 9)), "HBA1", "HBA2", "HBB"]
    genes = names + [f"G{i}" for i in range(40 - len(names))]
    raw = write_raw(tmp_path / "x.h5ad", random_counts(400, 40, seed=3), genes=genes)
    made = make(tmp_path, {"0": raw}, quality={"mads": {}, **BOUNDED})
    rows = read_quality(made.file("0", "quality.parquet"))[0].to_pylist()

    def outcome(row: dict[str, Any]) -> str:
        for name, bound in BOUNDED.items():
            value = row[HARD_BOUNDS[name]]
            if value < bound if name.startswith("min_") else value > bound:
                return name
        return "kept"

    found = read_cells(made.file("0", "cells.parquet"))[0]["outcome"].to_pylist()
    assert found == [outcome(row) for row in rows]
    assert set(found) == {"kept", *BOUNDED}


FILTERED = {
    "primary": [True, True, False, True, True, True, True, True],
    "pass_filter": ["full", "full", "full", "partial", None, "full", "full", "full"],
    "plate": [1, 2, 1, 1, 1, 3, 1, 1],
    "disease": ["normal", "normal", "ill", "normal", "normal", "normal", "ill", None],
}


def filtered(tmp_path: Path, *filters: dict[str, Any], obs: dict[str, Any] = FILTERED) -> list[str]:
    """Outcomes of eight cells."""
    raw = write_raw(tmp_path / "x.h5ad", np.ones((8, 3), np.float32), obs=obs)
    made = make(tmp_path, {"0": raw}, quality={"mads": {}, "filters": list(filters)})
    return read_cells(made.file("0", "cells.parquet"))[0]["outcome"].to_pylist()


def test_a_cell_is_dropped_by_the_first_filter_it_fails(tmp_path: Path) -> None:
    """Of each kind, over truth, text and numbers; a missing value passes none, and is a reason of its own."""
    found = filtered(
        tmp_path,
        {"column": "primary", "equals": True},
        {"column": "pass_filter", "in": ["full"]},
        {"column": "plate", "in": [1, 2.0]},
        {"column": "disease", "not_in": ["ill"]},
    )
    assert found == [
        *("kept", "kept", "filter primary", "filter pass_filter", "filter pass_filter: missing"),
        *("filter plate", "filter disease", "filter disease: missing"),
    ]


@pytest.mark.parametrize("kind", ["plain", "category", "nullable"])
def test_filters_read_columns_of_every_kind(tmp_path: Path, kind: str) -> None:
    """Categories of truth or of numbers, and nullable ones."""
    truth = pd.Series([True] * 6 + [False, None])
    obs = {"t": truth.astype("boolean").array if kind != "category" else pd.Categorical(truth.astype(object))}
    if kind == "plain":
        obs = {"t": [*[True] * 6, False, False]}
    expected = "filter t" if kind == "plain" else "filter t: missing"
    assert filtered(tmp_path, {"column": "t", "equals": True}, obs=obs) == ["kept"] * 6 + ["filter t", expected]


def test_a_value_that_no_cell_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    """It is a slip; but of `not_in` it is none, since there may be nothing to leave out."""
    with pytest.raises(CellmillError, match=r"no cell has 'fulll' in the obs column 'pass_filter'.*mean 'full'"):
        filtered(tmp_path, {"column": "pass_filter", "in": ["full", "fulll"]})
    with pytest.raises(CellmillError, match=r"no cell has '4' in the obs column 'plate'. There: 1, 2, 3"):
        filtered(tmp_path, {"column": "plate", "equals": 4})
    assert filtered(tmp_path, {"column": "primary", "not_in": ["nothing"]}) == ["kept"] * 8


def test_a_value_may_stand_in_one_part_only(tmp_path: Path) -> None:
    """What no cell has is decided over the whole dataset."""
    raw = write_raw(tmp_path / "x.h5ad", np.ones((8, 3), np.float32), obs=FILTERED)
    raws = split_raw(raw, tmp_path / "raws", {"p": np.arange(3), "q": np.arange(3, 8)})
    rule = {"column": "pass_filter", "in": ["partial"]}
    made = make(tmp_path, raws, quality={"mads": {}, "filters": [rule]})
    assert [read_cells(p)[1]["cells"] for p in made.files("cells.parquet")] == [0, 1]


def test_a_filtered_cell_does_not_shape_the_thresholds(tmp_path: Path) -> None:
    """They are those of the dataset without it."""
    counts = random_counts(200, 30, seed=7)
    counts[150:] *= 50
    obs = {"good": np.arange(200) < 150}
    spec = {"mads": {"log1p_total_counts": 3}}
    whole = write_raw(tmp_path / "whole.h5ad", counts, obs=obs)
    alone = write_raw(tmp_path / "alone.h5ad", counts[:150])
    rule = {"column": "good", "equals": True}
    some = make(tmp_path / "some", {"0": whole}, quality={**spec, "filters": [rule]})
    few = make(tmp_path / "few", {"0": alone}, quality=spec)
    assert read_thresholds(some.thresholds)["dataset"] == read_thresholds(few.thresholds)["dataset"]


def test_splits_and_outcomes_do_not_depend_on_parts(tmp_path: Path) -> None:
    """Nor on their order."""
    raw = two_batches(tmp_path)
    one = make(tmp_path / "one", {"0": raw}, quality=STRICT, columns={"batch": "batch"})
    raws = split_raw(raw, tmp_path / "raws", three_parts(300))
    three = make(tmp_path / "three", raws, quality=STRICT, columns={"batch": "batch"})

    def cells(paths: list[Path]) -> pd.DataFrame:
        return pd.concat([read_cells(p)[0].to_pandas() for p in paths]).set_index("cell_id").sort_index()

    pd.testing.assert_frame_equal(cells(one.files("cells.parquet")), cells(three.files("cells.parquet")))


def test_no_group_stands_on_two_sides(tmp_path: Path) -> None:
    """Split by a column, over parts; a missing value is a group, too."""
    rng = np.random.default_rng(0)
    donors = rng.choice([f"d{i}" for i in range(30)], 300).astype(object)
    donors[:5] = None
    raw = write_raw(tmp_path / "x.h5ad", random_counts(300, 20), obs={"donor": donors})
    raws = split_raw(raw, tmp_path / "raws", three_parts(300))
    made = make(tmp_path, raws, split={"by": "donor", "fractions": {"train": 0.5, "test": 0.5}})
    sides: dict[str, set[str]] = {}
    for path in made.files("h5ad"):
        with CountsPart(path) as part:
            for donor, split in zip(part.obs["donor"].astype(object), part.obs["split"], strict=True):
                sides.setdefault(str(donor), set()).add(split)
    assert all(len(s) == 1 for s in sides.values())
    assert set.union(*sides.values()) == {"train", "test"}


def test_kept_cells_keep_their_counts_and_order(tmp_path: Path) -> None:
    """The processed matrix is the raw one, without the dropped rows, in the smallest type."""
    raw = two_batches(tmp_path)
    made = make(tmp_path, {"0": raw}, quality=STRICT, columns={"batch": "batch"})
    whole = anndata.read_h5ad(raw)
    found = anndata.read_h5ad(made.file("0", "h5ad"))
    assert 0 < found.n_obs < 300
    expected = whole[found.obs_names, found.var_names].X
    assert found.X.dtype == np.uint8
    assert (found.X.toarray() == expected.toarray()).all()


def test_blocks_and_parts_without_a_kept_cell_are_blocks_and_parts_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first blocks of one part, and all of another, are dropped."""
    monkeypatch.setattr(reader.CountsFile.blocks, "__defaults__", (10,))
    counts = random_counts(60, 30).toarray()
    counts[:25] = 0
    raw = write_raw(tmp_path / "x.h5ad", counts)
    raws = split_raw(raw, tmp_path / "raws", {"p": np.arange(5), "q": np.arange(5, 60)})
    made = make(tmp_path, raws)
    p, q = (anndata.read_h5ad(made.file(n, "h5ad")) for n in "pq")
    assert (p.n_obs, q.n_obs) == (0, 35)
    assert (q.X.toarray() == counts[25:][:, [int(g[4:]) for g in q.var_names]]).all()
    assert json.loads(p.uns["cellmill"])["dropped"] == {"min_counts": 5}


OBS = {
    "text": ["a", "b", "a", "ü"],
    "text with missing": ["a", None, "b", "a"],
    "category": pd.Categorical(["x", None, "y", "x"], categories=["y", "x", "unused"]),
    "ordered": pd.Categorical(["lo", "hi", "hi", "lo"], categories=["lo", "hi"], ordered=True),
    "numeric category": pd.Categorical([3, 1, 1, 2]),
    "numeric category with missing": pd.Categorical([3, None, 1, 2]),
    "whole": [1, 2, 3, 4],
    "share": [0.5, np.nan, 1.0, 2.0],
    "truth": [True, False, True, True],
    "nullable whole": pd.array([1, None, 3, 4], "Int64"),
    "nullable truth": pd.array([True, None, False, True], "boolean"),
    "nothing": pd.Categorical([None] * 4, categories=["never"]),
    "nothing at all": [np.nan] * 4,
}


@pytest.mark.parametrize("column", OBS)
def test_kept_columns_keep_their_values(tmp_path: Path, column: str) -> None:
    """Of every kind that h5ad files have, missing ones included."""
    raw = write_raw(tmp_path / "x.h5ad", np.ones((4, 3), np.float32), obs={column: OBS[column]})
    made = make(tmp_path, {"0": raw}, columns={"keep": [column]})
    expected = anndata.read_h5ad(raw).obs[column].astype(object)
    for found in (
        anndata.read_h5ad(made.file("0", "h5ad")).obs[column],
        CountsPart(made.file("0", "h5ad")).obs[column],
    ):
        values = found.astype(object)
        assert values.isna().tolist() == expected.isna().tolist()
        assert values.dropna().tolist() == expected.dropna().tolist()


def test_nullable_strings_are_kept(tmp_path: Path) -> None:
    """As newer pandas writes them."""
    raw = write_raw(tmp_path / "x.h5ad", np.ones((3, 3), np.float32), obs={"text": pd.Categorical(["a", "b", "b"])})
    with h5py.File(raw, "r+") as file, anndata.settings.override(allow_write_nullable_strings=True):
        del file["obs/text"]
        anndata.io.write_elem(file["obs"], "text", pd.array(["a", None, "b"], "string"))
    made = make(tmp_path, {"0": raw}, columns={"keep": ["text"]})
    with CountsPart(made.file("0", "h5ad")) as part:
        assert [None if pd.isna(v) else v for v in part.obs["text"]] == ["a", None, "b"]
