"""A stand-in for Google Cloud Storage on this machine: the JSON API that gcsfs and the download use, with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import google_crc32c
import pytest

from . import local_server

Fault = Callable[["Handler", bytes], None]


def crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


class Handler(local_server.Handler):
    server: Store

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        steps = url.path.strip("/").split("/")
        self.server.seen.append((self.path, self.headers.get("Range")))
        if steps[0] == "s3" and asked.get("list-type") == "2":
            return self.folder(steps[1], asked)
        if steps[0] in ("s3", "web"):
            return self.media(unquote(url.path).removeprefix("/s3").strip("/"))
        if self.server.project and asked.get("userProject") != self.server.project:
            return self.problem(400, "Bucket is a requester pays bucket but no user project provided.")
        if steps[:3] == ["download", "storage", "v1"]:
            return self.media(f"{steps[4]}/{unquote(steps[6])}")
        if steps[:2] == ["storage", "v1"] and len(steps) == 5:
            return self.listing(steps[3], asked)
        if steps[:2] == ["storage", "v1"] and f"{steps[3]}/{unquote(steps[5])}" in self.server.objects:
            return self.json(self.server.described(f"{steps[3]}/{unquote(steps[5])}"))
        return self.problem(404, "Not Found")

    def listing(self, bucket: str, asked: dict[str, str]) -> None:
        base, prefix = f"{bucket}/", asked.get("prefix", "")
        names = sorted(n for n in self.server.objects if n.startswith(base + prefix))
        items, prefixes = [], []
        for name in names:
            rest, cut = name.removeprefix(base + prefix), asked.get("delimiter")
            if cut and cut in rest:
                prefixes.append(prefix + rest.split(cut)[0] + cut)
            else:
                items.append(self.server.described(name))
        start = int(asked.get("pageToken", 0))
        page = {"kind": "storage#objects", "items": items[start : start + self.server.page]}
        if not start and prefixes:
            page["prefixes"] = list(dict.fromkeys(prefixes))
        if start + self.server.page < len(items):
            page["nextPageToken"] = str(start + self.server.page)
        self.json(page)

    def folder(self, bucket: str, asked: dict[str, str]) -> None:
        """A page of ListObjectsV2, as Amazon's store gives it."""
        with self.server.lock:
            fault = (self.server.faults[f"list {bucket}"] or [None]).pop(0)
        if fault is not None:
            return fault(self, b"")
        names = sorted(n for n in self.server.objects if n.startswith(f"{bucket}/{asked['prefix']}"))
        start = int(asked.get("continuation-token", "0 pages").split()[0])
        end = start + self.server.page
        entries = ""
        for name in names[start:end]:
            content = self.server.published.get(name, self.server.objects[name])
            etag = hashlib.md5(content).hexdigest() + self.server.etag_ending
            entries += f"<Contents><Key>{escape(name.removeprefix(f'{bucket}/'))}</Key><Size>{len(content)}</Size>"
            entries += f'<LastModified>2026-01-12T00:00:00.000Z</LastModified><ETag>"{etag}"</ETag></Contents>'
        more = f"<NextContinuationToken>{end} more+/=</NextContinuationToken>" if end < len(names) else ""
        more += f"<Name>{bucket}</Name><IsTruncated>{str(end < len(names)).lower()}</IsTruncated>"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<ListBucketResult xmlns="{space}">{entries}{more}</ListBucketResult>'
        self.answer(200, body.encode(), Content_Type="application/xml")

    def media(self, name: str) -> None:
        if name not in self.server.objects:
            return self.problem(404, f"No such object: {name}")
        with self.server.lock:
            faults = self.server.faults[name]
            fault = faults.pop(0) if faults else None
        content = self.server.objects[name]
        return (fault or send)(self, content)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def problem(self, code: int, message: str) -> None:
        error = {"error": {"code": code, "message": message}}
        self.answer(code, json.dumps(error).encode(), Content_Type="application/json")


def send(handler: Handler, content: bytes, *, upto: int | None = None, said: bytes | None = None) -> None:
    """The object from where it is asked; ``said`` is the content that the headers speak of."""
    asked = handler.headers["Range"]
    first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(content)) + 1, len(content))
    if start >= len(content):
        return handler.answer(416)
    body, sums = content[start:end], said or content
    headers = {"ETag": f'"{hashlib.md5(sums).hexdigest()}"', "x_goog_hash": f"crc32c={crc32c(sums)}"}
    headers["Content_Length"] = str(len(body))
    if asked:
        headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    if upto is not None:
        headers["Connection"] = "close"
        handler.close_connection = True
        body = body[: max(0, upto - start)]
    handler.answer(206 if asked else 200, body, **headers)


def cut_at(position: int) -> Fault:
    """The connection ends in the middle of the file."""
    return lambda handler, content: send(handler, content, upto=position)


def refuse(code: int, **headers: str) -> Fault:
    """An error, with headers such as ``Retry_After``."""
    return lambda handler, _: handler.answer(code, **headers)


def damage(handler: Handler, content: bytes) -> None:
    """Another byte than the checksum speaks of."""
    send(handler, content[:-1] + bytes([content[-1] ^ 1]), said=content)


def slow(seconds: float) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        time.sleep(seconds)
        send(handler, content)

    return fault


class Store(local_server.LocalServer):
    """Buckets and their objects by ``bucket/name``."""

    def __init__(self, handler: type[Handler] = Handler) -> None:
        super().__init__(handler)
        self.objects: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.published: dict[str, bytes] = {}
        """Content that the listing speaks of, where it is another than what is sent."""
        self.seen: list[tuple[str, str | None]] = []
        self.lock, self.page, self.project = threading.Lock(), 7, None
        self.etag_ending = ""
        """Of files that were sent to Amazon's store in pieces, as in `-2`; their ETag is then no md5."""

    def described(self, name: str) -> dict[str, str]:
        content = self.published.get(name, self.objects[name])
        bucket, _, key = name.partition("/")
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "size": str(len(content)),
            "crc32c": crc32c(content),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "etag": hashlib.md5(content).hexdigest(),
            "generation": "1",
            "updated": "2026-01-12T00:00:00.000Z",
            "timeCreated": "2026-01-12T00:00:00.000Z",
        }

    def fetched(self, ending: str) -> list[str | None]:
        """From where files of this ending were asked for."""
        return [
            at for path, at in self.seen if "/download/" in path and unquote(path.partition("?")[0]).endswith(ending)
        ]


def mirrored(objects: dict[str, bytes], folder: Path) -> Path:
    """A mirror with these files."""
    sums = ""
    for name, content in objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sums += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A running store, which ``gs://`` and ``s3://`` lead to."""
    from cellmill.sources.stores import _google

    with Store() as made:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", made.address)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{made.address}/s3")
        _google.cache_clear()
        yield made
        _google.cache_clear()
