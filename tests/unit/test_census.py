"""Datasets of a Census release: which are taken, and whose cells; through faults, and the same for any order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from pydantic import ValidationError

from cellmill.contracts.plan import Plan
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.quality.labels import filter_cells
from cellmill.sources import Census, parse_source
from cellmill.sources.census import members_of_census, newest_files
from cellmill.sources.download import Download
from cellmill.sources.plan import plan_dataset
from cellmill.sources.retrieve import retrieve_file, retrieve_part

from . import census_release as made_release
from .census_release import CATALOGUE, DIRECTORY, FOLDER, census, dataset_id
from .store import Store, cut_at, damage, mirrored, refuse, store

__all__ = ["store"]
HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
LEDGER = Path(__file__).parents[2] / "resources" / "ledger.tsv"
MOUSE, COPIES, DROPPED = dataset_id(1), dataset_id(4), dataset_id(6)
HUMAN = [dataset_id(number) for number in (0, 2, 3, 5)]
"""What a release of seven gives: not that of mouse, of copies alone, and the one that Discover has dropped."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Download, "patience", property(lambda _: HURRY))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> made_release.Census:
    return census(tmp_path_factory.mktemp("census"))


@pytest.fixture
def made(store: Store, release: made_release.Census) -> made_release.Census:
    release.put(store)
    return release


def source(store: Store, **values: Any) -> Census:
    at = {"directory": f"{store.address}/{DIRECTORY}", "catalogue": f"{store.address}/{CATALOGUE}"}
    parsed = parse_source({"kind": "census", **at, **values})
    assert isinstance(parsed, Census)
    return parsed


def planned(store: Store, tmp_path: Path, **values: Any) -> Plan:
    return plan_dataset(source(store, **values), tmp_path / "plan.tsv", mirror=None)


def names(plan: Plan) -> list[str]:
    return sorted(member.name for member in plan.members)


# --- the plan


def test_a_release_is_planned_of_its_bucket_and_of_the_catalogue(
    store: Store, made: made_release.Census, tmp_path: Path
) -> None:
    """Sizes and checksums of the bucket, cells of the catalogue; what is left out is counted."""
    store.page = 3
    plan = planned(store, tmp_path)
    assert names(plan) == HUMAN
    by_name = {m.name: m for m in plan.members}
    for name in HUMAN:
        member = by_name[name]
        assert member.address == f"s3://{FOLDER}/{name}.h5ad"
        assert member.bytes == len(made.objects[f"{FOLDER}/{name}.h5ad"])
        assert member.cells == made.datasets[name].n_obs
        assert member.about["dataset_title"] == f"Title {int(name[-12:], 16) - 1}"
    primary = sum(int(made.datasets[name].obs["is_primary_data"].sum()) for name in HUMAN)
    expected = {"datasets": 7, "of_other_organisms": 1, "without_description": 1, "without_cells": 1}
    assert expected.items() <= plan.facts.items() and plan.facts["cells_asked_for"] == primary


def test_the_newest_files_are_those_of_the_catalogue(store: Store, made: made_release.Census, tmp_path: Path) -> None:
    """By version, with the size that Discover says; the bucket is not asked."""
    plan = planned(store, tmp_path, release=None)
    assert names(plan) == HUMAN
    for member in plan.members:
        assert member.address.endswith(f"{member.about['dataset_version_id']}.h5ad") and member.bytes
    assert not [path for path, _ in store.seen if "list-type" in path]


def test_datasets_are_drawn_until_there_are_enough_cells(
    store: Store, made: made_release.Census, tmp_path: Path
) -> None:
    """Copies are not counted; a larger draw holds a smaller one; another seed draws others."""
    draws = [planned(store, tmp_path, cells=n, seed=3) for n in (50, 100, 200)]
    for n, plan in zip((50, 100, 200), draws, strict=True):
        counts = [int(made.datasets[name].obs["is_primary_data"].sum()) for name in names(plan)]
        assert sum(counts) >= n and sum(counts) - max(counts) < n
    assert set(names(draws[0])) <= set(names(draws[1])) <= set(names(draws[2]))
    assert {tuple(names(planned(store, tmp_path, cells=50, seed=seed))) for seed in range(6)} > {tuple(names(draws[0]))}


