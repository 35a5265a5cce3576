"""``tahoe``: Tahoe-100M, from Arc's h5ad plates or from its Parquet files on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cellmill.contracts.plan import Member
from cellmill.errors import CellmillError
from cellmill.quality.spec import Filter
from cellmill.sources.planned import Planned
from cellmill.spec import PositiveInt

if TYPE_CHECKING:
    from cellmill.sources.stores import Listed

ROOT = "gs://arc-institute-virtual-cell-atlas/tahoe100M"
REPOSITORY = "hf://datasets/tahoebio/Tahoe-100M"
TABLES = ("gene", "drug", "sample", "cell_line")
"""The tables of the repository that are joined, as ``metadata/<name>_metadata.parquet``."""
_LOOKS = 8
"""Files that are looked into at once."""
_PATTERNS = {"h5ad": re.compile(r"plate(\d+)_.*\.h5ad"), "parquet": re.compile(r"(train-.*)\.parquet")}


class Tahoe(Planned):
    """Tahoe-100M: 50 cancer cell lines and 379 drugs on 14 plates, from h5ad or from Parquet.

    The h5ad plates hold all 100.6 million cells and are cut into parts by rows; the Parquet files hold the 95.6
    million that pass the full filters, as tokens, which become counts again. The tables of drugs, samples and cell
    lines are joined to the cells, and Ensembl ids to the genes; a column that is there already stays as it is.
    """

    kind: Literal["tahoe"] = "tahoe"
    form: Literal["h5ad", "parquet"] = "h5ad"
    """`h5ad`: a file per plate; `parquet`: about 3,400 files of the Hub."""
    release: Literal["2025-02-25"] = "2025-02-25"
    """The release of the plates, which is the name of its folder."""
    plates: list[Annotated[int, Field(ge=1, le=14)]] = []
    """The plates that are taken, of `h5ad`. `[]`: all."""
    pass_filter: Literal["full", "minimal"] = "full"
    """`full`: cells that pass the full filters; of `h5ad`, the others are dropped and counted. `minimal`: all cells."""
    cells: PositiveInt | None = None
    """Of `parquet`, whole files are drawn until they have so many cells; a file has one plate and few drugs. `null`: \
all files. Of `h5ad`, take plates, or a `subset`."""
    seed: int = 0
    """Another seed, another draw."""
    part_cells: PositiveInt = 250_000
    """Plates are cut into parts of so many cells; Parquet files are bundled into parts of at most so many."""
    root: Annotated[str, Field(min_length=1)] = ROOT
    """The folder of the releases of plates: an address, or a path to a copy with the same folders."""
    repository: Annotated[str, Field(min_length=1)] = REPOSITORY
    """The repository with the Parquet files, and with the tables of both forms: an address (`…@<revision>` for one \
that does not change), or a path to a copy."""
    requester_pays: Annotated[str, Field(min_length=1)] | None = None
    """The Google Cloud project that is billed for plates; their bucket was last said to bill its requester. `cellmill \
plan` says how many bytes."""

    @field_validator("release", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return value.isoformat() if isinstance(value, date) else value  # YAML takes a bare release for a date

    @model_validator(mode="after")
    def _of_this_form(self) -> Tahoe:
        if self.form == "parquet" and self.plates:
            raise ValueError(
                "plates: files of Parquet are not named by plate. Take h5ad, or filter by plate in quality"
            )
        if self.form == "parquet" and self.pass_filter == "minimal":
            raise ValueError("pass_filter: Parquet has only cells that pass the full filters. Take h5ad")
        if self.form == "h5ad" and self.cells is not None:
            raise ValueError("cells: plates are fetched whole. Name plates, or say subset: {cells: …}")
        return self

    def of(self, part: str) -> Tahoe:
        """What concerns one part: all but what decides of which cells it is."""
        return Tahoe(form=self.form, repository=self.repository, requester_pays=self.requester_pays)

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        from cellmill.sources.stores import is_address

        needed = ("root", "repository") if self.form == "h5ad" else ("repository",)
        local = {key: getattr(self, key) for key in needed if not is_address(getattr(self, key))}
        return {key: None for key, folder in local.items() if not (base / folder).is_dir()}

    @property
    def folder(self) -> str:
        """Where the files with the cells are."""
        if self.form == "parquet":
            return f"{self.repository.rstrip('/')}/data"
        return f"{self.root.rstrip('/')}/{self.release}/h5ad"

    @property
    def tables(self) -> dict[str, str]:
        """The tables that are joined, by name."""
        return {name: f"{self.repository.rstrip('/')}/metadata/{name}_metadata.parquet" for name in TABLES}

    @property
    def cell_filters(self) -> list[Filter]:
        """What drops cells."""
        return (
            [Filter(column="pass_filter", equals="full")] if (self.form, self.pass_filter) == ("h5ad", "full") else []
        )


def members_of_tahoe(
    source: Tahoe, files: Sequence[Listed], look: Callable[[Listed], int]
) -> tuple[list[Member], dict[str, Any]]:
    """Slices of the plates, or the Parquet files that are drawn; and what was counted on the way.

    Args:
        files: what there is in ``source.folder``.
        look: the number of cells of one of them.

    Raises:
        CellmillError: a plate that is not there, no files, or too few cells.
    """
    import numpy as np

    from cellmill.sources.files import sliced
    from cellmill.sources.whole import draw_whole

    named = {m[1]: f for f in files if (m := _PATTERNS[source.form].fullmatch(f.address.rsplit("/", 1)[-1]))}
    if not named:
        what = "plate<number>_….h5ad" if source.form == "h5ad" else "train-….parquet"
        raise CellmillError(source.folder, f"no file is called {what}.", "Correct the address, or the release.")
    facts: dict[str, Any] = {"files": len(named)}
    wanted = [str(plate) for plate in dict.fromkeys(source.plates)] or sorted(named)
    missing = [plate for plate in wanted if plate not in named]
    if missing:
        there = ", ".join(sorted(named, key=int))
        raise CellmillError("source.plates", f"there is no plate {missing[0]}; there: {there}.", "Correct it.")
    with ThreadPoolExecutor(_LOOKS) as pool:
        cells = dict(zip(wanted, pool.map(look, [named[name] for name in wanted]), strict=True))
    if source.form == "h5ad":
        whole = [_member(f"plate{n}", named[n], cells[n]) for n in sorted(wanted, key=int)]
        return [part for member in whole for part in sliced(member, source.part_cells)], facts
    sizes = np.array([cells[name] for name in wanted], np.int64)
    order, counted = draw_whole(wanted, sizes, wanted=source.cells, seed=source.seed, what="files", known=len(named))
    names = [wanted[i] for i in order] if source.cells is not None else wanted
    return [_member(name, named[name], cells[name]) for name in names], facts | counted


def _member(name: str, file: Listed, cells: int) -> Member:
    return replace(Member("", name, file.address, cells), bytes=file.bytes, checksum=file.checksum)
