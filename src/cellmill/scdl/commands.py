"""``cellmill convert``: h5ad files to SCDL archives by hand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    from cellmill.scdl.convert import Source


def add_parser(commands: Any) -> None:
    """The sub-command."""
    convert = commands.add_parser("convert", help="h5ad files to an SCDL archive, as convert_h5ad_to_scdl does")
    convert.add_argument("inputs", nargs="+", metavar="INPUT", help="an h5ad file, or a folder of such files")
    convert.add_argument("-o", "--out", required=True, metavar="FOLDER", help="the archive")
    convert.add_argument("--each", action="store_true", help="an archive per file in FOLDER, named like it")
    convert.add_argument(
        "--matrix",
        default="auto",
        help="raw, X or layers/<name> (default: raw where a file has it, else X)",
    )
    convert.add_argument(
        "--data-dtype", metavar="TYPE", help="such as float32 (default: the smallest type that holds all values)"
    )
    convert.add_argument(
        "--neighbors",
        default="auto",
        metavar="KEY",
        help="key of obsp, or none (default: next_cell_ids where a file has it)",
    )
    threads = min(os.cpu_count() or 1, 4)
    convert.add_argument("--threads", type=int, default=threads, help="to decompress (default: %(default)s)")
    convert.add_argument("--force", action="store_true", help="replace an archive that is there")
    convert.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was parsed; its exit status."""
    from cellmill.scdl.convert import Options, convert, convert_each, find_files, look

    if arguments.threads < 1:
        raise CellmillError("--threads", f"found {arguments.threads}, expected 1 or more.", "See --help.")
    options = Options(
        matrix=arguments.matrix,
        data_dtype=arguments.data_dtype,
        neighbors=None if arguments.neighbors == "none" else arguments.neighbors,
        threads=arguments.threads,
    )
    sources = look(find_files(arguments.inputs), options)
    _show(sources)
    if arguments.dry_run:
        print(f"{arguments.out}: nothing was written (--dry-run).")
        return 0
    try:
        if arguments.each:
            done = convert_each(sources, arguments.out, options, force=arguments.force)
        else:
            done = {arguments.out: convert(sources, arguments.out, options, force=arguments.force)}
    except FileExistsError as error:
        where, _, found = str(error).partition(": ")
        raise CellmillError(where, found, "") from error
    for folder, said in done.items():
        _show_archive(folder, said)
    return 0


def _show(sources: Sequence[Source]) -> None:
    for source in sources:
        stored = "dense" if source.stored is None else f"{source.stored:,} values"
        neighbors = f", neighbours of obsp/{source.neighbors}" if source.neighbors else ""
        print(f"{source.path}: {source.matrix}, {source.cells:,} cells × {source.n_genes:,} genes, {stored}{neighbors}")


def _show_archive(folder: str, said: dict[str, Any]) -> None:
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    from cellmill.files import format_bytes

    types = ", ".join(f"{name} {dtype}" for name, dtype in said["dtypes"].items())
    print(
        f"{folder}: {said['cells']:,} cells, {said['values']:,} values, genes in {said['gene_blocks']:,} "
        f"block{'' if said['gene_blocks'] == 1 else 's'}, {format_bytes(size)} ({types})"
    )
    if said["neighbors"]:
        without = said["cells_without_neighbors"]
        print(f"{folder}: {said['neighbors']:,} neighbours; {without:,} cells are of files that have none")
