"""Tahoe-100M: slices of plates and tokens of Parquet give the same counts, with what the tables say of each cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from cellmill.contracts.plan import Plan
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import Tahoe, parse_source
from cellmill.sources.download import Download
from cellmill.sources.plan import plan_dataset
from cellmill.sources.remote import size_and_cells
from cellmill.sources.retrieve import retrieve_part
from cellmill.sources.tahoe_cells import decode_tokens, read_tables

from . import tahoe_release as made_release
from .store import Store, cut_at, damage, mirrored, refuse, store
from .tahoe_release import ENDING, REPOSITORY, ROOT, genes, parquet, tahoe, tokens

__all__ = ["store"]
HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
LEDGER = Path(__file__).parents[2] / "resources" / "ledger.tsv"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Download, "patience", property(lambda _: HURRY))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> made_release.Tahoe:
    return tahoe(tmp_path_factory.mktemp("tahoe"))


@pytest.fixture
def made(store: Store, release: made_release.Tahoe) -> made_release.Tahoe:
    store.objects |= release.objects
    return release


def source(**values: Any) -> Tahoe:
    parsed = parse_source({"kind": "tahoe", "repository": f"gs://{REPOSITORY}", "part_cells": 50, **values})
    assert isinstance(parsed, Tahoe)
    return parsed


def planned(tmp_path: Path, **values: Any) -> Plan:
    return plan_dataset(source(**values), tmp_path / "plan.tsv", mirror=None)


def part(
    tmp_path: Path, name: str, mirror: Path | None = None, **values: Any
) -> tuple[anndata.AnnData, dict[str, Any]]:
    out, provenance = tmp_path / "raw" / f"{name}.h5ad", tmp_path / "raw" / f"{name}.json"
    spec = source(**values).of(name)
    retrieve_part(spec, name, out, provenance, ledger=LEDGER, mirror=mirror, plan=tmp_path / "plan.tsv")
    return anndata.read_h5ad(out), json.loads(provenance.read_text())


# --- the plan


def test_plates_are_cut_into_parts_by_rows(made: made_release.Tahoe, tmp_path: Path) -> None:
    """By the cells that a look into each finds, with what the store publishes of it; plates in their order."""
    plan = planned(tmp_path, plates=[3, 1])
    rows = [(m.name, m.rows, m.cells) for m in plan.members]
    assert rows[:3] == [("plate1", (0, 50), 50), ("plate1", (50, 100), 50), ("plate1", (100, 121), 21)]
    assert rows[3:] == [("plate3", (0, 50), 50), ("plate3", (50, 100), 50), ("plate3", (100, 123), 23)]
    assert list(plan.parts) == [f"{i:04d}" for i in range(6)] and plan.facts["cells"] == 121 + 123
    member = plan.members[0]
    assert member.address == f"gs://{ROOT}/2025-02-25/h5ad/plate1_{ENDING}"
    assert member.bytes == len(made.objects[member.address.removeprefix("gs://")])
    assert str(member.checksum).startswith("crc32c:")


def test_a_plate_is_not_fetched_to_plan(store: Store, made: made_release.Tahoe, tmp_path: Path) -> None:
    """Ranges of it are."""
    store.objects[f"{ROOT}/2025-02-25/h5ad/plate1_{ENDING}"] += bytes(5 << 20)  # HDF5 does not mind
    planned(tmp_path, plates=[1])
    asked = store.fetched(".h5ad")
    assert asked and all(at is not None and not at.endswith("-") for at in asked) and len(asked) < 4


def test_a_look_goes_on_through_faults(store: Store, made: made_release.Tahoe, tmp_path: Path) -> None:
    """Refused and cut; what is refused for good is one sentence without a plan."""
    for name in made.objects:
        store.faults[name] += [refuse(429), cut_at(10)] if name.endswith("00004-of-00009.parquet") else []
    expected = planned(tmp_path, form="parquet").facts["cells"]
    assert expected == sum(data.n_obs for data in made.full.values())
    (tmp_path / "plan.tsv").unlink()
    store.project = "mine"
    with pytest.raises(CellmillError, match=r"cannot be listed"):
        planned(tmp_path, plates=[1])
    with pytest.raises(CellmillError, match=r"plate1_.*h5ad: the server answers HTTP 400"):
        size_and_cells(f"gs://{ROOT}/2025-02-25/h5ad/plate1_{ENDING}", mirror=None)
    assert not (tmp_path / "plan.tsv").exists()


def test_parquet_files_are_bundled_by_their_rows(made: made_release.Tahoe, tmp_path: Path) -> None:
    """Every cell that passes the full filters, in the order of the files."""
    plan = planned(tmp_path, form="parquet", part_cells=80)
    assert [m.name for m in plan.members] == [f"train-{i:05d}-of-00009" for i in range(9)]
    assert plan.facts["cells"] == sum(data.n_obs for data in made.full.values())
    assert all(sum(m.cells or 0 for m in members) <= 80 for members in plan.parts.values())
    assert max(map(len, plan.parts.values())) == 2


def test_parquet_files_are_drawn_until_there_are_enough_cells(made: made_release.Tahoe, tmp_path: Path) -> None:
    """Whole files; a larger draw holds a smaller one."""
    few, many = ({m.name for m in planned(tmp_path, form="parquet", cells=n).members} for n in (60, 200))
    assert 2 <= len(few) < len(many) < 9 and few < many


def test_a_mirror_is_planned_and_fetched_without_a_network(
    store: Store, made: made_release.Tahoe, tmp_path: Path
) -> None:
    """Tables and Parquet of the mirror; a local copy of the plates gives the same part as the bucket."""
    mirror = mirrored(made.objects, tmp_path / "mirror")
    plan_dataset(source(form="parquet"), tmp_path / "plan.tsv", mirror=mirror)
    _, said = part(tmp_path, "0000", mirror=mirror, form="parquet")
    assert {m["origin"] for m in said["members"]} == {"mirror"} and store.seen == []
    local = {"root": str(mirror / ROOT), "repository": str(mirror / REPOSITORY), "plates": [2]}
    planned(tmp_path, **local)
    ours, _ = part(tmp_path, "0001", **local)
    assert store.seen == []
    planned(tmp_path, plates=[2])
    theirs, _ = part(tmp_path, "0001", plates=[2])
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    np.testing.assert_array_equal(ours.X.toarray(), theirs.X.toarray())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"plates": [1, 9]}, r"there is no plate 9; there: 1, 2, 3\."),
        ({"root": f"gs://{ROOT}-100m"}, "no file is called plate<number>"),
        ({"form": "parquet", "repository": f"gs://{ROOT}"}, "no file is called train-"),
        ({"form": "parquet", "cells": 10**6}, "1,000,000 are asked for, but 9 of 9 files pass the filters"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    made: made_release.Tahoe, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    """And no plan is written."""
    with pytest.raises(CellmillError, match=said):
        planned(tmp_path, **values)
    assert not (tmp_path / "plan.tsv").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"form": "parquet", "plates": [1]}, "files of Parquet are not named by plate"),
        ({"form": "parquet", "pass_filter": "minimal"}, "Parquet has only cells that pass the full filters"),
        ({"cells": 5}, "plates are fetched whole"),
        ({"plates": [15]}, "plates"),
    ],
)
def test_a_wrong_specification_is_refused_before_anything_runs(values: dict[str, Any], said: str) -> None:
    """By pydantic."""
    with pytest.raises(ValidationError, match=said):
        Tahoe(**values)


def test_a_file_that_is_no_plate_ends_the_plan(store: Store, made: made_release.Tahoe, tmp_path: Path) -> None:
    """With its name."""
    store.objects[f"{ROOT}/2025-02-25/h5ad/plate1_{ENDING}"] = b"<html>" * 99
    with pytest.raises(CellmillError, match=r"plate1_filt_.*h5ad: not readable"):
        planned(tmp_path, plates=[1])


# --- cells


def test_a_part_of_a_plate_has_its_rows_and_what_the_tables_say(
    store: Store, made: made_release.Tahoe, tmp_path: Path
) -> None:
    """Through a cut and a 503; counts and obs as found, columns of the tables beside them, unmatched cells counted."""
    planned(tmp_path, plates=[2])
    store.faults[f"{ROOT}/2025-02-25/h5ad/plate2_{ENDING}"] += [cut_at(3_000), refuse(503), refuse(429)]
    found, said = part(tmp_path, "0001", plates=[2])
    plate = made.plates["plate2"][50:100]
    np.testing.assert_array_equal(found.X.toarray(), plate.X.toarray())
    assert found.obs_names.tolist() == [f"plate2:{name}" for name in plate.obs_names]
    for column in plate.obs:
        assert found.obs[column].astype(str).tolist() == plate.obs[column].astype(str).tolist()
    assert found.var["ensembl_id"].tolist() == genes()["ensembl_id"].tolist()
    drug = found.obs["drug"].astype(str)
    assert set(found.obs.loc[drug == "Erdafitinib ", "canonical_smiles"]) == {"CCO"}  # in spite of the blank
    assert set(found.obs.loc[drug.str.startswith("Trametinib"), "pubchem_cid"]) == {11707110.0}
    assert found.obs.loc[drug == "DMSO_TF", "moa-fine"].isna().all()
    line = found.obs["cell_line"].astype(str)
    assert set(found.obs.loc[line == "CVCL_0023", "Driver_Gene_Symbol"]) == {"CDKN2A; KRAS"}
    joined = said["joined"]
    vehicle = int((drug == "DMSO_TF").sum())
    assert joined["drug"]["cells_unmatched"] == vehicle and joined["drug"]["unmatched"] == {"DMSO_TF": vehicle}
    assert joined["cell_line"]["unmatched"] == {"CVCL_0546": int((line == "CVCL_0546").sum())}
    assert joined["sample"]["cells_unmatched"] == 0 and joined["genes_unmatched"] == 0
    assert joined["left_out"] == ["Driver_VarZyg"]
    assert not (tmp_path / "raw" / ".download").exists()


def test_parquet_gives_the_counts_of_the_plates(store: Store, made: made_release.Tahoe, tmp_path: Path) -> None:
    """Cell by cell and gene by gene, through every fault."""
    plan = planned(tmp_path, form="parquet", part_cells=200)
    for member in plan.members:
        store.faults[member.address.removeprefix("gs://")] += [cut_at(2_000), refuse(503)]
    parts = [part(tmp_path, name, form="parquet") for name in plan.parts]
    assert len(parts) > 1
    found = anndata.concat([data for data, _ in parts])
    found.obs_names = found.obs_names.str.split(":").str[-1]
    expected = anndata.concat(made.full)
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert parts[0][0].var_names.tolist() == genes()["ensembl_id"].tolist()
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    for column in ("drug", "sample", "plate", "drugname_drugconc"):
        assert found.obs[column].astype(str).tolist() == expected.obs[column].astype(str).tolist()
    assert all(" from tokens; 0 values" in m["note"] for _, said in parts for m in said["members"])


def test_another_file_than_was_planned_is_refused(store: Store, made: made_release.Tahoe, tmp_path: Path) -> None:
    """And leaves no part."""
    plan = planned(tmp_path, form="parquet")
    store.faults[plan.members[0].address.removeprefix("gs://")] += [damage]
    with pytest.raises(CellmillError, match="has the checksum crc32c:"):
        part(tmp_path, "0000", form="parquet")
    assert not (tmp_path / "raw" / "0000.h5ad").exists()


def test_a_gene_that_a_cell_names_twice_has_the_sum(release: made_release.Tahoe, tmp_path: Path) -> None:
    """And explicit zeros are none; across blocks of 1,024 cells."""
    columns = {name: values * 30 for name, values in tokens(release.plates["plate1"]).items()}
    columns["BARCODE_SUB_LIB_ID"] = [f"{i}" for i in range(len(columns["drug"]))]
    columns["genes"][1_500] = [1, 7, 5, 7, 9]
    columns["expressions"][1_500] = [-2.0, 2.0, 1.0, 3.0, 0.0]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(columns))
    note = decode_tokens(path, tmp_path / "a.h5ad", genes().set_index("ensembl_id"))
    found = anndata.read_h5ad(tmp_path / "a.h5ad").X
    assert "; 1 values" in note
    assert dict(zip(found[1_500].indices, found[1_500].data, strict=True)) == {2: 1, 4: 5}
    expected = np.tile(release.plates["plate1"].X.toarray(), (30, 1))
    others = np.arange(len(expected)) != 1_500
    np.testing.assert_array_equal(found.toarray()[others], expected[others])


def row(n: int, genes: list[Any], expressions: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns["genes"][n], columns["expressions"][n] = genes, expressions

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (row(3, [4, 5], [2.0, 1.0]), "row 3 begins with gene 4 and expression 2, expected the marker 1 and -2"),
        (row(3, [1, 5], [2.0, 1.0]), "row 3 begins with gene 1 and expression 2,"),
        (row(4, [], []), "row 4 begins with gene nothing"),
        (row(5, [1, 9999], [-2.0, 1.0]), "row 5 has the token 9999, which is no gene"),
        (row(5, [1, 2], [-2.0, 1.0]), "row 5 has the token 2, which is no gene"),
        (row(6, [1, 4, 5], [-2.0, 1.0, 0.5]), "row 6 has the expression 0.5, which is no count"),
        (row(6, [1, 4, 5], [-2.0, -1.0, 1.0]), "row 6 has the expression -1, which is no count"),
        (row(6, [1, 4], [-2.0, float("nan")]), "row 6 has the expression nan, which is no count"),
        (row(7, [1, 4, 5], [-2.0, 1.0]), "row 7 has not as many expressions as genes"),
        (row(8, [1, None], [-2.0, 1.0]), "a list at row 0 or after it has a missing value"),
        (lambda columns: columns.pop("expressions"), "no column 'expressions'"),
    ],
)
def test_what_is_no_cell_of_tahoe_is_refused_by_row(
    release: made_release.Tahoe, tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    """And nothing is written."""
    columns = tokens(release.plates["plate1"])
    change(columns)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(columns))
    with pytest.raises(CellmillError, match=said):
        decode_tokens(path, tmp_path / "a.h5ad", genes().set_index("ensembl_id"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_table_that_names_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Two genes of one token would be one column."""
    paths = {name: tmp_path / f"{name}.parquet" for name in ("gene", "drug", "sample", "cell_line")}
    for name, content in made_release.tables().items():
        paths[Path(name).name.removesuffix("_metadata.parquet")].write_bytes(content)
    read_tables(paths)
    pd.concat([made_release.drugs()] * 2).to_parquet(paths["drug"])
    with pytest.raises(CellmillError, match="'Infigratinib' stands there twice"):
        read_tables(paths)
    genes().assign(token_id=3).to_parquet(paths["gene"])
    with pytest.raises(CellmillError, match="token_id 3 stands there twice"):
        read_tables(paths)


def test_the_real_tables_fit_together(shared_data: Path) -> None:
    """Every drug of a sample but the vehicle is known, in spite of blanks; 102 cell lines; 62,710 genes."""
    folder = shared_data / "metadata"
    found = read_tables({n: folder / f"tahoe_{n}_metadata.parquet" for n in ("gene", "drug", "sample", "cell_line")})
    assert len(found.genes) == 62_710 and (found.genes["token_id"].min(), found.genes["token_id"].max()) == (3, 62_712)
    used = set(found.samples["drug"].str.strip())
    assert used - set(found.drugs.index) == {"DMSO_TF"}
    assert len(found.cell_lines) == 102 and found.cell_lines.loc["CVCL_0023", "cell_name"] == "A549"
    assert "KRAS" in found.cell_lines.loc["CVCL_0023", "Driver_Gene_Symbol"].split("; ")
