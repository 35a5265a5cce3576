"""Checksums of files as stores publish them: ``<kind>:<value>``, as ``sha256:…``, ``md5:…`` or ``crc32c:…``.

sha256 and md5 are in hexadecimal; crc32c is in base64 of its four bytes, as Google Cloud Storage has it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any, Protocol

from cellmill.errors import CellmillError

BLOCK_BYTES = 1 << 20
_VALUES = {"sha256": "[0-9a-f]{64}", "md5": "[0-9a-f]{32}", "crc32c": "[A-Za-z0-9+/]{6}=="}


class _Hash(Protocol):
    def update(self, data: bytes, /) -> Any: ...
    def digest(self) -> bytes: ...


def is_checksum(text: str) -> bool:
    """Whether this is a kind that is known, and a value that it can have."""
    kind, _, value = text.partition(":")
    return kind in _VALUES and re.fullmatch(_VALUES[kind], value) is not None


def checksum_of(path: str | PathLike[str], kind: str) -> str:
    """The file's checksum of this kind, read in blocks."""
    found = _new(kind)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            found.update(block)
    digest = found.digest()
    return f"{kind}:{base64.b64encode(digest).decode() if kind == 'crc32c' else digest.hex()}"


def _new(kind: str) -> _Hash:
    if kind == "crc32c":
        try:
            import google_crc32c
        except ImportError:
            raise CellmillError(
                "checksum crc32c", "google-crc32c is not installed.", "Type: pip install 'cellmill[cloud]'"
            ) from None
        crc: _Hash = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        return crc
    return hashlib.new(kind)


def differing(path: str | PathLike[str], expected: list[str]) -> tuple[str, str] | None:
    """The first of the expected checksums that the file does not have, and what it has; None where all agree."""
    for wanted in expected:
        found = checksum_of(path, wanted.partition(":")[0])
        if found != wanted:
            return wanted, found
    return None


def published(headers: Mapping[str, str], *, etag_is_md5: bool = False) -> list[str]:
    """What the answer of a server says of the whole file it sends: ``x-goog-hash``, ``Repr-Digest``, ``X-Linked-Etag``.

    Of Amazon's store the ``ETag`` is the md5 of files that were sent in one piece and are not encrypted by key.
    Of a file that Google's store unpacks on its way, the published checksums are of something else: none are given.
    """
    found = []
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        for item in headers.get("x-goog-hash", "").split(","):
            kind, _, value = item.strip().partition("=")
            found.append(f"crc32c:{value}" if kind == "crc32c" else f"md5:{_hex(value)}" if kind == "md5" else "")
    for item in headers.get("Repr-Digest", "").split(","):
        kind, _, value = item.strip().partition("=")
        found.append(f"sha256:{_hex(value.strip(':'))}" if kind == "sha-256" else "")
    found.append(f"sha256:{headers.get('X-Linked-Etag', '').strip(chr(34))}")  # of large files on the Hugging Face Hub
    if etag_is_md5 and "kms" not in headers.get("x-amz-server-side-encryption", ""):
        found.append(f"md5:{headers.get('ETag', '').strip(chr(34))}")
    return [checksum for checksum in found if is_checksum(checksum)]


def of_listing(info: Mapping[str, Any]) -> str | None:
    """The best checksum that a store's listing has of a file (what fsspec's ``info`` gives), or None."""
    lfs = info.get("lfs")
    candidates = [
        f"sha256:{_member(lfs, 'sha256')}",
        f"crc32c:{info.get('crc32c', '')}",
        f"md5:{_hex(str(info.get('md5Hash', '')))}",
        f"md5:{str(info.get('ETag', '')).strip(chr(34))}",  # S3, of files that were not sent in pieces
    ]
    return next((checksum for checksum in candidates if is_checksum(checksum)), None)


def _member(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _hex(text: str) -> str:
    """Base64 as hexadecimal; empty where it is none."""
    try:
        return base64.b64decode(text, validate=True).hex()
    except (binascii.Error, ValueError):
        return ""
