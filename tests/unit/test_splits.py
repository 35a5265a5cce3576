"""Splits, twins, rare categories and the ledger, over parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.ledger import read_ledger
from cellmill.contracts.quality import read_cells
from cellmill.contracts.splits import read_duplicates, read_splits
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.keys import hash_strings
from cellmill.quality.content import content_hashes, gene_keys
from cellmill.quality.ledger import account, account_by_batch
from cellmill.quality.spec import Split
from cellmill.quality.splits import share_out

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

CELLS = 600


def raw(folder: Path, **obs: Any) -> Path:
    """Random cells of a dozen donors and three types, some without either."""
    rng = np.random.default_rng(0)
    donors = rng.choice([f"d{i}" for i in range(12)], CELLS, p=np.arange(1, 13) / 78).astype(object)
    donors[:7] = None
    types = rng.choice(["T", "B", "NK"], CELLS, p=[0.8, 0.15, 0.05]).astype(object)
    types[10:14] = "mast"
    values = {"donor": donors, "plate": rng.choice(["x", "y"], CELLS), "type": pd.Categorical(types)} | obs
    return write_raw(folder / "raw.h5ad", random_counts(CELLS, 30, seed=1), obs=values)


def cells(made: Made) -> pd.DataFrame:
    """Outcomes and splits of all cells, by id."""
    return (
        pd.concat([read_cells(p)[0].to_pandas() for p in made.files("cells.parquet")]).set_index("cell_id").sort_index()
    )


def obs(made: Made) -> pd.DataFrame:
    """Obs of the kept cells, by id."""
    tables = []
    for path in made.files("h5ad"):
        with CountsPart(path) as part:
            tables.append(part.obs.astype(object))
    return pd.concat(tables).sort_index()


KEEP = {"columns": {"keep": ["donor", "plate", "type"]}}
SPLITS: dict[str, dict[str, Any]] = {
    "cells": {},
    "balanced cells": {"method": "balanced"},
    "strata": {"stratify": ["type", "plate"]},
    "groups": {"by": "donor"},
    "hashed groups": {"by": "donor", "method": "hash"},
    "pairs": {"by": ["donor", "plate"]},
    "listed": {"by": "donor", "explicit": {"test": ["d11", "d3"]}},
}


@pytest.mark.parametrize("spec", SPLITS.values(), ids=SPLITS)
def test_splits_do_not_depend_on_parts(tmp_path: Path, spec: dict[str, Any]) -> None:
    """Of every method: the same cells, and the same file of decisions."""
    whole = raw(tmp_path)
    one = make(tmp_path / "one", {"0": whole}, split=spec, **KEEP)
    raws = split_raw(whole, tmp_path / "raws", three_parts(CELLS))
    three = make(tmp_path / "three", raws, split=spec, **KEEP)
    pd.testing.assert_frame_equal(cells(one), cells(three))
    assert sha256_of(one.splits) == sha256_of(three.splits)
    assert set(cells(one)["split"].dropna()) == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(30))
def test_balanced_groups_meet_the_fractions_within_one_group(seed: int) -> None:
    """Few or many groups, alike or not."""
    rng = np.random.default_rng(seed)
    sizes = {f"g{i}": int(n) for i, n in enumerate(rng.integers(1, 10 ** rng.integers(1, 5), rng.integers(1, 60)))}
    spec = Split(by="g", fractions={"train": 0.7, "val": 0.2, "test": 0.1}, seed=seed)
    found: Counter[str] = Counter()
    for group, split in share_out(sizes, {}, spec).items():
        found[split] += sizes[group]
    for split, share in spec.fractions.items():
        assert abs(found[split] - share * sum(sizes.values())) <= max(sizes.values())
    assert share_out(dict(sorted(sizes.items(), reverse=True)), {}, spec) == share_out(sizes, {}, spec)


def test_hashed_groups_stay_when_others_come() -> None:
    """Which balanced ones need not."""
    spec = Split(by="g", method="hash")
    few, many = ({f"g{i}": 5 for i in range(n)} for n in (20, 200))
    assert share_out(few, {}, spec).items() <= share_out(many, {}, spec).items()


@pytest.mark.parametrize("spec", [{"method": "balanced"}, {"stratify": ["type"]}], ids=["whole", "by type"])
def test_balanced_cells_meet_the_fractions_within_one_cell(tmp_path: Path, spec: dict[str, Any]) -> None:
    """In every stratum, by the order of the keys."""
    made = make(tmp_path, {"0": raw(tmp_path)}, split=spec, quality={"mads": {}, "min_counts": 20}, **KEEP)
    kept = obs(made)
    assert 0 < len(kept) < CELLS
    for _, mine in kept.groupby(kept["type"] if "stratify" in spec else np.zeros(len(kept))):
        found = mine["split"].value_counts()
        assert all(abs(found.get(s, 0) - f * len(mine)) <= 1 for s, f in made.dataset.split.fractions.items())
        keys = hash_strings(mine.index.astype(str).to_list(), seed=0, purpose="split")
        in_order = mine["split"].to_numpy()[np.argsort(keys)]
        assert in_order.tolist() == sorted(in_order, key=["test", "train", "val"].index)


def test_pairs_of_values_are_groups_that_cannot_be_confused(tmp_path: Path) -> None:
    """("a", "b-c") is not ("a-b", "c"), and a missing value is not the word."""
    donor = np.array(["a", "a-b", None, "missing"] * (CELLS // 4), object)
    plate = np.array(["b-c", "c", "x", "x"] * (CELLS // 4), object)
    made = make(tmp_path, {"0": raw(tmp_path, donor=donor, plate=plate)}, split={"by": ["donor", "plate"]}, **KEEP)
    values = read_splits(made.splits)[0]["value"].to_pylist()
    assert values == sorted(json.dumps(p) for p in (["a", "b-c"], ["a-b", "c"], [None, "x"], ["missing", "x"]))
    assert obs(made).groupby(["donor", "plate"], dropna=False)["split"].nunique().max() == 1


def test_listed_groups_and_cells_go_where_they_are_listed(tmp_path: Path) -> None:
    """In the file or in a file of its own; the others share the fractions."""
    listing = tmp_path / "test.txt"
    listing.write_text("d11\nd3\n")
    whole = raw(tmp_path)
    made = make(tmp_path / "a", {"0": whole}, split={"by": "donor", "explicit": {"test": str(listing)}}, **KEEP)
    kept = obs(made)
    assert set(kept[kept["donor"].isin(["d11", "d3"])]["split"]) == {"test"}
    spec = {"fractions": {"train": 1, "test": 0}, "explicit": {"test": ["c5", "c77"]}}
    kept = obs(make(tmp_path / "b", {"0": whole}, split=spec))
    assert kept.index[kept["split"] == "test"].tolist() == ["c5", "c77"]


def test_a_listed_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the nearest."""
    with pytest.raises(CellmillError, match=r"1 groups that no kept cell has, as 'd99'\. There: "):
        make(tmp_path, {"0": raw(tmp_path)}, split={"by": "donor", "explicit": {"val": ["d99"]}})


