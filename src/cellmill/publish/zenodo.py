"""Processed parts to a draft of Zenodo, by its deposition API; published where that is asked for, and only then."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cellmill.contracts.published import PublishedPart
from cellmill.errors import CellmillError
from cellmill.files import format_bytes
from cellmill.patience import PATIENCE, AgainError, Patience, persist
from cellmill.publish.http import Client, LocalFile, Login
from cellmill.publish.plan import Plan, read_parts
from cellmill.sources.fetch import redacted

ADDRESS = "https://zenodo.org"
MOST_FILES, MOST_BYTES = 100, 50_000_000_000
"""What a record may hold, unless Zenodo grants more."""
PER_PAGE = 100
REFUSED = "Set ZENODO_TOKEN to a token of your account there with the scopes deposit:write and deposit:actions."


@dataclass(frozen=True)
class About:
    """What the record says of the dataset."""

    dataset: str
    title: str
    creators: tuple[str, ...]
    """As ``Family, Given``."""
    license: str | None = None

    @property
    def keyword(self) -> str:
        """What the draft of this dataset is found by."""
        return f"cellmill:{self.dataset}"

    def metadata(self) -> dict[str, Any]:
        said = f"Single-cell counts of {self.title}, as processed by cellmill: raw counts of the cells that were kept."
        values = {
            "title": self.title,
            "upload_type": "dataset",
            "description": f"<p>{html.escape(said)}</p>",
            "creators": [{"name": name} for name in self.creators],
            "keywords": [self.keyword],
        }
        return values | ({"license": self.license.lower()} if self.license else {})


def login() -> Login:
    """The token of the environment.

    Raises:
        CellmillError: there is none.
    """
    token = os.environ.get("ZENODO_TOKEN")
    if not token:
        raise CellmillError("Zenodo", "ZENODO_TOKEN is not set.", REFUSED)
    return Login.by_token(token)


def publish(
    parts: list[Path],
    *,
    about: About,
    address: str = ADDRESS,
    record: int | None = None,
    publish_now: bool = False,
    dry_run: bool = False,
    patience: Patience = PATIENCE,
) -> tuple[Plan, list[PublishedPart]]:
    """Bring every part into the dataset's draft, which is made where there is none, and verify it by md5.

    A file that is there with the same checksum is not sent again.

    Args:
        record: the number of a draft to use, such as one of a new version.
        publish_now: publish the draft when all is there; that cannot be undone.

    Raises:
        CellmillError: a wrong token, a record that is published with other files, several drafts of this dataset,
            a server that fails, or what arrived is not what was sent.
    """
    if publish_now and about.license is None:
        fix = "Set 'license' in the dataset's file: a published record without one gets Zenodo's default."
        raise CellmillError(f"dataset {about.dataset}", "no licence is stated.", fix)
    files = read_parts(parts)
    api = f"{address.rstrip('/')}/api/deposit/depositions"
    with Client(login(), refused=REFUSED, patience=patience) as client:
        draft = _one(client, api, record) if record is not None else _find(client, api, about, files)
        there = {} if draft is None else _files_there(client, api, draft)
        plan = Plan(f"{redacted(address)}, {'a new draft' if draft is None else 'record ' + str(draft['id'])}")
        for file in files:
            (plan.there if there.get(file.name) == file.md5 else plan.send)[file.name] = file.bytes
        names = {f.name for f in files}
        if foreign := sorted(there.keys() - names):
            plan.notes.append(f"Also there, and left as they are: {', '.join(foreign)}.")
        size = sum(f.bytes for f in files)
        if len(files) > MOST_FILES or size > MOST_BYTES:
            limits = f"{MOST_FILES} files and {format_bytes(MOST_BYTES)}"
            plan.notes.append(
                f"{len(files):,} files, {format_bytes(size)}: Zenodo takes {limits} unless it grants more."
            )
        if dry_run:
            return plan, []
        if draft is None:
            draft = client.send("POST", api, json={"metadata": about.metadata()}).json()
            plan.where = f"{redacted(address)}, record {draft['id']}"
        bucket = _same_server(draft["links"]["bucket"], address) if plan.send else ""
        for file in files:
            if file.name in plan.send:
                _send(client, file, f"{bucket}/{quote(file.name)}", patience=patience)
        if publish_now and not draft.get("submitted"):
            done = client.send("POST", f"{api}/{draft['id']}/actions/publish").json()
            plan.notes.append(f"Published: {done.get('doi_url') or done.get('doi') or draft['id']}")
        elif not draft.get("submitted"):
            plan.notes.append(f"A draft: look at it and publish it at {redacted(address)}/uploads/{draft['id']}")
    records = f"{address.rstrip('/')}/records/{draft['id']}/files"
    return plan, [PublishedPart(f.path.stem, f"{records}/{quote(f.name)}", f.bytes, f.sha256, f.md5) for f in files]


def _one(client: Client, api: str, record: int) -> dict[str, Any]:
    response = client.send("GET", f"{api}/{record}", allowed=(404,))
    if response.status_code == 404:
        fix = "Look at the number in the address of the draft."
        raise CellmillError(redacted(api), f"there is no record {record} of yours.", fix)
    draft: dict[str, Any] = response.json()
    if draft.get("submitted"):
        fix = "Make a new version of it there, and name the number of that draft."
        raise CellmillError(redacted(api), f"record {record} is published, and its files stay as they are.", fix)
    return draft


def _find(client: Client, api: str, about: About, files: list[LocalFile]) -> dict[str, Any] | None:
    """The draft of this dataset, or its published record where that has these files; None where there is neither."""
    mine, page = [], 1
    while True:
        found = client.send("GET", api, params={"size": PER_PAGE, "page": page}).json()
        mine += [d for d in found if about.keyword in (d.get("metadata") or {}).get("keywords", [])]
        if len(found) < PER_PAGE:
            break
        page += 1
    drafts = [d for d in mine if not d.get("submitted")]
    if len(drafts) > 1:
        numbers = ", ".join(str(d["id"]) for d in drafts)
        raise CellmillError(redacted(api), f"{about.dataset} has several drafts: {numbers}.", "Name one with --record.")
    if drafts:
        return drafts[0]
    for published in mine:
        if _files_there(client, api, published) == {f.name: f.md5 for f in files}:
            return dict(published)
    if mine:
        raise CellmillError(
            redacted(api),
            f"{about.dataset} is published with other files (record {mine[0]['id']}).",
            "Make a new version of it there, and name the number of that draft with --record.",
        )
    return None


def _files_there(client: Client, api: str, draft: dict[str, Any]) -> dict[str, str]:
    """md5 by name."""
    found = client.send("GET", f"{api}/{draft['id']}/files").json()
    return {f["filename"]: f["checksum"].removeprefix("md5:") for f in found}


def _same_server(bucket: str, address: str) -> str:
    """The address that files go to, refused where it would take the token to another server."""
    if urlsplit(bucket)[:2] != urlsplit(address)[:2]:
        raise CellmillError(redacted(bucket), "the server names another one for its files.", "Report this.")
    return bucket.rstrip("/")


def _send(client: Client, file: LocalFile, address: str, *, patience: Patience) -> None:
    def once() -> None:
        found = str(client.put(file, address).json().get("checksum", "")).removeprefix("md5:")
        if found != file.md5:
            raise AgainError(f"what arrived has the md5 {found or '(none)'}, expected {file.md5}")

    # Each try sends the file once more, and a single one has had the client's patience.
    few = Patience(3, patience.first_wait_s, patience.longest_wait_s, patience.total_wait_s, patience.timeout_s)
    fix = "Delete the file in the draft, and run the same again later."
    persist(once, where=redacted(address), patience=few, fix=fix)
