"""What becomes of obs: words for missing values, and columns of tables."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellmill.config import Dataset, load_project
from cellmill.contracts import ledger as ledger_files
from cellmill.contracts.obs import read_facts
from cellmill.errors import CellmillError
from cellmill.matrix.reader import CountsFile
from cellmill.sources.annotate import annotate_part
from cellmill.sources.obs_rules import MISSING_WORDS, Join, ObsRules

from .stages import make, random_counts, write_raw

CELLS = 6
DONORS = "donor,age,weight,smoker,code,seen\nd1,61,70.5,true,007,2020-01-02\nd2,45,NA,false,012,\nd3,30,60,true,100,x\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    obs = {
        "donor": ["d1", "d2", "d2", "d9", "Unknown", "d1"],
        "tissue": pd.Categorical(["lung", " Not specified", "lung", "none", "liver", "lung"]),
        "plate": [1.0, 2.0, np.nan, 2.0, 1.0, 3.0],
    }
    return write_raw(tmp_path / "p.h5ad", random_counts(CELLS, 4), obs=obs)


def annotated(raw: Path, *tables: Path, **rules: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The obs table as every later stage sees it, and what was counted."""
    out = raw.with_suffix(".obs.parquet")
    spec = Dataset.model_validate(
        {"title": "t", "source": {"kind": "files", "files": {"p": str(raw)}}, "exports": []} | rules
    ).obs_rules
    annotate_part(raw, rules=spec, tables=tables or [Path(j.table) for j in spec.joins], out=out)
    with CountsFile(raw, "X", annotations=out) as file:
        return file.obs, read_facts(out)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_each_cell_gets_the_row_of_its_key(tmp_path: Path, raw: Path, ending: str):
    """Of every kind of table; types are those of the table, and a key that it has not gives missing values."""
    path = tmp_path / f"donors{ending}"
    if ending == ".parquet":
        pd.read_csv(io.StringIO(DONORS), dtype={"code": str}).to_parquet(path)
    elif ending == ".csv.gz":
        path.write_bytes(gzip.compress(DONORS.encode()))
    else:
        path.write_text(DONORS.replace(",", "\t") if ending == ".tsv" else DONORS)
    obs, facts = annotated(raw, join=[{"table": str(path), "by": "donor"}])
    assert list(obs.columns) == ["donor", "tissue", "plate", "age", "weight", "smoker", "code", "seen"]
    assert obs["age"].tolist() == [61, 45, 45, pd.NA, pd.NA, 61] and obs["age"].dtype == "Int64"
    assert obs["smoker"].tolist() == [True, False, False, pd.NA, pd.NA, True]
    np.testing.assert_array_equal(obs["weight"], [70.5, np.nan, np.nan, np.nan, np.nan, 70.5])
    assert obs["seen"].astype(object).where(obs["seen"].notna(), None).tolist()[:4] == ["2020-01-02", None, None, None]
    assert facts["joins"] == [
        {
            "table": str(path),
            "by": ["donor", "donor"],
            "matched": 4,
            "without_key": 0,
            "unmatched": 2,
            "examples": ["Unknown", "d9"],
        }
    ]


def test_words_for_missing_values_become_missing_before_anything_is_joined(tmp_path: Path, raw: Path):
    """Whatever their case and blanks, in found and in joined columns of text; they are counted, and match nothing."""
    path = tmp_path / "t.csv"
    path.write_text("donor,site,age\nd1,unsure,1\nd2,Leiden,2\nunknown,Paris,3\n")
    obs, facts = annotated(raw, missing=True, join=[{"table": str(path), "by": "donor"}])
    assert obs["donor"].isna().tolist() == [False] * 4 + [True, False]
    assert obs["tissue"].isna().tolist() == [False, True, False, True, False, False]
    assert obs["site"].isna().tolist() == [True, False, False, True, True, True]
    assert facts["missing"] == {"donor": 1, "tissue": 2, "site": 2}
    assert facts["joins"][0]["without_key"] == 1 and facts["joins"][0]["examples"] == ["d9"]
    assert list(obs["tissue"].cat.categories) == ["liver", "lung"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [(["LUNG "], {"donor": 0, "tissue": 3}), ({"columns": ["tissue"]}, {"tissue": 2}), (False, {}), (None, {})],
)
def test_words_and_columns_are_as_asked(raw: Path, missing: Any, expected: dict[str, int]):
    """A list is words; the section may name columns; false and null ask for nothing."""
    assert annotated(raw, missing=missing)[1]["missing"] == expected


