"""Stores: the http address behind gs:// and hf://, and the checksums that servers publish."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources.checksums import checksum_of, differing, is_checksum, of_listing, published
from cellmill.sources.fetch import fetch
from cellmill.sources.stores import door, folder, listing

from .local_server import Handler, LocalServer
from .store import Store, crc32c, store

__all__ = ["store"]
HURRY = Patience(tries=2, first_wait_s=0.001, longest_wait_s=0.002, timeout_s=20)


# --- addresses


def test_a_file_of_a_bucket_is_asked_for_by_its_whole_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slashes and spaces included; without a login, and billed to nobody."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    asked = door("gs://bucket/a folder/x#1.h5ad")
    assert (
        asked.address
        == "https://storage.googleapis.com/download/storage/v1/b/bucket/o/a%20folder%2Fx%231.h5ad?alt=media"
    )
    assert asked.headers == {}


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("hf://datasets/own/name/a/x 1.h5ad", "datasets/own/name/resolve/main/a/x%201.h5ad"),
        ("hf://datasets/own/name@v1/x.h5ad", "datasets/own/name/resolve/v1/x.h5ad"),
        ("hf://own/name@refs%2Fpr%2F1/x", "own/name/resolve/refs%252Fpr%252F1/x"),
    ],
)
def test_a_file_of_the_hub_has_a_revision(address: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token of the user, where there is one."""
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert door(address).address == f"https://hub.example/{path}"
    assert door(address).headers == {"Authorization": "Bearer secret"}


def test_a_file_of_amazons_store_is_asked_for_by_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a host of its own, or as a folder of another server."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert door("s3://bucket/a b/x.h5ad").address == "https://bucket.s3.amazonaws.com/a%20b/x.h5ad"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    assert door("s3://bucket/a b/x.h5ad").address == "http://127.0.0.1:9000/bucket/a%20b/x.h5ad"


def test_an_address_that_names_no_file_of_the_hub_is_refused() -> None:
    """A repository is not a file."""
    with pytest.raises(CellmillError, match="this names no file of the Hub"):
        door("hf://datasets/own/name")


def test_a_file_of_a_bucket_whose_requester_pays_needs_a_project(store: Store, tmp_path: Path) -> None:
    """The error says so; with the project that is billed, the file comes."""
    store.objects["bucket/x"], store.project = b"content", "mine"
    with pytest.raises(CellmillError, match=r"HTTP 400.*whose requester pays needs a project that is billed"):
        fetch("gs://bucket/x", tmp_path / "x", sha256=None, mirror=None, patience=HURRY)
    fetch("gs://bucket/x", tmp_path / "x", sha256=None, mirror=None, patience=HURRY, project="mine")
    assert (tmp_path / "x").read_bytes() == b"content"


# --- listings


def test_a_folder_and_a_pattern_are_listed_page_by_page(store: Store) -> None:
    """Sizes and checksums of what is there, sorted."""
    store.objects |= {f"bucket/a/{i:02d}.h5ad": bytes(i) for i in range(20)} | {"bucket/b/x.h5ad": b""}
    found = folder("gs://bucket/a")
    assert [f.address for f in found] == [f"gs://bucket/a/{i:02d}.h5ad" for i in range(20)]
    assert [(f.bytes, f.checksum) for f in found] == [(i, f"crc32c:{crc32c(bytes(i))}") for i in range(20)]
    assert [f.address for f in listing("gs://bucket/a/1?.h5ad")] == [f"gs://bucket/a/{i}.h5ad" for i in range(10, 20)]
    assert folder("gs://bucket/none") == []


# --- checksums


