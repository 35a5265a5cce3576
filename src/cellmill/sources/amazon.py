"""``s3://``: logins of Amazon's store and of others that speak like it (MinIO, Ceph), signed addresses, listings.

The login is found where Amazon's own tools look: the environment, a profile in ``~/.aws``, the roles of containers and
web identities; that of a machine (EC2) where ``AWS_SKIP_SIGNATURE=false`` asks for it. Else buckets are asked without.
"""

from __future__ import annotations

import configparser
import os
import re
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from cellmill.errors import CellmillError

VALID_FOR = timedelta(hours=1)
"""How long a signed address can be asked; every try signs a new one."""
_ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def login() -> dict[str, str] | None:
    """What to log in with, as obstore takes it: empty where a role does; None: without a login.

    Raises:
        CellmillError: ``AWS_PROFILE`` names a profile without keys, or the files cannot be read.
    """
    env = {name: value for name in os.environ if (value := os.environ[name])}
    if "AWS_ACCESS_KEY_ID" in env and "AWS_SECRET_ACCESS_KEY" in env:
        keys = {"access_key_id": env["AWS_ACCESS_KEY_ID"], "secret_access_key": env["AWS_SECRET_ACCESS_KEY"]}
        return keys | ({"token": env["AWS_SESSION_TOKEN"]} if "AWS_SESSION_TOKEN" in env else {})
    if any(name in env for name in _ROLES) or env.get("AWS_SKIP_SIGNATURE", "").lower() == "false":
        return {}
    said = _profile()
    if "aws_access_key_id" in said and "aws_secret_access_key" in said:
        keys = {"access_key_id": said["aws_access_key_id"], "secret_access_key": said["aws_secret_access_key"]}
        return keys | ({"token": said["aws_session_token"]} if "aws_session_token" in said else {})
    if "AWS_PROFILE" in env:
        raise CellmillError(
            "AWS_PROFILE",
            f"the profile '{env['AWS_PROFILE']}' has no keys in ~/.aws.",
            'Correct it; of a single sign-on, type: eval "$(aws configure export-credentials --format env)"',
        )
    return None


def endpoint() -> str | None:
    """The address of another store than Amazon's, without a slash at its end."""
    found = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or _profile().get("endpoint_url")
    )
    return found.rstrip("/") if found else None


def _profile() -> dict[str, str]:
    """What ``~/.aws/credentials`` and ``~/.aws/config`` say of the profile that is set, or of the default one."""
    name = os.environ.get("AWS_PROFILE") or "default"
    home, said = Path.home() / ".aws", dict[str, str]()
    files = (
        (os.environ.get("AWS_CONFIG_FILE") or home / "config", name if name == "default" else f"profile {name}"),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", name),
    )
    for path, section in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):  # the error's text may hold a key
            raise CellmillError(path, "not readable as a file of profiles.", "Write it with: aws configure") from None
        if parser.has_section(section):
            said |= {key: value for key, value in parser.items(section) if value}
    return said


def _region(bucket: str) -> str:
    """The region of a bucket, for which a request is signed: as set, else as Amazon says."""
    known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _profile().get("region")
    return known or ("us-east-1" if endpoint() else _asked_region(bucket))


@lru_cache(maxsize=64)
def _asked_region(bucket: str) -> str:
    import requests

    try:
        answer = requests.head(f"https://s3.amazonaws.com/{bucket}", timeout=60, allow_redirects=False)
        return answer.headers.get("x-amz-bucket-region", "us-east-1")
    except requests.RequestException as error:
        raise CellmillError(
            f"s3://{bucket}", f"its region cannot be asked for ({type(error).__name__}).", "Set AWS_REGION."
        ) from None


def _settings(bucket: str) -> dict[str, Any]:
    """What obstore needs to know of a bucket."""
    keys, where = login(), endpoint()
    config: dict[str, Any] = {"region": _region(bucket), **(keys or {})}
    if keys is None:
        config["skip_signature"] = True
    if where is not None:
        config["endpoint"] = where
    return config


def signed(bucket: str, name: str) -> str | None:
    """An http(s) address of a file that is open for an hour to whoever has it; None where there is no login."""
    if login() is None:
        return None
    store = _store(bucket)
    from obstore import sign
    from obstore.exceptions import BaseError

    try:
        return str(sign(store, "GET", name, VALID_FOR))
    except BaseError as error:
        raise CellmillError(f"s3://{bucket}", f"the login failed ({type(error).__name__}).", refusal()) from None


def listed(bucket: str, prefix: str) -> list[tuple[str, int]]:
    """Name and size of every file of a bucket whose name begins so, page by page.

    An ETag is no checksum here: it is the md5 of files that were sent in one piece and are not encrypted by key, and a
    listing says neither.

    Raises:
        CellmillError: the bucket cannot be listed; of what the store answers, which may repeat the login, the code.
    """
    store = _store(bucket)
    folder, _, beginning = prefix.rpartition("/")
    try:
        found = [meta for page in store.list(folder or None) for meta in page]
    except Exception as error:  # obstore's, and those of a store that is none
        said = f"cannot be listed ({code_of(error)})."
        raise CellmillError(f"s3://{bucket}/{prefix}", said, refusal()) from None
    start = f"{folder}/{beginning}" if folder else beginning
    return [(meta["path"], meta["size"]) for meta in found if meta["path"].startswith(start)]


def _store(bucket: str) -> Any:
    return _opened(bucket, tuple(sorted(_settings(bucket).items())))


@lru_cache(maxsize=16)
def _opened(bucket: str, config: tuple[tuple[str, Any], ...]) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError:
        raise CellmillError("s3://", "obstore is not installed.", "Type: pip install 'cellmill[cloud]'") from None
    made: Any = S3Store
    patience = {"max_retries": 8, "backoff": {"init_backoff": timedelta(milliseconds=200)}}
    return made(bucket, config=dict(config), client_options={"allow_http": True}, retry_config=patience)


def code_of(error: Exception) -> str:
    """What a store says is wrong: ``AccessDenied``, ``SignatureDoesNotMatch``, ``HTTP 403``; else the kind of error."""
    found = re.search("<Code>([A-Za-z0-9.]+)</Code>", str(error))
    status = re.search("status code: ([0-9]{3})", str(error))
    return found[1] if found else f"HTTP {status[1]}" if status else type(error).__name__


def refusal() -> str:
    """What to do where the store refuses a login, or none."""
    if login() is None:
        return (
            "Nobody is logged in, so that only public buckets answer: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE. Check the address, and AWS_ENDPOINT_URL, too."
        )
    return (
        "Check the login (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile), whether it may read this "
        "bucket, the address, and AWS_REGION and AWS_ENDPOINT_URL."
    )
