"""Outside files onto this disk: from a mirror, over http(s) or from a store, whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.files import format_bytes, inside, is_disk_full, read_json, replacing, sha256_of, write_json
from cellmill.patience import PATIENCE, AgainError, Patience, Waits, is_passing, reason_of, retry_after
from cellmill.progress import Counter, progress
from cellmill.sources.checksums import differing, published
from cellmill.sources.stores import door, refusal

log = logging.getLogger("cellmill")

SUMS_FILE = "SHA256SUMS"
BLOCK_BYTES = 1 << 16
"""What a cut connection can lose of what was already received."""
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@dataclass(frozen=True)
class FetchedFrom:
    """What was fetched: address as given, checksum and size found, and where the bytes came from.

    ``present``: a file with the wanted checksum was there already.
    """

    address: str
    sha256: str
    bytes: int
    origin: Literal["mirror", "network", "present"]


class StoppedError(Exception):
    """Another download of the same job failed."""


class Traffic:
    """What the downloads of one job share: a bound on their rate, a count of their bytes, and when to stop.

    Args:
        bytes_per_s: what all of them together may take; None: no bound.
        counter: is told of every byte that is new on this disk; None: each file shows a progress of its own.
    """

    def __init__(self, bytes_per_s: float | None = None, counter: Counter | None = None) -> None:
        self.counter, self.stopped = counter, threading.Event()
        self._rate, self._free_at, self._lock = bytes_per_s, 0.0, threading.Lock()

    def passed(self, n: int) -> None:
        """Say that n bytes arrived; waits until more may come.

        Raises:
            StoppedError: the job is to end.
        """
        if self._rate is not None:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic()) + n / self._rate
                wait = self._free_at - time.monotonic()
            self.sleep(max(0.0, wait))
        if self.stopped.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait, or raise ``StoppedError`` as soon as the job is to end."""
        if self.stopped.wait(seconds):
            raise StoppedError

    @contextlib.contextmanager
    def showing(self, total: int | None, name: str) -> Iterator[Counter]:
        """The counter that they share, or one of this file."""
        if self.counter is not None:
            yield self.counter
            return
        with progress(total, "B", name) as own:
            yield own


