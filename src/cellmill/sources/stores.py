"""Object stores: the http(s) address behind ``gs://``, ``hf://`` and ``s3://``, and what a folder there holds.

Bytes always come over http(s) (``fetch``), which resumes, retries and verifies; listings and logins are fsspec's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cellmill.errors import CellmillError
from cellmill.sources.checksums import of_listing

SCHEMES = ("http", "https", "gs", "hf", "s3")
_GOOGLE = "https://storage.googleapis.com"
_LOGIN_FILE = Path(".config/gcloud/application_default_credentials.json")


@dataclass(frozen=True)
class Door:
    """Where to ask for a file over http(s), and with which headers."""

    address: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """A file of a store: its address, size and checksum, None where the store does not say."""

    address: str
    bytes: int | None
    checksum: str | None


def is_address(text: str) -> bool:
    """Whether this names a file on a server or in a store, and not a path."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def door(address: str, *, project: str | None = None) -> Door:
    """The http(s) address of a file, and the headers of a login where there is one.

    ``gs://bucket/name`` becomes an address of Google Cloud Storage's JSON API (at ``STORAGE_EMULATOR_HOST``, where that
    is set), ``hf://datasets/owner/name[@revision]/path`` one of the Hugging Face Hub (at ``HF_ENDPOINT``), and
    ``s3://bucket/name`` one of Amazon's store (at ``AWS_ENDPOINT_URL``), which is asked without a login.

    Args:
        project: the Google Cloud project that is billed, for buckets whose requester pays.
    """
    parts = urlsplit(address)
    if parts.scheme == "gs":
        endpoint = _endpoint() or _GOOGLE
        billed = f"&userProject={quote(project, safe='')}" if project else ""
        name = quote(address.removeprefix(f"gs://{parts.netloc}/"), safe="")
        headers: dict[str, str] = {}
        if _has_google_login(project):
            _login(_google(project), headers)
        return Door(f"{endpoint}/download/storage/v1/b/{parts.netloc}/o/{name}?alt=media{billed}", headers)
    if parts.scheme == "hf":
        kind, repository, revision, name = _hub(address)
        host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        token = os.environ.get("HF_TOKEN")
        prefix = "" if kind == "models" else f"{kind}/"
        return Door(
            f"{host}/{prefix}{repository}/resolve/{quote(revision, safe='')}/{quote(name)}",
            {"Authorization": f"Bearer {token}"} if token else {},
        )
    if parts.scheme == "s3":
        host, name = os.environ.get("AWS_ENDPOINT_URL", "").rstrip("/"), address.removeprefix(f"s3://{parts.netloc}/")
        return Door(f"{f'{host}/{parts.netloc}' if host else f'https://{parts.netloc}.s3.amazonaws.com'}/{quote(name)}")
    return Door(address)


def _login(filesystem: Any, headers: dict[str, str]) -> None:
    try:
        filesystem.credentials.apply(headers)
    except Exception as error:  # google.auth has many, and comes with gcsfs
        fix = "Type: gcloud auth application-default login"
        raise CellmillError("gs://", f"the login to Google failed ({type(error).__name__}).", fix) from error


def _endpoint() -> str | None:
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return (host if "://" in host else f"http://{host}") if host and host != "default" else None


def _hub(address: str) -> tuple[str, str, str, str]:
    """Kind, repository, revision and path of an ``hf://`` address."""
    kind, *rest = address.removeprefix("hf://").split("/")
    if kind not in ("datasets", "spaces"):
        kind, rest = "models", [kind, *rest]
    if len(rest) < 3 or not all(rest):
        raise CellmillError(address, "this names no file of the Hub.", "Write hf://datasets/<owner>/<name>/<path>.")
    name, _, revision = rest[1].partition("@")
    return kind, f"{rest[0]}/{name}", revision or "main", "/".join(rest[2:])


def _has_google_login(project: str | None) -> bool:
    """Whether to log in: a login was made on this machine, or somebody must be billed."""
    if _endpoint():
        return False
    return bool(project or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or (Path.home() / _LOGIN_FILE).is_file())


@lru_cache(maxsize=4)
def _google(project: str | None) -> Any:
    # Else gcsfs asks each bucket over gRPC what kind it is, for a minute where only http gets through.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        from gcsfs.core import GCSFileSystem
    except ImportError:
        raise CellmillError("gs://", "gcsfs is not installed.", "Type: pip install 'cellmill[cloud]'") from None
    token = "google_default" if _has_google_login(project) else "anon"
    billed = {"project": project, "requester_pays": project} if project else {}
    try:
        return GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True, **billed)
    except Exception as error:
        fix = "Type: gcloud auth application-default login"
        raise CellmillError("gs://", f"the login to Google failed ({type(error).__name__}).", fix) from error


def _filesystem(address: str, project: str | None) -> Any:
    if address.startswith("gs://"):
        return _google(project)
    if address.startswith("hf://"):
        try:
            from huggingface_hub import HfFileSystem
        except ImportError:
            raise CellmillError(
                "hf://", "huggingface_hub is not installed.", "Type: pip install 'cellmill[torch]'"
            ) from None
        return HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"), use_listings_cache=False)
    raise CellmillError(address, "its files cannot be listed here.", "Name them in a table (source.table).")


def listing(pattern: str, *, project: str | None = None) -> list[Listed]:
    """The files of a store that a pattern (``*``, ``?``, ``[…]``, ``**``) names, sorted by address.

    Raises:
        CellmillError: the store cannot be asked.
    """
    return _listed(pattern, _filesystem(pattern, project), "glob")


def folder(address: str, *, project: str | None = None) -> list[Listed]:
    """All files below a folder of a store, sorted by address."""
    return _listed(address, _filesystem(address, project), "find")


def _listed(address: str, filesystem: Any, how: str) -> list[Listed]:
    scheme = address.partition("://")[0]
    path = address.removeprefix(f"{scheme}://")
    try:
        found = getattr(filesystem, how)(path, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:  # every store has errors of its own
        raise CellmillError(
            address,
            f"cannot be listed ({type(error).__name__}: {' '.join(str(error).split())[:200]}).",
            "Check the address, the network, and whether it asks for a login or bills its requester.",
        ) from error
    files = [(name, info) for name, info in found.items() if info.get("type", "file") == "file"]
    return sorted(
        (Listed(f"{scheme}://{name}", info.get("size"), of_listing(info)) for name, info in files),
        key=lambda file: file.address,
    )
