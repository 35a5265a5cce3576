"""``results/{dataset}/raw/{part}.h5ad``: a part as found, whichever kind of source it comes from."""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.contracts.versions import RAW
from cellmill.errors import CellmillError
from cellmill.files import replacing, scratch, sha256_of, write_json
from cellmill.sources import Source
from cellmill.sources.bundled import Bundled, recover_counts
from cellmill.sources.download import Download
from cellmill.sources.fetch import Traffic, fetch, file_name, redacted
from cellmill.sources.files import Files, shared_file
from cellmill.sources.geo_archs4 import GeoArchs4, take_samples
from cellmill.sources.hub import Hub
from cellmill.sources.ledger import Ledger
from cellmill.sources.parallel import Wanted, fetch_all, refuse_full_disk
from cellmill.sources.parquet_cells import GeneTable, convert_parquet, read_gene_table
from cellmill.sources.scbasecount import ScBaseCount
from cellmill.sources.stores import is_address
from cellmill.sources.tahoe import Tahoe
from cellmill.sources.tenx import convert_tenx_folder, convert_tenx_h5, unpack_tenx

if TYPE_CHECKING:
    from cellmill.sources.tahoe_cells import Tables

log = logging.getLogger("cellmill")

READABLE = (".h5ad", ".h5ad.gz", ".h5", ".tar.gz", ".tgz", ".zarr.zip", ".parquet")


def retrieve_part(
    source: Source,
    part: str,
    out: Path,
    provenance: Path,
    *,
    ledger: Path,
    mirror: Path | None,
    plan: Path | None = None,
    shared: Sequence[Path] = (),
    counts: str = "auto",
    download: Download | None = None,
) -> None:
    """Bring one part of a dataset to ``out`` as h5ad, and write down where it comes from.

    A local h5ad file becomes a link, so that nothing is doubled; what a plan says of the part is combined.
    What is downloaded lies in ``.download/`` beside ``out`` until it is complete, and a later call goes on with it.

    Args:
        source: the validated source of the dataset.
        part: a name of ``source.parts()``, or of the plan.
        out: the h5ad file to make.
        provenance: JSON with ``kind``, ``part``, one of ``address``, ``path`` and ``package``, ``sha256`` and
            ``bytes`` of what was found there (``null`` where unknown), and ``note``.
        ledger: ``resources/ledger.tsv``, asked for checksums that the config does not give.
        mirror: a folder with a ``SHA256SUMS`` that is asked before the network.
        plan: ``plan.tsv``, where the source has one; the provenance then has ``members`` in place of one file.
        shared: of a plan, the files that other parts share, as ``retrieve_file`` made them.
        counts: of a plan, where the counts of each member are.
        download: how files are fetched.

    Raises:
        CellmillError: not to be had, not as expected, or of no readable kind.
    """
    out, provenance = Path(out), Path(provenance)
    out.parent.mkdir(parents=True, exist_ok=True)
    if plan is not None:
        facts = _from_plan(source, part, out, plan, shared, counts, mirror, download or Download())
    elif isinstance(source, Bundled):
        facts = _from_package(source, out)
    elif not isinstance(source, Files):
        raise ValueError("this source has a plan")
    elif is_address(source.files[part]):
        facts = _from_address(source, part, out, ledger, mirror, download or Download())
    else:
        facts = _from_path(source, part, out)
    write_json(provenance, {"contract": str(RAW), "kind": source.kind, "part": part} | facts)


def retrieve_file(
    plan: Path,
    name: str,
    out: Path,
    *,
    project: str | None = None,
    mirror: Path | None = None,
    download: Download | None = None,
) -> None:
    """Fetch a file of which several parts take rows, ``out``, and write down beside it what it is, as ``.json``.

    Args:
        project: the Google Cloud project that is billed.

    Raises:
        CellmillError: what ``fetch`` raises, or a full disk.
    """
    member, out = shared_file(plan, name), Path(out)
    record = out.with_name(f"{out.name}.sha256")
    wanted = Wanted(member.address, out, member.checksum, member.bytes, project, record)
    refuse_full_disk(out.parent, needed=max(0, (member.bytes or 0) - wanted.there), what=redacted(member.address))
    (found,) = fetch_all([wanted], mirror=mirror, download=download or Download())
    file = {"address": redacted(member.address), "sha256": found.sha256, "bytes": found.bytes, "origin": found.origin}
    write_json(out.with_suffix(".json"), {"contract": str(RAW), "member": name, "file": file})


