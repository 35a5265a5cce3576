"""Fetching, against a real server on this machine that fails in every way we know."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cellmill
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import fetch as module
from cellmill.sources.fetch import fetch, redacted

from . import local_server

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(local_server.Handler):
    """Serves ``server.body`` with an ETag and ranges, after the faults that stand in line."""

    protocol_version = "HTTP/1.0"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append(self.headers)
        fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        (fault or serve)(self)


class Server(local_server.LocalServer):
    def __init__(self) -> None:
        super().__init__(Handler)
        self.body, self.etag = BODY, '"one"'
        self.faults: list[Callable[[Handler], None]] = []
        self.always: Callable[[Handler], None] | None = None
        self.seen: list[Message] = []
        self.ranges = self.if_range = self.validators = self.lengths = True
        self.release = threading.Event()

    @property
    def address(self) -> str:
        return f"{super().address}/folder/cells.h5ad"

    @property
    def asked_from(self) -> list[str | None]:
        return [headers["Range"] for headers in self.seen]


def serve(handler: Handler, *, upto: int | None = None) -> None:
    server, asked = handler.server, handler.headers["Range"]
    unchanged = not server.if_range or handler.headers["If-Range"] in (None, server.etag)
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges and unchanged else 0
    total = len(server.body)
    if start >= total:
        handler.send_response(416)
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    if server.lengths:
        handler.send_header("Content-Length", str(total - start))
    if server.validators:
        handler.send_header("ETag", server.etag)
    handler.end_headers()
    handler.wfile.write(server.body[start:upto])
    handler.wfile.flush()


def cut_at(position: int) -> Callable[[Handler], None]:
    return lambda handler: serve(handler, upto=position)


def stall_at(position: int) -> Callable[[Handler], None]:
    def fault(handler: Handler) -> None:
        serve(handler, upto=position)
        handler.server.release.wait(60)

    return fault


def answer(code: int, **headers: str) -> Callable[[Handler], None]:
    def fault(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return fault


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        yield running
        running.release.set()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "here" / "cells.h5ad"


def get(server: Server, to: Path, **changes: Any) -> module.FetchedFrom:
    given: dict[str, Any] = {"sha256": sha256(BODY), "mirror": None, "patience": HURRY} | changes
    return fetch(server.address, to, **given)


def begun(server: Server, request: int) -> int:
    """Where a request asked the file to begin; how much of a block a cut loses is urllib3's affair."""
    asked = server.asked_from[request]
    return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0


def parts(to: Path) -> list[str]:
    return sorted(path.name for path in to.parent.iterdir() if path.name.startswith("."))


# When all is well


def test_a_file_is_fetched_whole(server: Server, to: Path) -> None:
    """The bytes are there, nothing else is, and the answer says what was found."""
    fetched = get(server, to, size=len(BODY))
    assert to.read_bytes() == BODY
    assert fetched == module.FetchedFrom(server.address, sha256(BODY), len(BODY), "network")
    assert [path.name for path in to.parent.iterdir()] == [to.name]


def test_what_is_there_is_not_fetched_again(server: Server, to: Path) -> None:
    """A file with the wanted checksum is enough."""
    get(server, to)
    assert get(server, to).origin == "present"
    assert len(server.seen) == 1


# Connections that break


def test_a_cut_download_goes_on_where_it_was(server: Server, to: Path) -> None:
    """Two cuts, three requests, no byte of the earlier blocks twice."""
    server.faults = [cut_at(100_000), cut_at(200_000)]
    get(server, to)
    assert to.read_bytes() == BODY
    assert 0 == begun(server, 0) < begun(server, 1) < begun(server, 2)
    assert server.seen[1]["If-Range"] == '"one"'


def test_progress_gives_new_tries(server: Server, to: Path) -> None:
    """Tries are counted in a row without a new byte, so that a large file may be cut often."""
    server.faults = [cut_at(n) for n in range(70_000, 300_000, 30_000)]
    assert len(server.faults) > HURRY.tries
    get(server, to)
    assert to.read_bytes() == BODY