def fetch(
    address: str,
    to: Path,
    *,
    sha256: str | None,
    mirror: Path | None,
    size: int | None = None,
    checksum: str | None = None,
    record: Path | None = None,
    patience: Patience = PATIENCE,
    traffic: Traffic | None = None,
    project: str | None = None,
) -> FetchedFrom:
    """Bring ``address`` to the file ``to``: mirror first, then network; verified, then renamed.

    An interrupted download stays beside ``to`` as ``.<name>.part`` and is gone on with by the next call.
    Where no checksum is known, the first one found is written to ``record`` (``<to>.sha256``) and must be met later.
    What the server publishes of the file as it sends it (``checksums.published``) must be met in any case.

    Args:
        address: http(s) address, or one of a store (``stores.door``); its query and user never appear in logs and
            errors.
        to: the file to make.
        sha256: the checksum that is expected, ``None`` where unknown.
        mirror: a folder with a ``SHA256SUMS`` that is asked before the network.
        size: bytes that are expected, ``None`` where unknown.
        checksum: another checksum that is expected, with its kind (``checksums``), ``None`` where unknown.
        record: where to keep a checksum that was not known before; ``None``: beside ``to``.
        patience: how long to go on with a server that fails.
        traffic: what it shares with other downloads.
        project: the Google Cloud project that is billed, for buckets whose requester pays.

    Raises:
        CellmillError: no such file, another checksum or size than expected, a full disk,
            or a server that failed for too long. Nothing then stands under the name ``to`` that did not before.
    """
    to = Path(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    expected = [checksum] if checksum else []
    memory = None if sha256 or checksum else _Record(record or to.with_name(to.name + ".sha256"), redacted(address))
    if (sha256 or checksum) and to.is_file() and not differing(to, expected):
        found = sha256_of(to)
        if sha256 in (None, found):
            return FetchedFrom(address, found, to.stat().st_size, "present")
    traffic, part = traffic or Traffic(), _Part(to, address)
    copy = _find_in_mirror(mirror, address, sha256, memory, by_name=not checksum)
    if copy is not None:
        path, listed = copy
        found = _copy(path, listed, to, memory, expected, traffic)
        part.remove()
        log.info("%s: copied from the mirror (%s)", redacted(address), path)
        return FetchedFrom(address, found, to.stat().st_size, "mirror")
    with part:
        request = _Request(address, size, bool(sha256 or checksum), patience.timeout_s, traffic, project)
        _download(request, part, patience)
        found = sha256_of(part.path)
        wrong = differing(part.path, expected + [c for c in part.known.get("published", ()) if c != checksum])
        if wrong is not None:
            part.remove()
            raise CellmillError(
                redacted(address),
                f"what was downloaded has the checksum {wrong[1]}, expected {wrong[0]}; it was removed.",
                "Run again, in case it was damaged on its way. If it stays so, the file was replaced at its source"
                + ("." if checksum is None else " since the plan was made: delete plan.tsv, and it is planned anew."),
            )
        if sha256 and found != sha256:
            part.remove()
            raise CellmillError(
                redacted(address),
                f"what was downloaded has the sha256 {found}, expected {sha256}; it was removed.",
                "Run again, in case it was damaged on its way. If it stays so, the file was replaced at its source: "
                "find out why, and put the new checksum into the ledger or the config once you trust it.",
            )
        if memory is not None:
            memory.check(found, part.remove)
            memory.write(found, to.name)
        os.replace(part.path, to)
        part.remove()
    bytes_found = to.stat().st_size
    log.info("%s: downloaded (%s)", redacted(address), format_bytes(bytes_found))
    return FetchedFrom(address, found, bytes_found, "network")


def redacted(address: str) -> str:
    """The address without user, password, query and fragment: fit for logs and errors."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(an address that cannot be read)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}" + ("?…" if parts.query else "")


def file_name(address: str) -> str:
    """The last component of the address's path.

    Raises:
        CellmillError: there is none that can be the name of a file.
    """
    name = unquote(urlsplit(address).path).rsplit("/", 1)[-1]
    if name in ("", ".", "..") or "\0" in name:
        raise CellmillError(redacted(address), "this does not end in the name of a file.", "Give an address that does.")
    return name


def read_sums(path: Path) -> dict[str, str]:
    """A ``SHA256SUMS`` file as a map of relative path to checksum.

    Raises:
        CellmillError: not readable, or a line is not ``<sha256>  <relative path>``.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fix = "A mirror is a folder with files and their SHA256SUMS (make it with: sha256sum * > SHA256SUMS)."
        raise CellmillError(path, f"not readable ({reason_of(error)}).", fix) from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise CellmillError(f"{path}, line {number}", "not '<sha256>  <path>'.", "Write it again with sha256sum.")
        sums[match[2]] = match[1].lower()
    return sums


# The mirror


def in_mirror(mirror: Path | None, address: str, checksum: str | None = None) -> Path | None:
    """The mirror's copy of an address, not verified; None where it has none."""
    kind, _, value = (checksum or "").partition(":")
    copy = _find_in_mirror(mirror, address, value if kind == "sha256" else None, None, by_name=not checksum)
    return None if copy is None else copy[0]


def _find_in_mirror(
    mirror: Path | None, address: str, sha256: str | None, memory: _Record | None, *, by_name: bool
) -> tuple[Path, str] | None:
    """The mirror's copy and its listed checksum: by sha256; where that is unknown by the whole address, or by name."""
    if mirror is None:
        return None
    sums = read_sums(Path(mirror) / SUMS_FILE)
    wanted = sha256 or (memory.known if memory else None)
    found = [name for name, listed in sums.items() if listed == wanted]
    if not found and sha256 is None:
        whole = redacted(address).partition("://")[2].removesuffix("?…")
        found = [whole] if whole in sums else []
    if not found and sha256 is None and by_name:
        found = [name for name in sums if name.rsplit("/", 1)[-1] == file_name(address)]
        if len(found) > 1:
            raise CellmillError(
                Path(mirror) / SUMS_FILE,
                f"{len(found)} files are called '{file_name(address)}' ({', '.join(sorted(found)[:5])}), "
                f"and no checksum is known for {redacted(address)}.",
                "Give its sha256 in the dataset's config or in resources/ledger.tsv.",
            )
    if not found:
        log.info("%s: not in the mirror %s", redacted(address), mirror)
        return None
    path = inside(mirror, found[0])
    if not path.is_file():
        raise CellmillError(
            Path(mirror) / SUMS_FILE, f"lists '{found[0]}', which is not there.", "Copy it there, or take out its line."
        )
    return path, sums[found[0]]


def _copy(path: Path, listed: str, to: Path, memory: _Record | None, expected: list[str], traffic: Traffic) -> str:
    """Copy out of the mirror, verify what was copied, rename."""
    digest = hashlib.sha256()
    with replacing(to) as aside:
        with open(path, "rb") as source, open(aside, "wb") as stream:
            with traffic.showing(path.stat().st_size, to.name) as bar:
                while block := source.read(1 << 20):
                    digest.update(block)
                    stream.write(block)
                    bar.update(len(block))
            stream.flush()
            os.fsync(stream.fileno())
        found = digest.hexdigest()
        if found != listed:
            raise CellmillError(
                path,
                f"this file of the mirror has the sha256 {found}, its {SUMS_FILE} says {listed}.",
                "Copy it to the mirror again, or correct the list.",
            )
        wrong = differing(aside, expected)
        if wrong is not None:
            raise CellmillError(
                path,
                f"this file of the mirror has the checksum {wrong[1]}, expected {wrong[0]}.",
                "It is another file, or another version of it: copy the right one to the mirror.",
            )
        if memory is not None:
            memory.check(found)
            memory.write(found, to.name)
    return found


# The memory of a checksum nobody told us


class _Record:
    """``<file>.sha256``: what an address delivered the first time, in sha256sum's format."""

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        lines = path.read_text().splitlines() if path.exists() else []
        # A record of another address says nothing of this one.
        same = f"# {address}" in lines or not any(line.startswith("# ") for line in lines)
        sums = read_sums(path) if lines and same else {}
        self.known: str | None = next(iter(sums.values()), None)

    def check(self, found: str, on_failure: Callable[[], None] | None = None) -> None:
        """Raise where the checksum is another one than the first time."""
        if self.known is None or self.known == found:
            return
        if on_failure is not None:
            on_failure()
        raise CellmillError(
            self.address,
            f"the file has changed: its sha256 is {found}, when first retrieved it was {self.known} ({self.path}).",
            f"If you accept the new one, delete {self.path} and run again.",
        )

    def write(self, found: str, name: str) -> None:
        """Keep the checksum, if it is the first."""
        if self.known is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as aside:
                aside.write_text(f"# {self.address}\n{found}  {name}\n")


# The network


@dataclass
class _Part:
    """The unfinished file, and what the server said about the file it is a part of."""

    to: Path
    address: str
    known: dict[str, Any] = field(default_factory=dict)
    stream: BinaryIO | None = None
    counted: int = 0
    """Bytes that a shared counter was told of."""

    @property
    def path(self) -> Path:
        return self.to.with_name(f".{self.to.name}.part")

    @property
    def state_path(self) -> Path:
        return self.to.with_name(f".{self.to.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def _identity(self) -> dict[str, str]:
        # The query may be what tells two files apart, and may be a secret: kept as a checksum.
        return {
            "address": redacted(self.address),
            "address_sha256": hashlib.sha256(self.address.encode()).hexdigest(),
        }

    def __enter__(self) -> _Part:
        self.stream = open(self.path, "ab")
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stream.close()
            raise CellmillError(
                self.to, "another process is downloading this file.", "Wait until it is done, or end it."
            ) from None
        except OSError:  # a file system without locks
            pass
        state = {}
        if self.state_path.exists():
            with contextlib.suppress(CellmillError):
                state = read_json(self.state_path)
        if isinstance(state, dict) and self._identity.items() <= state.items():
            self.known = state
        else:
            self.known = {}
        return self

    def __exit__(self, *_: object) -> None:
        assert self.stream is not None
        with contextlib.suppress(OSError):  # a full disk, which was told already
            self.stream.close()
        if self.path.exists() and self.size == 0:
            self.remove()

    def write(self, block: bytes) -> None:
        """Append, or raise the error of a full disk."""
        assert self.stream is not None
        try:
            self.stream.write(block)
            self.stream.flush()
        except OSError as error:
            if is_disk_full(error):
                raise self.full() from error
            raise

    def full(self, *, needed: int | None = None) -> CellmillError:
        free = shutil.disk_usage(self.to.parent).free
        need = f"{format_bytes(needed)} are still to come, " if needed is not None else "the disk is full: "
        return CellmillError(
            self.to,
            f"{need}{format_bytes(free)} are free in {self.to.parent}.",
            "Free some space, or point --directory at a larger disk, and run again: the download goes on where it was.",
        )

    def restart(self, **known: Any) -> None:
        """Start the file from zero, as part of the file that ``known`` describes."""
        assert self.stream is not None
        self.stream.truncate(0)
        self.known = self._identity | known
        write_json(self.state_path, self.known)

    def resumable(self, *, verified_later: bool) -> int:
        """Bytes that can be kept: all, where the server can tell or a checksum will tell that they still hold."""
        total = self.known.get("total")
        if not self.known or (total is not None and self.size > total):
            return 0
        return self.size if self.validator or verified_later else 0

    @property
    def validator(self) -> str | None:
        """What to send as ``If-Range``: a strong ETag, else the time of the last change."""
        etag: str | None = self.known.get("etag")
        return etag if etag and not etag.startswith("W/") else self.known.get("last_modified")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Request:
    """What is asked for, and of whom."""

    address: str
    size: int | None
    verified_later: bool
    timeout_s: float
    traffic: Traffic
    project: str | None


def _download(request: _Request, part: _Part, patience: Patience) -> None:
    """Fill the part, over as many connections as it takes."""
    waits, furthest, address = Waits(patience), part.size, request.address
    with requests.Session() as session:
        while True:
            try:
                return _one_try(session, request, part)
            except AgainError as error:
                again = error
            wait = waits.after(again, progress=part.size > furthest)
            furthest = max(furthest, part.size)
            if wait is None:
                kept = f"it goes on after the {format_bytes(part.size)} in {part.path}. " if part.size else ""
                raise CellmillError(
                    redacted(address),
                    waits.given_up(again),
                    f"Run again later{': ' + kept if kept else '. '}Without internet, put the file into a folder "
                    f"with a {SUMS_FILE}, and name that folder as 'mirror' in config/config.yaml.",
                )
            log.warning("%s: %s; next try in %.1f s", redacted(address), again.reason, wait)
            request.traffic.sleep(wait)


def _one_try(session: requests.Session, request: _Request, part: _Part) -> None:
    """One request: append to the part until it is whole, or raise ``AgainError``."""
    address, size, traffic = request.address, request.size, request.traffic
    offset = part.resumable(verified_later=request.verified_later)
    if offset and offset == part.known.get("total"):
        return
    # identity: the bytes as they lie there, for which length, ranges and checksum hold
    headers = {"Accept-Encoding": "identity", "User-Agent": f"cellmill/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        asked = door(address, project=request.project)
        response = session.get(asked.address, headers=headers | asked.headers, stream=True, timeout=request.timeout_s)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise AgainError(reason_of(error)) from None
    except (requests.RequestException, ValueError) as error:  # its text may hold the query: only its kind is told
        raise CellmillError(
            redacted(address), f"cannot be asked for ({type(error).__name__}).", "Correct the address."
        ) from None
    with response:
        total = _begin(response, address, part, offset)
        if size is not None and total is not None and total != size:
            part.remove()
            raise CellmillError(
                redacted(address),
                f"the file there has {total:,} bytes, expected {size:,}.",
                "It was replaced at its source: find out why, and correct the ledger once you trust it.",
            )
        expected = total if total is not None else size
        if expected is not None and shutil.disk_usage(part.to.parent).free < expected - part.size:
            raise part.full(needed=expected - part.size)
        with traffic.showing(expected, part.to.name) as bar:
            bar.update(part.size - (part.counted if traffic.counter is not None else 0))
            part.counted = part.size
            for block in _blocks(response):
                part.write(block)
                bar.update(len(block))
                part.counted += len(block)
                traffic.passed(len(block))
    if expected is not None and part.size < expected:
        raise AgainError(f"the connection was cut after {part.size:,} of {expected:,} bytes")
    if expected is not None and part.size > expected:
        found = part.size
        part.remove()
        raise CellmillError(
            redacted(address), f"{found:,} bytes arrived, expected {expected:,}.", "Correct the ledger, or run again."
        )
    assert part.stream is not None
    os.fsync(part.stream.fileno())


def _begin(response: requests.Response, address: str, part: _Part, offset: int) -> int | None:
    """Judge the answer and place the part where its body goes on; the size of the whole file where it is said."""
    code = response.status_code
    if code == 416:  # the file is shorter than what is here
        part.restart()
        raise AgainError("the file on the server has changed")
    if is_passing(code):
        raise AgainError(f"HTTP {code}", retry_after(response.headers))
    said = {"etag": response.headers.get("ETag"), "last_modified": response.headers.get("Last-Modified")}
    if code == 206:
        start, total = content_range(response.headers)
        # Some servers heed Range and not If-Range: compare what they say of the file, too.
        now = said | {"total": total}
        changed = any(v is not None and v != part.known[k] for k, v in now.items() if part.known.get(k) is not None)
        if start != offset or changed:
            part.restart()
            raise AgainError("the file on the server has changed")
        log.info("%s: going on after %s", redacted(address), format_bytes(offset))
        return total
    if code != 200:
        found = f"the server answers HTTP {code} {response.reason or ''}".rstrip() + "."
        raise CellmillError(redacted(address), found, refusal(address, code))
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    answers = [*(before.headers for before in response.history), response.headers]
    amazon = address.startswith("s3://")
    sums = list(dict.fromkeys(c for headers in answers for c in published(headers, etag_is_md5=amazon)))
    part.restart(total=total, published=sums, **said)
    return total


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """The body; every way in which a connection breaks becomes ``AgainError``."""
    blocks = response.raw.stream(BLOCK_BYTES, decode_content=False)
    while True:
        try:
            block = next(blocks, None)
        except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
            raise AgainError(reason_of(error)) from None
        if block is None:
            return
        yield block


def content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """The first byte of a partial answer, and the size of the whole file; None where the server does not say."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])
