"""``hub``: files of a dataset repository of the Hugging Face Hub, h5ad or Parquet with a row per cell."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cellmill.contracts.plan import Member
from cellmill.errors import CellmillError
from cellmill.sources.files import checked_name, member_name
from cellmill.sources.parquet_cells import ParquetCells
from cellmill.sources.planned import Planned
from cellmill.sources.stores import Listed, listing, name_pattern, refusal
from cellmill.spec import PositiveInt

_COMMIT = re.compile("[0-9a-f]{40}")
_FIX = "Check the network, or fill a mirror on a machine that has internet and name the commit (source.revision)."


class Hub(Planned):
    """A dataset repository of the Hugging Face Hub: its h5ad (also `.h5ad.gz`), 10x `.h5` and Parquet files.

    The revision is pinned to its commit when the parts are planned, so that all parts are of one. A private or gated
    repository needs a token that may read it: `HF_TOKEN`, or `hf auth login`. The ids of cells get the name of their
    file before them.
    """

    kind: Literal["hub"] = "hub"
    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The dataset repository, `<owner>/<name>`."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = "main"
    """A branch, a tag or a commit. A commit is never asked for again, and can be planned from a mirror."""
    files: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = ["**/*.h5ad"]
    """Patterns of paths in the repository: `*` stays in a folder, `**` does not."""
    parquet: ParquetCells | None = None
    """How Parquet files hold their cells; needed where `files` names such."""
    slice: PositiveInt | None = None
    """Cut h5ad files with more cells into so many rows; each is fetched once for all its slices. `null`: they stay \
whole."""
    part_cells: PositiveInt = 250_000
    """Small files are bundled into parts of at most so many cells."""
    genome: Annotated[str, Field(min_length=1)] | None = None
    """Of a 10x `.h5` with several genomes, the one to take, by its name there; `null`: each file has one."""

    @model_validator(mode="after")
    def _parquet_is_described(self) -> Hub:
        named = [pattern for pattern in self.files if pattern.lower().endswith(".parquet")]
        if named and self.parquet is None:
            raise ValueError(f"parquet: say how '{named[0]}' holds its cells (columns of genes and values, or dense)")
        return self

    def of(self, part: str) -> Hub:
        """What concerns one part: how its files are read; which these are stands in the plan."""
        same = {"revision": "main", "files": ["**/*.h5ad"], "slice": None, "part_cells": 250_000}
        return self.model_copy(update=same)

    def folder(self, commit: str) -> str:
        """The address of the repository at a commit."""
        return f"hf://datasets/{self.repo}@{commit}"


def pinned(source: Hub) -> str:
    """The commit that the revision is now.

    Raises:
        CellmillError: no such repository or revision, or none that this token may read; or the Hub cannot be asked.
    """
    if _COMMIT.fullmatch(source.revision):
        return source.revision
    try:
        from huggingface_hub import HfApi
        from huggingface_hub import errors as hub
    except ImportError:
        raise CellmillError(
            "source.repo", "huggingface_hub is not installed.", "Type: pip install 'cellmill[torch]'"
        ) from None
    from cellmill.patience import PATIENCE, AgainError, is_passing, persist, retry_after

    address = source.folder(source.revision)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def ask() -> str:
        try:
            return str(api.dataset_info(source.repo, revision=source.revision, timeout=PATIENCE.timeout_s).sha)
        except hub.RevisionNotFoundError:
            raise CellmillError(
                "source.revision", f"{source.repo} has no revision '{source.revision}'.", "Name one that it has."
            ) from None
        except hub.HfHubHTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if is_passing(code):
                raise AgainError(f"HTTP {code}", retry_after(error.response.headers)) from None
            found = f"the Hub answers HTTP {code}: there is no such dataset, or it is not open to you."
            raise CellmillError(address, found, refusal(f"{address}/x", code)) from None
        except Exception as error:  # httpx has errors of its own
            raise AgainError(type(error).__name__) from None

    return persist(ask, where=address, patience=PATIENCE, fix=_FIX)


def chosen(source: Hub, commit: str, mirrored: dict[str, tuple[int | None, str | None]]) -> list[Member]:
    """The files that the patterns name, by name.

    Args:
        commit: the commit that they are of.
        mirrored: size and checksum of the files of that commit that a mirror has, by path; the Hub then is not asked.

    Raises:
        CellmillError: a pattern that names none, two files of the same name, Parquet that is not described.
    """
    base, found = source.folder(commit), dict[str, Listed]()
    for pattern in source.files:
        if mirrored:
            fits = name_pattern(pattern)
            files = [Listed(f"{base}/{p}", *said) for p, said in sorted(mirrored.items()) if fits.match(p)]
        else:
            files = listing(f"{base}/{pattern}")
        if not files:
            raise CellmillError("source.files", f"no file of {base} is named by '{pattern}'.", "Correct the pattern.")
        found |= {file.address: file for file in files}
    members: dict[str, Member] = {}
    for address, file in sorted(found.items()):
        name = member_name(address)
        if name in members:  # two of the same name in different folders: the whole path tells them apart
            name = member_name(address.removeprefix(f"{base}/").replace("/", "-"))
        name = checked_name(address, name)
        if name in members:
            said = f"'{members[name].address}' and '{address}' have the same name."
            raise CellmillError("source.files", said, "Name one of them.")
        if address.lower().endswith(".parquet") and source.parquet is None:
            raise CellmillError(
                "source.parquet", f"'{address}' is Parquet, and nothing says how it holds cells.", "Describe it."
            )
        members[name] = Member("", name, address, None, file.bytes, file.checksum)
    return list(members.values())


def gene_table(source: Hub, commit: str, mirrored: dict[str, tuple[int | None, str | None]]) -> dict[str, Any]:
    """Address, size and checksum of the table of genes, where the source has one.

    Raises:
        CellmillError: the repository has none of this path.
    """
    path = None if source.parquet is None else source.parquet.gene_table
    if path is None:
        return {}
    address = f"{source.folder(commit)}/{path}"
    found = [Listed(address, *mirrored[path])] if path in mirrored else [] if mirrored else listing(address)
    if not found:
        raise CellmillError("source.parquet.gene_table", f"there is no {address}.", "Correct the path.")
    return {"gene_table": {"address": address, "bytes": found[0].bytes, "checksum": found[0].checksum}}
