"""Plans: which files make each part, the same for any order of the catalogue, and within time for 30,000 samples."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cellmill.contracts.plan import Member, digest, members_of, read_plan, write_plan
from cellmill.errors import CellmillError
from cellmill.sources import Files, ScBaseCount, parse_source
from cellmill.sources.files import read_table
from cellmill.sources.plan import bundle, plan_dataset
from cellmill.sources.scbasecount import samples

from .release import ROOT, catalogue, parquet, release
from .store import Store, refuse, store

__all__ = ["store"]

MEMBER = Member(
    part="0001",
    name="SRX1",
    address="gs://bucket/SRX1.h5ad",
    cells=713,
    bytes=10_000,
    checksum="crc32c:n03x6A==",
    rows=(5, 9),
    about={"tissue": 'lung,\t"left"', "disease": None},
)


def write_h5ad(path: Path, cells: int, genes: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = sp.csr_matrix(np.random.default_rng(cells).poisson(1.0, (cells, genes)).astype(np.float32))
    ids = {
        "obs": pd.DataFrame(index=[f"c{i}" for i in range(cells)]),
        "var": pd.DataFrame(index=list("abcdefghij"[:genes])),
    }
    anndata.AnnData(counts, **ids).write_h5ad(path)
    return path


# --- the table


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Tabs, quotes and missing values included; sorted by part and name."""
    other = Member("0000", "b", "data/b.h5ad", about={"tissue": None, "disease": "none at all"})
    write_plan(tmp_path / "plan.tsv", [MEMBER, other], {"kind": "files"})
    plan = read_plan(tmp_path / "plan.tsv")
    assert plan.members == [other, MEMBER]
    assert plan.facts == {"kind": "files", "members": 2}
    assert members_of(tmp_path / "plan.tsv", "0001") == [MEMBER]


def test_what_pandas_reads_is_the_table(tmp_path: Path) -> None:
    """People open it, too."""
    write_plan(tmp_path / "plan.tsv", [MEMBER], {})
    table = pd.read_csv(tmp_path / "plan.tsv", sep="\t", comment="#", dtype={"part": str})
    assert table.loc[0, ["part", "member", "cells", "tissue"]].tolist() == ["0001", "SRX1", 713, MEMBER.about["tissue"]]


@pytest.mark.parametrize(
    "change",
    [
        {"cells": 714},
        {"checksum": None},
        {"rows": None},
        {"about": {"tissue": "lung", "disease": None}},
        {"address": "x"},
    ],
    ids=str,
)
def test_another_member_gives_another_digest(change: dict[str, Any]) -> None:
    """Whatever the plan says of a member is in the digest that its part is remade by."""
    assert digest([MEMBER]) == digest([replace(MEMBER)]) != digest([replace(MEMBER, **change)])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("plan 1", "plan 0"), "found 'plan 0', this cellmill reads 'plan 1'"),
        (lambda text: text.replace("# {", "{{"), "its first line is not that of a plan"),
        (lambda text: text[: text.rindex("0001")], "0 members, expected 1"),
        (lambda text: text.replace("\tcells\t", "\tcell\t"), "its columns are part, member, address, cell,"),
        (lambda text: text + "0002\tx\n", "a row of 2 columns, expected 9"),
    ],
    ids=["version", "no plan", "cut", "columns", "row"],
)
def test_another_file_is_no_plan(tmp_path: Path, damage: Callable[[str], str], said: str) -> None:
    """Refused with what was found and what to do."""
    path = tmp_path / "plan.tsv"
    write_plan(path, [MEMBER], {})
    path.write_text(damage(path.read_text()))
    with pytest.raises(CellmillError, match=said) as error:
        read_plan(path)
    assert "snakemake again" in str(error.value)


def test_a_part_that_is_not_planned_is_refused(tmp_path: Path) -> None:
    """The parts that there are, by the first and the last."""
    write_plan(tmp_path / "plan.tsv", [MEMBER, replace(MEMBER, part="0000")], {})
    with pytest.raises(CellmillError, match="no part '7'; its 2 parts are 0000 to 0001"):
        members_of(tmp_path / "plan.tsv", "7")


