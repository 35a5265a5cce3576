"""A subset has exactly the cells that were asked for, of every stratum, for any parts."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from cellmill.config import Dataset
from cellmill.contracts import quality as quality_files
from cellmill.contracts import splits as split_files
from cellmill.contracts.ledger import read_ledger
from cellmill.contracts.subset import read_drawn, read_subset
from cellmill.errors import CellmillError
from cellmill.files import write_json
from cellmill.matrix.reader import CountsFile
from cellmill.sources.draw import allocate, draw_subset, take_subset
from cellmill.sources.subset import SubsetRules

from .stages import make, random_counts, split_raw, three_parts, write_raw

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=8)
LARGE = st.lists(st.integers(1, 10**9), min_size=1, max_size=6)
KINDS = ("keep", "equal")


def first_cells(sizes: list[int], cells: int, proportions: str) -> list[int]:
    """The definition, cell by cell: those with the least number, or the least (number + 1/2) / size."""
    order = [
        (Fraction(2 * k + 1, 2 * n) if proportions == "keep" else k, stratum)
        for stratum, n in enumerate(sizes)
        for k in range(n)
    ]
    return np.bincount([stratum for _, stratum in sorted(order)[:cells]], minlength=len(sizes)).tolist()


# --- how many of each stratum


@pytest.mark.parametrize("proportions", KINDS)
@given(sizes=SIZES, share=st.floats(0, 1))
def test_allocation_is_its_definition(proportions: str, sizes: list[int], share: float) -> None:
    """Exact in total, and cell for cell what the definition says."""
    cells = round(share * sum(sizes))
    assert allocate(np.array(sizes), cells, proportions).tolist() == first_cells(sizes, cells, proportions)


@pytest.mark.parametrize("proportions", KINDS)
@given(sizes=LARGE, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_allocation_of_many_cells_is_exact_bounded_and_nested(proportions, sizes, shares) -> None:
    """Up to a billion cells a stratum: the total is exact, none gives more than it has, and more cells take none."""
    few, many = sorted(round(share * sum(sizes)) for share in shares)
    less, more = (allocate(np.array(sizes), cells, proportions) for cells in (few, many))
    assert (less.sum(), more.sum()) == (few, many)
    assert (less >= 0).all() and (less <= more).all() and (more <= sizes).all()


@given(sizes=LARGE, share=st.floats(0.01, 1))
def test_kept_proportions_are_those_of_the_sizes(sizes: list[int], share: float) -> None:
    """A common divisor rounds every size to what is given."""
    cells = round(share * sum(sizes))
    found = allocate(np.array(sizes), cells, "keep").tolist()
    low = max(Fraction(2 * n, 2 * k + 1) for n, k in zip(sizes, found, strict=True))
    high = min((Fraction(2 * n, 2 * k - 1) for n, k in zip(sizes, found, strict=True) if k), default=low)
    assert low <= high


def test_equal_takes_small_strata_whole_and_shares_out_the_rest() -> None:
    """Water rises to one level; what is left over goes to the first."""
    assert allocate(np.array([100, 3, 100, 50]), 100, "equal").tolist() == [33, 3, 32, 32]
    assert allocate(np.array([100, 3, 100, 50]), 253, "equal").tolist() == [100, 3, 100, 50]


def test_keep_gives_whole_shares_where_they_are_whole_and_none_to_tiny_strata() -> None:
    """A tenth of each; below half a cell, none."""
    assert allocate(np.array([500, 300, 200]), 100, "keep").tolist() == [50, 30, 20]
    assert allocate(np.array([9_990, 10]), 100, "keep").tolist() == [100, 0]


# --- the draw


def rules(cells: int, **others: Any) -> SubsetRules:
    return SubsetRules(cells=cells, **others)


def draw(folder: Path, raws: dict[str, Path], asked: SubsetRules, *, counts: str = "auto") -> dict[str, Path]:
    """``draw_subset`` and ``take_subset`` of every part; the drawn parts."""
    folder.mkdir(parents=True, exist_ok=True)
    table, found = folder / "subset.parquet", folder / "found"
    links = {part: found / f"{part}.h5ad" for part in raws}
    for part, link in links.items():
        write_json(found / f"{part}.json", {"kind": "files", "note": ""})
        link.unlink(missing_ok=True)
        link.symlink_to(raws[part].resolve())
    draw_subset(list(links.values()), rules=asked, counts=counts, out=table)
    for part, link in links.items():
        take_subset(
            link,
            found_provenance=found / f"{part}.json",
            subset=table,
            counts=counts,
            part=part,
            out=folder / f"{part}.h5ad",
            provenance=folder / f"{part}.json",
        )
    return {part: folder / f"{part}.h5ad" for part in raws}


def ids(parts: dict[str, Path]) -> list[str]:
    return [cell for path in parts.values() for cell in anndata.read_h5ad(path).obs_names]


LABELS = np.random.default_rng(1).choice(["T", "B", "NK", "rare"], 300, p=[0.6, 0.25, 0.13, 0.02])
TISSUES = np.random.default_rng(2).choice(np.array(["lung", "blood", None], object), 300, p=[0.5, 0.3, 0.2])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 cells of four labels and two tissues, which some lack."""
    obs = {"label": pd.Categorical(LABELS), "tissue": pd.Categorical(TISSUES), "batch": ["x", "y", "z"] * 100}
    return write_raw(tmp_path_factory.mktemp("whole") / "raw.h5ad", random_counts(300, 40), obs=obs)


