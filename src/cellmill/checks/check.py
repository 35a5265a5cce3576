"""``cellmill check PATH``: an export, a part of ``processed``, ``tokenized`` or ``embedded``, or all of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from cellmill.checks.problems import Problems
from cellmill.contracts import manifest
from cellmill.errors import CellmillError


@dataclass
class Checked:
    """What was found."""

    path: Path
    about: str
    """How much was read, and what it was compared with."""
    fix: str
    problems: Problems = field(default_factory=Problems)


def check(path: str | PathLike[str], *, files_only: bool = False) -> Iterator[Checked]:
    """Read an artefact whole, and compare it with its manifest and with what it was made from.

    Of a dataset (``results/<dataset>``), everything that has been made is checked.

    Args:
        files_only: of exports compare sizes and checksums alone.

    Raises:
        CellmillError: nothing that can be checked; also a file that is of another kind or version.
    """
    place = Path(path)
    found = list(_artefacts(place))
    if not found:
        known = "an export, or a file of processed/, tokenized/ or embedded/"
        raise CellmillError(place, f"expected {known}, or a dataset that has some.", "Name one that is there.")
    for artefact in found:
        yield _check(artefact, files_only=files_only)


def _artefacts(place: Path) -> Iterator[Path]:
    if place.name == manifest.NAME or (place / manifest.NAME).is_file():
        yield place.parent if place.name == manifest.NAME else place
    elif _kind(place):
        yield place
    elif place.is_dir():
        for pattern in ("processed/*.h5ad", "tokenized/*/*.parquet", "embedded/*/*.npy"):
            yield from (p for p in sorted(place.glob(pattern)) if _kind(p))
        for format_ in manifest.CONTRACTS:
            yield from (p.parent for p in sorted(place.glob(f"{format_}/*/{manifest.NAME}")))
        for kind in ("tokenized", "processed", "embedded"):
            if place.name == kind or place.parent.name == kind:
                yield from (p for p in sorted(place.rglob("*")) if _kind(p) == kind)


def _kind(path: Path) -> str | None:
    """Which stage a file is of, by its place."""
    if not path.is_file():
        return None
    if path.suffix == ".h5ad" and path.parent.name == "processed":
        return "processed"
    if path.suffix == ".parquet" and path.parent.parent.name == "tokenized" and path.name != "gene_tokens.parquet":
        return "tokenized"
    return "embedded" if path.suffix == ".npy" and path.parent.parent.name == "embedded" else None


def _check(path: Path, *, files_only: bool) -> Checked:
    from cellmill.checks import export, parts

    kind = _kind(path)
    if kind is None:
        again = f"Delete {path / manifest.NAME} and run snakemake again: the export is made anew."
        checked = Checked(path, "", again)
        export.check(checked, files_only=files_only)
    else:
        checked = Checked(path, "", f"Delete {path} and run snakemake again: it is made anew.")
        try:
            {"processed": parts.processed, "tokenized": parts.tokenized, "embedded": parts.embedded}[kind](checked)
        except CellmillError as error:
            checked.problems.add("not readable", error.where, error.found)
    return checked
