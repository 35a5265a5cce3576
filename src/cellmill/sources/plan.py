"""Which files, or rows of them, make each part, where a catalogue must be read first."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from cellmill.contracts.plan import Member, Plan, write_plan
from cellmill.errors import CellmillError
from cellmill.files import inside, read_json, scratch
from cellmill.sources import Source
from cellmill.sources.bundled import Bundled
from cellmill.sources.census import Census, h5ads_of_release, members_of_census, newest_files
from cellmill.sources.fetch import redacted
from cellmill.sources.files import Files, checked_name, member_name, read_table, sliced
from cellmill.sources.geo_archs4 import GeoArchs4, windows
from cellmill.sources.hub import Hub, chosen, gene_table, pinned
from cellmill.sources.remote import cells_of, look_into, size_and_cells
from cellmill.sources.scbasecount import ScBaseCount, samples
from cellmill.sources.stores import Listed, folder, is_address, listing
from cellmill.sources.tahoe import Tahoe, members_of_tahoe

log = logging.getLogger("cellmill")

LOOKS = 8
"""Files that are looked into at once."""


@dataclass(frozen=True)
class Catalogue:
    """Members in the order in which they are bundled, their part empty unless it is given; what was counted."""

    members: list[Member]
    facts: dict[str, Any]


def plan_dataset(source: Source, out: str | PathLike[str], *, mirror: Path | None) -> Plan:
    """Read the catalogue of a source, bundle its members into parts, and write the plan; no member is fetched.

    The plan does not depend on the order of the catalogue's rows.

    Args:
        source: one with ``planned``.
        out: ``plan.tsv``.
        mirror: a folder with a ``SHA256SUMS`` that is asked for the catalogue before the network.

    Raises:
        CellmillError: the catalogue cannot be read, or nothing of it is taken.
    """
    with scratch(out) as place:
        catalogue = read_catalogue(source, place, mirror)
    part_cells = 0 if isinstance(source, Bundled) else source.part_cells
    members = bundle(catalogue.members, part_cells)
    parts: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda m: (m.part, m.name, m.rows or (0, 0))):
        parts.setdefault(member.part, []).append(member)
    known = [m.cells for m in members if m.cells is not None]
    facts = {
        **catalogue.facts,
        "kind": source.kind,
        "parts": len(parts),
        "cells": sum(known) if len(known) == len(members) else None,
    }
    write_plan(out, members, facts)
    log.info("%d members in %d parts", len(members), len(parts))
    return Plan(parts, facts)


def read_catalogue(source: Source, place: Path, mirror: Path | None) -> Catalogue:
    """The members of a source. ``place`` is a folder for what is fetched on the way."""
    if isinstance(source, ScBaseCount):
        return _of_scbasecount(source, place, mirror)
    if isinstance(source, Census):
        return _of_census(source, place, mirror)
    if isinstance(source, Tahoe):
        return _of_tahoe(source, mirror)
    if isinstance(source, Files) and source.planned:
        return _of_files(source, mirror)
    if isinstance(source, GeoArchs4):
        return _of_archs4(source, mirror)
    if isinstance(source, Hub):
        return _of_hub(source, mirror)
    raise ValueError(f"the parts of '{source.kind}' are known without a plan")


def bundle(members: Sequence[Member], part_cells: int) -> list[Member]:
    """Give every member a part, in their order: a part is full where the next member would exceed ``part_cells``.

    Members whose part is given keep it; a slice, and one whose cells are not known, is a part of its own.
    More members at the end therefore change no part but the last.
    """
    if all(member.part for member in members):
        return list(members)
    numbers, number, filled = list[int](), -1, part_cells
    for member in members:
        alone = member.cells is None or member.rows is not None
        if alone or filled + (member.cells or 0) > part_cells:
            number, filled = number + 1, 0
        filled += part_cells if alone else member.cells or 0
        numbers.append(number)
    width = max(4, len(str(number)))
    return [replace(member, part=f"{n:0{width}d}") for member, n in zip(members, numbers, strict=True)]


def _of_scbasecount(source: ScBaseCount, place: Path, mirror: Path | None) -> Catalogue:
    from cellmill.sources.fetch import fetch

    if is_address(source.root):
        catalogue = place / "sample_metadata.parquet"
        fetch(source.catalogue_address, catalogue, sha256=None, mirror=mirror, project=source.requester_pays)
        files = {} if mirror is None else _mirrored(mirror, source.samples_folder)
        if not files:
            listed = folder(source.samples_folder, project=source.requester_pays)
            files = {file.address.rsplit("/", 1)[-1]: (file.bytes, file.checksum) for file in listed}
    else:
        catalogue = Path(source.catalogue_address)
        files = {p.name: (p.stat().st_size, None) for p in Path(source.samples_folder).glob("*.h5ad")}
    if not files:
        raise CellmillError(source.samples_folder, "there is no file.", "Correct release, feature_type or organism.")
    members, facts = samples(source, catalogue, files)
    if facts["without_file"]:
        log.warning("%d samples of the catalogue have no file and are left out", facts["without_file"])
    return Catalogue(members, facts)


def _of_census(source: Census, place: Path, mirror: Path | None) -> Catalogue:
    from cellmill.sources.fetch import fetch

    def read(address: str, name: str) -> Any:
        path = place / name if is_address(address) else Path(address)
        if is_address(address):
            fetch(address, path, sha256=None, mirror=mirror)
        return read_json(path)

    described = read(source.catalogue, "datasets.json")
    if source.release is None:
        named = newest_files(source, described)
    else:
        folder_ = h5ads_of_release(source, read(source.directory, "release.json")).rstrip("/")
        if is_address(folder_):
            files = {} if mirror is None else _mirrored(mirror, folder_)
            if not files:
                listed = folder(folder_)
                files = {file.address.removeprefix(f"{folder_}/"): (file.bytes, file.checksum) for file in listed}
        else:
            files = {p.name: (p.stat().st_size, None) for p in Path(folder_).glob("*.h5ad")}
        named = {n.removesuffix(".h5ad"): (f"{folder_}/{n}", *said) for n, said in files.items() if n.endswith(".h5ad")}
    members, facts = members_of_census(source, described, named)
    rows = source.part_cells  # rows are cut by what the file says, as the catalogue may speak of a newer one
    counted = [replace(m, cells=None) if m.cells is None or m.cells > rows else m for m in members]
    counted = looked_into([measured(m) for m in counted], mirror)
    return Catalogue([s for member in counted for s in sliced(member, rows)], facts)


def _of_tahoe(source: Tahoe, mirror: Path | None) -> Catalogue:
    """Listed in the mirror or the store; a look into each file that is taken says how many cells it has."""
    local = dict[str, Path]()
    if is_address(source.folder):
        there = {} if mirror is None else _mirrored(mirror, source.folder)
        files = [Listed(f"{source.folder}/{name}", *said) for name, said in sorted(there.items())]
        if mirror is not None:
            local = {f.address: mirror / f.address.partition("://")[2] for f in files}
        files = files or folder(source.folder, project=source.requester_pays)
    else:
        paths = sorted(path for path in Path(source.folder).glob("*") if path.is_file())
        files = [Listed(str(path), path.stat().st_size, None) for path in paths]
        local = {str(path): path for path in paths}

    def look(file: Listed) -> int:
        if file.address in local:
            with open(local[file.address], "rb") as stream:
                return cells_in(stream, file.address)
        _, cells = size_and_cells(file.address, mirror=mirror, project=source.requester_pays)
        if cells is None:
            raise CellmillError(file.address, "neither h5ad nor Parquet.", "Correct source.root.")
        return cells

    return Catalogue(*members_of_tahoe(source, files, look))


def cells_in(stream: BinaryIO, address: str) -> int:
    """The cells of an h5ad file, or the rows of a Parquet file; what else is in it is not read.

    Raises:
        CellmillError: it is neither.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if address.endswith(".parquet"):
            return int(pq.ParquetFile(stream).metadata.num_rows)
        with h5py.File(stream, "r") as file:
            return cells_of(file)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise CellmillError(address, f"not readable ({error}).", "Get it again, or try later.") from error


