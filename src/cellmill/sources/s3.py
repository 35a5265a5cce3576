"""Amazon's store, asked without a login: what a folder of a public bucket holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from os import environ
from urllib.parse import quote
from xml.etree import ElementTree

import requests

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after
from cellmill.sources.checksums import is_checksum
from cellmill.sources.stores import Listed

_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def public_folder(address: str, *, patience: Patience = PATIENCE) -> list[Listed]:
    """All files below ``s3://bucket/folder/``, sorted by address, page by page (ListObjectsV2).

    The ``ETag`` is taken for an md5 where it is one: that of a file that was sent in pieces is not.

    Raises:
        CellmillError: the store refuses, or fails for too long.
    """
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = f"{prefix.rstrip('/')}/"
    found: list[Listed] = []
    for entry in _entries(address, bucket, prefix, patience):
        name, size = entry.findtext(f"{_SPACE}Key", ""), entry.findtext(f"{_SPACE}Size", "")
        checksum = f"md5:{entry.findtext(f'{_SPACE}ETag', '').strip(chr(34))}"
        known = checksum if is_checksum(checksum) else None
        found.append(Listed(f"s3://{bucket}/{name}", int(size) if size else None, known))
    return sorted(found, key=lambda file: file.address)


def _entries(address: str, bucket: str, prefix: str, patience: Patience) -> Iterator[ElementTree.Element]:
    host = environ.get("AWS_ENDPOINT_URL", "").rstrip("/")
    url = f"{host}/{bucket}" if host else f"https://{bucket}.s3.amazonaws.com"
    token: str | None = None
    fix = "Check the address and the network; only public buckets answer without a login."
    with requests.Session() as session:
        while True:
            asked = f"{url}/?list-type=2&prefix={quote(prefix, safe='')}"
            asked += f"&continuation-token={quote(token, safe='')}" if token else ""
            text = persist(partial(_page, session, asked, address, patience), where=address, patience=patience, fix=fix)
            try:
                page = ElementTree.fromstring(text)
            except ElementTree.ParseError as error:
                raise CellmillError(address, f"its list of files is not readable ({error}).", fix) from error
            yield from page.iter(f"{_SPACE}Contents")
            token = page.findtext(f"{_SPACE}NextContinuationToken")
            if not token:
                return


def _page(session: requests.Session, url: str, address: str, patience: Patience) -> bytes:
    try:
        answer = session.get(url, timeout=patience.timeout_s, headers={"User-Agent": f"cellmill/{__version__}"})
    except requests.RequestException as error:
        raise AgainError(reason_of(error)) from error
    if is_passing(answer.status_code):
        raise AgainError(f"the server answered {answer.status_code}", retry_after(answer.headers))
    if answer.status_code != 200:
        raise CellmillError(
            address,
            f"cannot be listed: the store answered {answer.status_code}.",
            "Check the address; only public buckets answer without a login.",
        )
    return answer.content
