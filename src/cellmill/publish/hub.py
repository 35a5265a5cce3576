"""An export to the Hugging Face Hub: one commit with exactly its files, and a tag that names its manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cellmill.contracts import manifest
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after
from cellmill.publish.plan import Plan

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

T = TypeVar("T")
REFUSED = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write to this repository."
KEPT = (".gitattributes",)
"""Files that the Hub makes itself."""


def publish(
    export: Path,
    *,
    repo: str,
    public: bool = False,
    update: bool = False,
    dry_run: bool = False,
    patience: Patience = PATIENCE,
) -> tuple[Plan, dict[str, Any]]:
    """Make the dataset repository ``repo`` (``namespace/name``) hold the export, and nothing else.

    The export is verified first.
    Files that have arrived, also of an upload that was interrupted, are not sent again.
    All becomes visible in one commit, tagged ``manifest-<first 16 digits of the sha256 of manifest.json>``.

    Args:
        public: make a new repository public; one that is public must be called so.
        update: also replace what cellmill did not write, or wrote of another dataset or export.

    Raises:
        CellmillError: a damaged export, no or a wrong token, a repository that holds something else,
            somebody else's commit at the same time, or a server that fails.
    """
    if repo.count("/") != 1:
        raise CellmillError(repo, "is no name of a repository.", "Expected <user or organisation>/<name>.")
    said = manifest.verify(export)
    files = {manifest.NAME: {"sha256": sha256_of(export / manifest.NAME)}, **said["files"]}
    files[manifest.NAME]["bytes"] = (export / manifest.NAME).stat().st_size
    tag = f"manifest-{files[manifest.NAME]['sha256'][:16]}"
    hub = _Hub(repo, patience, dry_run=dry_run)
    there = None if hub.offline else hub.look()
    plan = Plan(f"{repo} ({'not asked: HF_HUB_OFFLINE is set' if hub.offline else _state(there, public)})")
    if there is not None:
        hub.refuse_others(there, said, update=update)
        if not there.private and not public:
            fix = "Say --public if it should be, or make it private in its settings."
            raise CellmillError(repo, "this repository is public.", fix)
    known = {} if there is None else {f.rfilename: f for f in there.siblings or []}
    for name, file in sorted(files.items()):
        same = name in known and _is_same(known[name], export / name, file)
        (plan.there if same else plan.send)[name] = file["bytes"]
    plan.remove = sorted(known.keys() - files.keys() - set(KEPT))
    plan.notes.append(f"Tag: {tag}")
    if dry_run:
        return plan, {}
    commit = hub.commit(export, plan, there, private=not public, message=f"{said['dataset']}, {said['export']}: {tag}")
    hub.tag(tag, commit, f"sha256 of manifest.json: {files[manifest.NAME]['sha256']}")
    hub.verify(commit, export, files)
    address = f"{hub.endpoint}/datasets/{repo}"
    plan.notes.append(f"{address}/tree/{tag}")
    return plan, {
        "address": address,
        "repo": repo,
        "commit": commit,
        "tag": tag,
        "dataset": said["dataset"],
        "export": said["export"],
        "manifest": files[manifest.NAME]["sha256"],
        "files": len(files),
        "bytes": sum(f["bytes"] for f in files.values()),
    }


def _state(there: DatasetInfo | None, public: bool) -> str:
    if there is None:
        return "new, public" if public else "new, private"
    return "private" if there.private else "public"


def _is_same(remote: Any, path: Path, local: dict[str, Any]) -> bool:
    """Whether a file of the repository has these bytes: by sha256 where it lies in LFS, else by git's own hash."""
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == local["sha256"])
    if remote.size != local["bytes"]:
        return False
    digest = hashlib.sha1(b"blob %d\0" % local["bytes"], usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return bool(remote.blob_id == digest.hexdigest())


class _Hub:
    """One repository; every error in our words, without what was sent."""

    def __init__(self, repo: str, patience: Patience, *, dry_run: bool) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError:
            raise CellmillError("huggingface_hub", "is not installed.", "Type: pip install huggingface_hub") from None
        self.repo, self._patience = repo, patience
        self.offline = bool(huggingface_hub.constants.HF_HUB_OFFLINE)
        if self.offline and not dry_run:
            raise CellmillError(repo, "HF_HUB_OFFLINE is set, so that the Hub cannot be asked.", "Unset it.")
        token = huggingface_hub.get_token()
        if token is None and not dry_run:
            raise CellmillError(repo, "no token is set.", REFUSED)
        self._token = token
        self._api: HfApi = huggingface_hub.HfApi(
            os.environ.get("HF_ENDPOINT"), token=token or False, library_name="cellmill"
        )
        self.endpoint = self._api.endpoint
        # Its warnings name addresses that are signed for one upload.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        if not sys.stderr.isatty():
            disable_progress_bars()
        if token is not None and not self.offline:
            self._ask(self._api.whoami, "the login")

    def _ask(self, call: Callable[[], T], what: str) -> T:
        """The answer, asked again while the server fails."""

        def once() -> T:
            try:
                return call()
            except CellmillError:
                raise
            except Exception as error:
                judged = self._judged(error, what)
                if judged is None:
                    raise
                raise judged from None

        again = "Run the same again later: what has arrived is not sent a second time."
        return persist(once, where=self.repo, patience=self._patience, fix=again)

    def _judged(self, error: BaseException, what: str) -> Exception | None:
        """The error in our words, or that another try may do; None where it is nobody's but ours."""
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        if isinstance(error, LocalTokenNotFoundError):
            return CellmillError(self.repo, "no token is set.", REFUSED)
        if isinstance(error, HfHubHTTPError):
            return self._judged_answer(error, what)
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2"):
            return AgainError(f"{what}: {reason_of(error)}")
        if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of one file among many
            return self._judged(error.__cause__, what)
        if isinstance(error, ValueError):  # a card that the Hub does not take
            text = " ".join(str(error).split())[:300]
            return CellmillError(self.repo, f"{what}: {text}", "Correct it, and run again.")
        return None

    def _judged_answer(self, error: Any, what: str) -> Exception:
        code = error.response.status_code
        if is_passing(code):
            return AgainError(f"{what}: HTTP {code}", retry_after(error.response.headers))
        if code in (401, 403):
            meaning = "the token is not accepted" if code == 401 else "the token may not do that"
            return CellmillError(self.repo, f"{what}: {meaning} (HTTP {code}).", REFUSED)
        if code in (409, 412):
            return CellmillError(self.repo, f"{what}: it was changed at the same time (HTTP {code}).", "Run again.")
        text = " ".join(str(error.server_message or "").split())[:200]
        text = text.replace(self._token, "…") if self._token else text
        return CellmillError(self.repo, f"{what}: HTTP {code} {text}".rstrip() + ".", "Correct it, and run again.")

    def look(self, revision: str | None = None) -> DatasetInfo | None:
        """The repository with its files, None where there is none that this token sees."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def info() -> DatasetInfo | None:
            try:
                return self._api.dataset_info(self.repo, files_metadata=True, revision=revision)
            except RepositoryNotFoundError as error:
                if "Invalid credentials" in str(error.response.headers.get("X-Error-Message", "")):
                    raise
                return None

        return self._ask(info, "looking at the repository")

    def _content(self, there: DatasetInfo, name: str) -> bytes | None:
        """A small file of the repository; None where there is none."""
        import tempfile

        if name not in {f.rfilename for f in there.siblings or []}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self._ask(
                lambda: self._api.hf_hub_download(
                    self.repo, name, repo_type="dataset", revision=there.sha, local_dir=folder
                ),
                f"reading {name}",
            )
            return Path(path).read_bytes()

    def refuse_others(self, there: DatasetInfo, said: dict[str, Any], *, update: bool) -> None:
        """Refuse a repository that holds anything but an earlier state of this export, or nothing."""
        names = {f.rfilename for f in there.siblings or []} - set(KEPT)
        if update or not names:
            return
        fix = "Name another repository, or replace what is there with --update."
        content = self._content(there, manifest.NAME)
        try:
            theirs = json.loads(content or b"{}")
            of = (theirs.get("dataset"), theirs.get("export"))
            listed = theirs.get("files", {})
        except (ValueError, AttributeError):
            of, listed = (None, None), {}
        if of != (said["dataset"], said["export"]):
            what = (
                f"'{of[1]}' of the dataset '{of[0]}'" if of[0] else f"files that are not of cellmill ({min(names)}, …)"
            )
            raise CellmillError(
                self.repo, f"holds {what}, expected '{said['export']}' of '{said['dataset']}' or nothing.", fix
            )
        if foreign := sorted(names - listed.keys() - {manifest.NAME}):
            raise CellmillError(self.repo, f"holds files that cellmill did not publish: {', '.join(foreign[:5])}.", fix)
        card = self._content(there, "README.md") if "README.md" in listed else None
        if card is not None and hashlib.sha256(card).hexdigest() != listed["README.md"]["sha256"]:
            raise CellmillError(self.repo, "its README.md was edited on the Hub.", fix)

    def commit(self, export: Path, plan: Plan, there: DatasetInfo | None, *, private: bool, message: str) -> str:
        """Send what is not there, and make one commit of it; the id of the last commit where nothing changes."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if there is None:
            self._ask(
                lambda: self._api.create_repo(self.repo, repo_type="dataset", private=private, exist_ok=True),
                "making the repository",
            )
            there = self.look()
            if there is None:
                raise CellmillError(self.repo, "was made, and cannot be seen.", REFUSED)
        parent = str(there.sha)
        if not plan.send and not plan.remove:
            return parent

        def send() -> str:
            operations = [CommitOperationAdd(name, str(export / name)) for name in plan.send]
            removed = [CommitOperationDelete(name) for name in plan.remove]
            done = self._api.create_commit(
                self.repo,
                [*operations, *removed],
                commit_message=message,
                repo_type="dataset",
                parent_commit=parent,
            )
            return str(done.oid)

        return self._ask(send, "sending files")

    def tag(self, tag: str, commit: str, message: str) -> None:
        """Tag the commit; a tag of the same manifest that is there stays."""
        self._ask(
            lambda: self._api.create_tag(
                self.repo, tag=tag, tag_message=message, revision=commit, repo_type="dataset", exist_ok=True
            ),
            "tagging",
        )

    def verify(self, commit: str, export: Path, files: dict[str, Any]) -> None:
        """Compare what the repository holds with what was sent."""
        there = self.look(commit)
        known = {f.rfilename: f for f in (there.siblings if there is not None else None) or []}
        for name, file in files.items():
            if name not in known or not _is_same(known[name], export / name, file):
                raise CellmillError(self.repo, f"{name} did not arrive as it was sent.", "Run the same again.")
