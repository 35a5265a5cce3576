"""Source ``geo_archs4``: which samples are taken, the same counts for any window, chunk and version of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from cellmill.contracts.plan import Plan
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import GeoArchs4, geo_archs4
from cellmill.sources.download import Download
from cellmill.sources.plan import plan_dataset
from cellmill.sources.retrieve import retrieve_file, retrieve_part

from .archs4 import archs4
from .store import Store, cut_at, refuse, store

__all__ = ["store"]
LEDGER = Path(__file__).parents[2] / "resources" / "ledger.tsv"
HURRY = Patience(tries=6, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(Download, "patience", property(lambda _: HURRY))
    monkeypatch.chdir(tmp_path)
    yield


def planned(source: GeoArchs4) -> Plan:
    return plan_dataset(source, "plan.tsv", mirror=None)


def retrieve(source: GeoArchs4, part: str, **values: Any) -> tuple[anndata.AnnData, dict[str, Any]]:
    out, said = Path("raw", f"{part}.h5ad"), Path("raw", f"{part}.json")
    retrieve_part(source.of(part), part, out, said, ledger=LEDGER, mirror=None, plan=Path("plan.tsv"), **values)
    return anndata.read_h5ad(out), json.loads(said.read_text())


def taken(source: GeoArchs4, **values: Any) -> anndata.AnnData:
    """All parts, in their order."""
    return anndata.concat([retrieve(source, part, **values)[0] for part in planned(source).parts])


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({}, lambda t: t["title"].notna()),
        ({"series": ["GSE101", "GSE9000"]}, lambda t: t["series_id"].str.fullmatch(".*GSE9000|GSE101(,.*)?")),
        ({"series": ["GSE10"]}, None),
        (
            {"keywords": ["hepat|LIVER"]},
            lambda t: t["title"].str.contains("Liver") | t["source_name_ch1"].str.contains("hepat"),
        ),
        ({"keywords": ["naïve"], "fields": ["title"]}, lambda t: t["title"].str.contains("Naïve")),
        ({"max_single_cell": 0.5}, lambda t: t["singlecellprobability"] <= 0.5),
        ({"min_single_cell": 0.5, "keywords": ["."]}, lambda t: t["singlecellprobability"] >= 0.5),
    ],
    ids=["all", "series", "part of a series", "keywords", "fields", "bulk", "single cell"],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_samples_that_are_asked_for_are_taken(values: dict[str, Any], passes: Any, version: int) -> None:
    """Each with its counts, of either version; a series whose name begins as another one is another one."""
    counts, said = archs4(Path("human.h5"), 90, version=version)
    source = GeoArchs4(file="human.h5", part_cells=17, **values)
    if passes is None:
        with pytest.raises(CellmillError, match=r"source.series: no sample of human.h5 is of GSE10\."):
            planned(source)
        return
    expected = passes(pd.DataFrame(said)).to_numpy(bool)
    found = taken(source)
    assert found.obs_names.tolist() == said["geo_accession"][expected].tolist() and 0 < expected.sum()
    np.testing.assert_array_equal(found.X.toarray(), counts[expected])
    plan = planned(source)
    assert all(m.cells <= 17 for m in plan.members) and plan.facts["cells"] == plan.facts["taken"] == expected.sum()
    assert sum(plan.facts["dropped"].values()) == 90 - expected.sum()


@pytest.mark.parametrize("block", [1, 1_000, 5_000, 1 << 27])
@pytest.mark.parametrize(
    "matrix", [{}, {"chunks": (50, 1)}, {"chunks": (7, 90)}, {"chunks": None, "compression": None}]
)
def test_counts_do_not_depend_on_chunks_and_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int, matrix: dict[str, Any]
) -> None:
    """However the file lies on the disk, and however little of it is in memory."""
    counts, said = archs4(Path("human.h5"), 90, **matrix)
    monkeypatch.setattr(geo_archs4, "BLOCK_BYTES", block)
    monkeypatch.setattr(geo_archs4, "BLOCK_SAMPLES", 1 + block % 41)
    source = GeoArchs4(file="human.h5", keywords=["liver"])
    planned(source)
    found, _ = retrieve(source, "0000")
    at = pd.Index(said["geo_accession"]).get_indexer(found.obs_names)
    np.testing.assert_array_equal(found.X.toarray(), counts[at])


def test_what_geo_says_stays_with_the_samples() -> None:
    """Texts, numbers as numbers, empty texts as missing; genes by Ensembl id with their symbols."""
    _, said = archs4(Path("human.h5"), 30)
    source = GeoArchs4(file="human.h5")
    planned(source)
    found, provenance = retrieve(source, "0000")
    assert found.obs["title"].tolist() == said["title"].tolist()
    assert found.obs["readsaligned"].tolist() == said["readsaligned"].tolist()
    assert found.obs["source_name_ch1"].isna().sum() == (said["source_name_ch1"] == "").sum() > 0
    assert found.var_names[3] == "ENSG00000000003" and found.var["gene_symbols"].iloc[3] == "GENE3"
    (member,) = provenance["members"]
    assert (provenance["cells"], provenance["genes"], member["rows"]) == (30, 50, [0, 30])
    assert (member["path"], member["counts_from"]) == ("human.h5", "data/expression")


def test_a_file_whose_rows_are_samples_is_the_same(tmp_path: Path) -> None:
    """As some tools write it."""
    counts, _ = archs4(Path("a.h5"), 40)
    with h5py.File("a.h5", "a") as file:
        del file["data/expression"]
        file.create_dataset("data/expression", data=counts, chunks=(9, 20))
    np.testing.assert_array_equal(taken(GeoArchs4(file="a.h5", part_cells=11)).X.toarray(), counts)


def test_a_file_at_an_address_is_looked_into_and_fetched_once(store: Store) -> None:
    """The plan by ranges, the parts from one download, which goes on where it was cut."""
    counts, _ = archs4(Path("human_v2.h5"), 5_000, genes=300, compression=None, chunks=None)
    name, content = "archs4/human_v2.h5", Path("human_v2.h5").read_bytes()
    store.objects[name] = content
    source = GeoArchs4(file=f"gs://{name}", max_single_cell=0.5, part_cells=2_500)
    plan = planned(source)
    looked = [at for at in store.fetched(name.rpartition("/")[2]) if at is not None]
    assert looked and len(looked) < len(content) / (1 << 20) and len(plan.parts) == 2
    store.seen.clear()
    store.faults[name] = [cut_at(3_000_000), refuse(503), refuse(429, Retry_After="0")]
    whole = Path("whole/human_v2.h5")
    retrieve_file(Path("plan.tsv"), "human_v2", whole, mirror=None)
    assert store.fetched(".h5") == [None, *["bytes=3000000-"] * 3]
    found = [retrieve(source, part, shared=[whole]) for part in plan.parts]
    assert sum(data.n_obs for data, _ in found) == plan.facts["taken"]
    assert sum(int(data.X.sum()) for data, _ in found) < counts.sum()
    assert {said["members"][0]["address"] for _, said in found} == {f"gs://{name}"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.__delitem__("data/expression"), "no 'data/expression' or 'meta' in it"),
        (lambda f: f.__delitem__("meta/samples/geo_accession"), "no 'geo_accession' of samples"),
        (lambda f: f.__delitem__("meta/samples/title"), "its samples have no field 'title'"),
        (lambda f: f["data/expression"].resize((50, 29)), "data/expression is 50 × 29, of 50 genes and 30 samples"),
    ],
    ids=["matrix", "samples", "field", "shape"],
)
def test_another_file_is_refused(change: Any, said: str) -> None:
    """With what was missed."""
    archs4(Path("human.h5"), 30, maxshape=(50, None))
    with h5py.File("human.h5", "a") as file:
        change(file)
    with pytest.raises(CellmillError, match=said):
        planned(GeoArchs4(file="human.h5", keywords=["liver"]))
    assert not Path("plan.tsv").exists()


def test_values_that_are_no_counts_are_refused() -> None:
    """Fractions when it is planned, negative ones when they are read."""
    archs4(Path("human.h5"), 30)
    for value, said in ((0.5, "holds float64, not counts"), (-1, "are no counts")):
        with h5py.File("human.h5", "a") as file:
            del file["data/expression"]
            file["data/expression"] = np.full((50, 30), value)
        with pytest.raises(CellmillError, match=said):
            taken(GeoArchs4(file="human.h5"))
    assert not list(Path("raw").glob("*"))


def test_a_file_that_changed_since_the_plan_is_refused() -> None:
    """Other samples than were planned."""
    archs4(Path("human.h5"), 60)
    source = GeoArchs4(file="human.h5", keywords=["liver"])
    planned(source)
    archs4(Path("human.h5"), 60, seed=3)
    with pytest.raises(CellmillError, match=r"are taken, and \d+ were planned.*delete plan.tsv"):
        retrieve(source, "0000")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"series": ["GSM12"]}, "GSE"),
        ({"keywords": ["("]}, "is no regular expression"),
        ({"min_single_cell": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_wrong_specification_is_refused(values: dict[str, Any], said: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValidationError, match=said):
        GeoArchs4(file="human.h5", **values)
    assert "no sample can pass" in GeoArchs4(file="x", min_single_cell=0.9, max_single_cell=0.1).problems(Path())[0]
    archs4(Path("human.h5"), 20)
    with pytest.raises(CellmillError, match=r"none of 20 samples is taken \(dropped: 20 by keywords\)"):
        planned(GeoArchs4(file="human.h5", keywords=["no such words"]))
