"""Processed parts to a folder of a WebDAV server; large files in chunks where it is Nextcloud."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from cellmill.contracts.published import PublishedPart
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, persist
from cellmill.publish.http import Client, LocalFile, Login
from cellmill.publish.plan import Plan, read_parts
from cellmill.sources.fetch import redacted

CHUNK_BYTES = 100_000_000
"""Nextcloud takes chunks of 5 MB to 5 GB, and up to 10,000 of them."""
MOST_CHUNKS = 10_000
_NEXTCLOUD = re.compile(r"(.*/remote\.php/dav)/files/([^/]+)/")
REFUSED = (
    "Set WEBDAV_USER and WEBDAV_PASSWORD (of Nextcloud: an app password, from its security settings), or WEBDAV_TOKEN."
)


def login() -> Login:
    """User and password, or a token, from the environment.

    Raises:
        CellmillError: there is neither.
    """
    user, password = os.environ.get("WEBDAV_USER"), os.environ.get("WEBDAV_PASSWORD")
    token = os.environ.get("WEBDAV_TOKEN")
    if token:
        return Login.by_token(token)
    if user and password:
        return Login.by_password(user, password)
    raise CellmillError("WebDAV", "no login is set.", REFUSED)


def publish(
    parts: list[Path],
    *,
    dataset: str,
    address: str,
    update: bool = False,
    dry_run: bool = False,
    patience: Patience = PATIENCE,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Plan, list[PublishedPart]]:
    """Bring every part to ``<address>/<dataset>/<part>.h5ad``: sent aside, verified by sha256, then renamed.

    A file that is there with the same content is not sent again, and an upload in chunks goes on where it was.

    Raises:
        CellmillError: a file is there with other content (``update`` replaces it), a wrong login,
            a server that fails, or what arrived is not what was sent.
    """
    if urlsplit(address).username or urlsplit(address).query:
        raise CellmillError(redacted(address), "the address holds a login or a query.", REFUSED)
    files = read_parts(parts)
    base = f"{address.rstrip('/')}/{quote(dataset)}"
    plan = Plan(redacted(base))
    with Client(login(), refused=REFUSED, patience=patience) as client:
        other = []
        for file in files:
            size = _size_there(client, f"{base}/{file.name}")
            if size == file.bytes and client.sha256_there(f"{base}/{file.name}") == file.sha256:
                plan.there[file.name] = file.bytes
                continue
            plan.send[file.name] = file.bytes
            if size is not None:
                other.append(file.name)
        if other and not update:
            raise CellmillError(
                redacted(base),
                f"{', '.join(other[:5])} {'is' if len(other) == 1 else 'are'} there with other content.",
                "Name another address, or replace what is there with --update.",
            )
        if not dry_run:
            if plan.send:
                _make_folder(client, base)
            for file in files:
                if file.name in plan.send:
                    _send(client, file, base, patience=patience, chunk_bytes=chunk_bytes)
    return plan, [PublishedPart(f.path.stem, f"{base}/{f.name}", f.bytes, f.sha256, f.md5) for f in files]


def _size_there(client: Client, address: str) -> int | None:
    with client.send("HEAD", address, allowed=(404, 409), headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code >= 400:
            return None
        return int(response.headers.get("Content-Length", -1))


def _make_folder(client: Client, address: str) -> None:
    """The folder, and those that it lies in; one that is there is taken as it is."""
    code = client.send("MKCOL", address, allowed=(301, 405, 409)).status_code
    parent = address.rsplit("/", 1)[0]
    if code == 409:
        if not urlsplit(parent).path.strip("/"):
            raise CellmillError(redacted(address), "the folder cannot be made (HTTP 409).", "Correct the address.")
        _make_folder(client, parent)
        client.send("MKCOL", address, allowed=(405,))


def _send(client: Client, file: LocalFile, base: str, *, patience: Patience, chunk_bytes: int) -> None:
    aside, final = f"{base}/{file.name}.uploading", f"{base}/{file.name}"
    nextcloud = _NEXTCLOUD.match(aside)

    def once() -> None:
        if nextcloud is not None and file.bytes > chunk_bytes:
            found = _send_chunks(client, file, aside, nextcloud, chunk_bytes)
        else:
            asked = {"OC-Checksum": f"SHA256:{file.sha256}", "X-Hash": "sha256"}
            found = client.put(file, aside, headers=asked).headers.get("X-Hash-SHA256", "").lower()
        found = found or client.sha256_there(aside)
        if found != file.sha256:
            client.send("DELETE", aside, allowed=(404,))
            raise AgainError(f"what arrived has the sha256 {found[:12]}…, expected {file.sha256[:12]}…")

    # Each try sends the file once more, and a single one has had the client's patience.
    few = Patience(3, patience.first_wait_s, patience.longest_wait_s, patience.total_wait_s, patience.timeout_s)
    persist(once, where=redacted(final), patience=few, fix="Ask whoever runs the server; nothing was left there.")
    client.send("MOVE", aside, headers={"Destination": final, "Overwrite": "T"})


def _send_chunks(client: Client, file: LocalFile, aside: str, nextcloud: re.Match[str], chunk_bytes: int) -> str:
    """Send what is not there yet, and have the server join it; its checksum is not told."""
    folder = f"{nextcloud[1]}/uploads/{nextcloud[2]}/cellmill-{file.sha256[:32]}"
    about = {"Destination": aside, "OC-Total-Length": str(file.bytes)}
    size = max(chunk_bytes, -(-file.bytes // MOST_CHUNKS))
    client.send("MKCOL", folder, allowed=(405,), headers=about)
    there = _chunks_there(client, folder)
    for number, start in enumerate(range(0, file.bytes, size), start=1):
        stop = min(start + size, file.bytes)
        if there.get(f"{number:05d}") != stop - start:
            client.put(file, f"{folder}/{number:05d}", start=start, stop=stop, headers=about)
    client.send("MOVE", f"{folder}/.file", headers={**about, "Overwrite": "T"})
    return ""


def _chunks_there(client: Client, folder: str) -> dict[str, int]:
    """Chunks that have arrived, with their bytes."""
    asked = b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:getcontentlength/></d:prop></d:propfind>'
    headers = {"Depth": "1", "Content-Type": "application/xml"}
    answer = client.send("PROPFIND", folder, headers=headers, body=lambda: asked)
    try:
        responses = ElementTree.fromstring(answer.content).iter("{DAV:}response")
    except ElementTree.ParseError as error:
        raise CellmillError(redacted(folder), f"the server's answer is no XML ({error}).", "Report this.") from None
    found = {}
    for entry in responses:
        length = entry.find(".//{DAV:}getcontentlength")
        if length is not None and (length.text or "").isdigit():
            name = unquote((entry.findtext("{DAV:}href") or "").rstrip("/")).rsplit("/", 1)[-1]
            found[name] = int(length.text or 0)
    return found