def test_the_words_are_those_of_the_catalogue():
    """One list for scBaseCount's catalogue and for obs."""
    from cellmill.sources import scbasecount

    assert scbasecount.MISSING_WORDS is MISSING_WORDS


def test_a_table_may_be_joined_by_what_another_brought(tmp_path: Path, raw: Path):
    """And by whole numbers that missing values made floats of; names get their prefix."""
    (tmp_path / "a.csv").write_text("plate,drug\n1,dmso\n2,taxol\n")
    (tmp_path / "b.csv").write_text("name,target\ntaxol,TUBB\n")
    joins = [
        {"table": str(tmp_path / "a.csv"), "by": "plate"},
        {"table": str(tmp_path / "b.csv"), "by": {"obs": "drug", "table": "name"}, "prefix": "drug_"},
    ]
    obs, facts = annotated(raw, join=joins)
    assert obs["drug"].astype(object).where(obs["drug"].notna(), None).tolist() == [
        "dmso", "taxol", None, "taxol", "dmso", None,
    ]  # fmt: skip
    assert obs["drug_target"].notna().tolist() == [False, True, False, True, False, False]
    assert [j["without_key"] for j in facts["joins"]] == [1, 2]


def refused(raw: Path, path: Path, **join: Any) -> str:
    with pytest.raises(CellmillError) as error:
        annotated(raw, join=[{"table": str(path), "by": "donor", **join}])
    assert not raw.with_suffix(".obs.parquet").exists()
    return str(error.value)


def test_what_cannot_be_joined_is_refused_before_anything_is_written(tmp_path: Path, raw: Path):
    """Keys that stand there twice, no such column, a column that is there, cells without a row where that is asked."""
    path = tmp_path / "t.csv"
    path.write_text("donor,age\nd1,1\nd2,2\nd1,3\n")
    assert "1 keys stand there more than once: 'd1'" in refused(raw, path)
    path.write_text("donor,tissue\nd1,a\n")
    assert "there is an obs column 'tissue' already" in refused(raw, path)
    path.write_text("donor,tissue\nd1,a\nd2,b\n")
    said = refused(raw, path, replace=True, unmatched="error")
    assert "2 of 6 cells have a key that" in said and "'Unknown', 'd9'" in said
    assert "no column 'ages'" in refused(raw, path, columns=["ages"])
    obs, _ = annotated(raw, join=[{"table": str(path), "by": "donor", "replace": True}])
    assert list(obs.columns) == ["donor", "tissue", "plate"]
    assert obs["tissue"].astype(object).tolist()[:3] == ["a", "b", "b"]


def test_a_file_of_another_part_is_refused(tmp_path: Path, raw: Path):
    """By its number of cells."""
    annotated(raw, missing=True)
    other = write_raw(tmp_path / "q.h5ad", random_counts(3, 4))
    with pytest.raises(CellmillError, match="it has 6 rows"):
        _ = CountsFile(other, "X", annotations=raw.with_suffix(".obs.parquet")).obs