def _mirrored(mirror: Path, address: str) -> dict[str, tuple[int | None, str | None]]:
    """Size and checksum of the files of a store's folder that a mirror has, by name: the store then is not asked."""
    from cellmill.sources.fetch import SUMS_FILE, read_sums

    prefix = address.partition("://")[2] + "/"
    sums = read_sums(mirror / SUMS_FILE)
    there = {name: inside(mirror, name) for name in sums if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): (path.stat().st_size, f"sha256:{sums[name]}")
        for name, path in there.items()
        if path.is_file()
    }


def _of_archs4(source: GeoArchs4, mirror: Path | None) -> Catalogue:
    checksum = None if source.sha256 is None else f"sha256:{source.sha256}"
    where = redacted(source.file) if is_address(source.file) else source.file
    with contextlib.ExitStack() as stack:
        if is_address(source.file):
            opened: Any = stack.enter_context(look_into(source.file, mirror=mirror, checksum=checksum))
            size = opened.seek(0, io.SEEK_END)
            opened.seek(0)
        else:
            opened, size = source.file, Path(source.file).stat().st_size
        try:
            members, facts = windows(stack.enter_context(h5py.File(opened, "r")), source, size=size, where=where)
        except (OSError, KeyError) as error:
            raise CellmillError(where, f"not readable as HDF5 ({error}).", "Get it again.") from error
    return Catalogue(members, facts)


