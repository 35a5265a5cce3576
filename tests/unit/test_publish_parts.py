"""Processed parts to WebDAV and Zenodo, against servers on this machine that fail in every way we know."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cellmill.cli import main
from cellmill.contracts import published
from cellmill.contracts.published import PublishedPart
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.publish import webdav, zenodo
from cellmill.publish.http import LocalFile
from cellmill.sources import parse_source
from cellmill.sources.retrieve import retrieve_part

from .fake_stores import PASSWORD, TOKEN, USER, Fault, Store, WebDav, Zenodo, answers, cuts, damages, repeats
from .stages import make, random_counts, split_raw, three_parts, write_raw

HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
ABOUT = zenodo.About("demo", "Cells <of> a test", ("Lovelace, Ada",), "CC-BY-4.0")
PARTS = ("a", "m", "z")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/demo`` with three processed parts."""
    base = tmp_path_factory.mktemp("run")
    raw = write_raw(base / "raw.h5ad", random_counts(120, 40))
    done = make(base / "work", split_raw(raw, base / "raws", three_parts(120)))
    folder = base / "results" / "demo"
    (folder / "processed").mkdir(parents=True)
    for part in PARTS:
        shutil.copy(done.file(part, "h5ad"), folder / "processed" / f"{part}.h5ad")
    return folder


@pytest.fixture
def parts(made: Path) -> list[Path]:
    return sorted((made / "processed").iterdir())


@pytest.fixture(autouse=True)
def logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment."""
    for name, value in (("NO_PROXY", "127.0.0.1"), ("WEBDAV_USER", USER), ("WEBDAV_PASSWORD", PASSWORD)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    monkeypatch.delenv("WEBDAV_TOKEN", raising=False)


@pytest.fixture(params=["plain", "hashes"])
def dav(request: pytest.FixtureRequest) -> Iterator[WebDav]:
    """A server that tells no checksums, and one that does."""
    with WebDav(hashes=request.param == "hashes") as server:
        yield server


@pytest.fixture
def deposit() -> Iterator[Zenodo]:
    with Zenodo() as server:
        yield server


def to_dav(parts: list[Path], server: WebDav, folder: str = "/data/atlas", **options: Any) -> list[PublishedPart]:
    given = {"dataset": "demo", "address": server.address + folder, "patience": HURRY} | options
    return webdav.publish(parts, **given)[1]


def to_zenodo(parts: list[Path], server: Zenodo, **options: Any) -> list[PublishedPart]:
    return zenodo.publish(parts, **{"about": ABOUT, "address": server.address, "patience": HURRY} | options)[1]


def contents(parts: list[Path]) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in parts}


def names(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path.rsplit("/", 1)[-1]: content for path, content in files.items()}


# --- WebDAV


def test_parts_arrive_in_a_folder_of_the_dataset(parts: list[Path], dav: WebDav):
    """Folders are made, nothing else is left there, and the table says where and what."""
    sent = to_dav(parts, dav)
    assert names(dav.files) == contents(parts) and {"/data/atlas", "/data/atlas/demo"} <= dav.folders
    for part, path in zip(sent, parts, strict=True):
        assert part.address == f"{dav.address}/data/atlas/demo/{path.name}" and part.part == path.stem
        assert part.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_there_is_not_sent_again(parts: list[Path], dav: WebDav):
    """It is read back and compared."""
    first = to_dav(parts, dav)
    received = dav.bytes_received
    assert to_dav(parts, dav) == first
    assert dav.bytes_received == received


def test_other_content_is_not_overwritten(parts: list[Path], dav: WebDav):
    """Before anything is sent; ``update`` replaces it."""
    dav.folders |= {"/data/atlas", "/data/atlas/demo"}
    dav.files["/data/atlas/demo/m.h5ad"] = b"another"
    with pytest.raises(CellmillError, match=r"m\.h5ad is there with other content\. .*--update"):
        to_dav(parts, dav)
    assert dav.puts() == []
    to_dav(parts, dav, update=True)
    assert names(dav.files) == contents(parts)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "m.h5ad", answers(429, Retry_After="0")),
        Fault("PUT", "m.h5ad", answers(503)),
        Fault("PUT", "m.h5ad", cuts),
        Fault("PUT", "m.h5ad", damages),
        Fault("MOVE", "m.h5ad", answers(502)),
        Fault("MKCOL", "demo", answers(500)),
        Fault("HEAD", "m.h5ad", answers(503)),
    ],
    ids=["busy", "unavailable", "cut", "damaged", "renaming", "folder", "looking"],
)
def test_a_server_that_fails_is_asked_again(parts: list[Path], dav: WebDav, fault: Fault):
    """And what arrives is what was sent."""
    dav.faults = [fault]
    to_dav(parts, dav)
    assert names(dav.files) == contents(parts) and dav.faults == []


def test_retry_after_is_honoured(parts: list[Path], dav: WebDav, monkeypatch: pytest.MonkeyPatch):
    """As in downloads."""
    import cellmill.patience as module

    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    dav.faults = [Fault("PUT", "m.h5ad", answers(429, Retry_After="7"))]
    to_dav(parts, dav)
    assert waits == [7.0]


def test_a_file_that_never_arrives_whole_is_told_and_not_left(parts: list[Path], dav: WebDav):
    """Nothing stands under its name, with both checksums in the error."""
    dav.faults = [Fault("PUT", "m.h5ad", damages) for _ in range(9)]
    with pytest.raises(CellmillError, match=r"gave up after 3 tries; .*what arrived has the sha256 .*, expected"):
        to_dav(parts, dav)
    assert set(names(dav.files)) == {"a.h5ad"}


def test_a_large_file_goes_in_chunks_and_goes_on_where_it_was(parts: list[Path]):
    """By Nextcloud's way of uploading; the chunks that have arrived are not sent again."""
    with WebDav() as server:
        size = parts[0].stat().st_size // 3
        server.faults = [Fault("PUT", "/00003", answers(403))]
        options = {"folder": "/remote.php/dav/files/ada/atlas", "chunk_bytes": size}
        with pytest.raises(CellmillError, match="HTTP 403"):
            to_dav(parts[:1], server, **options)
        assert server.puts("/00001") and not any("demo/a.h5ad" in f for f in server.files)
        to_dav(parts[:1], server, **options)
        assert names(server.files) == contents(parts[:1])
        assert [p.rsplit("/", 1)[1] for p in server.puts("/uploads/")] == ["00001", "00002", "00003", "00003", "00004"]
        assert server.folders & {f for f in server.folders if "cellmill-" in f} == set()


