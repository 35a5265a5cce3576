"""An export against its manifest, and its cells against those that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cellmill.checks.problems import Problems, UnreadableError
from cellmill.contracts import manifest
from cellmill.errors import CellmillError
from cellmill.files import read_json, scratch, sha256_of
from cellmill.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from cellmill.checks.check import Checked
    from cellmill.checks.compare import Split
    from cellmill.exports import Export
    from cellmill.exports.rows import Header, PartFiles

ORDER = "each split in the order of a hash of the cell id"


def check(checked: Checked, *, files_only: bool) -> None:
    """Fill in what is wrong with an export, and what it was compared with."""
    said = manifest.read(checked.path)
    _check_files(checked.path, said, checked.problems)
    notes = [f"{len(said['files']):,} files, {sum(said['splits'].values()):,} cells"]
    if files_only:
        notes.append("as they were written")
    else:
        notes.append(_check_cells(checked.path, said, checked.problems))
    checked.about = ", ".join(notes)


def _check_files(folder: Path, said: dict[str, Any], problems: Problems) -> None:
    """Every file of the manifest with its size and checksum, and no other."""
    there = {
        p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and not p.match(manifest.CACHES)
    }
    there.pop(manifest.NAME, None)
    for name in sorted(there.keys() - said["files"].keys()):
        problems.add("files that should not be there", name, "is not in the manifest; move it elsewhere")
    with progress(sum(f["bytes"] for f in said["files"].values()), "B", "checksums") as counter:
        for name, wanted in said["files"].items():
            if name not in there:
                problems.add("files that are missing", name, "is missing")
                continue
            size = there[name].stat().st_size
            if size != wanted["bytes"]:
                problems.add("files of another size", name, f"has {size:,} bytes, expected {wanted['bytes']:,}")
            elif (found := sha256_of(there[name])) != wanted["sha256"]:
                text = f"has the sha256 {found[:12]}…, expected {wanted['sha256'][:12]}…: it was changed or damaged"
                problems.add("files that were changed", name, text)
            counter.update(wanted["bytes"])


def _check_cells(folder: Path, said: dict[str, Any], problems: Problems) -> str:
    """Every cell; says what they were compared with."""
    format_ = said["export"].split("/")[0]
    if find_spec(f"cellmill.checks.{format_}") is None:
        return f"files as they were written (there is no reader for cells of {format_})"
    if said.get("order") != ORDER:
        return "files as they were written (cells stand in an order that is not known here)"
    reader = import_module(f"cellmill.checks.{format_}")
    source = _Source.find(folder, said)
    with ExitStack() as stack:
        spill = stack.enter_context(scratch(_writable(folder) / "check"))
        rows = None if source.header is None else source.rows(spill)
        compared, left = _splits(folder, said, reader, source, rows, problems)
    if source.header is None:
        return f"each once and in its order; not compared with processed/: {source.why}"
    words = f"each compared with processed/ ({', '.join(sorted(compared)) or 'its id'})"
    return f"{words}; not compared: {', '.join(sorted(left))}" if left else words


def _writable(folder: Path) -> Path:
    """Where scratch files may lie: beside the export, else in the temporary folder."""
    import os
    import tempfile

    return folder.parent if os.access(folder.parent, os.W_OK) else Path(tempfile.gettempdir())


def _splits(
    folder: Path,
    said: dict[str, Any],
    reader: ModuleType,
    source: _Source,
    rows: Iterator[tuple[str, pa.RecordBatch]] | None,
    problems: Problems,
) -> tuple[set[str], set[str]]:
    from cellmill.checks.compare import Split

    header = source.header
    genes = [] if header is None or not hasattr(reader, "genes") else _written(reader, header, said)
    coming = _BySplit(rows)
    compared: set[str] = set()
    left: set[str] = set()
    with progress(sum(said["splits"].values()), "cells", "comparing") as counter:
        for name, cells in said["splits"].items():
            wanted = None
            if header is not None:
                wanted = (reader.expected(batch, header, said) for batch in coming.of(name))
                if hasattr(reader, "genes"):
                    _check_genes(folder, name, reader, _written(reader, header, said), problems)
            split = Split(name, wanted, problems, genes=genes)
            try:
                whole = _read(folder, name, said, reader, split, counter)
                split.close()
            except CellmillError as error:  # of processed, tokens or embeddings
                problems.add("what it was made from is not readable", error.where, f"{error.found} {error.fix}")
                return compared, left
            if split.cells != cells:
                text = f"has {split.cells:,} cells that can be read, expected {cells:,}"
                problems.add("splits of another size", f"{name}/", text)
            looked: set[str] = set()
            if whole and hasattr(reader, "also"):
                try:
                    looked = reader.also(folder, name, said, header, problems)
                except UnreadableError as error:
                    problems.add("files that cannot be read", error.file, error.why)
            compared |= split.compared | looked
            left |= split.uncompared - looked
    if hasattr(reader, "whole"):
        try:
            reader.whole(folder, said, header, problems)
        except UnreadableError as error:
            problems.add("files that cannot be read", error.file, error.why)
    return compared, left


def _read(folder: Path, name: str, said: dict[str, Any], reader: ModuleType, split: Split, counter: Any) -> bool:
    """Whether all of it could be read."""
    try:
        for found in reader.read(folder, name, said):
            split.add(found)
            counter.update(found.table.num_rows)
        return True
    except UnreadableError as error:
        split.problems.add("files that cannot be read", error.file, error.why)
    except OSError as error:
        split.problems.add("files that cannot be read", f"{name}/", str(error))
    return False


def _check_genes(folder: Path, split: str, reader: ModuleType, genes: list[str], problems: Problems) -> None:
    try:
        for file, found in reader.genes(folder, split):
            if found != genes:
                at = next((i for i, (a, b) in enumerate(zip(found, genes, strict=False)) if a != b), None)
                what = f"{len(found):,} genes, expected {len(genes):,}"
                if at is not None:
                    what = f"gene {at} is '{found[at]}', expected '{genes[at]}'"
                problems.add("gene lists", file, what)
    except (OSError, KeyError, ValueError, TypeError, CellmillError) as error:
        problems.add("gene lists", f"{split}/", f"not readable ({error})")


def _written(reader: ModuleType, header: Header, said: dict[str, Any]) -> list[str]:
    """The genes that the export has: all of the gene space, or those that its reader says."""
    genes = header.genes["gene_id"]
    return list(genes[reader.written(header, said)] if hasattr(reader, "written") else genes)


class _BySplit:
    """Batches that come split by split, asked for by split; those of a split that nobody asks for are passed over."""

    def __init__(self, rows: Iterator[tuple[str, pa.RecordBatch]] | None) -> None:
        self._rows = iter(()) if rows is None else rows
        self._next: tuple[str, pa.RecordBatch] | None = None

    def of(self, split: str) -> Iterator[pa.RecordBatch]:
        while True:
            if self._next is None:
                self._next = next(self._rows, None)
            if self._next is None or self._next[0] != split:
                return
            batch, self._next = self._next[1], None
            yield batch


class _Source:
    """What an export was made from, where it is at hand."""

    def __init__(self, parts: list[PartFiles], header: Header | None, columns: tuple[str, ...], why: str = "") -> None:
        self.parts, self.header, self.columns, self.why = parts, header, columns, why

    def rows(self, spill: Path) -> Iterator[tuple[str, pa.RecordBatch]]:
        from cellmill.exports.rows import ordered

        assert self.header is not None
        return ordered(self.parts, header=self.header, columns=self.columns, scratch=spill)

    @classmethod
    def find(cls, folder: Path, said: dict[str, Any]) -> _Source:
        """The files of the dataset that ``folder`` stands in; else why there are none."""
        from cellmill.exports import parse_export
        from cellmill.exports.rows import PartFiles, needs, token_column

        base = folder.resolve().parents[1]
        spec = parse_export(said["export"], said["spec"])
        tokens, vectors = spec.tokenizers, spec.embedders
        parts = [
            PartFiles(
                str(base / "processed" / f"{part}.h5ad"),
                {t: str(base / "tokenized" / t / f"{part}.parquet") for t in tokens},
                {e: str(base / "embedded" / e / f"{part}.npy") for e in vectors},
            )
            for part in said["parts"]
        ]
        for part in parts:
            for file in (part.processed, *part.tokens.values(), *part.embeddings.values()):
                if not Path(file).is_file():
                    return cls([], None, (), f"{Path(file).relative_to(base).as_posix()} is not at hand")
        genes = base / "genes" / "genes.parquet"
        if getattr(spec, "genes", "all") != "all" and not genes.is_file():
            return cls([], None, (), "genes/genes.parquet is not at hand")
        try:
            header = _header(parts, said, spec, genes, base / "config.json")
        except CellmillError as error:
            return cls([], None, (), f"{error.where}: {error.found}")
        columns = (
            *needs(counts=spec.with_counts, embeddings=vectors),
            *(token_column(t, c) for t, found in header.tokens.items() for c in found),
        )
        return cls(parts, header, columns)


def _header(parts: list[PartFiles], said: dict[str, Any], spec: Export, gene_file: Path, config: Path) -> Header:
    """What ``ordered`` needs to know, from the manifest, the first part, and where they are at hand the gene table and
    ``config.json``, which names the column of batches.
    """
    import numpy as np

    from cellmill.contracts import embedding
    from cellmill.contracts.counts import CountsPart
    from cellmill.contracts.genes import read_genes
    from cellmill.contracts.tokens import TokensPart
    from cellmill.exports.captions import columns_of
    from cellmill.exports.rows import Header, common_schema

    with CountsPart(parts[0].processed) as part:
        genes = part.var.rename_axis("gene_id").reset_index()
        kept = list(part.exported_columns)
    if gene_file.is_file():
        table, _ = read_genes(gene_file)
        if list(table["gene_id"]) != list(genes["gene_id"]):
            raise CellmillError(gene_file, "has other genes than processed/.", "Run snakemake again.")
        genes = table
    asked = getattr(spec, "columns", None)
    columns = [*(kept if asked is None else asked), *columns_of(said["facts"].get("captions", []))]
    columns += said["facts"].get("obs", [])
    tokens = {}
    for name in spec.tokenizers:
        with TokensPart(parts[0].tokens[name]) as file:
            tokens[name] = {column: file.facts["exported"][column] for column in file.fields}
    return Header(
        dataset=said["dataset"],
        cells=said["splits"],
        genes=genes,
        counts_dtype=np.dtype(said["counts_dtype"]),
        obs=common_schema(parts, list(dict.fromkeys(columns))),
        tokens=tokens,
        widths={e: int(embedding.read(parts[0].embeddings[e]).shape[1]) for e in spec.embedders},
        batch=read_json(config).get("dataset", {}).get("columns", {}).get("batch") if config.is_file() else None,
    )