@pytest.mark.parametrize("known", [sha256(BODY), None])
def test_a_server_without_ranges_starts_again_from_zero(server: Server, to: Path, known: str | None) -> None:
    """A whole answer to a request for a range replaces what was there."""
    server.ranges = False
    server.faults = [cut_at(150_000)]
    get(server, to, sha256=known)
    assert to.read_bytes() == BODY


def test_without_validators_and_checksum_nothing_is_resumed(server: Server, to: Path) -> None:
    """Nobody could tell whether the two halves belong together."""
    server.validators = False
    server.faults = [cut_at(150_000)]
    get(server, to, sha256=None)
    assert server.asked_from == [None, None]


def test_without_validators_a_checksum_allows_to_resume(server: Server, to: Path) -> None:
    """The checksum tells in the end."""
    server.validators = False
    server.faults = [cut_at(150_000)]
    get(server, to)
    assert begun(server, 1) > 100_000


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_between_tries_is_not_mixed(server: Server, to: Path, if_range: bool) -> None:
    """Whether or not the server heeds If-Range, the new file comes whole."""
    server.if_range = if_range

    def change(handler: Handler) -> None:
        server.body, server.etag = OTHER, '"two"'
        serve(handler)

    server.faults = [cut_at(150_000), change]
    get(server, to, sha256=sha256(OTHER))
    assert to.read_bytes() == OTHER


def test_a_file_that_became_shorter_is_fetched_anew(server: Server, to: Path) -> None:
    """416 Range Not Satisfiable is no end."""

    def shrink(handler: Handler) -> None:
        server.body = BODY[:1000]
        serve(handler)

    server.faults = [cut_at(150_000), shrink]
    get(server, to, sha256=sha256(BODY[:1000]))
    assert to.read_bytes() == BODY[:1000]


def test_a_part_of_another_address_is_not_resumed(server: Server, to: Path) -> None:
    """Even if only the query differs."""
    server.faults = [cut_at(150_000), answer(404)]
    with pytest.raises(CellmillError):
        fetch(server.address + "?version=1", to, sha256=None, mirror=None, patience=HURRY)
    fetch(server.address + "?version=2", to, sha256=None, mirror=None, patience=HURRY)
    assert server.asked_from[0] is server.asked_from[2] is None


def test_a_short_body_without_a_length_is_noticed_by_its_size(server: Server, to: Path) -> None:
    """A server that does not say the length cannot pass off a cut file as whole where the ledger knows the size."""
    server.lengths = False
    server.faults = [cut_at(150_000)]
    get(server, to, size=len(BODY))
    assert to.read_bytes() == BODY
    assert len(server.seen) == 2


def test_a_killed_download_goes_on_in_the_next_call(server: Server, to: Path) -> None:
    """SIGKILL in mid-file; the next call asks for the rest."""
    server.faults = [stall_at(200_000)]
    code = (
        "import sys; from pathlib import Path; from cellmill.sources.fetch import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], mirror=None)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cellmill.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", code, server.address, str(to), sha256(BODY)], env=environment)
    part = to.with_name(".cells.h5ad.part")
    try:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 131_072):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        server.release.set()
    assert not to.exists()
    get(server, to)
    assert to.read_bytes() == BODY
    assert begun(server, -1) >= 131_072


def test_a_download_that_was_killed_before_its_last_step_needs_no_request(server: Server, to: Path) -> None:
    """All bytes are here: only the checksum and the name are missing."""
    server.faults = [cut_at(150_000), answer(404)]
    with pytest.raises(CellmillError):
        get(server, to)
    to.with_name(".cells.h5ad.part").write_bytes(BODY)
    get(server, to)
    assert to.read_bytes() == BODY
    assert len(server.seen) == 2


