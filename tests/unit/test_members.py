"""Members of a part: fetched side by side through every fault, and combined gene by gene, cell by cell."""

from __future__ import annotations

import json
import shutil
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

from cellmill.contracts.plan import Member, write_plan
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import Files, ScBaseCount
from cellmill.sources import parallel as module
from cellmill.sources.download import Download
from cellmill.sources.fetch import Traffic
from cellmill.sources.plan import plan_dataset
from cellmill.sources.retrieve import retrieve_part

from .release import Release, h5ad, release, sample
from .store import Fault, Store, cut_at, damage, refuse, send, store

__all__ = ["store"]
HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
NO_LEDGER = Path(__file__).parents[2] / "resources" / "ledger.tsv"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Download, "patience", property(lambda _: HURRY))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(tmp_path_factory.mktemp("release"), samples=6)


def retrieve(source: Any, tmp_path: Path, part: str, **values: Any) -> tuple[anndata.AnnData, dict[str, Any]]:
    """The part of a plan that is there, and its provenance."""
    out, provenance = tmp_path / "raw" / f"{part}.h5ad", tmp_path / "raw" / f"{part}.json"
    given = {"counts": getattr(source, "counts", "auto"), "ledger": NO_LEDGER, "mirror": None} | values
    retrieve_part(source.of(part), part, out, provenance, plan=tmp_path / "plan.tsv", **given)
    return anndata.read_h5ad(out), json.loads(provenance.read_text())


def planned(source: Any, store: Store, made: Release, tmp_path: Path) -> list[Member]:
    """All samples in one part."""
    store.objects |= made.objects
    return plan_dataset(source, tmp_path / "plan.tsv", mirror=None).members


def left(tmp_path: Path) -> list[str]:
    return sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file() and p.name != "plan.tsv"
    )


# --- combined


def test_every_cell_stands_in_the_part_with_its_counts_and_what_is_known_of_its_sample(
    store: Store, made: Release, tmp_path: Path
) -> None:
    """CSR and CSC samples: counts, obs, the catalogue's columns, and ids that are unique over samples."""
    members = planned(ScBaseCount(), store, made, tmp_path)
    found, said = retrieve(ScBaseCount(), tmp_path, "0000")
    assert found.X.dtype == np.uint32 and found.obs_names.is_unique
    table = made.table.set_index("srx_accession")
    start = 0
    for member in members:
        whole = made.samples[member.name]
        rows = found[start : start + whole.n_obs]
        start += whole.n_obs
        assert rows.obs_names.tolist() == [f"{member.name}:{barcode}" for barcode in whole.obs_names]
        np.testing.assert_array_equal(rows.X.toarray(), whole.X.toarray())
        assert (rows.obs["member"] == member.name).all()
        np.testing.assert_array_equal(rows.obs["gene_count_Unique"], whole.obs["gene_count_Unique"])
        tech = table.loc[member.name, "tech_10x"]
        assert rows.obs["tech_10x"].isna().all() if tech == "not_applicable" else (rows.obs["tech_10x"] == tech).all()
    assert start == found.n_obs == said["cells"] == sum(m["cells"] for m in said["members"])
    assert found.var["gene_symbols"].tolist() == made.samples[members[0].name].var["gene_symbols"].tolist()
    assert {m["origin"] for m in said["members"]} == {"network"} and not said["rounded"]
    assert left(tmp_path) == ["raw/0000.h5ad", "raw/0000.json"]


def test_the_bytes_depend_neither_on_connections_nor_on_what_was_there(
    store: Store, made: Release, tmp_path: Path
) -> None:
    """One connection or eight, fetched anew or in part."""
    planned(ScBaseCount(), store, made, tmp_path)
    contents = []
    for connections in (1, 8):
        retrieve(ScBaseCount(), tmp_path, "0000", download=Download(connections=connections))
        contents.append((tmp_path / "raw" / "0000.h5ad").read_bytes())
    assert contents[0] == contents[1]