# --- bundles


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 300)), min_size=1, max_size=60), st.integers(1, 400))
def test_bundles_keep_the_order_and_the_bound(cells: list[int | None], part_cells: int) -> None:
    """No part exceeds the bound but by a single member, and no two neighbours would fit into one."""
    bundled = bundle([Member("", f"m{i}", "x", n) for i, n in enumerate(cells)], part_cells)
    assert [m.name for m in bundled] == [f"m{i}" for i in range(len(cells))]
    parts = [[m.cells for m in bundled if m.part == part] for part in dict.fromkeys(m.part for m in bundled)]
    assert sorted({m.part for m in bundled}) == list(dict.fromkeys(m.part for m in bundled))
    for part in parts:
        assert len(part) == 1 or (None not in part and sum(part) <= part_cells)
    for part, following in itertools.pairwise(parts):
        assert None in (part[0], following[0]) or sum(part) + following[0] > part_cells


def test_more_members_change_no_part_but_the_last() -> None:
    """A larger draw keeps what was made of a smaller one."""
    members = [Member("", f"m{i}", "x", 40) for i in range(20)]
    few, all_ = bundle(members[:13], 100), bundle(members, 100)
    assert few[:12] == all_[:12]


# --- scBaseCount


def drawn(table: pd.DataFrame, tmp_path: Path, **values: Any) -> tuple[list[Member], dict[str, Any]]:
    path = tmp_path / "sample_metadata.parquet"
    path.write_bytes(parquet(table))
    files = {f"{name}.h5ad": (1_000, None) for name in table["srx_accession"]}
    return samples(ScBaseCount(**values), path, files)


def test_samples_are_drawn_until_there_are_enough_cells(tmp_path: Path) -> None:
    """Whole samples; without the last there would be too few."""
    members, facts = drawn(catalogue(300), tmp_path, cells=100_000)
    cells = [m.cells for m in members]
    assert sum(cells[:-1]) < 100_000 <= sum(cells)
    assert facts["samples"] == facts["passing"] == 300


def test_the_draw_does_not_depend_on_the_order_of_the_catalogue(tmp_path: Path) -> None:
    """Shuffled rows, the same samples in the same order."""
    table = catalogue(300)
    shuffled = table.sample(frac=1, random_state=1)
    assert drawn(table, tmp_path, cells=200_000)[0] == drawn(shuffled, tmp_path, cells=200_000)[0]


def test_a_larger_draw_begins_with_a_smaller_one_and_another_seed_is_another_draw(tmp_path: Path) -> None:
    """So that a dataset can grow without its parts being made anew."""
    table = catalogue(300)
    few, more, other = (
        drawn(table, tmp_path, cells=n, seed=seed)[0] for n, seed in ((90_000, 0), (400_000, 0), (90_000, 1))
    )
    assert more[: len(few)] == few
    assert {m.name for m in other} != {m.name for m in few}


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ({"column": "tech_10x", "in": ["3_PRIME_GEX"]}, lambda t: t["tech_10x"] == "3_prime_gex"),
        ({"column": "tissue", "contains": ["lung", "retina"]}, lambda t: t["tissue"].str.contains("lung|Retina")),
        ({"column": "perturbation", "not_in": ["Ro1138452"]}, lambda t: t["perturbation"] != "Ro1138452"),
        ({"column": "entrez_id", "contains": ["7"]}, lambda t: t["entrez_id"].astype(str).str.contains("7")),
    ],
    ids=["in", "contains", "not_in", "a number"],
)
def test_filters_take_the_samples_that_they_name(tmp_path: Path, rule: dict[str, Any], passes: Callable) -> None:
    """Whatever the case; what they drop is counted."""
    table = catalogue(300)
    members, facts = drawn(table, tmp_path, filters=[rule])
    expected = table[passes(table)]
    assert {m.name for m in members} == set(expected["srx_accession"]) and 0 < len(members) < 300
    assert facts["dropped_by_filters"] == {f"0: {rule['column']}": 300 - len(expected)}


