"""The HTTP API of the Hugging Face Hub, as far as publishing and reading a dataset need it, here and in memory.

It keeps what arrives, refuses what the Hub refuses, and fails where a test asks it to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import local_server

TOKEN = "hf_VerySecretToken0123456789abcdefgh"
TIME = "2026-01-01T00:00:00.000Z"
LARGE = (".parquet", ".zstd", ".mds", ".h5", ".npy", ".h5ad")


def git_oid(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A dataset repository: the files of every commit, and tags."""

    name: str
    private: bool
    gated: bool = False
    """Everybody sees what is there; files need a token."""
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        text = f"{self.name} {len(self.commits)} {message}"
        self.commits.append((hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), message, files))
        return self.sha

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, a tag or a commit."""
        wanted = self.sha if revision == "main" else self.tags.get(revision, revision)
        return next(((sha, files) for sha, _, files in self.commits if sha == wanted), None)


class Hub(local_server.LocalServer):
    """Dataset repositories, and what was sent and asked."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        """Large files by their sha256, whether a commit names them or not."""
        self.received: list[str] = []
        """The sha256 of every large file that was sent."""
        self.asked: list[str] = []
        self.fault: Callable[[Handler], bool] = lambda _: False
        """Answers itself, and says so."""
        self.writers = {TOKEN}
        self.lock = threading.RLock()


class Handler(local_server.Handler):
    server: Hub

    def say(self, code: int, value: Any, **headers: str) -> None:
        self.answer(code, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def refuse(self, code: int, message: str, **headers: str) -> None:
        self.say(code, {"error": message}, X_Error_Message=message, **headers)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.fault(self):
            return
        body = self.read_body()
        upload = re.fullmatch(r"/lfs/([0-9a-f]{64})", path)
        if upload:
            return self.take_object(upload[1], body)
        who = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if who and who not in self.server.writers:
            return self.refuse(401, "Invalid credentials in Authorization header")
        with self.server.lock:
            self.serve_api(path, body, writes=bool(who))

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def take_object(self, sha256: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            return self.refuse(400, "another sha256 than announced")
        with self.server.lock:
            self.server.objects[sha256] = body
            self.server.received.append(sha256)
        self.say(200, {})

    def serve_api(self, path: str, body: bytes, *, writes: bool) -> None:
        if path == "/api/whoami-v2":
            return self.say(200, {"type": "user", "name": "tester"}) if writes else self.refuse(401, "no token")
        if path == "/api/validate-yaml":
            bad = "license: nonsense" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of [...]'}] if bad else []
            return self.say(400 if bad else 200, {"errors": errors, "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(\w+)/?(.*))?", path)
        large = re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = found or large or file
        repo = self.server.repos.get(match[1]) if match else None
        if match is None:
            return self.refuse(404, f"no such address: {path}")
        if repo is None or (repo.private and not writes):
            return self.refuse(404 if writes else 401, "Repository not found", X_Error_Code="RepoNotFound")
        if large:
            return self.batch(json.loads(body))
        if file:
            if repo.gated and not writes:
                return self.refuse(401, "Access to this dataset is restricted", X_Error_Code="GatedRepo")
            return self.resolve(repo, file[2], file[3])
        assert found is not None
        verb, rest = found[2] or "revision", found[3] or "main"
        if verb == "revision":
            return self.info(repo, rest)
        if verb == "tree":
            return self.tree(repo, *rest.partition("/")[::2])
        if not writes:
            return self.refuse(403, "not yours")
        {"preupload": self.preupload, "commit": self.commit, "tag": self.tag}[verb](repo, rest, body)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        assert asked["type"] == "dataset"
        url = {"url": f"{self.server.address}/datasets/{name}", "name": name, "id": name}
        if name in self.server.repos:
            return self.say(409, url)
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        self.server.repos[name] = Repo(name, private)
        self.server.repos[name].commit("initial commit", {".gitattributes": b"*.parquet filter=lfs\n"})
        self.say(200, url)

    def info(self, repo: Repo, revision: str) -> None:
        there = repo.at(revision)
        if there is None:
            return self.refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        sha, files = there
        siblings = []
        for path, content in sorted(files.items()):
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_oid(content)}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        said = {"_id": "1", "id": repo.name, "sha": sha, "private": repo.private, "siblings": siblings}
        times = {"lastModified": TIME, "createdAt": TIME}
        self.say(200, said | times | {"gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, repo: Repo, revision: str, folder: str) -> None:
        there = repo.at(revision)
        if there is None:
            return self.refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        prefix, entries = f"{folder}/" if folder else "", {}
        for path, content in sorted(there[1].items()):
            if not path.startswith(prefix):
                continue
            folders = path.removeprefix(prefix).split("/")[:-1]
            for depth in range(len(folders) if recursive else min(1, len(folders))):
                name = prefix + "/".join(folders[: depth + 1])
                entries[name] = {"type": "directory", "oid": git_oid(name.encode()), "size": 0, "path": name}
            if recursive or not folders:
                entries[path] = {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
                if path.endswith(LARGE):
                    sha256 = hashlib.sha256(content).hexdigest()
                    entries[path]["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        if not entries:
            return self.refuse(404, "Entry not found", X_Error_Code="EntryNotFound")
        self.say(200, list(entries.values()))

    def preupload(self, repo: Repo, revision: str, body: bytes) -> None:
        files = []
        for file in json.loads(body)["files"]:
            large, content = file["path"].endswith(LARGE), repo.files.get(file["path"])
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if content is not None:
                entry["oid"] = hashlib.sha256(content).hexdigest() if large else git_oid(content)
            files.append(entry)
        self.say(200, {"files": files, "commitOid": repo.sha})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.objects:
                href = f"{self.server.address}/lfs/{wanted['oid']}?signature=SignedForOneUpload"
                entry["actions"] = {"upload": {"href": href}}
            objects.append(entry)
        self.say(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, revision: str, body: bytes) -> None:
        files, message, parent = dict(repo.files), "", None
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message, parent = value["summary"], value.get("parentCommit")
            elif entry["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self.refuse(400, "LFS pointer pointed to a file that does not exist")
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                assert entry["key"] == "deletedFile"
                del files[value["path"]]
        if parent not in (None, repo.sha):
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        sha = repo.commit(message, files)
        url = f"{self.server.address}/datasets/{repo.name}/commit/{sha}"
        self.say(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def tag(self, repo: Repo, revision: str, body: bytes) -> None:
        name = json.loads(body)["tag"]
        if name in repo.tags:
            return self.refuse(409, "Reference already exists")
        repo.tags[name] = revision
        self.say(200, {})

    def resolve(self, repo: Repo, revision: str, path: str) -> None:
        there = repo.at(revision)
        if there is None or path not in there[1]:
            return self.refuse(404, "Entry not found", X_Error_Code="EntryNotFound")
        sha, files = there
        content, said = files[path], {"X_Repo_Commit": sha, "ETag": f'"{git_oid(files[path])}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not path.endswith(LARGE):
            return self.answer(200, content, Accept_Ranges="none", **said)
        said["X_Linked_Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        if asked is None:
            return self.answer(200, content, **said)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        said["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self.answer(206, content[first : last + 1], **said)