def test_the_table_is_a_source(parts: list[Path], repo: Path, tmp_path: Path):
    """What was published can be retrieved, by the checksums of the table."""
    with WebDav(open_to_read=True) as server:
        published.write_parts(tmp_path / "webdav.tsv", to_dav(parts, server))
        source = parse_source(published.as_source(published.read_parts(tmp_path / "webdav.tsv")))
        for part in PARTS:
            out = tmp_path / "raw" / f"{part}.h5ad"
            ledger = repo / "resources" / "ledger.tsv"
            retrieve_part(source, part, out, tmp_path / f"{part}.json", ledger=ledger, mirror=None)
            assert out.read_bytes() == contents(parts)[f"{part}.h5ad"]


def test_a_table_of_another_version_is_refused(tmp_path: Path):
    """With what to do."""
    (tmp_path / "t.tsv").write_text("# published 99\npart\n")
    with pytest.raises(CellmillError, match="update yours"):
        published.read_parts(tmp_path / "t.tsv")


@pytest.mark.parametrize("cut", [1, 60, 120])
def test_a_table_that_is_cut_is_refused(parts: list[Path], tmp_path: Path, cut: int):
    """A checksum that is half there is none."""
    table = tmp_path / "t.tsv"
    published.write_parts(table, [PublishedPart("0", "https://x/0.h5ad", 3, "0" * 64, "1" * 32)])
    table.write_text(table.read_text()[: -1 - cut])
    with pytest.raises(CellmillError, match=r"t\.tsv.*Publish again"):
        published.read_parts(table)


# --- Zenodo


def test_parts_arrive_in_a_draft_and_stay_one(parts: list[Path], deposit: Zenodo):
    """Title, authors and licence are those of the dataset; addresses are those of the record to come."""
    sent = to_zenodo(parts, deposit)
    ((number, draft),) = deposit.depositions.items()
    assert deposit.files[number] == contents(parts) and not draft["submitted"]
    said = draft["metadata"]
    assert said["title"] == "Cells <of> a test" and "&lt;of&gt;" in said["description"]
    assert said["creators"] == [{"name": "Lovelace, Ada"}] and said["license"] == "cc-by-4.0"
    assert [p.address for p in sent] == [f"{deposit.address}/records/{number}/files/{p.name}" for p in parts]
    assert [p.md5 for p in sent] == [hashlib.md5(p.read_bytes()).hexdigest() for p in parts]


