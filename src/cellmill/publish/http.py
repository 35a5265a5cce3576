"""Requests with a secret, which no log and no error ever shows."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import SEEK_CUR, SEEK_END, SEEK_SET
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import requests

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after
from cellmill.progress import progress
from cellmill.sources.fetch import redacted

log = logging.getLogger("cellmill")


@dataclass(frozen=True)
class LocalFile:
    """A file to publish, with its checksums."""

    name: str
    path: Path
    bytes: int
    sha256: str
    md5: str

    @classmethod
    def of(cls, path: Path) -> LocalFile:
        """Read once for both checksums."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = path.stat().st_size
        with open(path, "rb") as stream, progress(size, "B", f"checksums of {path.name}") as counter:
            while block := stream.read(1 << 20):
                sha256.update(block)
                md5.update(block)
                counter.update(len(block))
        return cls(path.name, path, size, sha256.hexdigest(), md5.hexdigest())


class Slice:
    """Bytes ``start`` to ``stop`` of a file as a request's body, sent in blocks."""

    def __init__(self, stream: BinaryIO, start: int, stop: int, counter: Any) -> None:
        self._stream, self._start, self._stop, self._counter = stream, start, stop, counter
        self._at = start

    def __len__(self) -> int:
        return self._stop - self._start

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: self._start, SEEK_CUR: self._at, SEEK_END: self._stop}[whence]
        self._at = base + offset
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        left = self._stop - self._at
        self._stream.seek(self._at)
        block = self._stream.read(min(left, 1 << 20) if size < 0 else min(left, size))
        self._at += len(block)
        self._counter.update(len(block))
        return block


class Login(requests.auth.AuthBase):
    """Sets the header that says who asks; an auth object, so that no ``.netrc`` takes its place."""

    def __init__(self, header: str, secrets: tuple[str, ...]) -> None:
        self._header, self.secrets = header, tuple(s for s in secrets if s)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header:
            request.headers["Authorization"] = self._header
        return request

    def __repr__(self) -> str:
        return "Login(…)"

    @classmethod
    def by_token(cls, token: str) -> Login:
        return cls(f"Bearer {token}", (token,))

    @classmethod
    def by_password(cls, user: str, password: str) -> Login:
        code = base64.b64encode(f"{user}:{password}".encode()).decode()
        return cls(f"Basic {code}", (password, code))


class Client:
    """A server that is asked again while it fails, for as long as ``patience`` says."""

    def __init__(self, login: Login, *, refused: str, patience: Patience = PATIENCE) -> None:
        self._login, self._refused, self._patience = login, refused, patience
        self._session = requests.Session()
        self._session.auth = login
        self._session.headers["User-Agent"] = f"cellmill/{__version__}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._session.close()

    def send(
        self,
        method: str,
        address: str,
        *,
        allowed: tuple[int, ...] = (),
        body: Callable[[], Any] | None = None,
        stream: bool = False,
        **given: Any,
    ) -> requests.Response:
        """The answer, of a status below 300 or among ``allowed``.

        Args:
            body: gives the body anew for every try.
            given: ``headers``, ``json``, ``params``.

        Raises:
            CellmillError: refused, or the server failed for too long.
        """

        def once() -> requests.Response:
            try:
                response = self._session.request(
                    method,
                    address,
                    data=body() if body is not None else None,
                    timeout=self._patience.timeout_s,
                    allow_redirects=False,
                    stream=stream,
                    **given,
                )
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                raise AgainError(reason_of(error)) from None
            except (requests.RequestException, ValueError) as error:  # its text may hold what must not be told
                kind = type(error).__name__
                raise CellmillError(redacted(address), f"cannot be asked for ({kind}).", "Correct it.") from None
            if response.status_code < 300 or response.status_code in allowed:
                return response
            with response:
                if is_passing(response.status_code):
                    raise AgainError(f"HTTP {response.status_code}", retry_after(response.headers))
                raise self._error(method, address, response)

        again = "Run the same again later: what has arrived is not sent a second time."
        return persist(once, where=f"{method} {redacted(address)}", patience=self._patience, fix=again)

    def _error(self, method: str, address: str, response: requests.Response) -> CellmillError:
        code = response.status_code
        where = f"{method} {redacted(address)}"
        if code == 401:
            return CellmillError(where, "the server does not accept this login (HTTP 401).", self._refused)
        if code == 403:
            return CellmillError(where, "this login may not do that (HTTP 403).", self._refused)
        if 300 <= code < 400:
            return CellmillError(where, f"the server sends on elsewhere (HTTP {code}).", "Give the final address.")
        if code in (413, 507):
            return CellmillError(where, f"no room on the server (HTTP {code}).", "Ask for a larger quota.")
        text = self.redact(" ".join(response.text.split()))[:200]
        return CellmillError(where, f"HTTP {code} {response.reason or ''}: {text}", "Correct it, and run again.")

    def redact(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._login.secrets:
            text = text.replace(secret, "…")
        return text

    def put(
        self,
        file: LocalFile,
        address: str,
        *,
        start: int = 0,
        stop: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send a file, or bytes ``start`` to ``stop`` of it."""
        stop = file.bytes if stop is None else stop
        with open(file.path, "rb") as stream, progress(stop - start, "B", file.name) as counter:
            empty = stop == start
            return self.send(
                "PUT",
                address,
                body=(lambda: b"") if empty else (lambda: Slice(stream, start, stop, counter)),
                headers={"Content-Type": "application/octet-stream", **(headers or {})},
            )

    def sha256_there(self, address: str) -> str:
        """The checksum of what the server has, read back whole."""

        def once() -> str:
            digest, got = hashlib.sha256(), 0
            with self.send("GET", address, stream=True, headers={"Accept-Encoding": "identity"}) as response:
                try:
                    for block in _blocks(response):
                        digest.update(block)
                        got += len(block)
                except requests.RequestException as error:
                    raise AgainError(reason_of(error)) from None
                said = response.headers.get("Content-Length")
                if said is not None and got < int(said):
                    raise AgainError(f"the connection was cut after {got:,} of {int(said):,} bytes")
            return digest.hexdigest()

        where = f"GET {redacted(address)}"
        return persist(once, where=where, patience=self._patience, fix="Run the same again later.")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    yield from response.iter_content(1 << 20)
