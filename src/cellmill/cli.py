"""``cellmill``: what will be made and what was made; publishing, vocabularies and archives by hand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cellmill import __version__
from cellmill.errors import CellmillError, nearest
from cellmill.publish import commands as publishing
from cellmill.scdl import commands as archives
from cellmill.vocabularies import commands as vocabularies

FORMATS = ("hf", "mds", "hdf5", "h5ad", "scdl", "geneformer", "zarr", "packed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 with a sentence on stderr where not."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "summary":
            return _summary(arguments.datasets, arguments.results)
        if arguments.command == "status":
            return _status(arguments.datasets)
        if arguments.command == "vocab":
            return vocabularies.run(arguments)
        if arguments.command == "plan":
            return _plan(arguments.datasets, arguments.cores)
        if arguments.command == "fetch":
            return _fetch(arguments.datasets, arguments.only)
        if arguments.command == "convert":
            return archives.run(arguments)
        if arguments.command == "publish":
            return publishing.run(arguments)
        if arguments.paths:
            return _check_made(arguments.paths, files_only=arguments.files_only)
        return _check_configuration()
    except CellmillError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellmill",
        description="Look at what the workflow made, check and publish it; make vocabularies and archives. "
        "(snakemake runs the workflow itself.)",
    )
    parser.add_argument("--version", action="version", version=f"cellmill {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    summary = commands.add_parser("summary", help="what was made, how large it is, and how to load it")
    summary.add_argument("datasets", nargs="*", metavar="DATASET", help="only these (default: all)")
    summary.add_argument("--results", default="results", metavar="FOLDER", help="default: %(default)s")
    status = commands.add_parser("status", help="of each stage what is done, what runs, and what failed first")
    status.add_argument("datasets", nargs="*", metavar="DATASET", help="default: those of the configuration")
    check = commands.add_parser(
        "check", help="validate the configuration of this folder, or verify what was made, cell by cell"
    )
    check.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="an export, such as results/pbmc68k/hf/cells, a file of processed/, tokenized/ or embedded/, "
        "or a dataset, for all of it (default: the configuration)",
    )
    check.add_argument("--files-only", action="store_true", help="of exports compare sizes and checksums alone")
    publishing.add_parser(commands)
    plan = commands.add_parser("plan", help="cells, download, disk and estimated cost, before anything is fetched")
    plan.add_argument("datasets", nargs="+", metavar="DATASET", help="a file of config/datasets/, without .yaml")
    plan.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="default: those of this machine")
    fetch = commands.add_parser("fetch", help="fill a mirror with the outside files of datasets, and do nothing else")
    fetch.add_argument("datasets", nargs="+", metavar="DATASET", help="a file of config/datasets/, without .yaml")
    fetch.add_argument("--only", required=True, metavar="FOLDER", help="the mirror: its files and their SHA256SUMS")
    vocabularies.add_parser(commands)
    archives.add_parser(commands)
    return parser


# --- check


def _check_configuration() -> int:
    from cellmill.config import CONFIG_FILE, load_project

    if not Path(CONFIG_FILE).is_file():
        raise CellmillError(CONFIG_FILE, f"there is no such file in {Path.cwd()}.", "Go to the folder that has it.")
    count = len(load_project().datasets)
    print(f"{count} dataset{'' if count == 1 else 's'}, no problems.")
    return 0


def _check_made(paths: Iterable[str], *, files_only: bool) -> int:
    """Verify everything, also after something that is damaged."""
    from cellmill.checks import check

    status = 0
    for path in paths:
        try:
            for checked in check(path, files_only=files_only):
                if not len(checked.problems):
                    print(f"{checked.path}: {checked.about}.")
                    continue
                status = 1
                n = len(checked.problems)
                print(f"{checked.path}: {n:,} problem{'' if n == 1 else 's'}.", file=sys.stderr)
                for line in (*checked.problems.lines(), checked.fix):
                    print(f"  {line}", file=sys.stderr)
        except CellmillError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


# --- status


def _status(datasets: list[str]) -> int:
    import yaml

    from cellmill.config import CONFIG_FILE, load_project
    from cellmill.operations.status import status

    if not Path(CONFIG_FILE).is_file():
        raise CellmillError(CONFIG_FILE, f"there is no such file in {Path.cwd()}.", "Go to the folder that has it.")
    values = yaml.safe_load(Path(CONFIG_FILE).read_text()) | ({"datasets": datasets} if datasets else {})
    print(status(load_project(values), datasets))
    return 0


# --- plan


def _plan(datasets: Sequence[str], cores: int) -> int:
    from cellmill.sources.estimate import describe

    print("\n\n".join(describe(dataset, cores=max(1, cores)) for dataset in datasets))
    return 0


def _fetch(datasets: Sequence[str], mirror: str) -> int:
    from cellmill.config import load_datasets
    from cellmill.sources.fill import fill_mirror

    print(fill_mirror(load_datasets(datasets), Path(mirror)))
    return 0


# --- summary


def _summary(datasets: Sequence[str], results: str) -> int:
    base = Path(results)
    there = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    for name in datasets:
        if name not in there:
            raise CellmillError(base, f"there is no dataset '{name}'.", nearest(name, there))
    shown = 0
    for name in datasets or there:
        rows = [
            *_subset_row(base / name),
            *_processed_row(base / name),
            *_export_rows(base / name),
            *_report_row(base / name),
        ]
        if rows:
            print("\n" * bool(shown) + name)
            print(_table(("", "cells", "size", "how to load it"), rows))
            shown += 1
    if not shown:
        what = f"of {', '.join(datasets)} " if datasets else ""
        print(f"Nothing {what}has been made in {base}/ yet. Make it: make run")
    return 0


Row = tuple[str, str, str, str]


def _subset_row(folder: Path) -> list[Row]:
    """The raw parts of a subset, and of how many cells it was drawn."""
    from cellmill.contracts.subset import read_subset
    from cellmill.files import format_bytes

    path = folder / "raw" / "subset.parquet"
    if not path.is_file():
        return []
    _, facts = read_subset(path)
    size = format_bytes(sum(p.stat().st_size for p in folder.glob("raw/*.h5ad")))
    return [("raw", f"{facts['drawn']:,}", size, f"a subset of the {facts['found']:,} cells that were found")]


def _processed_row(folder: Path) -> list[Row]:
    """The processed parts, in one row."""
    from cellmill.contracts.counts import CountsPart
    from cellmill.files import format_bytes

    parts = sorted(folder.glob("processed/*.h5ad"))
    if not parts:
        return []
    cells = 0
    for path in parts:
        with CountsPart(path) as part:
            cells += part.n_cells
    size = format_bytes(sum(p.stat().st_size for p in parts))
    more = "" if len(parts) == 1 else f"   and {len(parts) - 1:,} more"
    return [("processed", f"{cells:,}", size, f'anndata.read_h5ad("{parts[0].as_posix()}"){more}')]


def _export_rows(folder: Path) -> list[Row]:
    from cellmill.contracts import manifest
    from cellmill.files import format_bytes
    from cellmill.report.loading import how_to_load

    rows = []
    for format_ in FORMATS:
        for path in sorted(folder.glob(f"{format_}/*/{manifest.NAME}")):
            said = manifest.read(path)
            name = f"{format_}/{path.parent.name}"
            spec, base = said["spec"], folder.parent.as_posix()
            line = how_to_load(folder.name, name, spec["kind"], results=base, encoding=spec.get("encoding"))
            size = format_bytes(sum(file["bytes"] for file in said["files"].values()))
            rows.append((name, f"{sum(said['splits'].values()):,}", size, line))
    return rows


def _report_row(folder: Path) -> list[Row]:
    from cellmill.files import format_bytes

    page = folder / "report" / "index.html"
    if not page.is_file():
        return []
    return [("report", "", format_bytes(page.stat().st_size), f"open {page.as_posix()} in a browser")]


def _table(head: Row, rows: Sequence[Row]) -> str:
    """Aligned text: names and lines to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {cells:>{widths[1]}}  {size:>{widths[2]}}  {line}".rstrip()
        for name, cells, size, line in (head, *rows)
    )