def test_the_draft_is_used_again(parts: list[Path], deposit: Zenodo):
    """What is there with the same checksum is not sent a second time; what differs is."""
    deposit.add({"keywords": ["other"]})
    to_zenodo(parts, deposit)
    number = max(deposit.files)
    deposit.files[number]["m.h5ad"] = b"old"
    deposit.asked.clear()
    to_zenodo(parts, deposit)
    assert deposit.puts() == [f"/api/files/bucket-{number}/m.h5ad"] and len(deposit.depositions) == 2
    assert deposit.files[number] == contents(parts)


def test_it_is_published_only_where_that_is_asked_for(parts: list[Path], deposit: Zenodo):
    """And then nothing is done a second time; other files ask for a new version."""
    to_zenodo(parts, deposit, publish_now=True)
    (number,) = deposit.depositions
    assert deposit.depositions[number]["submitted"]
    deposit.asked.clear()
    assert to_zenodo(parts, deposit)[0].address.startswith(f"{deposit.address}/records/{number}/")
    assert deposit.puts() == [] and len(deposit.depositions) == 1
    with pytest.raises(CellmillError, match=rf"published with other files \(record {number}\).*--record"):
        to_zenodo(parts[:2], deposit)
    new = deposit.add({})["id"]
    to_zenodo(parts[:2], deposit, record=new)
    assert deposit.files[new] == contents(parts[:2])
    with pytest.raises(CellmillError, match=f"record {number} is published"):
        to_zenodo(parts, deposit, record=number)


def test_without_a_licence_nothing_is_published(parts: list[Path], deposit: Zenodo):
    """Zenodo would choose one."""
    with pytest.raises(CellmillError, match="no licence is stated"):
        to_zenodo(parts, deposit, about=zenodo.About("demo", "t", ("A",)), publish_now=True)
    assert deposit.asked == []


def test_the_token_goes_to_no_other_server(parts: list[Path], deposit: Zenodo):
    """The address of the files is looked at."""
    with Store() as other:
        draft = deposit.add({"keywords": [ABOUT.keyword]})
        draft["links"]["bucket"] = f"{other.address}/api/files/x"
        with pytest.raises(CellmillError, match="names another one for its files"):
            to_zenodo(parts, deposit)
        assert other.asked == []


def test_drafts_on_a_later_page_are_found(parts: list[Path], deposit: Zenodo):
    """An account may have many."""
    for _ in range(zenodo.PER_PAGE):
        deposit.add({"keywords": []})
    draft = deposit.add({"keywords": [ABOUT.keyword]})
    to_zenodo(parts, deposit)
    assert deposit.files[draft["id"]] == contents(parts)
    deposit.add({"keywords": [ABOUT.keyword]})
    with pytest.raises(CellmillError, match=r"several drafts: 1100, 1101\. Name one"):
        to_zenodo(parts, deposit)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "m.h5ad", answers(429, Retry_After="0")),
        Fault("PUT", "m.h5ad", answers(503)),
        Fault("PUT", "m.h5ad", cuts),
        Fault("PUT", "m.h5ad", damages),
        Fault("GET", "depositions", answers(500)),
    ],
    ids=["busy", "unavailable", "cut", "damaged", "looking"],
)
def test_zenodo_that_fails_is_asked_again(parts: list[Path], deposit: Zenodo, fault: Fault):
    """And what arrives is what was sent."""
    deposit.faults = [fault]
    to_zenodo(parts, deposit)
    assert list(deposit.files.values()) == [contents(parts)] and deposit.faults == []


def test_a_checksum_that_stays_wrong_is_told(parts: list[Path], deposit: Zenodo):
    """With both."""
    deposit.faults = [Fault("PUT", "m.h5ad", damages) for _ in range(9)]
    with pytest.raises(CellmillError, match=r"what arrived has the md5 [0-9a-f]+, expected"):
        to_zenodo(parts, deposit)


# --- logins, and the command line


