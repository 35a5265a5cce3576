"""Object stores: the http(s) address behind ``gs://``, ``hf://`` and ``s3://``, and what a folder there holds.

Bytes always come over http(s) (``fetch``), which resumes, retries and verifies; listings and logins are those
of fsspec, and of obstore for ``s3://`` (``amazon``).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cellmill.errors import CellmillError
from cellmill.sources import amazon
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
    ``s3://bucket/name`` one of Amazon's store (at ``AWS_ENDPOINT_URL``), signed where there is a login (``amazon``).

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
        token = _hub_token()
        prefix = "" if kind == "models" else f"{kind}/"
        return Door(
            f"{host}/{prefix}{repository}/resolve/{quote(revision, safe='')}/{quote(name)}",
            {"Authorization": f"Bearer {token}"} if token else {},
        )
    if parts.scheme == "s3":
        other, name = amazon.endpoint(), address.removeprefix(f"s3://{parts.netloc}/")
        base = f"https://{parts.netloc}.s3.amazonaws.com" if other is None else f"{other}/{parts.netloc}"
        return Door(amazon.signed(parts.netloc, name) or f"{base}/{quote(name)}")
    return Door(address)


def _login(filesystem: Any, headers: dict[str, str]) -> None:
    try:
        filesystem.credentials.apply(headers)
    except Exception as error:  # google.auth has many, and comes with gcsfs
        fix = "Type: gcloud auth application-default login"
        raise CellmillError("gs://", f"the login to Google failed ({type(error).__name__}).", fix) from error


def _hub_token() -> str | None:
    """``HF_TOKEN``, else what ``hf auth login`` keeps."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return os.environ.get("HF_TOKEN") or None
    return get_token()


def refusal(address: str, code: int) -> str:
    """What to do where a server refuses a file with an HTTP status."""
    scheme = address.partition("://")[0]
    if scheme == "hf" and code in (401, 403, 404):
        kind, repository, _, _ = _hub(address)
        page = f"https://huggingface.co/{'' if kind == 'models' else f'{kind}/'}{repository}"
        return (
            "Check the address. A private repository needs a token that may read it (HF_TOKEN, or `hf auth login`); "
            f"a gated one also asks you to accept its terms at {page}."
        )
    if code in (404, 410):
        return "Check the address."
    if scheme == "s3":
        return amazon.refusal()
    fix = "Check the address, and whether it asks for a login or an agreement."
    if scheme == "gs":
        fix += " A bucket whose requester pays needs a project that is billed."
    return fix


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
    if not pattern.startswith("s3://"):
        return _listed(pattern, _filesystem(pattern, project), "glob")
    bucket, _, names = pattern.removeprefix("s3://").partition("/")
    fits = name_pattern(names)
    found = amazon.listed(bucket, re.split(r"[*?\[]", names, maxsplit=1)[0])
    return sorted((Listed(f"s3://{bucket}/{n}", size, None) for n, size in found if fits.match(n)), key=_by_address)


def name_pattern(pattern: str) -> re.Pattern[str]:
    """What a pattern of names means: ``*`` and ``?`` stay in a folder, ``**`` does not."""
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern))


def folder(address: str, *, project: str | None = None) -> list[Listed]:
    """All files below a folder of a store, sorted by address."""
    if address.startswith("s3://"):
        return listing(f"{address.rstrip('/')}/**", project=project)
    return _listed(address, _filesystem(address, project), "find")


def _listed(address: str, filesystem: Any, how: str) -> list[Listed]:
    scheme = address.partition("://")[0]
    path = address.removeprefix(f"{scheme}://")
    try:
        found = getattr(filesystem, how)(path, detail=True)
    except FileNotFoundError:
        return []
    except Exception as error:  # every store has errors of its own
        fix = "Check the address, the network, and whether it asks for a login or bills its requester."
        said = " ".join(str(error).split())[:200]
        raise CellmillError(address, f"cannot be listed ({type(error).__name__}: {said}).", fix) from error
    files = [(name, info) for name, info in found.items() if info.get("type", "file") == "file"]
    return sorted(
        (Listed(f"{scheme}://{name}", info.get("size"), of_listing(info)) for name, info in files),
        key=_by_address,
    )


def _by_address(file: Listed) -> str:
    return file.address