def _from_plan(
    source: Source,
    part: str,
    out: Path,
    plan: Path,
    shared: Sequence[Path],
    counts: str,
    mirror: Path | None,
    download: Download,
) -> dict[str, Any]:
    from cellmill.contracts.plan import members_of
    from cellmill.sources.members import Fetched, combine, fetch_members

    folder = out.parent / ".download" / part
    project = source.requester_pays if isinstance(source, ScBaseCount | Tahoe) else None
    members = members_of(plan, part)
    fetched = fetch_members(
        members, folder, mirror=mirror, download=download, project=project, shared=[Path(path) for path in shared]
    )
    if isinstance(source, GeoArchs4):
        (only,) = fetched
        facts = take_samples(only.path, only.member, source, out)
        return {**facts, "members": [{**only.facts, **facts["members"][0]}], "note": "Samples of ARCHS4."}
    ready = []
    with scratch(out) as place:
        genes = _gene_table(source, plan, folder, mirror, download)
        tables = _tahoe_tables(source, folder, mirror, download) if isinstance(source, Tahoe) else None
        for f in fetched:
            suffix = "folder" if f.path.is_dir() else ".h5ad" if f.member.rows else suffix_of(str(f.path), f.path.name)
            path, note = f.path, ""
            if suffix == ".parquet" and tables is not None:
                path = place / f"{f.member.name}.h5ad"
                note = tables.decode(f.path, path)
            elif suffix != ".h5ad":
                path = place / f"{f.member.name}.h5ad"
                note = _convert(f.path, suffix, path, source, genes)
            check_h5ad(path, shown=f.path)
            ready.append(Fetched(f.member, path, {**f.facts, "note": note}))
        rounded = isinstance(source, ScBaseCount) and source.round
        facts = combine(ready, out, counts=counts, rounded=rounded, describe=tables.describe if tables else None)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other parts are there, or nothing was fetched
        folder.parent.rmdir()
    return {**facts, "note": f"{len(fetched)} members, combined."}


def _tahoe_tables(source: Tahoe, to: Path, mirror: Path | None, download: Download) -> Tables:
    """What is said of every part's cells and genes."""
    from cellmill.sources.tahoe_cells import read_tables

    wanted = {name: Wanted(a, to / f"{name}_metadata.parquet") for name, a in source.tables.items() if is_address(a)}
    fetch_all(list(wanted.values()), mirror=mirror, download=download)
    return read_tables({n: wanted[n].path if n in wanted else Path(a) for n, a in source.tables.items()})


def _gene_table(source: Source, plan: Path, to: Path, mirror: Path | None, download: Download) -> GeneTable | None:
    """The genes that numbers in Parquet stand for, where a table of the repository says so."""
    from cellmill.contracts.plan import read_plan

    known = read_plan(plan).facts.get("gene_table")
    if known is None or not isinstance(source, Hub) or source.parquet is None:
        return None
    path = to / f"genes{Path(known['address']).suffix}"
    fetch_all([Wanted(known["address"], path, known["checksum"], known["bytes"])], mirror=mirror, download=download)
    return read_gene_table(path, source.parquet)


def _from_package(source: Bundled, out: Path) -> dict[str, Any]:
    from importlib.metadata import version

    path = source.packaged_file()
    if path is None:
        raise CellmillError(f"source.name {source.name}", "scanpy is not installed.", "Type: pip install scanpy")
    note = recover_counts(path, out)
    return {
        "package": f"scanpy {version('scanpy')}, datasets/{path.name}",
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "note": note,
    }


def _from_path(source: Files, part: str, out: Path) -> dict[str, Any]:
    given, wanted = source.files[part], source.sha256.get(part)
    path = Path(given)
    if not path.exists():
        raise CellmillError(f"source.files.{part}", f"no file '{given}'.", "Correct the path in the dataset's config.")
    suffix = "folder" if path.is_dir() else suffix_of(given, path.name)
    if wanted is not None:
        _verify(part, path, wanted)
    if suffix == ".h5ad":
        check_h5ad(path)
        _link(path, out)
        note = "A link to the file itself."
    else:
        note = _convert(path, suffix, out, source)
    size = None if path.is_dir() else path.stat().st_size
    return {"path": given, "sha256": wanted, "bytes": size, "note": note}


def _from_address(
    source: Files, part: str, out: Path, ledger: Path, mirror: Path | None, download: Download
) -> dict[str, Any]:
    address = source.files[part]
    name = file_name(address)
    suffix = suffix_of(redacted(address), name)
    entry = Ledger(ledger).by_address(address)
    folder = out.parent / ".download" / part
    path = folder / name
    record = out.with_name(out.name + ".sha256")
    first = not record.exists()
    fetched = fetch(
        address,
        path,
        sha256=source.sha256.get(part) or (entry.sha256 if entry else None),
        size=entry.bytes if entry else None,
        mirror=mirror,
        record=record,
        patience=download.patience,
        traffic=Traffic(download.bytes_per_s),
    )
    try:
        if suffix == ".h5ad":
            check_h5ad(path)
            os.replace(path, out)
            note = ""
        else:
            note = _convert(path, suffix, out, source)
    except CellmillError:
        if first:  # what cannot be read (a login page, say) must not become what is expected from now on
            record.unlink(missing_ok=True)
        raise
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # other parts are there
        folder.parent.rmdir()
    return {"address": redacted(address), "sha256": fetched.sha256, "bytes": fetched.bytes, "note": note}


