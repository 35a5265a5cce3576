"""``s3://`` with a login: signatures that a store accepts, patterns page by page, faults, and no secret anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import Files
from cellmill.sources.fetch import fetch
from cellmill.sources.plan import plan_dataset
from cellmill.sources.stores import door, listing

from .fake_s3 import KEY, S3, SECRET, TOKEN
from .store import cut_at, damage, refuse

HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
CONTENT = os.urandom(300_000)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """A store with a private and a public bucket, and no login."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with S3() as made:
        assert isinstance(made, S3)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        monkeypatch.setenv("AWS_REGION", made.region)
        names = [
            "a/x 1.h5ad",
            "a/y+ü.h5ad",
            "a/deep/z.h5ad",
            "b/q.h5ad",
            "a/notes.txt",
            *(f"m/{i}.h5ad" for i in range(8)),
        ]
        made.objects |= {f"private/{name}": CONTENT for name in names}
        made.objects["public/open.h5ad"] = CONTENT
        made.public = {"public"}
        yield made


@pytest.fixture
def logged_in(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return s3


def profile(tmp_path: Path, credentials: str, config: str = "") -> None:
    folder = tmp_path / "home" / ".aws"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "credentials").write_text(credentials)
    (folder / "config").write_text(config)


@pytest.mark.parametrize("name", ["a/x 1.h5ad", "a/y+ü.h5ad"])
def test_a_private_file_is_fetched_by_a_signed_address(logged_in: S3, tmp_path: Path, name: str) -> None:
    """Whatever its name; the store has verified the signature."""
    found = fetch(f"s3://private/{name}", tmp_path / "x", sha256=None, mirror=None, size=len(CONTENT), patience=HURRY)
    assert found.origin == "network" and (tmp_path / "x").read_bytes() == CONTENT
    assert all("X-Amz-Signature=" in path for path, _ in logged_in.seen)


def test_patterns_name_the_files_of_all_pages(logged_in: S3) -> None:
    """Three at a time, in folders; sizes, and no checksum, as an ETag is not always one."""
    assert [f.address for f in listing("s3://private/a/*.h5ad")] == [
        "s3://private/a/x 1.h5ad",
        "s3://private/a/y+ü.h5ad",
    ]
    assert len(listing("s3://private/m/*.h5ad")) == 8
    deep = listing("s3://private/**/*.h5ad")
    assert len(deep) == 12 and {(f.bytes, f.checksum) for f in deep} == {(len(CONTENT), None)}
    assert listing("s3://private/none/*.h5ad") == []


def test_a_plan_of_a_pattern_is_made_without_a_file(logged_in: S3, tmp_path: Path) -> None:
    """By the listing alone."""
    plan = plan_dataset(Files(glob=["s3://private/m/*.h5ad"]), tmp_path / "plan.tsv", mirror=None)
    assert [m.name for m in plan.members] == [str(i) for i in range(8)]
    assert all("list-type=2" in path for path, _ in logged_in.seen)


def test_every_fault_is_gone_through(logged_in: S3, tmp_path: Path) -> None:
    """Slow down, a cut, a damaged byte; each try is signed anew, and what arrived is kept."""
    logged_in.faults["private/b/q.h5ad"] = [refuse(503, Retry_After="0"), cut_at(200_000), refuse(429, Retry_After="0")]
    fetch("s3://private/b/q.h5ad", tmp_path / "q", sha256=None, mirror=None, patience=HURRY)
    assert (tmp_path / "q").read_bytes() == CONTENT
    assert [at for _, at in logged_in.seen] == [None, None, "bytes=200000-", "bytes=200000-"]
    logged_in.faults["private/b/q.h5ad"] = [damage]
    with pytest.raises(CellmillError, match="has the checksum"):
        fetch("s3://private/b/q.h5ad", tmp_path / "r", sha256=None, mirror=None, patience=HURRY)
    assert not (tmp_path / "r").exists()
    logged_in.faults["private/"] = [refuse(503), refuse(503)]
    assert len(listing("s3://private/b/*.h5ad")) == 1


def test_a_public_bucket_needs_no_login(s3: S3, tmp_path: Path) -> None:
    """Neither to list it nor to fetch from it; nothing is signed."""
    (file,) = listing("s3://public/*.h5ad")
    fetch(file.address, tmp_path / "x", sha256=None, mirror=None, patience=HURRY)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert not any("Signature" in path for path, _ in s3.seen)


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ({}, "AccessDenied"),
        ({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET[:-1] + "x"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": KEY[:-1] + "9", "AWS_SECRET_ACCESS_KEY": SECRET}, "InvalidAccessKeyId"),
        (
            {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN},
            "InvalidToken",
        ),
    ],
    ids=["none", "secret", "key", "token"],
)
def test_a_wrong_login_is_one_sentence_without_a_secret(
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    env: dict[str, str],
    code: str,
) -> None:
    """For a pattern and for a file, in errors and in logs, whatever the store answers."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG, "cellmill")
    with pytest.raises(CellmillError, match=rf"cannot be listed \({code}\).*AWS_ACCESS_KEY_ID") as of_pattern:
        listing("s3://private/a/*.h5ad")
    with pytest.raises(CellmillError, match=r"HTTP 403.*AWS_ACCESS_KEY_ID") as of_file:
        fetch("s3://private/b/q.h5ad", tmp_path / "q", sha256=None, mirror=None, patience=HURRY)
    said = f"{of_pattern.value} {of_pattern.value.__cause__} {of_file.value} {caplog.text}"
    for secret in (SECRET[:12], KEY, TOKEN, "Signature="):
        assert secret not in said
    assert list(tmp_path.glob("*q*")) == []


def test_a_profile_and_a_session_are_logins(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default one, a named one with its region and endpoint, and the environment before both."""
    keys = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    profile(tmp_path, f"[default]\n{keys}")
    assert len(listing("s3://private/b/*")) == 1
    s3.token, s3.region = TOKEN, "us-west-2"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    named = f"[profile lab]\nregion = us-west-2\nendpoint_url = {s3.address}/\n"
    profile(tmp_path, f"[lab]\n{keys}aws_session_token = {TOKEN}\n", named)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert len(listing("s3://private/b/*")) == 1
    fetch("s3://private/b/q.h5ad", tmp_path / "q", sha256=None, mirror=None, patience=HURRY)
    monkeypatch.setenv("AWS_PROFILE", "sso")
    with pytest.raises(CellmillError, match=r"the profile 'sso' has no keys.*export-credentials"):
        listing("s3://private/b/*")
    profile(tmp_path, f"aws_secret_access_key = {SECRET}")
    with pytest.raises(CellmillError, match="not readable as a file of profiles") as error:
        listing("s3://private/b/*")
    assert SECRET[:12] not in f"{error.value} {error.value.__cause__}"


def test_amazons_own_store_is_signed_for_the_region_that_is_set(logged_in: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint; without a login the address of public buckets stays as it is."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = door("s3://bucket/a b/x.h5ad").address
    assert address.startswith("https://s3.eu-central-1.amazonaws.com/bucket/a%20b/x.h5ad?X-Amz-Algorithm=AWS4")
    assert SECRET not in address
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert door("s3://bucket/a b/x.h5ad").address == "https://bucket.s3.amazonaws.com/a%20b/x.h5ad"