@pytest.mark.parametrize(
    "options",
    [{}, {"stratify": ["label"]}, {"stratify": ["label", "tissue"], "proportions": "equal"}],
    ids=["plain", "keep", "equal"],
)
def test_the_draw_is_exact_nested_and_the_same_for_any_parts(tmp_path: Path, whole: Path, options: dict) -> None:
    """One part or three in another order; a larger draw holds the smaller; another seed is another draw."""
    parts = split_raw(whole, tmp_path, three_parts(300))
    one = ids(draw(tmp_path / "one", {"0": whole}, rules(80, **options)))
    three = ids(draw(tmp_path / "three", parts, rules(80, **options)))
    more = ids(draw(tmp_path / "more", parts, rules(81, **options)))
    other = ids(draw(tmp_path / "other", parts, rules(80, seed=1, **options)))
    assert len(one) == 80 and sorted(one) == sorted(three)
    assert len(more) == 81 and set(one) < set(more)
    assert len(other) == 80 and set(other) != set(one)


def strata(values: Any) -> list[str | None]:
    """Values as the table has them."""
    return [None if pd.isna(value) else str(value) for value in values]


@pytest.mark.parametrize("proportions", KINDS)
def test_strata_are_every_combination_and_a_missing_value_is_one(tmp_path: Path, whole: Path, proportions: str) -> None:
    """Each stratum gives what the allocation says, in the order of their values, missing ones last."""
    asked = rules(120, stratify=["label", "tissue"], proportions=proportions)
    drawn = anndata.read_h5ad(draw(tmp_path, {"0": whole}, asked)["0"]).obs
    there, taken = (
        Counter(zip(*(strata(values) for values in columns), strict=True))
        for columns in ((LABELS, TISSUES), (drawn["label"], drawn["tissue"]))
    )
    order = sorted(there, key=lambda pair: (pair[0], pair[1] is None, pair[1] or ""))
    expected = first_cells([there[pair] for pair in order], 120, proportions)
    assert [taken[pair] for pair in order] == expected
    table = read_subset(tmp_path / "subset.parquet")[0].to_pylist()
    assert [tuple(row["stratum"]) for row in table] == order
    assert [row["drawn"] for row in table] == expected


def test_the_rows_of_a_drawn_part_are_those_of_the_file(tmp_path: Path, whole: Path) -> None:
    """Counts, every obs column and var as found, in the order of the file, unused categories gone."""
    path = draw(tmp_path, {"0": whole}, rules(50, filters=[{"column": "label", "in": ["T", "B"]}]))["0"]
    source, drawn = anndata.read_h5ad(whole), anndata.read_h5ad(path)
    expected = source[source.obs_names.isin(drawn.obs_names)].copy()
    assert list(drawn.obs_names) == list(expected.obs_names) and drawn.n_obs == 50
    assert (drawn.X != expected.X.astype(np.uint32)).nnz == 0 and drawn.X.dtype == np.uint32
    assert drawn.var.equals(source.var) and list(drawn.obs.columns) == list(source.obs.columns)
    assert list(drawn.obs["label"].cat.categories) == ["B", "T"]
    assert drawn.obs["tissue"].astype(object).equals(expected.obs["tissue"].astype(object))