def test_fractional_counts_are_rounded_where_that_is_asked_for(store: Store, made: Release, tmp_path: Path) -> None:
    """As numpy rounds; and refused where it is not."""
    source = ScBaseCount(layer="UniqueAndMult-EM", round=True)
    members = planned(source, store, made, tmp_path)
    found, said = retrieve(source, tmp_path, "0000")
    expected = [np.rint(made.samples[m.name].layers["UniqueAndMult-EM"].toarray()) for m in members]
    np.testing.assert_array_equal(found.X.toarray(), np.concatenate(expected))
    assert said["rounded"] and said["members"][0]["counts_from"] == "layers/UniqueAndMult-EM"
    with pytest.raises(CellmillError, match="does not hold counts"):
        retrieve(ScBaseCount(), tmp_path, "0000", counts="layers/UniqueAndMult-EM")


def local(tmp_path: Path, **samples: anndata.AnnData) -> None:
    """A plan of one part, of files on this disk."""
    members = []
    for name, data in samples.items():
        data.write_h5ad(tmp_path / f"{name}.h5ad")
        members.append(Member("0000", name, str(tmp_path / f"{name}.h5ad"), data.n_obs))
    write_plan(tmp_path / "plan.tsv", members, {})


def test_genes_that_differ_are_aligned_by_name(tmp_path: Path) -> None:
    """Another order, a gene more, a gene less: each count stays with its gene, and what is lacking is counted."""
    one, two = sample("SRX1", 30, genes=8), sample("SRX2", 20, genes=10)
    order = np.random.default_rng(0).permutation(10)[:9]
    two = two[:, order].copy()
    local(tmp_path, one=one, two=two)
    found, said = retrieve(Files(table="plan.tsv"), tmp_path, "0000", counts="X")
    assert set(found.var_names) == set(one.var_names) | set(two.var_names)
    assert found.var_names[:8].tolist() == one.var_names.tolist()
    for rows, whole in ((found[:30], one), (found[30:], two)):
        np.testing.assert_array_equal(rows[:, whole.var_names].X.toarray(), whole.X.toarray())
        others = found.var_names.difference(whole.var_names)
        assert rows[:, others].X.nnz == 0
    assert [m["genes_lacking"] for m in said["members"]] == [found.n_vars - 8, found.n_vars - 9]
    assert found.X.has_sorted_indices


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ENSG1", "ENSG1", "ENSG3"], "'ENSG1' stands there twice.*cannot be said which is which.*parts of their own"),
        (["A", "B", "C"], "no gene in common"),
    ],
    ids=["twice", "other names"],
)
def test_genes_that_cannot_be_told_apart_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    """Nothing is misaligned, and nothing is left behind."""
    one, two = sample("SRX1", 5, genes=3), sample("SRX2", 5, genes=3)
    two.var_names = names
    local(tmp_path, one=one, two=two)
    with pytest.raises(CellmillError, match=said):
        retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    assert not (tmp_path / "raw" / "0000.h5ad").exists()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_the_same_genes_may_stand_there_twice(tmp_path: Path) -> None:
    """Where all members have the same columns, each is its own; what they are is decided later."""
    one, two = sample("SRX1", 5, genes=3), sample("SRX2", 5, genes=3)
    one.var_names = two.var_names = ["A", "A", "B"]
    local(tmp_path, one=one, two=two)
    found, _ = retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    np.testing.assert_array_equal(found.X.toarray(), np.concatenate([one.X.toarray(), two.X.toarray()]))