@pytest.mark.parametrize("target", ["webdav", "zenodo"])
def test_a_wrong_login_is_told_and_shown_nowhere(
    target: str,
    parts: list[Path],
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    """Also where the server repeats it in its answer; it is in no file, either, once all is well."""
    monkeypatch.setattr(logging.getLogger("cellmill"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    folder = Path(shutil.copytree(made, tmp_path / "results" / "demo"))
    wrong = "aWrongSecret123"
    with WebDav() if target == "webdav" else Zenodo() as server:
        command = ["publish", target, str(folder)]
        command += [server.address + "/data"] if target == "webdav" else ["--address", server.address, "--creator", "A"]
        monkeypatch.setenv("WEBDAV_PASSWORD", wrong)
        monkeypatch.setenv("ZENODO_TOKEN", wrong)
        assert main(command) == 1
        err = capsys.readouterr().err
        assert "does not accept this login (HTTP 401)" in err and "Set " in err and server.puts() == []
        server.faults = [Fault("POST" if target == "zenodo" else "MKCOL", "", repeats)]
        monkeypatch.setenv("WEBDAV_PASSWORD", PASSWORD)
        monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
        assert main(command) == 1
        err += capsys.readouterr().err
        assert "HTTP 400 Bad Request: you are " in err
        server.faults = [Fault("PUT", "m.h5ad", answers(503, Retry_After="0"))]
        assert main(command) == 0
        said = capsys.readouterr()
    import base64

    everything = err + said.out + said.err + caplog.text
    for path in tmp_path.rglob("*"):
        everything += path.read_bytes().decode("latin-1") if path.is_file() else ""
    coded = [base64.b64encode(f"{USER}:{p}".encode()).decode() for p in (PASSWORD, wrong)]
    assert [s for s in (wrong, PASSWORD, TOKEN, *coded) if s in everything] == []
    table = published.read_parts(folder / "published" / f"{target}.tsv")
    source = yaml.safe_load(said.out.split("A dataset that begins with these parts:")[1])
    assert source == {"source": published.as_source(table)} and [p.part for p in table] == list(PARTS)


@pytest.mark.parametrize("target", ["webdav", "zenodo"])
def test_without_a_login_nothing_is_asked(
    target: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """And the sentence says which names to set."""
    monkeypatch.delenv("WEBDAV_PASSWORD")
    monkeypatch.delenv("ZENODO_TOKEN")
    more = ["http://127.0.0.1:9/x"] if target == "webdav" else ["--creator", "A"]
    assert main(["publish", target, str(made), *more]) == 1
    assert ("WEBDAV_PASSWORD" if target == "webdav" else "ZENODO_TOKEN") in capsys.readouterr().err


def test_an_address_with_a_login_is_refused(made: Path, capsys: pytest.CaptureFixture[str]):
    """It would stand in the table."""
    assert main(["publish", "webdav", str(made), "https://ada:aSecret@cloud.example/x"]) == 1
    assert "aSecret" not in capsys.readouterr().err


def test_a_dry_run_sends_nothing(made: Path, capsys: pytest.CaptureFixture[str]):
    """Files and bytes, of both."""
    with WebDav() as dav, Zenodo() as deposit:
        assert main(["publish", "webdav", str(made), dav.address + "/data", "--dry-run"]) == 0
        options = ["--address", deposit.address, "--creator", "A", "--dry-run"]
        assert main(["publish", "zenodo", str(made), *options]) == 0
        assert capsys.readouterr().out.count("3 files (") == 2
        assert dav.files == {} and deposit.depositions == {} and not (made / "published").exists()
        assert not [a for a in dav.asked + deposit.asked if a.split()[0] not in ("HEAD", "GET")]


def test_a_file_that_is_no_processed_part_is_refused(tmp_path: Path):
    """Before anything is asked."""
    raw = write_raw(tmp_path / "0.h5ad", random_counts(5, 5))
    with pytest.raises(CellmillError, match="expected 'counts"):
        webdav.publish([raw], dataset="x", address="http://127.0.0.1:9/x")


def test_both_checksums_are_read_in_one_pass(tmp_path: Path):
    """Of an empty file, too."""
    (tmp_path / "x").write_bytes(b"")
    assert LocalFile.of(tmp_path / "x").md5 == "d41d8cd98f00b204e9800998ecf8427e"
