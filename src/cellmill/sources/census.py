"""``census``: datasets of CZ CELLxGENE, as a Census release froze them or as Discover has them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from cellmill.errors import CellmillError, nearest
from cellmill.quality.spec import Filter
from cellmill.sources.planned import Planned
from cellmill.spec import PositiveInt

if TYPE_CHECKING:
    from cellmill.contracts.plan import Member

DIRECTORY = "https://census.cellxgene.cziscience.com/cellxgene-census/v1/release.json"
API = "https://api.cellxgene.cziscience.com/curation/v1"
_PRIMARY = Filter(column="is_primary_data", equals=True)
_DERIVED = ("tissue_general", "tissue_general_ontology_term_id", "soma_joinid", "observation_joinid")
"""Columns that only the Census' own tables have, or that are another one for every cell."""
_ABOUT = {
    "dataset_id": "dataset_id",
    "dataset_version_id": "dataset_version_id",
    "dataset_title": "title",
    "collection_id": "collection_id",
    "collection_name": "collection_name",
    "collection_doi": "collection_doi",
}
"""Obs column: what the catalogue says of a dataset that stays with its cells."""


class Census(Planned):
    """Datasets of CZ CELLxGENE: the h5ad files that a Census release was built of, or the newest ones of Discover.

    A dataset is taken where any of its cells may pass `filters`, by the lists of values in Discover's catalogue; each
    filter then drops the cells that do not pass it, and counts them, as those of `quality.filters`. Cells that the
    Census marks as copies of cells of another dataset (`is_primary_data` false) are dropped and counted. The id, title
    and collection of the dataset stay with the cells, and `member` is its id.
    """

    kind: Literal["census"] = "census"
    release: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = "2025-11-08"
    """The Census release, by its date; others than long-term ones (LTS) are kept for a month. `null`: the newest \
files of Discover, which change."""
    organism: Annotated[str, Field(min_length=1)] = "Homo sapiens"
    """The organism, as CELLxGENE writes it; datasets that have another one, too, are left out and counted."""
    datasets: list[Annotated[str, Field(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]] = []
    """The ids of the datasets that may be taken. `[]`: all."""
    filters: list[Filter] = []
    """Cells by columns of CELLxGENE's schema: `[{column: tissue, in: [lung]}, {column: assay, in: ["10x 3' v3"]}]`."""
    primary_only: bool = True
    """Drop the cells that the Census marks as copies of others. `false`: keep them."""
    cells: PositiveInt | None = None
    """Whole datasets are drawn until they have so many cells, copies not counted. `null`: all datasets."""
    seed: int = 0
    """Another seed, another draw."""
    part_cells: PositiveInt = 250_000
    """Datasets are bundled into parts of at most so many cells; a larger one is fetched once and cut into parts."""
    directory: Annotated[str, Field(min_length=1)] = DIRECTORY
    """Where the releases are listed: an address, or a path to a copy."""
    catalogue: Annotated[str, Field(min_length=1)] = f"{API}/datasets"
    """Where Discover lists its datasets: an address, or a path to a copy."""

    @field_validator("release", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return value.isoformat() if isinstance(value, date) else value  # YAML takes a bare release for a date

    @field_validator("filters")
    @classmethod
    def _of_cells(cls, value: list[Filter]) -> list[Filter]:
        for rule in value:
            if rule.column in _DERIVED:
                raise ValueError(f"{rule.column}: the files of datasets do not have it. Take 'tissue'")
            if rule.column in ("is_primary_data", "organism", "dataset_id"):
                key = {"is_primary_data": "primary_only", "dataset_id": "datasets"}.get(rule.column, rule.column)
                raise ValueError(f"{rule.column}: this has a key of its own, '{key}'")
        return value

    def of(self, part: str) -> Census:
        """What concerns one part: nothing, as the plan has all of it."""
        return Census()

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        return {key: None for key, path in self._local.items() if not (base / path).is_file()}

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts, so that a newer one is seen."""
        return list(self._local.values())

    @property
    def catalogue_addresses(self) -> list[str]:
        """What is read to plan, where it is not on this disk."""
        from cellmill.sources.stores import is_address

        return [a for a in self._catalogues.values() if is_address(a)]

    @property
    def cell_filters(self) -> list[Filter]:
        """What drops cells of the datasets that are taken."""
        return [*([_PRIMARY] if self.primary_only else []), *self.filters]

    @property
    def _catalogues(self) -> dict[str, str]:
        return ({} if self.release is None else {"directory": self.directory}) | {"catalogue": self.catalogue}

    @property
    def _local(self) -> dict[str, str]:
        from cellmill.sources.stores import is_address

        return {key: path for key, path in self._catalogues.items() if not is_address(path)}


# --- the files


File = tuple[str, int | None, str | None]
"""Address, size and checksum; None where nobody knows."""


def h5ads_of_release(source: Census, directory: Any) -> str:
    """The folder with the files of the release, by the list of releases.

    Raises:
        CellmillError: not that list, or no such release; names those that are there.
    """
    if not isinstance(directory, dict):
        raise CellmillError(source.directory, "not a list of Census releases.", "Get it again.")
    release = directory.get(source.release or "")
    if not isinstance(release, dict):
        there = sorted(k for k, v in directory.items() if isinstance(v, dict) and k[:1].isdigit())
        raise CellmillError(
            "source.release",
            f"no Census release {source.release}; a release that is not a long-term one is kept for a month only.",
            nearest(source.release or "", there),
        )
    try:
        address: str = release["h5ads"]["uri"]
    except (KeyError, TypeError) as error:
        raise CellmillError(source.directory, f"release {source.release} has no files.", "Take another.") from error
    return address


def newest_files(source: Census, described: Any) -> dict[str, File]:
    """The newest h5ad file of each dataset of Discover's catalogue, by id."""
    return {
        name: (asset["url"], asset.get("filesize"), None)
        for name, dataset in _by_id(source, described).items()
        for asset in dataset.get("assets") or ()
        if asset.get("filetype") == "H5AD"
    }


# --- the datasets


def members_of_census(source: Census, described: Any, files: Mapping[str, File]) -> tuple[list[Member], dict[str, Any]]:
    """The datasets that are taken, in the order of the draw, and what was counted on the way.

    Args:
        described: Discover's catalogue.
        files: of the release, or the newest ones, by dataset id.

    A release has datasets that Discover has dropped since: nothing is known of these, and only a name in `datasets`
    takes one.

    Raises:
        CellmillError: not the catalogue, an unknown dataset, a value that no dataset has, or too few cells.
    """
    import numpy as np

    from cellmill.contracts.plan import Member
    from cellmill.sources.whole import draw_whole

    known = _by_id(source, described)
    _refuse_wrong_names(source, known, files)
    asked = sorted(set(source.datasets) or files)
    unknown = [name for name in asked if name not in known]
    facts: dict[str, Any] = {"datasets": len(files), "not_asked_for": len(files) - len(asked)}
    facts["without_description"] = len(unknown)
    cells, counted = _qualifying(source, {name: known[name] for name in asked if name in known})
    facts |= counted
    names = list(cells)
    taken = unknown if source.datasets else []
    if taken and source.cells is not None:
        said = f"nothing is known of dataset '{taken[0]}', which Discover has dropped since."
        raise CellmillError("source.cells", said, "Leave 'cells' out, or that dataset.")
    if names or not taken:
        sizes = np.array([cells[name] for name in names], np.int64)
        order, counted = draw_whole(
            names, sizes, wanted=source.cells, seed=source.seed, what="datasets", known=len(asked)
        )
        facts |= counted | {"cells_asked_for": int(sizes[order].sum())}
        names = [names[i] for i in order]
        if not taken:
            for i, rule in enumerate(source.filters):
                _refuse_unknown(rule, [known[name] for name in names], f"filters.{i}", "dataset that was drawn")
    members = []
    for name in [*names, *taken]:
        address, size, checksum = files[name]
        dataset = known.get(name, {"dataset_id": name})
        about = {column: _one_line(dataset.get(key)) for column, key in _ABOUT.items()}
        if source.release is not None:
            del about["dataset_version_id"]  # of the newest file, not of this one
        members.append(Member("", name, address, dataset.get("cell_count"), size, checksum, about=about))
    return members, facts


def _refuse_wrong_names(source: Census, known: Mapping[str, Mapping[str, Any]], files: Mapping[str, File]) -> None:
    """A dataset that is not there, or is of another organism."""
    for name in source.datasets:
        if name not in files:
            where = f"Census release {source.release}" if source.release else "Discover"
            fix = "Correct the id, or the release."
            raise CellmillError("source.datasets", f"no dataset '{name}' in {where}.", fix)
        organisms = _values(known.get(name, {}), "organism")
        if organisms and organisms != {source.organism}:
            raise CellmillError(
                "source.organism",
                f"dataset '{name}' is of {', '.join(sorted(organisms))}, not of {source.organism} alone.",
                "Correct the organism, or leave the dataset out.",
            )


def _qualifying(source: Census, known: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, Any]]:
    """Cells by id of the datasets of which any cell may pass, and how many datasets were left out for what."""
    kept = [name for name in known if _values(known[name], "organism") == {source.organism}]
    if known and not kept:
        there = set[str]().union(*(_values(dataset, "organism") for dataset in known.values()))
        said = f"no dataset of {source.organism} alone."
        raise CellmillError("source.organism", said, nearest(source.organism, there))
    facts: dict[str, Any] = {"of_other_organisms": len(known) - len(kept), "dropped_by_filters": {}}
    for i, rule in enumerate(source.filters):
        _refuse_unknown(rule, [known[name] for name in kept], f"filters.{i}", "dataset")
        passing = [name for name in kept if _may_pass(rule, known[name])]
        facts["dropped_by_filters"][f"{i}: {rule.column}"] = len(kept) - len(passing)
        kept = passing
    cells = {name: _cells(known[name], primary_only=source.primary_only) for name in kept}
    facts["without_cells"] = sum(n == 0 for n in cells.values())
    return {name: n for name, n in cells.items() if n}, facts


def _by_id(source: Census, described: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(described, list) or not all(isinstance(d, dict) and "dataset_id" in d for d in described):
        raise CellmillError(source.catalogue, "not a list of datasets with their ids.", "Get it again.")
    return {dataset["dataset_id"]: dataset for dataset in described}


def _values(dataset: Mapping[str, Any], column: str) -> set[str]:
    """The values of an obs column that cells of a dataset have; empty where the catalogue says nothing of it."""
    if column == "tissue_type":
        entries, key = dataset.get("tissue"), "tissue_type"
    elif column.endswith("_ontology_term_id"):
        entries, key = dataset.get(column.removesuffix("_ontology_term_id")), "ontology_term_id"
    else:
        entries, key = dataset.get(column), "label"
    found = [e.get(key) if isinstance(e, dict) else e for e in entries or ()] if not isinstance(entries, str) else []
    return {str(value) for value in found if value is not None}


def _may_pass(rule: Filter, dataset: Mapping[str, Any]) -> bool:
    """Whether a cell of the dataset may pass; where the catalogue says nothing of the column, it may."""
    values = _values(dataset, rule.column)
    if not values:
        return True
    return bool(values - _texts(rule.not_in) if rule.not_in is not None else values & _texts(rule.wanted))


def _refuse_unknown(rule: Filter, datasets: Iterable[Mapping[str, Any]], where: str, what: str) -> None:
    """A value that no dataset has is surely a slip, and would be refused when all of them were fetched."""
    there = set[str]().union(*(_values(dataset, rule.column) for dataset in datasets))
    for value in sorted(_texts(rule.wanted) - there) if there else ():
        raise CellmillError(f"source.{where}", f"no {what} has '{value}' as {rule.column}.", nearest(value, there))


def _one_line(value: object) -> str | None:
    return " ".join(str(value).split()) or None if value is not None else None


def _texts(values: Iterable[object] | None) -> set[str]:
    return {str(value) for value in values or ()}


def _cells(dataset: Mapping[str, Any], *, primary_only: bool) -> int:
    """Cells of the dataset, copies of others not counted where they are dropped."""
    primary = dataset.get("primary_cell_count")
    if primary_only and primary is None and dataset.get("is_primary_data") == [False]:
        primary = 0
    count = primary if primary_only and primary is not None else dataset.get("cell_count")
    return int(count or 0)
