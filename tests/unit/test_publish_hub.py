"""`cellmill publish hub`, against a Hub on this machine that keeps what arrives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from cellmill.cli import main
from cellmill.contracts import manifest, published
from cellmill.files import sha256_of

from .exported import make_dataset, make_export
from .fake_hub import LARGE, TOKEN, Handler, Hub

REPO = "lab/demo"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub itself


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two exports."""
    base = tmp_path_factory.mktemp("run")
    folder = base / "results" / "demo"
    done = make_dataset(folder, base / "work")
    make_export(folder, done, "hf/cells")
    make_export(folder, done, "scdl/counts")
    return folder


@pytest.fixture
def export(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export to publish, from the folder of the project."""
    shutil.copytree(made, tmp_path / "results" / "demo")
    monkeypatch.chdir(tmp_path)
    return Path("results/demo/hf/cells")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub of this session, with a token that may write."""
    with Hub() as running:
        for name, value in environment(running, tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        yield running


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    said = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return said | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def publish(export: Path, *options: str, repo: str = REPO) -> int:
    return main(["publish", "hub", str(export), repo, *options])


def contents(export: Path) -> dict[str, bytes]:
    return {p.relative_to(export).as_posix(): p.read_bytes() for p in export.rglob("*") if p.is_file()}


def arrived(hub: Hub, repo: str = REPO) -> dict[str, bytes]:
    return {name: content for name, content in hub.repos[repo].files.items() if name != ".gitattributes"}


def test_an_export_arrives_whole_in_one_private_commit(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """Every byte, a tag that names the manifest, and a file that says where."""
    assert publish(export) == 0
    repo = hub.repos[REPO]
    digest = sha256_of(export / "manifest.json")
    assert arrived(hub) == contents(export) and repo.private
    assert [message for _, message, _ in repo.commits[1:]] == [f"demo, hf/cells: manifest-{digest[:16]}"]
    assert repo.tags == {f"manifest-{digest[:16]}": repo.sha}
    said = published.read_export("results/demo/published/hf/cells.json")
    assert (said["commit"], said["manifest"], said["files"]) == (repo.sha, digest, len(contents(export)))
    assert f"{len(contents(export))} files" in capsys.readouterr().out


def test_a_second_time_nothing_is_sent(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """No commit, no file, the same tag."""
    assert publish(export) == 0
    commits, received = len(hub.repos[REPO].commits), len(hub.received)
    capsys.readouterr()
    assert publish(export) == 0
    assert (len(hub.repos[REPO].commits), len(hub.received)) == (commits, received)
    assert "0 files (0 B) sent" in capsys.readouterr().out


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    export: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Files and bytes; also without a token."""
    assert publish(export, "--dry-run") == 0
    monkeypatch.delenv("HF_TOKEN")
    assert publish(export, "--dry-run") == 0
    out = capsys.readouterr().out
    size = sum(map(len, contents(export).values()))
    assert (
        out.count(f"lab/demo (new, private): {len(contents(export))} files ({size / 1000:.1f} kB) would be sent") == 2
    )
    assert all(f"send    {name}  " in out for name in contents(export))
    assert hub.repos == {} and hub.received == [] and not Path("results/demo/published").exists()


def test_without_the_network_a_dry_run_says_what_there_is(
    export: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """All files, as if nothing had arrived; to publish is refused."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert publish(export, "--dry-run") == 0
    assert f"{len(contents(export))} files" in capsys.readouterr().out
    assert publish(export) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err and hub.asked == []


def test_a_new_state_of_the_export_replaces_the_old_one(export: Path, hub: Hub):
    """What changed is sent, what is gone is removed, and the old state stays under its tag."""
    assert publish(export) == 0
    old = dict(hub.repos[REPO].tags)
    (export / "vocabulary.json").write_text("{}")
    gone = sorted(export.glob("train/*"))[-1]
    gone.unlink()
    said = {k: v for k, v in manifest.read(export).items() if k not in ("files", "written_by")}
    (export / "manifest.json").unlink()
    manifest.write(export, said)
    received = len(hub.received)
    assert publish(export) == 0
    assert arrived(hub) == contents(export) and len(hub.received) == received
    assert len(hub.repos[REPO].commits) == 3 and len(hub.repos[REPO].tags) == 2
    (tag,) = old
    assert f"train/{gone.name}" in hub.repos[REPO].at(tag)[1]


def test_another_export_is_not_overwritten(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """It says what is there; --update replaces it, and leaves nothing of it."""
    assert publish(export) == 0
    other = Path("results/demo/scdl/counts")
    before = dict(hub.repos[REPO].files)
    assert publish(other) == 1
    assert "holds 'hf/cells' of the dataset 'demo', expected 'scdl/counts' of 'demo'" in capsys.readouterr().err
    assert hub.repos[REPO].files == before
    assert publish(other, "--update", "--dry-run") == 0
    assert "remove  README.md" in capsys.readouterr().out
    assert publish(other, "--update") == 0
    assert arrived(hub) == contents(other)


@pytest.mark.parametrize(
    ("name", "words"),
    [("train/more.parquet", "did not publish: train/more.parquet"), ("README.md", "README.md was edited on the Hub")],
)
def test_what_others_put_there_is_not_overwritten(
    export: Path, hub: Hub, name: str, words: str, capsys: pytest.CaptureFixture[str]
):
    """Files of their own, and an edited card."""
    assert publish(export) == 0
    hub.repos[REPO].commit("by hand", {**hub.repos[REPO].files, name: b"?"})
    assert publish(export) == 1
    assert words in capsys.readouterr().err
    assert publish(export, "--update") == 0
    assert arrived(hub) == contents(export)


def test_files_of_somebody_else_are_not_overwritten(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """A repository without a manifest."""
    assert publish(export) == 0
    hub.repos[REPO].commit("another thing", {"data.csv": b"1"})
    assert publish(export) == 1
    assert "files that are not of cellmill (data.csv, …)" in capsys.readouterr().err


def test_a_public_repository_must_be_called_so(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """Nothing private goes to where all can read it."""
    assert publish(export, "--public") == 0
    assert not hub.repos[REPO].private
    assert publish(export) == 1
    assert "this repository is public" in capsys.readouterr().err


def test_a_damaged_export_is_not_sent(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """It is verified first."""
    next(export.glob("train/*")).write_bytes(b"x")
    assert publish(export) == 1
    assert "sha256" in capsys.readouterr().err and hub.asked == []


@pytest.mark.parametrize("case", ["wrong", "none", "reader"])
def test_a_token_that_does_not_do_is_told(
    export: Path, hub: Hub, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In a sentence, before anything is sent, and without the token."""
    if case == "wrong":
        monkeypatch.setenv("HF_TOKEN", "hf_Wrong" + TOKEN)
    elif case == "none":
        monkeypatch.delenv("HF_TOKEN")
    else:
        hub.fault = lambda h: "/repos/create" in h.path and (h.read_body(), h.refuse(403, "no right"))[1] is None
    assert publish(export) == 1
    err = capsys.readouterr().err
    words = {"wrong": "the token is not accepted (HTTP 401)", "none": "no token is set", "reader": "may not do that"}
    assert words[case] in err and "hf auth login" in err and TOKEN not in err
    assert hub.repos == {}


def test_a_busy_hub_is_asked_again(export: Path, hub: Hub):
    """429, 503 and a cut connection at several places."""
    left = {"/commit/": 1, "/lfs/": 1, "/preupload/": 1}
    lock = threading.Lock()

    def fault(handler: Handler) -> bool:
        for place in left:
            with lock:
                hit = place in handler.path and left[place] > 0
                left[place] -= hit
            if hit:
                handler.read_body()
                if place == "/lfs/":
                    handler.connection.close()
                else:
                    handler.refuse(429 if place == "/preupload/" else 503, "busy", Retry_After="0")
                handler.close_connection = True
                return True
        return False

    hub.fault = fault
    assert publish(export) == 0
    assert arrived(hub) == contents(export) and len(hub.repos[REPO].commits) == 2
    assert set(left.values()) == {0}


def test_a_commit_of_somebody_else_at_the_same_time_is_told(export: Path, hub: Hub, capsys: pytest.CaptureFixture[str]):
    """Nothing of theirs is lost."""
    assert publish(export) == 0
    (export / "vocabulary.json").write_text("{}")
    said = {k: v for k, v in manifest.read(export).items() if k not in ("files", "written_by")}
    (export / "manifest.json").unlink()
    manifest.write(export, said)

    def fault(handler: Handler) -> bool:
        if "/preupload/" in handler.path:
            hub.repos[REPO].commit("theirs", {**hub.repos[REPO].files, "notes.txt": b"!"})
        return False

    hub.fault = fault
    assert publish(export) == 1
    assert "it was changed at the same time (HTTP 412)" in capsys.readouterr().err
    assert hub.repos[REPO].files["notes.txt"] == b"!"


def test_an_interrupted_upload_goes_on_and_no_secret_is_left(export: Path, hub: Hub, tmp_path: Path, repo: Path):
    """Killed in the midst of it: what had arrived is not sent again, and the token stands nowhere."""
    enough, release = threading.Event(), threading.Event()

    def fault(handler: Handler) -> bool:
        if "/lfs/" not in handler.path or "objects" in handler.path:
            return False
        if len(hub.received) < 2:
            return False
        enough.set()
        release.wait(60)
        handler.close_connection = True
        return True

    hub.fault = fault
    command = [sys.executable, "-m", "cellmill", "publish", "hub", str(export), REPO]
    env = {**os.environ, "PYTHONPATH": str(repo / "src")}
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert enough.wait(60)
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    printed, _ = first.communicate()
    before = list(hub.received)
    assert len(before) >= 2 and arrived(hub) == {}  # nothing is visible yet
    release.set()
    hub.fault = lambda _: False
    second = subprocess.run(command, env=env, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert arrived(hub) == contents(export) and len(hub.repos[REPO].commits) == 2
    large = {sha256_of(p) for p in export.rglob("*") if p.name.endswith(LARGE)}
    assert sorted(hub.received) == sorted(large)
    everything = printed + second.stdout + second.stderr + json.dumps([m for _, m, _ in hub.repos[REPO].commits])
    for path in tmp_path.rglob("*"):
        everything += path.read_bytes().decode("latin-1") if path.is_file() else ""
    assert TOKEN not in everything and "SignedForOneUpload" not in everything