# Twins


def test_the_content_hash_knows_genes_and_counts_alone() -> None:
    """Another order of genes, and genes without a count, change nothing; anything else does."""
    counts = random_counts(50, 40, dtype=np.uint32)
    names = np.array([f"g{i}" for i in range(40)])
    whole = content_hashes(counts, gene_keys(names))
    order = np.random.default_rng(0).permutation(40)
    wider = sp.hstack([counts[:, order], sp.csr_matrix((50, 5), dtype=np.uint32)]).tocsr()
    assert (content_hashes(wider, gene_keys(np.array([*names[order], *"abcde"]))) == whole).all()
    assert len(np.unique(whole, axis=1).T) == len({c.tobytes() for c in counts.toarray()})
    swapped = content_hashes(counts[:, order], gene_keys(names))
    assert (swapped != whole).any(axis=0).sum() >= 49


def twins(tmp_path: Path, rule: str, **spec: Any) -> Made:
    """Twenty cells stand in both parts, under other names, with other genes around and in another order."""
    counts = random_counts(120, 60, seed=3).toarray()
    genes = [f"ENSG{i:011d}.{i % 7}" for i in range(60)]
    first = write_raw(tmp_path / "p.h5ad", counts[:80], genes=genes)
    order = np.random.default_rng(1).permutation(60)
    other = write_raw(
        tmp_path / "q.h5ad",
        np.hstack([counts[60:, order], np.zeros((60, 1), np.float32)]),
        genes=[*(genes[i].split(".")[0] for i in order), "ENSG00000099999"],
        cells=[f"x{i}" for i in range(60)],
    )
    quality = {"mads": {}, "duplicates": {"rule": rule, "min_counts": 10}}
    return make(tmp_path, {"p": first, "q": other}, quality=quality, **spec)