def test_the_configuration_is_checked_against_the_headers(tmp_path: Path, raw: Path):
    """Joined columns can be named as any other; what no header has is told before the first job."""
    (tmp_path / "config/datasets").mkdir(parents=True)
    (tmp_path / "config/config.yaml").write_text("datasets: [d]\n")
    (tmp_path / "t.csv").write_text("donor,age,plate\nd1,1,2\n")
    file = tmp_path / "config/datasets/d.yaml"
    said = "title: t\nsource: {kind: files, files: {p: p.h5ad}}\nexports: []\ntokenizers: []\nembedders: []\n"
    file.write_text(said + "columns: {keep: [age]}\njoin: [{table: t.csv, by: donor, columns: [age]}]\n")
    assert load_project(root=tmp_path).datasets["d"].kept_columns == ["age"]
    file.write_text(
        said + "columns: {keep: [agee]}\nmissing: {columns: [tisue]}\nsplit: {by: x}\n"
        "join: [{table: t.csv, by: donr}, {table: u.csv, by: donor}, {table: t.xls, by: a}]\n"
    )
    with pytest.raises(CellmillError) as error:
        load_project(root=tmp_path)
    assert "cannot tell what 't.xls' is" in str(error.value)
    file.write_text(
        said + "columns: {keep: [agee]}\nmissing: {columns: [tisue]}\njoin: [{table: t.csv, by: donor, prefix: b_}]\n"
    )
    with pytest.raises(CellmillError) as error:
        load_project(root=tmp_path)
    for text in ("no column 'agee' in p.h5ad", "Did you mean 'b_age'?", "missing.columns: no column 'tisue'"):
        assert text in str(error.value)
    file.write_text(said + "join: [{table: t.csv, by: dono}, {table: u.csv, by: donor}]\n")
    with pytest.raises(CellmillError) as error:
        load_project(root=tmp_path)
    assert "join.0.by: no column 'dono' in t.csv" in str(error.value)
    assert "join.1.table: no file 'u.csv'" in str(error.value)
    file.write_text(said + "join: [{table: t.csv, by: donor}]\n")
    with pytest.raises(CellmillError, match=r"join\.0: there is an obs column 'plate' already"):
        load_project(root=tmp_path)


def test_joined_columns_are_as_any_other_to_every_stage(tmp_path: Path):
    """Batch, label, filter and split; the ledger says what was matched, summed over the parts."""
    pd.DataFrame({"donor": ["d0", "d1", "d2"], "lab": ["A", "B", "unsure"], "study": ["s", "t", "u"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    raws = {
        part: write_raw(
            tmp_path / f"{part}.h5ad",
            random_counts(60, 20, seed=i),
            cells=[f"{part}{c}" for c in range(60)],
            obs={"donor": [f"d{c % 4}" for c in range(60)]},
        )
        for i, part in enumerate("ab")
    }
    made = make(
        tmp_path / "out",
        raws,
        missing=True,
        join=[{"table": str(tmp_path / "t.csv"), "by": "donor"}],
        columns={"batch": "lab", "label": "study"},
        quality={"mads": {}, "min_counts": 0, "min_genes": 0, "filters": [{"column": "study", "not_in": ["t"]}]},
        split={"by": "donor", "fractions": {"train": 0.5, "val": 0.5}},
    )
    table, facts = ledger_files.read_ledger(made.ledger)
    rows = table.to_pandas()
    assert rows.groupby("outcome")["cells"].sum().to_dict() == {
        "filter study": 30,
        "filter study: missing": 30,
        "kept": 60,
    }
    assert set(rows["batch"]) == {"A", "B", "(missing)"}
    assert facts["annotations"] == {
        "missing": {"donor": 0, "lab": 30, "study": 0},
        "joins": [
            {
                "table": str(tmp_path / "t.csv"),
                "by": ["donor", "donor"],
                "matched": 90,
                "unmatched": 30,
                "without_key": 0,
                "examples": ["d3"],
            }
        ],
    }


def test_keys_of_rules_are_refused_where_they_make_no_sense():
    """A key that is joined, too."""
    with pytest.raises(ValueError, match="is the key"):
        Join(table="t.csv", by="a", columns=["a"])
    assert not ObsRules().needed