def test_the_plan_does_not_depend_on_the_order_of_the_catalogue(release: made_release.Census) -> None:
    """Of neither list."""
    found = release
    spec = Census(release=None, cells=150)
    files = newest_files(spec, found.described)
    expected = members_of_census(spec, found.described, files)
    assert members_of_census(spec, found.described[::-1], dict(reversed(files.items()))) == expected


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ({"column": "tissue", "in": ["lung"]}, lambda obs: obs["tissue"] == "lung"),
        ({"column": "tissue_ontology_term_id", "equals": "UBERON:0000178"}, lambda obs: obs["tissue"] == "blood"),
        ({"column": "disease", "not_in": ["normal"]}, lambda obs: obs["disease"] != "normal"),
        ({"column": "suspension_type", "equals": "nucleus"}, lambda obs: obs["suspension_type"] == "nucleus"),
        ({"column": "tissue_type", "in": ["tissue"]}, lambda obs: obs["tissue_type"] == "tissue"),
        ({"column": "author_cluster", "in": ["b"]}, lambda obs: obs["author_cluster"] == obs["author_cluster"]),
    ],
)
def test_a_dataset_is_taken_where_a_cell_may_pass(
    store: Store, made: made_release.Census, tmp_path: Path, rule: dict[str, Any], passes: Callable[[Any], Any]
) -> None:
    """By the catalogue's lists; a column that these say nothing of decides about cells alone."""
    expected = [name for name in HUMAN if passes(made.datasets[name].obs).any()]
    plan = planned(store, tmp_path, filters=[rule])
    assert names(plan) == expected
    others = [name for name in [*HUMAN, COPIES] if not passes(made.datasets[name].obs).any()]
    assert plan.facts["dropped_by_filters"] == {f"0: {rule['column']}": len(others)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"release": "2024-07-01"}, r"no Census release 2024-07-01; .* There: 2025-11-08\."),
        ({"datasets": [dataset_id(77)]}, "no dataset '.*' in Census release 2025-11-08"),
        ({"datasets": [MOUSE]}, "is of Mus musculus, not of Homo sapiens alone"),
        ({"organism": "Homo Sapiens"}, "no dataset of Homo Sapiens alone. There: Homo sapiens, Mus musculus."),
        ({"filters": [{"column": "tissue", "in": ["lungs"]}]}, "no dataset has 'lungs' as tissue. .* mean 'lung'?"),
        ({"cells": 10**6}, "1,000,000 are asked for, but 4 of 7 datasets pass the filters, with"),
        ({"datasets": [DROPPED], "cells": 5}, "nothing is known of dataset '.*', which Discover has dropped since"),
        ({"datasets": [COPIES]}, "none of 1 datasets passes"),
        (
            {"cells": 10, "filters": [{"column": "tissue", "in": ["lung", "blood", "heart left ventricle"]}]},
            "filters.0: no dataset that was drawn has '.*' as tissue",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    store: Store, made: made_release.Census, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    """And no plan is written."""
    with pytest.raises(CellmillError, match=said):
        planned(store, tmp_path, **values)
    assert not (tmp_path / "plan.tsv").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"release": "stable"}, "release"),
        ({"datasets": ["Tabula Sapiens"]}, "datasets"),
        ({"filters": [{"column": "tissue_general", "in": ["lung"]}]}, "the files of datasets do not have it"),
        ({"filters": [{"column": "is_primary_data", "equals": True}]}, "a key of its own, 'primary_only'"),
    ],
)
def test_a_wrong_specification_is_refused_before_anything_runs(values: dict[str, Any], said: str) -> None:
    """By pydantic."""
    with pytest.raises(ValidationError, match=said):
        Census(**values)


def test_a_dataset_that_was_dropped_since_is_taken_by_its_name(
    store: Store, made: made_release.Census, tmp_path: Path
) -> None:
    """The catalogue says nothing of it: its file says how many cells it has."""
    plan = planned(store, tmp_path, datasets=[DROPPED, HUMAN[0]])
    assert names(plan) == sorted([DROPPED, HUMAN[0]])
    assert {m.name: m.cells for m in plan.members}[DROPPED] == made.datasets[DROPPED].n_obs


def test_a_mirror_is_planned_and_fetched_without_a_network(
    store: Store, made: made_release.Census, tmp_path: Path
) -> None:
    """The files that it has; the others of the release are not known then."""
    host = store.address.removeprefix("http://")
    files = {(f"{host}/{n}" if n.startswith("web/") else n): content for n, content in made.objects.items()}
    del files[f"{FOLDER}/{HUMAN[0]}.h5ad"]
    mirror = mirrored(files, tmp_path / "mirror")
    plan = plan_dataset(source(store), tmp_path / "plan.tsv", mirror=mirror)
    assert names(plan) == HUMAN[1:]
    found, said = part(store, tmp_path, plan, "0000", mirror=mirror)
    assert store.seen == [] and {m["origin"] for m in said["members"]} == {"mirror"}
    assert found.n_obs == plan.facts["cells"]


# --- faults


def test_catalogues_and_lists_are_asked_again(store: Store, made: made_release.Census, tmp_path: Path) -> None:
    """Cut in the middle, 429 and 503, whatever is asked."""
    expected = planned(store, tmp_path).members
    bucket = FOLDER.partition("/")[0]
    store.faults[DIRECTORY] += [cut_at(40)]
    store.faults[CATALOGUE] += [refuse(429)]
    store.faults[f"list {bucket}"] += [refuse(503)]
    assert planned(store, tmp_path).members == expected
    store.faults[f"list {bucket}"] += [refuse(403)]
    (tmp_path / "plan.tsv").unlink()
    with pytest.raises(CellmillError, match=r"cannot be listed \(HTTP 403\)"):
        planned(store, tmp_path)
    assert not (tmp_path / "plan.tsv").exists()


