"""A WebDAV server that can be Nextcloud, and Zenodo's deposition API, on this machine and in memory.

They keep what arrives, refuse what the real ones refuse, and fail where a test asks them to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import local_server

USER, PASSWORD = "ada", "aVerySecretAppPassword"
TOKEN = "aVerySecretZenodoToken"


class Handler(local_server.Handler):
    server: Any

    def read_body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.bytes_received += len(body)
        return body

    def serve(self) -> None:
        self.place = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {self.place}")
        fault = next((f for f in self.server.faults if f.hits(self)), None)
        if fault is not None:
            self.server.faults.remove(fault)
            fault.act(self)
            return
        self.body = self.read_body()
        self.server.serve(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_MKCOL = do_MOVE = do_PROPFIND = serve


class Fault:
    """Something that goes wrong once, with a method and a part of the path."""

    def __init__(self, method: str, place: str, act: Callable[[Handler], None]) -> None:
        self._method, self._place, self.act = method, place, act

    def hits(self, handler: Handler) -> bool:
        return handler.command == self._method and self._place in handler.place


def answers(code: int, **headers: str) -> Callable[[Handler], None]:
    """An answer with a status, after the body was read."""

    def act(handler: Handler) -> None:
        handler.read_body()
        handler.answer(code, **headers)

    return act


def cuts(handler: Handler) -> None:
    """The connection is cut after a few bytes of the body."""
    handler.rfile.read(min(1_000, int(handler.headers.get("Content-Length") or 0)))
    handler.connection.close()
    handler.close_connection = True


def damages(handler: Handler) -> None:
    """One byte arrives as another."""
    body = bytearray(handler.read_body())
    body[len(body) // 2] ^= 1
    handler.body = bytes(body)
    handler.server.serve(handler)


def repeats(handler: Handler) -> None:
    """A refusal that says who asked."""
    handler.read_body()
    handler.answer(400, f"you are {handler.headers.get('Authorization')}".encode())


class Store(local_server.LocalServer):
    """What was asked of it, and the faults of the next requests."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self.bytes_received = 0

    def puts(self, place: str = "") -> list[str]:
        """Paths of the files that were sent."""
        return [a.removeprefix("PUT ") for a in self.asked if a.startswith("PUT ") and place in a]