def test_filters_come_before_the_draw_and_the_numbers_add_up(tmp_path: Path, whole: Path) -> None:
    """The size is that of cells that pass; found = dropped + not drawn + drawn, in every part and in the ledger."""
    filters = [{"column": "tissue", "in": ["lung", "blood"]}, {"column": "batch", "not_in": ["z"]}]
    parts = draw(tmp_path / "d", split_raw(whole, tmp_path, three_parts(300)), rules(60, filters=filters))
    _, facts = read_subset(tmp_path / "d" / "subset.parquet")
    missing = int(pd.isna(TISSUES).sum())
    of_z = int((~pd.isna(TISSUES) & (np.arange(300) % 3 == 2)).sum())
    dropped = {"filter tissue: missing": missing, "filter batch": of_z}
    assert (facts["found"], facts["dropped"], facts["drawn"]) == (300, dropped, 60)
    said = [read_drawn(path) for path in parts.values()]
    assert sum(s["found"] for s in said) == 300 and sum(s["drawn"] for s in said) == 60
    (tmp_path / "m").mkdir()
    spec = {"filters": filters, "mads": {}, "min_counts": 10}
    ledger = read_ledger(make(tmp_path / "m", parts, quality=spec, counts="X").ledger)
    assert {k: ledger[1]["subset"][k] for k in ("found", "drawn", "not_drawn", "dropped")} == {
        "found": 300,
        "drawn": 60,
        "not_drawn": 300 - 60 - missing - of_z,
        "dropped": dropped,
    }
    assert sum(ledger[0]["cells"].to_pylist()) == 60


def test_a_whole_dataset_says_nothing_of_a_subset(tmp_path: Path, whole: Path) -> None:
    """No fact, no table: the files are those that they were."""
    made = make(tmp_path, {"0": whole})
    assert "subset" not in read_ledger(made.ledger)[1]
    for read, suffix in ((quality_files.read_quality, "quality"), (quality_files.read_labels, "labels")):
        assert "subset" not in read(made.file("0", f"{suffix}.parquet"))[1]
    assert read_drawn(whole) is None and read_drawn(made.file("0", "h5ad")) is None


def test_a_part_of_which_nothing_is_drawn_goes_through_every_stage(tmp_path: Path, whole: Path) -> None:
    """Its genes stay genes of the dataset; an empty file that is no subset is still refused."""
    tables: dict[str, Any] = {"cells": list("wxyz"), "genes": ["G1", "G2", "G3"], "obs": {"label": ["no"] * 4}}
    other = write_raw(tmp_path / "other.h5ad", random_counts(4, 3), **tables)
    asked = rules(90, filters=[{"column": "label", "not_in": ["no"]}])
    parts = draw(tmp_path / "d", {"0": whole, "1": other}, asked)
    assert anndata.read_h5ad(parts["1"]).shape == (0, 3)
    (tmp_path / "m").mkdir()
    made = make(tmp_path / "m", parts, counts="X", columns={"batch": "label"})
    assert anndata.read_h5ad(made.file("1", "h5ad")).shape == (0, 43)
    assert sum(read_ledger(made.ledger)[0]["cells"].to_pylist()) == 90
    empty = write_raw(tmp_path / "empty.h5ad", random_counts(4, 3)[:0])
    with pytest.raises(CellmillError, match="0 cells × 3 genes"):
        make(tmp_path / "m", {"0": empty})
    with pytest.raises(CellmillError, match="0 cells × 3 genes"):
        draw(tmp_path / "e", {"0": whole, "1": empty}, rules(1))


# --- which matrix