def test_checksums_are_those_of_the_content(tmp_path: Path) -> None:
    """By kind; crc32c of '123456789' is the check value of its definition, e3069283."""
    path = tmp_path / "x"
    path.write_bytes(b"123456789")
    assert checksum_of(path, "sha256") == f"sha256:{hashlib.sha256(b'123456789').hexdigest()}"
    assert checksum_of(path, "md5") == "md5:25f9e794323b453885f5181f1b624d0b"
    assert checksum_of(path, "crc32c") == f"crc32c:{base64.b64encode(bytes.fromhex('e3069283')).decode()}"
    assert differing(path, ["md5:25f9e794323b453885f5181f1b624d0b"]) is None
    assert differing(path, [f"md5:{'0' * 32}"]) == (f"md5:{'0' * 32}", "md5:25f9e794323b453885f5181f1b624d0b")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {"x-goog-hash": "crc32c=4waSgw==,md5=Xr4ilOzQ4PCOq3aQ0qbuaQ=="},
            ["crc32c:4waSgw==", "md5:5ebe2294ecd0e0f08eab7690d2a6ee69"],
        ),
        ({"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": "gzip"}, []),
        ({"Repr-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}, [f"sha256:{'00' * 32}"]),
        ({"X-Linked-Etag": f'"{"ab" * 32}"'}, [f"sha256:{'ab' * 32}"]),
        ({"X-Linked-Etag": '"of-a-small-file"', "ETag": '"abc"'}, []),
        ({"ETag": f'"{"ab" * 16}"'}, []),
    ],
    ids=["google", "unpacked", "digest", "hub", "small", "none"],
)
def test_what_a_server_publishes_is_read(headers: dict[str, str], said: list[str]) -> None:
    """In the forms of Google's store, of RFC 9530 and of the Hub."""
    assert published(headers) == said


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"ETag": f'"{"ab" * 16}"'}, [f"md5:{'ab' * 16}"]),
        ({"ETag": f'"{"ab" * 16}-3"'}, []),
        ({"ETag": f'"{"ab" * 16}"', "x-amz-server-side-encryption": "aws:kms"}, []),
    ],
    ids=["one piece", "pieces", "encrypted"],
)
def test_the_etag_of_amazons_store_is_an_md5_where_it_is_one(headers: dict[str, str], said: list[str]) -> None:
    """Not of files that were sent in pieces, or are encrypted by a key."""
    assert published(headers, etag_is_md5=True) == said


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"crc32c": "4waSgw==", "md5Hash": "Xr4ilOzQ4PCOq3aQ0qbuaQ=="}, "crc32c:4waSgw=="),
        ({"lfs": {"sha256": "ab" * 32}}, f"sha256:{'ab' * 32}"),
        ({"ETag": '"5ebe2294ecd0e0f08eab7690d2a6ee69"'}, "md5:5ebe2294ecd0e0f08eab7690d2a6ee69"),
        ({"ETag": '"5ebe2294ecd0e0f08eab7690d2a6ee69-7"'}, None),
        ({}, None),
    ],
)
def test_the_checksum_of_a_listing_is_the_best_it_has(info: dict[str, object], said: str | None) -> None:
    """None where there is none that holds for the content."""
    assert of_listing(info) == said
    assert said is None or is_checksum(said)


# --- the Hub


class Hub(Handler):
    """A large file as the Hub gives it: a redirect that names its sha256, to where the bytes are; and its listings."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            return self.listing()
        if "/resolve/" in self.path:
            etag = f'"{hashlib.sha256(b"content").hexdigest()}"'
            return self.answer(302, Location="/bytes", X_Linked_Etag=etag)
        self.answer(200, self.server.body)  # type: ignore[attr-defined]

    def listing(self) -> None:
        sha256 = hashlib.sha256(b"content").hexdigest()
        folder = [{"type": "directory", "path": "a", "oid": "3" * 40, "size": 0}]
        files = [
            {
                "type": "file",
                "path": "a/x.h5ad",
                "size": 7,
                "oid": "1" * 40,
                "lfs": {"oid": sha256, "size": 7, "pointerSize": 128},
            },
            {"type": "file", "path": "a/small.h5ad", "size": 3, "oid": "2" * 40},
            {"type": "file", "path": "a/README.md", "size": 3, "oid": "2" * 40},
        ]
        of_root = self.path.partition("?")[0].endswith(("/tree/main", "/tree/v1"))
        about = {"id": "own/name", "sha": "f" * 40, "private": False, "tags": [], "siblings": []}
        body = json.dumps((folder if of_root else files) if "/tree/" in self.path else about).encode()
        self.answer(200, body, Content_Type="application/json")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    with LocalServer(Hub) as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_a_file_of_the_hub_has_the_checksum_that_its_redirect_names(hub: LocalServer, tmp_path: Path) -> None:
    """And one that has not is refused, though nobody gave a checksum."""
    address = "hf://datasets/own/name/x.h5ad"
    hub.body = b"content"  # type: ignore[attr-defined]
    fetch(address, tmp_path / "x", sha256=None, mirror=None, patience=HURRY)
    assert (tmp_path / "x").read_bytes() == b"content"
    hub.body = b"contenT"  # type: ignore[attr-defined]
    with pytest.raises(CellmillError, match=r"has the checksum sha256:.*, expected sha256:"):
        fetch(address, tmp_path / "y", sha256=None, mirror=None, patience=HURRY)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_files_of_the_hub_are_found_by_pattern(hub: LocalServer, tmp_path: Path, revision: str) -> None:
    """With size, and the sha256 of large files; what is found can be fetched."""
    hub.body = b"content"  # type: ignore[attr-defined]
    base = f"hf://datasets/own/name{revision}/a"
    small, large = listing(f"{base}/*.h5ad")
    assert (small.address, small.bytes, small.checksum) == (f"{base}/small.h5ad", 3, None)
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert (large.address, large.bytes, large.checksum) == (f"{base}/x.h5ad", 7, f"sha256:{sha256}")
    assert fetch(large.address, tmp_path / "x", sha256=sha256, size=7, mirror=None).origin == "network"