class WebDav(Store):
    """Files and folders; below ``/remote.php/dav`` also uploads in chunks, by the rules of Nextcloud's version 2."""

    def __init__(self, *, hashes: bool = False, open_to_read: bool = False) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.folders = {"/", "/data", "/remote.php/dav/files/ada", "/remote.php/dav/uploads/ada"}
        self.hashes, self.open_to_read = hashes, open_to_read

    def serve(self, handler: Handler) -> None:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        reads = handler.command in ("GET", "HEAD") and self.open_to_read
        if not reads and handler.headers.get("Authorization") != f"Basic {login}":
            return handler.answer(401, f"no: {handler.headers.get('Authorization')}".encode())
        place = handler.place.rstrip("/") or "/"
        parent = place.rsplit("/", 1)[0] or "/"
        uploads = "/uploads/" in place
        if uploads and handler.command in ("PUT", "MKCOL", "MOVE") and not handler.headers.get("Destination"):
            return handler.answer(400)
        getattr(self, handler.command.lower())(handler, place, parent)

    def head(self, handler: Handler, place: str, parent: str) -> None:
        handler.answer(200, self.files[place]) if place in self.files else handler.answer(404)

    get = head

    def put(self, handler: Handler, place: str, parent: str) -> None:
        if parent not in self.folders:
            return handler.answer(409)
        assert not place.endswith((".part", ".filepart")), "Nextcloud takes no such names"
        self.files[place] = handler.body
        said = {}
        if self.hashes and handler.headers.get("X-Hash") == "sha256":
            said["X_Hash_SHA256"] = hashlib.sha256(handler.body).hexdigest()
        handler.answer(201, **said)

    def delete(self, handler: Handler, place: str, parent: str) -> None:
        handler.answer(204 if self.files.pop(place, None) is not None else 404)

    def mkcol(self, handler: Handler, place: str, parent: str) -> None:
        if place in self.folders:
            return handler.answer(405)
        if parent not in self.folders:
            return handler.answer(409)
        self.folders.add(place)
        handler.answer(201)

    def move(self, handler: Handler, place: str, parent: str) -> None:
        to = unquote(urlsplit(handler.headers["Destination"]).path)
        if place.endswith("/.file"):
            chunks = sorted(p for p in self.files if p.startswith(f"{parent}/"))
            whole = b"".join(self.files.pop(p) for p in chunks)
            if str(len(whole)) != handler.headers["OC-Total-Length"]:
                return handler.answer(400)
            self.folders.remove(parent)
            self.files[to] = whole
            return handler.answer(201)
        self.files[to] = self.files.pop(place)
        handler.answer(201)

    def propfind(self, handler: Handler, place: str, parent: str) -> None:
        assert handler.headers["Depth"] == "1"
        entry = (
            "<d:response><d:href>{}</d:href><d:propstat><d:prop>{}</d:prop>"
            "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        )
        inside = [p for p in sorted(self.files) if p.rsplit("/", 1)[0] == place]
        length = "<d:getcontentlength>{}</d:getcontentlength>"
        entries = [entry.format(f"{place}/", "")]
        entries += [entry.format(p, length.format(len(self.files[p]))) for p in inside]
        body = f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{"".join(entries)}</d:multistatus>'
        handler.answer(207, body.encode(), Content_Type="application/xml")


class Zenodo(Store):
    """Depositions of one account."""

    def __init__(self) -> None:
        super().__init__()
        self.depositions: dict[int, dict[str, Any]] = {}
        self.files: dict[int, dict[str, bytes]] = {}

    def add(self, metadata: dict[str, Any], *, submitted: bool = False) -> dict[str, Any]:
        number = 1000 + len(self.depositions)
        links = {"bucket": f"{self.address}/api/files/bucket-{number}"}
        self.depositions[number] = {"id": number, "links": links, "metadata": metadata, "submitted": submitted}
        self.files[number] = {}
        return self.depositions[number]

    def serve(self, handler: Handler) -> None:
        def said(code: int, value: Any) -> None:
            handler.answer(code, json.dumps(value).encode(), Content_Type="application/json")

        bucket = re.fullmatch(r"/api/files/bucket-(\d+)/(.+)", handler.place)
        one = re.fullmatch(r"/api/deposit/depositions(?:/(\d+)(?:/(files|actions/publish))?)?", handler.place)
        number = int((bucket or one or [0, 0])[1] or 0)
        if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            return said(401, {"message": f"refused: {handler.headers.get('Authorization')}"})
        if number and number not in self.depositions:
            return said(404, {"message": "PID does not exist."})
        if bucket:
            assert handler.command == "PUT"
            if self.depositions[number]["submitted"]:
                return said(403, {"message": "published"})
            self.files[number][bucket[2]] = handler.body
            md5 = hashlib.md5(handler.body, usedforsecurity=False).hexdigest()
            return said(201, {"key": bucket[2], "size": len(handler.body), "checksum": f"md5:{md5}"})
        assert one is not None, handler.place
        if one[2] == "files":
            entries = [
                {"filename": name, "checksum": hashlib.md5(content, usedforsecurity=False).hexdigest()}
                for name, content in self.files[number].items()
            ]
            return said(200, entries)
        if one[2]:
            self.depositions[number] |= {"submitted": True, "doi": f"10.5281/zenodo.{number}"}
            return said(202, self.depositions[number])
        if number:
            return said(200, self.depositions[number])
        if handler.command == "POST":
            return said(201, self.add(json.loads(handler.body)["metadata"]))
        asked = parse_qs(urlsplit(handler.path).query)
        size, page = int(asked["size"][0]), int(asked["page"][0])
        said(200, list(self.depositions.values())[(page - 1) * size : page * size])