def test_words_for_missing_values_are_missing(tmp_path: Path) -> None:
    """'unsure', 'none', 'Not applicable' and the like, in what stays with the cells and for filters."""
    table = catalogue(300)
    members, _ = drawn(table, tmp_path)
    about = pd.DataFrame([m.about for m in members], index=[m.name for m in members])
    assert set(about["disease"].dropna()) == {"cancer", "Trisomy 21 (Down's syndrome)", "osteoarthritis"}
    assert set(about["cell_line"].dropna()) == {"PTt-P6-MsNL"} and about["czi_collection_id"].isna().all()
    assert "file_path" not in about and "obs_count" not in about
    with pytest.raises(CellmillError, match="no sample has 'unsure' as disease"):
        drawn(table, tmp_path, filters=[{"column": "disease", "in": ["unsure"]}])


def test_samples_without_a_file_or_cells_are_counted(tmp_path: Path) -> None:
    """Left out, and said."""
    table = catalogue(20)
    table.loc[0, "obs_count"] = 0
    path = tmp_path / "sample_metadata.parquet"
    path.write_bytes(parquet(table))
    members, facts = samples(ScBaseCount(), path, {f"{n}.h5ad": (1, None) for n in table["srx_accession"][:15]})
    assert len(members) == 14
    assert (facts["without_file"], facts["without_cells"], facts["passing"]) == (5, 1, 14)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cells": 10**9}, "1,000,000,000 are asked for, but 30 of 30 samples pass the filters, with"),
        ({"filters": [{"column": "tisue", "contains": ["x"]}]}, "no column 'tisue'.*Did you mean 'tissue'"),
        (
            {"filters": [{"column": "tech_10x", "in": ["3_prime"]}]},
            "no sample has '3_prime'.*Did you mean '3_prime_gex'",
        ),
        ({"filters": [{"column": "tissue", "contains": ["kidney"]}]}, "none of 30 samples passes"),
    ],
    ids=["too many cells", "no column", "no value", "nothing passes"],
)
def test_a_draw_that_cannot_be_is_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    """With the numbers, and what there is."""
    with pytest.raises(CellmillError, match=said):
        drawn(catalogue(30), tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layer": "UniqueAndMult-EM"}, "holds fractions.*say round: true"),
        ({"layer": "UniqueAndMult-EM", "round": True, "release": "2025-02-25"}, "only release 2026-01-12"),
        ({"layer": "UniqueAndMult-Uniform", "round": True, "feature_type": "Velocyto"}, "not for Velocyto"),
        ({"layer": "spliced"}, "only feature_type Velocyto has 'spliced'"),
        ({"organism": "homo sapiens"}, "should match pattern"),
        ({"release": "2025-02-01"}, "2026-01-12"),
        ({"filters": [{"column": "tissue"}]}, "exactly one of 'in', 'not_in' and 'contains'"),
    ],
    ids=["fractions", "release", "velocyto", "layer", "organism", "no release", "filter"],
)
def test_a_wrong_specification_is_refused_before_anything_runs(values: dict[str, Any], said: str) -> None:
    """What the releases do not have."""
    with pytest.raises(ValidationError, match=said):
        ScBaseCount(**values)


def test_the_plan_of_a_release_has_what_the_store_says(store: Store, tmp_path: Path) -> None:
    """Catalogue and listing over the store's own interface, page by page: sizes and checksums of every sample."""
    made = release(tmp_path, samples=9)
    store.objects.update(made.objects)
    plan = plan_dataset(ScBaseCount(part_cells=100), tmp_path / "plan.tsv", mirror=None)
    assert read_plan(tmp_path / "plan.tsv") == plan.__class__(plan.parts, plan.facts | {"members": 9})
    assert {m.name for m in plan.members} == set(made.samples) and len(plan.parts) > 3
    for member in plan.members:
        said = store.described(member.address.removeprefix("gs://"))
        assert (member.bytes, member.checksum) == (int(said["size"]), f"crc32c:{said['crc32c']}")
        assert member.cells == made.samples[member.name].n_obs
    assert not store.fetched(".h5ad")


def test_a_bucket_whose_requester_pays_says_what_to_do(store: Store, tmp_path: Path) -> None:
    """Nobody is billed unless a project is named."""
    store.objects.update(release(tmp_path, samples=2).objects)
    store.project = "mine"
    with pytest.raises(CellmillError, match="requester pays"):
        plan_dataset(ScBaseCount(), tmp_path / "plan.tsv", mirror=None)
    assert not (tmp_path / "plan.tsv").exists()