def retrieve_table(address: str, out: Path, *, mirror: Path | None, download: Download) -> None:
    """Bring a table that is joined from its address to ``out``; its first checksum must be met later.

    Raises:
        CellmillError: what ``fetch`` raises.
    """
    fetch(
        address,
        out,
        sha256=None,
        mirror=mirror,
        record=out.with_name(out.name + ".sha256"),
        patience=download.patience,
        traffic=Traffic(download.bytes_per_s),
    )


def suffix_of(where: str, name: str) -> str:
    """Which of ``READABLE`` the name ends in, the longest that fits."""
    fitting = [suffix for suffix in READABLE if name.lower().endswith(suffix)]
    if not fitting:
        raise CellmillError(
            where,
            f"cannot tell from '{name}' what this is.",
            f"Readable are {', '.join(READABLE)} (.h5, .tar.gz: of 10x; .parquet: of the sources `hub` and `tahoe`), "
            "and local folders: .zarr, or a matrix.mtx.",
        )
    return max(fitting, key=len)


def _verify(part: str, path: Path, wanted: str) -> None:
    if path.is_dir():
        raise CellmillError(
            f"source.sha256.{part}", "a checksum of a folder.", "Give a file, or leave the checksum out."
        )
    found = sha256_of(path)
    if found != wanted:
        raise CellmillError(
            path,
            f"its sha256 is {found}, expected {wanted} (source.sha256.{part}).",
            "Get the file again; if it was replaced on purpose, correct the checksum.",
        )


def _convert(path: Path, suffix: str, out: Path, source: Source, genes: GeneTable | None = None) -> str:
    """Make ``out`` from a file that is no h5ad; a sentence on what was left out."""
    from cellmill.matrix.zarr_store import convert_zarr, is_zarr

    log.info("%s: converting to h5ad", path)
    if suffix == ".zarr.zip" or (suffix == "folder" and is_zarr(path)):
        return convert_zarr(path, out)
    if suffix == "folder":
        return convert_tenx_folder(path, out)
    if suffix == ".h5":
        return convert_tenx_h5(path, out, genome=source.genome if isinstance(source, Files | Hub) else None)
    if suffix == ".parquet":
        if not isinstance(source, Hub) or source.parquet is None:
            raise CellmillError(
                path, "Parquet, and nothing says how it holds cells.", "Name it by source `hub`, with `parquet:`."
            )
        return convert_parquet(path, out, source.parquet, genes)
    if suffix == ".h5ad.gz":
        return _gunzip(path, out)
    with scratch(out) as folder:
        return convert_tenx_folder(unpack_tenx(path, folder), out)


def _gunzip(path: Path, out: Path) -> str:
    with replacing(out) as aside:
        try:
            with gzip.open(path, "rb") as source, open(aside, "wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise CellmillError(path, f"not whole gzip ({error}).", "It may be truncated; get it again.") from error
        check_h5ad(aside, shown=path)
    return "Decompressed."


def _link(path: Path, out: Path) -> None:
    """Make ``out`` a link to ``path``: relative where that leads there, else absolute."""
    target = Path(os.path.abspath(path))
    if out.parent.resolve() / out.name == target.parent.resolve() / target.name:
        raise CellmillError(path, "this is the file that cellmill is about to write.", "Keep raw data out of results/.")
    with replacing(out) as aside:
        aside.symlink_to(os.path.relpath(target, out.parent.resolve()))
        if not (aside.exists() and aside.samefile(path)):
            aside.unlink()
            aside.symlink_to(target)


def check_h5ad(path: Path, *, shown: Path | None = None) -> None:
    """Refuse what is not whole HDF5, or has no obs, var and matrix; tables and values are not read.

    Raises:
        CellmillError: about ``shown`` (``path`` where not given).
    """
    from cellmill.matrix.reader import open_h5ad

    shown = shown or path
    try:
        file = open_h5ad(path)
    except CellmillError as error:
        raise CellmillError(shown, error.found, error.fix) from error
    with file:
        missing = [name for name in ("obs", "var") if name not in file]
        if not any(name in file for name in ("X", "raw/X", "raw.X")) and not len(file.get("layers", ())):
            missing.append("X")
        if not missing:
            return
        hint = "It looks like a 10x matrix: name it .h5." if "matrix" in file else "Write it with anndata."
        raise CellmillError(shown, f"HDF5, but not AnnData: no {', '.join(missing)} in it.", hint)
