"""Filling a mirror: every outside file of a dataset, once, and enough to run without the network."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import anndata
import pytest
import yaml

from cellmill.cli import main
from cellmill.config import load_datasets
from cellmill.sources.fetch import read_sums
from cellmill.sources.plan import plan_dataset
from cellmill.sources.retrieve import retrieve_part

from .release import ROOT, Release, release
from .store import Store, damage, store

__all__ = ["store"]


@pytest.fixture
def made(store: Store, tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """A project with a dataset of four samples in the store, as the working folder."""
    made = release(tmp_path, samples=4)
    store.objects |= made.objects
    shutil.copytree(repo / "config", tmp_path / "config")
    dataset = {"title": "Atlas", "source": {"kind": "scbasecount"}, "exports": ["scdl/counts"]}
    (tmp_path / "config" / "datasets" / "atlas.yaml").write_text(yaml.safe_dump(dataset))
    monkeypatch.chdir(tmp_path)
    return made


def test_a_mirror_is_filled_once_and_is_then_the_whole_store(
    store: Store, made: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples and catalogue under bucket and path, with their checksums; without the store, a part is made of it."""
    assert main(["fetch", "atlas", "--only", "mirror"]) == 0
    assert capsys.readouterr().out.startswith("mirror: 5 files fetched")
    assert set(read_sums(Path("mirror/SHA256SUMS"))) == set(made.objects)
    for name, content in made.objects.items():
        assert (Path("mirror") / name).read_bytes() == content
    store.seen.clear()
    assert main(["fetch", "atlas", "--only", "mirror"]) == 0
    assert "0 files fetched (0 B), 5 were there" in capsys.readouterr().out
    assert not any("/download/" in path and "h5ad/" in path for path, _ in store.seen)
    store.objects.clear()
    source = load_datasets(["atlas"]).datasets["atlas"].source
    plan_dataset(source, "plan.tsv", mirror=Path("mirror"))
    retrieve_part(
        source.of("0000"),
        "0000",
        Path("raw/0000.h5ad"),
        Path("raw/0000.json"),
        ledger=Path("none"),
        mirror=Path("mirror"),
        plan=Path("plan.tsv"),
        counts="X",
    )
    assert anndata.read_h5ad("raw/0000.h5ad").n_obs == sum(data.n_obs for data in made.samples.values())


def test_what_was_fetched_before_a_failure_stays(
    store: Store, made: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is written when all is there; the next call fetches what is missing, and keeps other lines."""
    name = next(name for name in made.objects if name.endswith(".h5ad"))
    store.faults[name] += [damage]
    Path("mirror").mkdir()
    Path("mirror/other").write_bytes(b"")
    Path("mirror/SHA256SUMS").write_text(f"{hashlib.sha256().hexdigest()}  other\n")
    assert main(["fetch", "atlas", "--only", "mirror"]) == 1
    assert "has the checksum crc32c:" in capsys.readouterr().err
    assert set(read_sums(Path("mirror/SHA256SUMS"))) == {"other"} and not (Path("mirror") / name).exists()
    assert main(["fetch", "atlas", "--only", "mirror"]) == 0
    assert set(read_sums(Path("mirror/SHA256SUMS"))) == {"other", *made.objects}
    assert all(n.startswith(ROOT) for n in made.objects)