def test_slices_of_a_file_are_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all parts every row once, in its order, CSR and CSC."""
    monkeypatch.chdir(tmp_path)
    for csc in (False, True):
        whole = sample("SRX1", 2_500, csc=csc)
        whole.write_h5ad("large.h5ad")
        plan = plan_dataset(Files(files={"large": "large.h5ad"}, slice=1_100), "plan.tsv", mirror=None)
        parts = [retrieve(Files(table="plan.tsv"), tmp_path, part, counts="X")[0] for part in plan.parts]
        assert [part.n_obs for part in parts] == [1_100, 1_100, 300]
        np.testing.assert_array_equal(np.concatenate([p.X.toarray() for p in parts]), whole.X.toarray())
        assert [c for p in parts for c in p.obs_names] == [f"large:{c}" for c in whole.obs_names]


def test_auto_takes_of_each_member_the_first_matrix_of_counts(tmp_path: Path) -> None:
    """Looked at whole before a cell is written."""
    one, two = sample("SRX1", 2_000), sample("SRX2", 20)
    one.layers["counts"] = one.X.copy()
    one.X.data[-1] = 0.5
    del one.layers["UniqueAndMult-EM"], one.layers["UniqueAndMult-Uniform"]
    local(tmp_path, one=one, two=two)
    found, said = retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    assert [m["counts_from"] for m in said["members"]] == ["layers/counts", "X"]
    np.testing.assert_array_equal(found.X.toarray()[:2_000], one.layers["counts"].toarray())


def test_a_file_with_fewer_rows_than_the_plan_takes_has_changed(tmp_path: Path) -> None:
    """And says so."""
    sample("SRX1", 5).write_h5ad(tmp_path / "x.h5ad")
    write_plan(tmp_path / "plan.tsv", [Member("0000", "x", str(tmp_path / "x.h5ad"), rows=(0, 9))], {})
    with pytest.raises(CellmillError, match=r"5 cells, and the plan takes rows up to 9.*delete plan\.tsv"):
        retrieve(Files(table="plan.tsv"), tmp_path, "0000")


def test_a_local_file_must_have_the_checksum_of_the_table(tmp_path: Path) -> None:
    """As one that is fetched."""
    sample("SRX1", 5).write_h5ad(tmp_path / "x.h5ad")
    for checksum, said in (
        ("md5:" + "0" * 32, "it has the checksum md5:"),
        ("sha256:" + "0" * 64, "it has the checksum"),
    ):
        write_plan(tmp_path / "plan.tsv", [Member("0000", "x", str(tmp_path / "x.h5ad"), checksum=checksum)], {})
        with pytest.raises(CellmillError, match=said):
            retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    assert not (tmp_path / "raw" / "0000.h5ad").exists()


def test_a_column_of_both_is_kept_twice(tmp_path: Path) -> None:
    """What the catalogue says under the name of an obs column gets another name."""
    sample("SRX1", 5).write_h5ad(tmp_path / "x.h5ad")
    about = {"Cell_Type": "of the sample", "donor": None}
    write_plan(tmp_path / "plan.tsv", [Member("0000", "x", str(tmp_path / "x.h5ad"), about=about)], {})
    found, _ = retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    assert set(found.obs["sample_Cell_Type"]) == {"of the sample"} and "cell_type" in found.obs
    assert found.obs["donor"].isna().all()


# --- faults


@pytest.mark.parametrize(
    "faults",
    [
        [cut_at(700), cut_at(1_500)],
        [refuse(429, Retry_After="0"), refuse(503, Retry_After="0"), refuse(500)],
        [refuse(503), cut_at(900), refuse(429)],
    ],
    ids=["cut", "refused", "mixed"],
)
def test_a_store_that_fails_for_a_while_is_asked_again(
    store: Store, made: Release, tmp_path: Path, faults: list[Fault]
) -> None:
    """From where it was cut; the part is the same as without faults."""
    members = planned(ScBaseCount(), store, made, tmp_path)
    retrieve(ScBaseCount(), tmp_path, "0000")
    expected = (tmp_path / "raw" / "0000.h5ad").read_bytes()
    store.seen.clear()
    for member in members:
        store.faults[member.address.removeprefix("gs://")] += faults
    retrieve(ScBaseCount(), tmp_path, "0000")
    assert (tmp_path / "raw" / "0000.h5ad").read_bytes() == expected
    asked = store.fetched(f"{members[0].name}.h5ad")
    cuts = sorted(f"bytes={at}-" for at in (700, 900, 1_500))
    assert len(asked) == len(faults) + 1 and [a for a in asked if a] == [a for a in asked if a in cuts]


def test_the_wait_that_a_store_asks_for_is_kept(store: Store, made: Release, tmp_path: Path) -> None:
    """Retry-After, in seconds."""
    members = planned(ScBaseCount(), store, made, tmp_path)
    store.faults[members[0].address.removeprefix("gs://")] += [refuse(429, Retry_After="1")]
    before = time.monotonic()
    retrieve(ScBaseCount(), tmp_path, "0000")
    assert time.monotonic() - before >= 1


def _changed(store: Store, name: str) -> None:
    store.objects[name] = store.objects[name][:-8] + b"anything"


def _longer(store: Store, name: str) -> None:
    store.objects[name] += b"more"


def _damaged(store: Store, name: str) -> None:
    store.faults[name] += [damage] * 9


def _gone(store: Store, name: str) -> None:
    del store.objects[name]


def _silent(store: Store, name: str) -> None:
    store.faults[name] += [refuse(503)] * 9


def _changing(store: Store, name: str) -> None:
    """Cut in the middle, and another object when it is asked again."""

    def fault(handler: Any, content: bytes) -> None:
        send(handler, content, upto=800)
        _changed(store, name)

    store.faults[name] += [fault]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_changed, "has the checksum crc32c:.*, expected crc32c:.*since the plan was made: delete plan.tsv"),
        (_longer, "the file there has .* bytes, expected"),
        (_damaged, "has the checksum crc32c:.*, expected crc32c:"),
        (_gone, "HTTP 404"),
        (_silent, "gave up after 4 tries; the last one: HTTP 503"),
        (_changing, "has the checksum crc32c:.*, expected crc32c:"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_as_planned_ends_in_one_sentence(
    store: Store, made: Release, tmp_path: Path, fault: Callable[[Store, str], None], said: str
) -> None:
    """Nothing stands under the name of the part; what was fetched is kept, and the next run goes on."""
    members = planned(ScBaseCount(), store, made, tmp_path)
    name = members[-1].address.removeprefix("gs://")
    fault(store, name)
    with pytest.raises(CellmillError, match=said) as error:
        retrieve(ScBaseCount(), tmp_path, "0000", download=Download(connections=1))
    assert f"gs://{name}" in str(error.value)
    assert not (tmp_path / "raw" / "0000.h5ad").exists() and not (tmp_path / "raw" / "0000.json").exists()
    store.objects[name] = made.objects[name]
    store.faults.clear()
    store.seen.clear()
    found, _ = retrieve(ScBaseCount(), tmp_path, "0000")
    assert found.n_obs == sum(data.n_obs for data in made.samples.values())
    assert {path for path, _ in store.seen if "/download/" in path} == {
        p for p, _ in store.seen if members[-1].name in p
    }


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    store: Store, made: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed and what is free."""
    planned(ScBaseCount(), store, made, tmp_path)
    store.seen.clear()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(CellmillError, match=r"6 files and the part .* need .* kB, and 1\.0 kB are free"):
        retrieve(ScBaseCount(), tmp_path, "0000")
    assert store.seen == []