def test_thirty_thousand_samples_are_planned_in_a_thousand_parts_in_time(tmp_path: Path) -> None:
    """The size of release 2025-02-25, over a store that is a folder; seconds of a CPU, as clocks run on elsewhere."""
    table = catalogue(30_000, cells=8_000)
    folder = tmp_path / "2025-02-25"
    for what in ("metadata", "h5ad"):
        (folder / what / "GeneFull_Ex50pAS" / "Homo_sapiens").mkdir(parents=True)
    (folder / "metadata/GeneFull_Ex50pAS/Homo_sapiens/sample_metadata.parquet").write_bytes(parquet(table))
    for name in table["srx_accession"]:
        (folder / "h5ad/GeneFull_Ex50pAS/Homo_sapiens" / f"{name}.h5ad").touch()
    before = time.process_time()
    source = ScBaseCount(release="2025-02-25", root=str(tmp_path))
    plan = plan_dataset(source, tmp_path / "plan.tsv", mirror=None)
    read_plan(tmp_path / "plan.tsv")
    assert time.process_time() - before < 30
    assert 950 < len(plan.parts) < 1_100 and sum(map(len, plan.parts.values())) == 30_000
    assert all(sum(m.cells or 0 for m in members) <= 250_000 for members in plan.parts.values())


# --- files