def test_twins_are_found_across_files(tmp_path: Path) -> None:
    """And stay where the rule is to keep them; those across splits are counted."""
    made = twins(tmp_path, "keep")
    table, facts = read_duplicates(made.duplicates)
    assert (facts["contents"], facts["cells"]) == (20, 40)
    rows = table.to_pandas()
    assert sorted(rows[rows["part"] == "p"]["row"]) == list(range(60, 80))
    assert sorted(rows[rows["part"] == "q"]["row"]) == list(range(20))
    assert rows.groupby(["content_1", "content_2"])["first"].sum().tolist() == [1] * 20
    found = cells(made)["split"]
    across = sum(found[f"c{60 + i}"] != found[f"x{i}"] for i in range(20))
    assert across == read_ledger(made.ledger)[1]["duplicates_across_splits"] > 0


def test_of_dropped_twins_one_stays(tmp_path: Path) -> None:
    """That of the least key of the id, and the others are counted by their reason."""
    made = twins(tmp_path, "drop")
    outcome = cells(made)["outcome"]
    for i in range(20):
        one, other = hash_strings([f"c{60 + i}", f"x{i}"], seed=0, purpose="duplicates")
        expected = ["kept", "duplicate content"]
        assert [outcome[f"c{60 + i}"], outcome[f"x{i}"]] == (expected if one < other else expected[::-1])
    assert account(made.ledger)["dropped"] == {"duplicate content": 20}
    assert read_ledger(made.ledger)[1]["duplicates_across_splits"] == 0


def test_twins_in_several_splits_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    """By default; in one split they are only reported."""
    with pytest.raises(CellmillError, match=r"cells stand in several splits.*'c\d+' in \w+, 'x\d+' of .*rule: drop"):
        twins(tmp_path / "a", "report")
    made = twins(tmp_path / "b", "report", split={"fractions": {"train": 1}})
    assert read_ledger(made.ledger)[1]["duplicates"]["contents"] == 20


def test_twins_can_be_an_error(tmp_path: Path) -> None:
    """Both are named."""
    with pytest.raises(CellmillError, match=r"cell '[cx]\d+' has the same counts as '[cx]\d+'"):
        twins(tmp_path, "error")


def test_cells_with_few_counts_are_no_twins(tmp_path: Path) -> None:
    """They are equal by chance."""
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", np.ones((9, 40), np.float32))})
    assert read_duplicates(made.duplicates)[1] == {
        **{"cells": 0, "contents": 0, "contract": "duplicates 1", "min_counts": 50}
    }


# Rare categories


def test_rare_categories_are_merged(tmp_path: Path) -> None:
    """In the processed cells; missing values stay missing."""
    rule = {"column": "type", "min_cells": 5, "into": "other"}
    types = np.array(["T"] * (CELLS - 8) + ["mast"] * 4 + ["pDC"] * 2 + [None] * 2, object)
    quality = {"mads": {}, "min_counts": 0, "min_genes": 0, "rare": rule}
    made = make(tmp_path, {"0": raw(tmp_path, type=types)}, quality=quality)
    found = obs(made)["type"]
    assert found.value_counts().to_dict() == {"T": CELLS - 8, "other": 6}
    assert found.isna().sum() == 2
    assert read_splits(made.splits)[1]["rare"] == {"mast": 4, "pDC": 2}


def test_rare_categories_are_dropped_over_all_parts(tmp_path: Path) -> None:
    """A value that is rare in a part may be frequent in the dataset."""
    rule = {"column": "type", "min_cells": 5, "rule": "drop"}
    raws = split_raw(raw(tmp_path), tmp_path / "raws", three_parts(CELLS))
    made = make(tmp_path, raws, quality={"mads": {}, "min_counts": 0, "min_genes": 0, "rare": rule}, **KEEP)
    assert account(made.ledger)["dropped"] == {"rare type": 4}
    assert set(obs(made)["type"]) == {"T", "B", "NK"}


# The ledger


def test_the_ledger_adds_up(tmp_path: Path) -> None:
    """By part, batch, outcome and split; and the batch that lost most stands first."""
    raws = split_raw(raw(tmp_path), tmp_path / "raws", three_parts(CELLS))
    made = make(tmp_path, raws, quality={"mads": {}, "min_counts": 20}, columns={"batch": "donor"})
    table = read_ledger(made.ledger)[0].to_pandas()
    found = cells(made)
    assert table["cells"].sum() == CELLS
    assert table.groupby("outcome")["cells"].sum().to_dict() == found["outcome"].value_counts().to_dict()
    assert (
        table.groupby(["batch", "split"])["cells"].sum().to_dict() == found.groupby(["batch", "split"]).size().to_dict()
    )
    ledger = account(made.ledger)
    assert ledger["raw"] == ledger["kept"] + sum(ledger["dropped"].values()) == CELLS
    assert sum(ledger["splits"].values()) == ledger["kept"]
    shares = [row["dropped"] / row["raw"] for row in account_by_batch(made.ledger)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0