def _of_hub(source: Hub, mirror: Path | None) -> Catalogue:
    commit = pinned(source)
    mirrored = {} if mirror is None else _mirrored(mirror, source.folder(commit))
    members = looked_into(chosen(source, commit, mirrored), mirror)
    facts = {"files": len(members), "commit": commit, **gene_table(source, commit, mirrored)}
    return Catalogue([s for member in members for s in sliced(member, source.slice)], facts)


def _of_files(source: Files, mirror: Path | None) -> Catalogue:
    if source.table is not None:
        members = read_table(Path(source.table))
    elif source.glob:
        members = _found(source.glob)
    else:
        members = [Member("", name, path) for name, path in source.files.items()]
        sums = source.sha256
        members = [replace(m, checksum=f"sha256:{sums[m.name]}" if m.name in sums else None) for m in members]
    members = sorted((measured(m) for m in members), key=lambda m: m.name)
    if source.slice is not None:
        members = looked_into(members, mirror)
    return Catalogue([s for member in members for s in sliced(member, source.slice)], {"files": len(members)})


def _found(patterns: Iterable[str]) -> list[Member]:
    """The files that patterns name, each once."""
    found: dict[str, Member] = {}
    for pattern in patterns:
        if is_address(pattern):
            files = [(f.address, f.bytes, f.checksum) for f in listing(pattern)]
        else:
            files = [(path, None, None) for path in sorted(glob.glob(pattern, recursive=True))]
        if not files:
            raise CellmillError(f"source.glob '{pattern}'", "it names no file.", "Correct the pattern.")
        for address, size, checksum in files:
            name = checked_name(f"source.glob '{pattern}'", member_name(address))
            if name in found and found[name].address != address:
                raise CellmillError(
                    "source.glob",
                    f"'{found[name].address}' and '{address}' have the same name.",
                    "Name them in a table (source.table), with a column 'member'.",
                )
            found[name] = Member("", name, address, None, size, checksum)
    return list(found.values())


def looked_into(members: Sequence[Member], mirror: Path | None) -> list[Member]:
    """The members with the size and cells of h5ad and Parquet files at addresses, where these are not known."""

    def look(member: Member) -> Member:
        if not is_address(member.address) or member.cells is not None:
            return member
        size, cells = size_and_cells(member.address, mirror=mirror, checksum=member.checksum)
        return replace(member, bytes=size if member.bytes is None else member.bytes, cells=cells)

    with ThreadPoolExecutor(LOOKS, thread_name_prefix="look") as pool:
        return list(pool.map(look, members))


def measured(member: Member) -> Member:
    """The member with its size, and the cells of an h5ad file, where it is local and these are not known."""
    path = Path(member.address)
    if is_address(member.address):
        return member
    if not path.exists():
        raise CellmillError(path, "there is no such file.", "Correct the table, or the pattern.")
    if path.is_dir():
        return member
    cells = member.cells
    if cells is None and path.suffix == ".h5ad":
        try:
            with h5py.File(path) as file:
                cells = cells_of(file)
        except (OSError, KeyError) as error:
            raise CellmillError(path, f"not a readable h5ad file ({error}).", "Get it again.") from error
    return replace(member, cells=cells, bytes=path.stat().st_size)