def test_two_processes_do_not_write_one_part(server: Server, to: Path) -> None:
    """The second one is told so."""
    to.parent.mkdir()
    with module._Part(to, server.address), pytest.raises(CellmillError, match="another process is downloading"):
        get(server, to)


# Servers that fail


def test_retry_after_is_honoured(server: Server, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a number of seconds: that is how long we wait."""
    waits: list[float] = []
    monkeypatch.setattr(module.Traffic, "sleep", lambda _, seconds: waits.append(seconds))
    server.faults = [answer(429, Retry_After="7")]
    get(server, to)
    assert waits == [7.0]


def test_a_busy_server_is_asked_again(server: Server, to: Path) -> None:
    """503 twice, then the file."""
    server.faults = [answer(503), answer(503)]
    get(server, to)
    assert len(server.seen) == 3


def test_a_wait_beyond_all_patience_ends_at_once(server: Server, to: Path) -> None:
    """Nobody sleeps for a day because a server says so."""
    server.always = answer(503, Retry_After="86400")
    with pytest.raises(
        CellmillError, match=r"gave up after 1 try; the last one: HTTP 503 \(it asks to wait 86,400 s\)"
    ):
        get(server, to)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_ends_at_once(server: Server, to: Path, code: int) -> None:
    """Asking again would not help."""
    server.always = answer(code)
    with pytest.raises(CellmillError, match=f"HTTP {code}"):
        get(server, to)
    assert len(server.seen) == 1
    assert parts(to) == []


def test_a_server_that_always_fails_gives_a_clear_error(server: Server, to: Path) -> None:
    """Nothing under the final name, nothing left behind, and what to do."""
    server.always = answer(500)
    with pytest.raises(CellmillError, match=r"gave up after 4 tries; the last one: HTTP 500\. Run again later.*mirror"):
        get(server, to)
    assert len(server.seen) == HURRY.tries
    assert list(to.parent.iterdir()) == []


def test_what_came_before_the_server_failed_is_kept(server: Server, to: Path) -> None:
    """The part file stays, the error says so, and the next call goes on with it."""
    server.faults = [cut_at(150_000)]
    server.always = answer(503)
    with pytest.raises(CellmillError, match=r"it goes on after the 1\d\d\.\d kB in .*\.cells\.h5ad\.part"):
        get(server, to)
    kept = to.with_name(".cells.h5ad.part").stat().st_size
    assert not to.exists()
    server.always = None
    get(server, to)
    assert to.read_bytes() == BODY
    assert begun(server, -1) == kept > 100_000


def test_nobody_there_gives_a_clear_error(to: Path) -> None:
    """A refused connection, in words."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/cells.h5ad"
        with pytest.raises(CellmillError, match="the last one: connection refused"):
            fetch(address, to, sha256=None, mirror=None, patience=HURRY)


def test_a_silent_server_is_left(server: Server, to: Path) -> None:
    """A connection that says nothing for too long counts as cut."""
    server.faults = [stall_at(150_000)]
    get(server, to, patience=Patience(first_wait_s=0.001, timeout_s=0.2))
    assert to.read_bytes() == BODY


# Wrong bytes, full disks


def test_a_wrong_checksum_is_refused(server: Server, to: Path) -> None:
    """Found and expected are told, and nothing is left."""
    with pytest.raises(CellmillError, match=f"{sha256(BODY)}, expected {sha256(OTHER)}"):
        get(server, to, sha256=sha256(OTHER))
    assert list(to.parent.iterdir()) == []


def test_a_wrong_size_is_refused_before_the_download(server: Server, to: Path) -> None:
    """The server's own word is enough."""
    with pytest.raises(CellmillError, match="has 300,000 bytes, expected 7"):
        get(server, to, size=7)
    assert list(to.parent.iterdir()) == []


def test_a_wrong_download_leaves_the_old_file_alone(server: Server, to: Path) -> None:
    """What stood under the name stays."""
    to.parent.mkdir()
    to.write_bytes(b"old")
    with pytest.raises(CellmillError):
        get(server, to, sha256=sha256(OTHER))
    assert to.read_bytes() == b"old"


def test_a_file_that_does_not_fit_is_not_begun(server: Server, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length is known before the body."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CellmillError, match=r"300\.0 kB are still to come, 1\.0 kB are free"):
        get(server, to)
    assert parts(to) == []


def test_a_disk_that_fills_up_is_told(server: Server, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC becomes a sentence; what was written is kept."""
    write = module._Part.write

    def fill(part: module._Part, block: bytes) -> None:
        if part.size:
            stream = part.stream
            part.stream = SimpleNamespace(write=full)  # type: ignore[assignment]
            try:
                write(part, block)
            finally:
                part.stream = stream
        write(part, block)

    def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module._Part, "write", fill)
    with pytest.raises(CellmillError, match=r"the disk is full: .* the download goes on where it was"):
        get(server, to)
    assert parts(to) == [".cells.h5ad.part", ".cells.h5ad.part.json"]


# The mirror


def make_mirror(folder: Path, files: dict[str, bytes], **listed: str) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sums = {name: sha256(content) for name, content in files.items()} | listed
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return folder


def test_the_mirror_is_asked_first(server: Server, to: Path, tmp_path: Path) -> None:
    """Found by checksum, whatever its name there; the server sees no request."""
    mirror = make_mirror(tmp_path / "mirror", {"sub/any-name": BODY, "cells.h5ad": OTHER})
    assert get(server, to, mirror=mirror).origin == "mirror"
    assert to.read_bytes() == BODY
    assert server.seen == []


def test_what_the_mirror_lacks_comes_from_the_network(server: Server, to: Path, tmp_path: Path) -> None:
    """A file of the same name and another checksum does not count."""
    mirror = make_mirror(tmp_path / "mirror", {"cells.h5ad": OTHER})
    assert get(server, to, mirror=mirror).origin == "network"
    assert to.read_bytes() == BODY


def test_a_wrong_file_in_the_mirror_is_refused(server: Server, to: Path, tmp_path: Path) -> None:
    """Its list is not believed; nothing is left."""
    mirror = make_mirror(tmp_path / "mirror", {"x": OTHER}, x=sha256(BODY))
    with pytest.raises(CellmillError, match=f"has the sha256 {sha256(OTHER)}, its SHA256SUMS says {sha256(BODY)}"):
        get(server, to, mirror=mirror)
    assert list(to.parent.iterdir()) == []


def test_without_a_checksum_the_mirror_is_asked_by_name(server: Server, to: Path, tmp_path: Path) -> None:
    """The last component of the address; the checksum found is recorded."""
    mirror = make_mirror(tmp_path / "mirror", {"sub/cells.h5ad": BODY})
    fetched = fetch(server.address + "?download=1", to, sha256=None, mirror=mirror)
    assert (fetched.origin, fetched.sha256) == ("mirror", sha256(BODY))
    assert to.with_name("cells.h5ad.sha256").read_text().endswith(f"\n{sha256(BODY)}  cells.h5ad\n")


def test_two_files_of_one_name_in_the_mirror_are_refused(server: Server, to: Path, tmp_path: Path) -> None:
    """Nothing is guessed."""
    mirror = make_mirror(tmp_path / "mirror", {"a/cells.h5ad": BODY, "b/cells.h5ad": OTHER})
    with pytest.raises(CellmillError, match=r"2 files are called 'cells\.h5ad' \(a/cells\.h5ad, b/cells\.h5ad\)"):
        get(server, to, sha256=None, mirror=mirror)


def test_a_mirror_cannot_name_files_outside_it(server: Server, to: Path, tmp_path: Path) -> None:
    """Its list may come from anywhere."""
    (tmp_path / "secret").write_bytes(BODY)
    mirror = make_mirror(tmp_path / "mirror", {"x": b""}, **{"../secret": sha256(BODY)})
    with pytest.raises(CellmillError, match="points outside this folder"):
        get(server, to, mirror=mirror)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "not readable"), ("abc  x\n", "line 1: not '<sha256>"), (f"{'0' * 64} x", "line 1")]
)
def test_a_mirror_without_a_proper_list_is_refused(
    server: Server, to: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    """A misspelt folder must not look like an empty mirror."""
    if text is not None:
        (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(CellmillError, match=message):
        get(server, to, mirror=tmp_path)


def test_a_listed_file_that_is_missing_is_told(server: Server, to: Path, tmp_path: Path) -> None:
    """A half-copied mirror must not send a machine without internet to the network."""
    mirror = make_mirror(tmp_path, {}, x=sha256(BODY))
    with pytest.raises(CellmillError, match="lists 'x', which is not there"):
        get(server, to, mirror=mirror)


# Unknown checksums


def test_an_unknown_checksum_is_recorded_and_then_enforced(server: Server, to: Path) -> None:
    """The first retrieval is believed; another content later is refused, until the record is deleted."""
    get(server, to, sha256=None)
    record = to.with_name("cells.h5ad.sha256")
    assert record.read_text() == f"# {server.address}\n{sha256(BODY)}  cells.h5ad\n"
    server.body, server.etag = OTHER, '"two"'
    with pytest.raises(CellmillError, match=rf"the file has changed: its sha256 is {sha256(OTHER)}.*delete .*\.sha256"):
        get(server, to, sha256=None)
    assert to.read_bytes() == BODY
    assert parts(to) == []
    record.unlink()
    get(server, to, sha256=None)
    assert to.read_bytes() == OTHER


def test_a_record_says_nothing_of_another_address(server: Server, to: Path) -> None:
    """Who corrects the address need not delete the record."""
    get(server, to, sha256=None)
    server.body = OTHER
    fetch(server.address + ".new", to, sha256=None, mirror=None)
    assert to.read_bytes() == OTHER
    assert sha256(OTHER) in to.with_name("cells.h5ad.sha256").read_text()


# Secrets


def test_secrets_of_an_address_are_never_shown(
    server: Server, to: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither user nor query stand in errors, logs and files, whatever goes wrong."""
    monkeypatch.setattr(module.log, "propagate", True)
    caplog.set_level("INFO")
    address = server.address.replace("http://", "http://me:SECRET@") + "?token=SECRET"
    dead = "http://me:SECRET@127.0.0.1:1/cells.h5ad?token=SECRET"
    texts = []
    server.faults = [answer(503), cut_at(150_000), answer(404), answer(302, Location="http://[?token=SECRET")]
    for asked in (address, address, dead, "http://me:SECRET@[/?token=SECRET"):
        with pytest.raises(CellmillError) as caught:
            fetch(asked, to, sha256=sha256(BODY), mirror=None, patience=HURRY)
        texts.append(str(caught.value))
    texts += [caplog.text, *(path.read_text("latin-1") for path in to.parent.glob(".*.json"))]
    assert "next try" in caplog.text
    assert "SECRET" not in "\n".join(texts)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a.org/b.h5ad", "https://a.org/b.h5ad"),
        ("https://u:p@a.org:8080/b.h5ad?sig=1#x", "https://a.org:8080/b.h5ad?…"),
        ("http://[::1]:80/b", "http://[::1]:80/b"),
        ("http://[", "(an address that cannot be read)"),
    ],
)
def test_an_address_is_shown_without_user_and_query(address: str, shown: str) -> None:
    """Scheme, host, port and path are enough to find it again."""
    assert redacted(address) == shown


def test_the_state_of_a_part_is_json(server: Server, to: Path) -> None:
    """Address and validators, for whoever looks at what an interrupted run left."""
    server.faults = [cut_at(150_000), answer(404)]
    with pytest.raises(CellmillError):
        get(server, to)
    state = json.loads(to.with_name(".cells.h5ad.part.json").read_text())
    assert (state["address"], state["etag"], state["total"]) == (server.address, '"one"', 300_000)