LAYOUTS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda counts: counts.toarray()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("counts", ["auto", "X"])
def test_every_layout_gives_the_same_bytes(tmp_path: Path, layout: str, counts: str) -> None:
    """CSR, CSC and dense, with and without blocks left out: one file, but for the facts."""
    values = random_counts(3_000, 5)
    made = draw(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", LAYOUTS[layout](values))}, rules(3), counts=counts)
    drawn = anndata.read_h5ad(made["0"])
    rows = [int(name[1:]) for name in drawn.obs_names]
    assert len(rows) == 3 and (drawn.X != values[rows].astype(np.uint32)).nnz == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_without_a_wanted_row_may_be_left_out_and_others_may_not(tmp_path: Path, layout: str) -> None:
    """CSR and dense skip them; whatever comes, the wanted rows are there, once."""
    values = random_counts(500, 5)
    wanted = np.isin(np.arange(500), [3, 107, 499])
    with CountsFile(write_raw(tmp_path / "x.h5ad", LAYOUTS[layout](values)), "X") as file:
        blocks = list(file.blocks(100, wanted=wanted))
    assert len(blocks) == (5 if layout == "csc" else 3)
    rows = np.concatenate([np.arange(b.start, b.stop) for b in blocks])
    found = sp.vstack([b.counts for b in blocks])[np.isin(rows, np.flatnonzero(wanted))]
    assert (found != values[wanted].astype(np.uint32)).nnz == 0


def normalized_beside_counts(path: Path) -> Path:
    """Normalised values in X, counts with other genes in raw, and counts in a layer."""
    counts = random_counts(60, 12)
    whole = anndata.AnnData(counts.copy(), var=pd.DataFrame({"n": range(12)}, index=[f"g{i}" for i in range(12)]))
    whole.obs_names = [f"c{i}" for i in range(60)]
    made = whole[:, :8].copy()
    made.raw = whole
    made.layers["ints"] = made.X * 2
    made.X = made.X * 0.3
    made.write_h5ad(path)
    return path


@pytest.mark.parametrize(("counts", "where", "genes"), [("auto", "raw", 12), ("layers/ints", "layers/ints", 8)])
def test_the_counts_are_those_of_the_rule_and_it_says_which(
    tmp_path: Path, counts: str, where: str, genes: int
) -> None:
    """auto passes over what holds no counts, and the provenance says why; raw brings its own var."""
    path = draw(tmp_path, {"0": normalized_beside_counts(tmp_path / "x.h5ad")}, rules(20), counts=counts)["0"]
    drawn, said = anndata.read_h5ad(path), json.loads((tmp_path / "0.json").read_text())["subset"]
    assert drawn.shape == (20, genes) and list(drawn.var["n"]) == list(range(genes))
    assert said["counts_from"] == where
    assert ("X does not hold counts" in said["why"]) == (counts == "auto")
    with CountsFile(tmp_path / "x.h5ad", where) as file:
        found = {name: row for b in file.blocks() for name, row in zip(file.cell_ids, b.counts.toarray(), strict=True)}
    assert np.array_equal(drawn.X.toarray(), [found[name] for name in drawn.obs_names])


def test_auto_looks_at_every_value_and_a_named_matrix_at_the_drawn_ones(tmp_path: Path) -> None:
    """So auto takes the same matrix for any draw; who names one does not pay for what is not drawn."""
    counts = random_counts(2_100, 6).toarray()
    good = write_raw(tmp_path / "good.h5ad", sp.csr_matrix(counts))
    (cell,) = ids(draw(tmp_path / "g", {"0": good}, rules(1)))
    far = 2_050 if int(cell[1:]) < 1_024 else 0
    counts[far, 2] = 0.5
    bad = {"0": write_raw(tmp_path / "bad.h5ad", sp.csr_matrix(counts))}
    assert ids(draw(tmp_path / "b", bad, rules(1), counts="X")) == [cell]
    with pytest.raises(CellmillError, match=f"cell 'c{far}'"):
        draw(tmp_path / "b", bad, rules(1))


def test_tables_of_any_kind_are_kept(tmp_path: Path) -> None:
    """Missing text, nullable numbers and truth, ordered categories."""
    obs = {
        "text": pd.Series(["a", None, "b"] * 4, dtype=object).to_numpy(),
        "number": pd.array([1, None, 3] * 4, dtype="Int64"),
        "truth": pd.array([True, None, False] * 4, dtype="boolean"),
        "level": pd.Categorical(["lo", "hi", "lo"] * 4, categories=["lo", "hi", "none"], ordered=True),
    }
    source = write_raw(tmp_path / "x.h5ad", random_counts(12, 4), obs=obs, var={"name": ["p", None, "q", "r"]})
    drawn = anndata.read_h5ad(draw(tmp_path, {"0": source}, rules(9))["0"])
    expected = anndata.read_h5ad(source)[drawn.obs_names]
    for column in obs:
        mine, theirs = drawn.obs[column].astype(object), expected.obs[column].astype(object)
        assert (mine.isna() == theirs.isna()).all() and (mine.dropna() == theirs.dropna()).all()
    assert drawn.obs["level"].cat.ordered and list(drawn.var["name"].dropna()) == ["p", "q", "r"]


# --- refusals


def test_more_cells_than_there_are_is_an_error_before_anything_is_written(tmp_path: Path, whole: Path) -> None:
    """Found against asked for, and the way out."""
    with pytest.raises(CellmillError, match=r"301 are asked for, but there are only 300.*at most 300"):
        draw(tmp_path, {"0": whole}, rules(301))
    n = int((LABELS == "T").sum())
    with pytest.raises(CellmillError, match=rf"only {n} of 300 cells pass quality.filters"):
        draw(tmp_path, {"0": whole}, rules(n + 1, filters=[{"column": "label", "equals": "T"}]))
    assert not (tmp_path / "subset.parquet").exists()
    assert len(ids(draw(tmp_path, {"0": whole}, rules(300)))) == 300


def test_an_id_in_two_parts_is_refused_whether_drawn_or_not(tmp_path: Path, whole: Path) -> None:
    """As without a subset; with part_barcode they are two cells."""
    twins = {"a": whole, "b": whole}
    with pytest.raises(CellmillError, match=r"stands in .*a\.h5ad, too\. Set 'cell_ids: part_barcode'"):
        draw(tmp_path, twins, rules(1))
    assert len(ids(draw(tmp_path, twins, rules(600, cell_ids="part_barcode")))) == 600


def test_a_filters_value_that_was_found_need_not_be_drawn(tmp_path: Path, whole: Path) -> None:
    """A slip is refused at the draw; later stages see that other cells were there."""
    with pytest.raises(CellmillError, match="no cell has 'Tt' in the obs column 'label'"):
        draw(tmp_path, {"0": whole}, rules(1, filters=[{"column": "label", "in": ["T", "Tt"]}]))
    filters = [{"column": "label", "in": ["T", "rare"]}]
    parts = draw(tmp_path, {"0": whole}, rules(10, filters=filters, stratify=["label"]))
    assert set(anndata.read_h5ad(parts["0"]).obs["label"]) == {"T"}
    (tmp_path / "m").mkdir()
    make(tmp_path / "m", parts, counts="X", quality={"filters": filters, "mads": {}})


def test_a_published_split_may_list_cells_that_are_not_drawn(tmp_path: Path, whole: Path) -> None:
    """Those that are drawn go where it says; a list of which nothing is there is still refused."""
    parts = draw(tmp_path, {"0": whole}, rules(40))
    (tmp_path / "m").mkdir()
    listed = {"explicit": {"test": [f"c{i}" for i in range(150)]}}
    made = make(tmp_path / "m", parts, counts="X", split=listed)
    table, facts = split_files.read_splits(made.splits)
    there = {c for c in ids(parts) if int(c[1:]) < 150}
    assert set(table["value"].to_pylist()) == there and there
    assert facts["listed_not_there"] == 150 - len(there)
    with pytest.raises(CellmillError, match="lists 1 cell ids that no kept cell has"):
        make(tmp_path / "m", parts, counts="X", split={"explicit": {"test": ["nobody"]}})


def test_another_file_than_the_one_drawn_of_is_refused(tmp_path: Path, whole: Path) -> None:
    """A part that was replaced after the draw does not pass for the old one."""
    draw(tmp_path, {"0": whole}, rules(40))
    other = write_raw(tmp_path / "other.h5ad", random_counts(299, 40), cells=[f"d{i}" for i in range(299)])
    with pytest.raises(CellmillError, match="not the file that cells were drawn of"):
        take_subset(
            other,
            found_provenance=tmp_path / "found" / "0.json",
            subset=tmp_path / "subset.parquet",
            counts="X",
            part="0",
            out=tmp_path / "new.h5ad",
            provenance=tmp_path / "new.json",
        )
    assert not (tmp_path / "new.h5ad").exists()


def test_the_config_says_what_is_wrong_with_a_subset() -> None:
    """No cells, a column twice, an unknown key."""
    values = {"title": "t", "source": {"kind": "files", "files": {"0": "x.h5ad"}}, "exports": []}
    for wrong in ({"cells": 0}, {"cells": 5, "stratify": ["a", "a"]}, {"cells": 5, "proportion": "equal"}):
        with pytest.raises(ValueError, match="subset"):
            Dataset.model_validate(values | {"subset": wrong})