def test_files_of_a_pattern_are_bundled_and_sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones together, of a large one so many rows each; every row once."""
    monkeypatch.chdir(tmp_path)
    for name, cells in (("b", 30), ("a", 40), ("large", 250)):
        write_h5ad(tmp_path / "data" / f"{name}.h5ad", cells)
    source = Files(glob=["data/*.h5ad"], slice=100, part_cells=100)
    plan = plan_dataset(source, "plan.tsv", mirror=None)
    found = [(part, m.name, m.cells, m.rows) for part, members in plan.parts.items() for m in members]
    assert found == [
        ("0000", "a", 40, None),
        ("0000", "b", 30, None),
        ("0001", "large", 100, (0, 100)),
        ("0002", "large", 100, (100, 200)),
        ("0003", "large", 50, (200, 250)),
    ]
    wide = plan_dataset(Files(glob=["data/*.h5ad"], slice=100), "plan.tsv", mirror=None)
    assert wide.parts.keys() == plan.parts.keys()

    assert plan.facts["cells"] == 320


def test_files_of_a_store_are_found_by_pattern(store: Store, tmp_path: Path) -> None:
    """Each a part of its own, as nobody knows their cells; with the checksum of the listing."""
    store.objects |= {"bucket/a/x.h5ad": b"1", "bucket/a/y.h5ad": b"22", "bucket/b/z.h5ad": b"3", "bucket/a/n.txt": b""}
    plan = plan_dataset(Files(glob=["gs://bucket/a/*.h5ad"]), tmp_path / "plan.tsv", mirror=None)
    assert [(m.part, m.address, m.bytes) for m in plan.members] == [
        ("0000", "gs://bucket/a/x.h5ad", 1),
        ("0001", "gs://bucket/a/y.h5ad", 2),
    ]
    assert all(m.checksum.startswith("crc32c:") for m in plan.members) and plan.facts["cells"] is None


def test_a_file_of_a_store_is_cut_by_a_look_into_it(store: Store, tmp_path: Path) -> None:
    """Its rows are known by ranges of it, through answers that fail; what has no ranges is refused."""
    large = write_h5ad(tmp_path / "large.h5ad", 40_000, genes=9).read_bytes()
    store.objects["bucket/large.h5ad"] = large
    store.faults["bucket/large.h5ad"] = [refuse(503, Retry_After="0")]
    source = Files(files={"large": "gs://bucket/large.h5ad"}, slice=15_000)
    plan = plan_dataset(source, tmp_path / "plan.tsv", mirror=None)
    assert [(m.name, m.rows, m.bytes) for m in plan.members] == [
        ("large", (0, 15_000), len(large)),
        ("large", (15_000, 30_000), len(large)),
        ("large", (30_000, 40_000), len(large)),
    ]
    assert all(at is not None for at in store.fetched(".h5ad"))
    store.faults["bucket/large.h5ad"] = [lambda handler, content: handler.answer(200, content)]
    with pytest.raises(CellmillError, match=r"gives no ranges of it.*Download it first"):
        plan_dataset(source, tmp_path / "again.tsv", mirror=None)
    store.objects["bucket/large.h5ad"] = b"no HDF5"
    with pytest.raises(CellmillError, match=r"gs://bucket/large\.h5ad: not readable"):
        plan_dataset(source, tmp_path / "again.tsv", mirror=None)
    assert not (tmp_path / "again.tsv").exists()


def test_a_table_of_files_is_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts, checksums and cells; other columns are said of the cells; the order of its rows is nothing."""
    monkeypatch.chdir(tmp_path)
    head = "address\tpart\tsha256\tcells\tdonor\n"
    rows = [f"https://x.org/f{i}.h5ad\tp{i // 2}\t{'a' * 64}\t{10 + i}\td{i}\n" for i in range(5)]
    (tmp_path / "files.tsv").write_text(head + "".join(rows))
    plan = plan_dataset(Files(table="files.tsv"), "plan.tsv", mirror=None)
    assert [m.part for m in plan.members] == ["p0", "p0", "p1", "p1", "p2"]
    assert plan.parts["p2"] == [
        Member("p2", "f4", "https://x.org/f4.h5ad", 14, None, f"sha256:{'a' * 64}", about={"donor": "d4"})
    ]
    text = Path("plan.tsv").read_text()
    (tmp_path / "files.tsv").write_text(head + "".join(reversed(rows)))
    plan_dataset(Files(table="files.tsv"), "plan.tsv", mirror=None)
    assert Path("plan.tsv").read_text() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adress\nx.h5ad\n", "line 1: no column 'address'.*'adress'"),
        ("address\tcells\nx.h5ad\tmany\n", "line 2.*cells is 'many'"),
        ("address\tcells\nx.h5ad\n", "line 2.*1 columns, expected 2"),
        ("address\tsha256\nx.h5ad\tabc\n", "line 2.*'sha256:abc' is no checksum"),
        ("address\na/x.h5ad\nb/x.h5ad\n", "line 3.*'x' is the name of line 2, too"),
        ("address\tpart\na.h5ad\tp\nb.h5ad\t\n", "1 of 2 files have no part, the first of them 'b'"),
        ("address\tpart\na.h5ad\t../p\n", "no part can be called '../p'"),
        ("address\tpart\na.h5ad\tsplits\n", "no part can be called 'splits'"),
        ("address\tmember\na.h5ad\t.hidden\n", "no file can be called '.hidden'"),
        ("address\n", "it names no file"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    """Before anything runs."""
    (tmp_path / "files.tsv").write_text(text)
    with pytest.raises(CellmillError, match=said):
        read_table(tmp_path / "files.tsv")
    (problem,) = Files(table="files.tsv").problems(tmp_path)
    assert problem.startswith("table: ")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "exactly one of 'files', 'glob' and 'table'"),
        ({"files": {"a": "a.h5ad"}, "table": "t.tsv"}, "exactly one of"),
    ],
)
def test_files_are_named_in_one_way(values: dict[str, Any], said: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValidationError, match=said):
        parse_source({"kind": "files", **values})


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("none/*.h5ad", "it names no file"),
        ("*/x.h5ad", "'a/x.h5ad' and 'b/x.h5ad' have the same name"),
        ("https://x.org/*.h5ad", "its files cannot be listed here"),
    ],
)
def test_a_pattern_that_says_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, said: str
) -> None:
    """With what to do."""
    monkeypatch.chdir(tmp_path)
    for folder in "ab":
        write_h5ad(tmp_path / folder / "x.h5ad", 3)
    with pytest.raises(CellmillError, match=said):
        plan_dataset(Files(glob=[pattern]), "plan.tsv", mirror=None)


def test_a_store_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a traceback of another library."""
    from cellmill.sources.stores import _google

    with Store() as gone:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gone.address)
        _google.cache_clear()
        with pytest.raises(CellmillError, match=f"{ROOT}.*there is no file"):
            gone.objects["arc-institute-virtual-cell-atlas/x"] = b""
            metadata = f"{ROOT}/2026-01-12/metadata/GeneFull_Ex50pAS/Homo_sapiens/sample_metadata.parquet"
            gone.objects[metadata] = parquet(catalogue(2))
            plan_dataset(ScBaseCount(), tmp_path / "plan.tsv", mirror=None)
    _google.cache_clear()