def part(
    store: Store, tmp_path: Path, plan: Plan, name: str, mirror: Path | None = None, shared: Sequence[Path] = ()
) -> tuple[anndata.AnnData, dict[str, Any]]:
    out, provenance = tmp_path / "raw" / f"{name}.h5ad", tmp_path / "raw" / f"{name}.json"
    spec = source(store).of(name)
    retrieve_part(spec, name, out, provenance, ledger=LEDGER, mirror=mirror, plan=tmp_path / "plan.tsv", shared=shared)
    return anndata.read_h5ad(out), json.loads(provenance.read_text())


@pytest.mark.parametrize("pieces", ["", "-2"])
def test_a_part_has_the_counts_of_its_datasets_through_every_fault(
    store: Store, made: made_release.Census, tmp_path: Path, pieces: str
) -> None:
    """Of raw.X where X is normalised, gene by gene; what the catalogue says stays with the cells."""
    store.etag_ending = pieces
    plan = planned(store, tmp_path)
    assert list(plan.parts) == ["0000"]
    for name in HUMAN:
        store.faults[f"{FOLDER}/{name}.h5ad"] += [cut_at(3_000), refuse(503), refuse(429)]
    found, said = part(store, tmp_path, plan, "0000")
    members = plan.parts["0000"]
    assert [m["cells"] for m in said["members"]] == [m.cells for m in members]
    for member in members:
        data = made.datasets[member.name]
        counts = (data.raw.to_adata() if data.raw is not None else data).to_df()
        mine = found[found.obs["member"] == member.name]
        np.testing.assert_array_equal(mine.to_df()[counts.columns].to_numpy(), counts.to_numpy())
        assert set(mine.obs["dataset_id"]) == {member.name}
    assert not (tmp_path / "raw" / ".download").exists()


def test_a_large_dataset_is_fetched_once_and_cut(store: Store, made: made_release.Census, tmp_path: Path) -> None:
    """By the cells that its file has, whatever the catalogue says; every cell is in one part, with its description."""
    largest = max(HUMAN, key=lambda name: made.datasets[name].n_obs)
    n = made.datasets[largest].n_obs
    described = json.loads(made.objects[CATALOGUE])
    for dataset in described:
        if dataset["dataset_id"] == largest:
            dataset["cell_count"] = n + 5
    store.objects[CATALOGUE] = json.dumps(described).encode()
    plan = planned(store, tmp_path, datasets=[largest], part_cells=n // 2)
    half, rest = n // 2, [(n // 2, n)] if n % 2 == 0 else [(n // 2, n - 1), (n - 1, n)]
    assert [m.rows for m in plan.members] == [(0, half), *rest]
    store.seen.clear()
    whole = tmp_path / "whole" / f"{largest}.h5"
    retrieve_file(tmp_path / "plan.tsv", largest, whole, mirror=None)
    found = [part(store, tmp_path, plan, name, shared=[whole])[0] for name in plan.parts]
    assert [path for path, _ in store.seen if path.endswith(".h5ad")] == [f"/s3/{FOLDER}/{largest}.h5ad"]
    data = made.datasets[largest]
    counts = (data.raw.to_adata() if data.raw is not None else data).to_df()
    mine = np.concatenate([p.to_df()[counts.columns].to_numpy() for p in found])
    np.testing.assert_array_equal(mine, counts.to_numpy())
    assert {title for p in found for title in p.obs["dataset_title"]} == {plan.members[0].about["dataset_title"]}


def test_a_file_that_changed_since_the_plan_is_refused(store: Store, made: made_release.Census, tmp_path: Path) -> None:
    """By its checksum; nothing stands where the part would."""
    plan = planned(store, tmp_path, datasets=[HUMAN[0]])
    store.faults[f"{FOLDER}/{HUMAN[0]}.h5ad"] += [damage]
    with pytest.raises(CellmillError, match="has the checksum crc32c:"):
        part(store, tmp_path, plan, "0000")
    assert not (tmp_path / "raw" / "0000.h5ad").exists()
    store.objects[f"{FOLDER}/{HUMAN[0]}.h5ad"] += b"more"
    shutil.rmtree(tmp_path / "raw")
    with pytest.raises(CellmillError, match="bytes"):
        part(store, tmp_path, plan, "0000")


# --- cells


def test_copies_and_cells_that_do_not_pass_are_dropped_by_reason() -> None:
    """The filters of the source stand before those of the dataset."""
    spec = Census(filters=[{"column": "tissue", "in": ["lung"]}])
    obs = made_release.dataset(0, 200).obs
    reasons, _ = filter_cells(obs, spec.cell_filters, where="here")
    expected = np.where(
        ~obs["is_primary_data"], "filter is_primary_data", np.where(obs["tissue"] != "lung", "filter tissue", None)
    )
    assert reasons.tolist() == expected.tolist()
    assert Census(primary_only=False).cell_filters == []
