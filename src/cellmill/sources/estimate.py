"""``cellmill plan``: cells, download, disk and cost of a dataset, before anything of it is fetched."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cellmill.config import Project, load_datasets
from cellmill.contracts.plan import Plan, plan_file, read_plan
from cellmill.costs import OWN_BYTES_PER_BYTE, estimate
from cellmill.files import format_bytes
from cellmill.sources.stores import is_address


@dataclass(frozen=True)
class Known:
    """What is known of a dataset beforehand; None where nobody knows."""

    parts: int
    members: int
    cells: int | None
    download: int | None
    """Bytes that come over the network."""
    bytes: int | None
    """Bytes of all raw data."""
    largest_part: int | None
    said: str
    """Where this was found."""


def describe(dataset: str, *, cores: int) -> str:
    """A text for people: how large the dataset is, what it needs, and what each stage will take.

    A plan of an earlier run is read; else it is made here, from the catalogue alone, and not kept.

    Raises:
        CellmillError: no such dataset, or its catalogue cannot be read.
    """
    project = load_datasets([dataset])
    spec = project.datasets[dataset]
    known = _planned(project, dataset) if spec.source.planned else _named(project, dataset)
    lines = [f"{dataset}: {spec.title}", f"  {known.said}", ""]
    files = f" of {known.members:,} files" if spec.source.planned else ""
    lines.append(f"  {'parts':<18}{known.parts:>12,}{files}")
    lines.append(f"  {'cells':<18}{_number(known.cells):>12}{_subset(project, dataset)}")
    lines.append(f"  {'download':<18}{_size(known.download):>12}")
    lines += _disk(known, keep=spec.keep_raw, cores=cores)
    cells = spec.subset.cells if spec.subset is not None else known.cells
    lines += ["", *_cost(project, dataset, cells, cores=cores, parts=known.parts)]
    return "\n".join(lines)


def in_short(project: Project, dataset: str) -> str:
    """One line of it for the end of a dry run; a plan that is not made yet is not made for it.

    Raises:
        CellmillError: its plan or its files cannot be read.
    """
    spec, path = project.datasets[dataset], plan_file(dataset)
    if spec.source.planned and not path.is_file():
        return f"{dataset}: a first job plans its parts; how large they are beforehand: cellmill plan {dataset}"
    known = _of_plan(read_plan(path), "") if spec.source.planned else _named(project, dataset)
    cells = spec.subset.cells if spec.subset is not None else known.cells
    said = [f"{_number(known.cells)} cells{_subset(project, dataset)}" if known.cells else "cells not known"]
    said.append(f"{known.parts:,} part{'' if known.parts == 1 else 's'}")
    if known.bytes is not None:
        said.append(f"{format_bytes(known.bytes)} of raw files, {_size(known.download)} to download")
    if cells is not None:
        stages = estimate(project, dataset, cells=cells, parts=known.parts)
        unknown = ", and what is not measured" if any(s.not_measured for s in stages) else ""
        said.append(f"{sum(s.per_part + s.per_dataset for s in stages) / 3600:,.2f} core-hours{unknown}")
    return f"{dataset}: {'; '.join(said)}"


def _planned(project: Project, dataset: str) -> Known:
    from cellmill.sources.plan import plan_dataset

    path, source = plan_file(dataset), project.datasets[dataset].source
    if path.is_file():
        plan, said = read_plan(path), f"As planned in {path}."
    else:
        mirror = project.config.mirror
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "plan.tsv"
            plan = plan_dataset(source, out, mirror=None if mirror is None else Path(mirror))
        said = f"Planned now, from the catalogue alone; a run writes {path}."
    return _of_plan(plan, said)


def _of_plan(plan: Plan, said: str) -> Known:
    files = {m.address: m.bytes for m in plan.members}
    remote = [size for address, size in files.items() if is_address(address)]
    cells = [m.cells for m in plan.members]
    parts = [[m.bytes for m in members if is_address(m.address)] for members in plan.parts.values()]
    return Known(
        parts=len(plan.parts),
        members=len(files),
        cells=_sum(cells),
        download=_sum(remote),
        bytes=_sum(list(files.values())),
        largest_part=max((size for part in parts if (size := _sum(part)) is not None), default=None),
        said=said,
    )


def _named(project: Project, dataset: str) -> Known:
    """Of a dataset whose parts are named: local files are looked into, addresses only where the ledger knows them."""
    from cellmill.contracts.plan import Member
    from cellmill.sources.bundled import Bundled
    from cellmill.sources.files import Files
    from cellmill.sources.ledger import LEDGER, Ledger
    from cellmill.sources.plan import measured

    source, ledger = project.datasets[dataset].source, Ledger(LEDGER)
    members = []
    if isinstance(source, Files):
        for part, address in source.files.items():
            entry = ledger.by_address(address)
            members.append(measured(Member(part, part, address, None, entry.bytes if entry else None)))
    elif isinstance(source, Bundled):
        path = source.packaged_file()
        members = [] if path is None else [measured(Member("0", "0", str(path)))]
    plan = Plan({m.part: [m] for m in members}, {})
    return _of_plan(plan, "Its files are named in the configuration.")


def _sum(values: list[int | None]) -> int | None:
    return None if None in values else sum(v for v in values if v is not None)


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return "not known" if value is None else format_bytes(value)


def _subset(project: Project, dataset: str) -> str:
    subset = project.datasets[dataset].subset
    return "" if subset is None else f" found, of which {subset.cells:,} are drawn"


def _disk(known: Known, *, keep: bool, cores: int) -> list[str]:
    """Raw and processed files; and while they are fetched, the files of the parts that are at work."""
    if known.bytes is None:
        return [f"  {'disk':<18}{'not known':>12}"]
    own = int(known.bytes * OWN_BYTES_PER_BYTE)
    lines = [f"  {'disk, raw':<18}{format_bytes(own if keep else 0):>12}" + ("" if keep else " (keep_raw: false)")]
    lines.append(f"  {'disk, processed':<18}{format_bytes(own):>12}, and what tokens, vectors and exports take")
    if known.download and known.largest_part:
        at_work = 2 * known.largest_part * min(cores, known.parts)
        lines.append(f"  {'disk, for a while':<18}{format_bytes(at_work):>12} with {cores} parts fetched at once")
    return lines


def _cost(project: Project, dataset: str, cells: int | None, *, cores: int, parts: int) -> list[str]:
    if cells is None:
        return ["  What it costs is not known, as its cells are not."]
    lines = [f"  {'stage':<18}{'core-hours':>12}  on {cores} cores"]
    wall, stages = 0.0, estimate(project, dataset, cells=cells, parts=parts)
    for stage in stages:
        known, seconds = stage.per_part + stage.per_dataset, stage.per_part / max(1, min(cores, parts))
        seconds += stage.per_dataset
        wall += seconds
        line = f"  {stage.stage:<18}" + (
            f"{known / 3600:>12.2f}  {_time(seconds)}" if known else f"{'not measured':>12}"
        )
        if stage.not_measured:
            line += f"{', and not measured' if known else ''}: {', '.join(stage.not_measured)}"
        lines.append(line)
    unknown = " and what is not measured" if any(stage.not_measured for stage in stages) else ""
    lines.append(f"  {'in all':<18}{'':>12}  {_time(wall)}, beside the download{unknown}")
    lines.append("  By the cost per cell in docs/scale.md, of one machine without a GPU.")
    return lines


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