def test_a_mirror_with_the_folders_of_the_store_is_asked_first(store: Store, made: Release, tmp_path: Path) -> None:
    """By the whole path, as releases have files of the same name; and checked against the plan."""
    import hashlib

    members = planned(ScBaseCount(), store, made, tmp_path)
    mirror, sums = tmp_path / "mirror", []
    for name, content in made.objects.items():
        for folder in ("", "older/"):
            (mirror / f"{folder}{name}").parent.mkdir(parents=True, exist_ok=True)
            data = content if not folder else b"older"
            (mirror / f"{folder}{name}").write_bytes(data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {folder}{name}")
    (mirror / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    store.seen.clear()
    found, said = retrieve(ScBaseCount(), tmp_path, "0000", mirror=mirror)
    assert store.seen == [] and {m["origin"] for m in said["members"]} == {"mirror"} and found.n_obs
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{members[0].name}.h5ad").write_bytes(b"of another release")
    listed = f"{hashlib.sha256(b'of another release').hexdigest()}  {members[0].name}.h5ad\n"
    (other / "SHA256SUMS").write_text(listed)
    _, said = retrieve(ScBaseCount(), tmp_path, "0000", mirror=other)
    assert {m["origin"] for m in said["members"]} == {"network"}
    store.seen.clear()
    plan = plan_dataset(ScBaseCount(), tmp_path / "plan.tsv", mirror=mirror)
    assert store.seen == [] and [m.name for m in plan.members] == [m.name for m in members]
    assert all((m.checksum or "").startswith("sha256:") for m in plan.members)
    store.objects.clear()
    write_plan(tmp_path / "plan.tsv", [replace(members[0], checksum="crc32c:AAAAAA==")], {})
    with pytest.raises(CellmillError, match="this file of the mirror has the checksum"):
        retrieve(ScBaseCount(), tmp_path, "0000", mirror=mirror)


def test_the_rate_is_bounded_over_all_connections() -> None:
    """A megabyte at two megabytes in a second takes half a second, whoever asks."""
    from concurrent.futures import ThreadPoolExecutor

    traffic = Traffic(2e6)
    before = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(traffic.passed, [50_000] * 20))
    assert 0.45 < time.monotonic() - before < 2


def test_converted_members_are_combined(store: Store, tmp_path: Path) -> None:
    """What is gzipped at its address becomes part of the part as well."""
    import gzip

    data = sample("SRX1", 10)
    store.objects["bucket/x.h5ad.gz"] = gzip.compress(h5ad(data, tmp_path))
    plan_dataset(Files(glob=["gs://bucket/*"]), tmp_path / "plan.tsv", mirror=None)
    found, said = retrieve(Files(table="plan.tsv"), tmp_path, "0000", counts="X")
    np.testing.assert_array_equal(found.X.toarray(), data.X.toarray())
    assert said["members"][0]["note"] == "Decompressed."


def test_tables_of_different_columns_are_joined(tmp_path: Path) -> None:
    """A column that a member does not have is missing for its cells."""
    one, two = sample("SRX1", 4), sample("SRX2", 3)
    one.obs["age"] = [1, 2, 3, 4]
    two.obs["stage"] = pd.Categorical(["a", "b", "a"])
    two.obs["healthy"] = [True, False, True]
    one.obs["empty"], two.obs["empty"] = pd.Categorical([None] * 4), pd.Categorical(["x", None, "y"])
    one.obs["mixed"], two.obs["mixed"] = [1, 2, 3, 4], [True, False, True]
    one.obs["score"], two.obs["score"] = [0.5, 1, 2, 3], [1, 2, 3]
    one.obs["nullable"], two.obs["nullable"] = pd.array([1, None, 3, 4], "Int64"), [5, 6, 7]
    one.obs["flag"], two.obs["flag"] = [True] * 4, [False] * 3
    local(tmp_path, one=one, two=two)
    found, _ = retrieve(Files(table="plan.tsv"), tmp_path, "0000")
    assert found.obs["age"].tolist()[:4] == [1, 2, 3, 4] and found.obs["age"].isna().sum() == 3
    assert found.obs["stage"].tolist()[4:] == ["a", "b", "a"] and found.obs["stage"].isna().sum() == 4
    assert found.obs["healthy"].tolist()[4:] == ["True", "False", "True"]
    assert found.obs["empty"].isna().tolist() == [True] * 4 + [False, True, False]
    assert found.obs["mixed"].tolist() == ["1", "2", "3", "4", "True", "False", "True"]
    assert found.obs["score"].tolist() == [0.5, 1, 2, 3, 1, 2, 3]
    assert found.obs["nullable"].fillna(-1).tolist() == [1, -1, 3, 4, 5, 6, 7]
    assert found.obs["flag"].tolist() == [True] * 4 + [False] * 3 and found.obs["flag"].dtype == bool


def test_members_are_sparse_whatever_they_were(tmp_path: Path) -> None:
    """A dense member gives the same counts."""
    one = sample("SRX1", 7)
    two = anndata.AnnData(one.X.toarray(), obs=one.obs.copy(), var=one.var.copy())
    local(tmp_path, one=one, two=two)
    found, _ = retrieve(Files(table="plan.tsv"), tmp_path, "0000", counts="X")
    assert sp.issparse(found.X)
    np.testing.assert_array_equal(found.X.toarray()[:7], found.X.toarray()[7:])
