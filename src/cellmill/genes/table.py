"""A gene table: every gene of an organism by Ensembl id, with its symbol, and where the table has them more."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from cellmill.errors import CellmillError
from cellmill.genes.identifiers import ENSEMBL, ID_COLUMNS, SYMBOL_COLUMNS, without_version

_PLAIN = ("gene_id", "gene_symbol", "version", "length", "biotype")
"""Columns of a table without a head: that of the tables of CELLxGENE's schema."""
_ALIASES = ("aliases", "alias", "alias_symbol", "synonyms", "prev_symbol")
_CHROMOSOMES = ("chromosome", "chrom", "chr", "seqname")
_MITOCHONDRIAL = frozenset({"mt", "m", "chrm", "chrmt"})
_LIST_HEADS = frozenset({*ID_COLUMNS, *SYMBOL_COLUMNS, "", "gene", "genes", "id", "index", "name", "names"})


@dataclass(frozen=True)
class GeneTable:
    """The genes of an organism.

    ``symbols`` has every gene id of the table, with its symbol or None; ``aliases`` is empty where the table has none.
    """

    symbols: dict[str, str | None]
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mitochondrial: frozenset[str] = frozenset()
    by_symbol: dict[str, tuple[str, ...]] = field(init=False)
    by_upper: dict[str, tuple[str, ...]] = field(init=False)
    by_alias: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        named = [(s, gene) for gene, s in self.symbols.items() if s is not None]
        object.__setattr__(self, "by_symbol", _grouped(named))
        object.__setattr__(self, "by_upper", _grouped([(s.upper(), gene) for s, gene in named]))
        aliases = [(a, gene) for gene, names in self.aliases.items() for a in names]
        object.__setattr__(self, "by_alias", _grouped(aliases))


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, gene in pairs:
        found.setdefault(name, []).append(gene)
    return {name: tuple(sorted(set(genes))) for name, genes in found.items()}


def read_gene_table(path: str | PathLike[str]) -> GeneTable:
    """A csv or tsv, plain or gzipped, one row per gene.

    Without a head: id, symbol, version, length, biotype, as in CELLxGENE's schema.
    With one: a column of ids, one of symbols, and where it has them of chromosomes and of aliases (between ``|``).
    Versions of ids come off; a symbol that is only the id again is none.

    Raises:
        CellmillError: not such a table, or a gene id that stands there twice.
    """
    rows = _rows(path)
    head = list(_PLAIN[: len(rows[0])])
    if not _is_id(rows[0][0]):
        head, rows = [c.strip().lower() for c in rows[0]], rows[1:]
    ids, names = _column(head, ID_COLUMNS), _column(head, SYMBOL_COLUMNS)
    if ids is None or names is None:
        raise CellmillError(
            path,
            f"no column of gene ids and one of symbols; found: {', '.join(head)}.",
            f"Name them as in one of: {', '.join(ID_COLUMNS)}; {', '.join(SYMBOL_COLUMNS)}.",
        )
    aliased, chromosome = _column(head, _ALIASES), _column(head, _CHROMOSOMES)
    symbols: dict[str, str | None] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    mitochondrial = set()
    for row in rows:
        if len(row) <= max(ids, names):
            raise CellmillError(path, f"a row of {len(row)} columns: {','.join(row)[:60]}.", "Give every gene a row.")
        gene, symbol = without_version(row[ids].strip()), row[names].strip()
        if gene in symbols:
            raise CellmillError(path, f"gene '{gene}' stands there twice.", "Give every gene one row.")
        symbols[gene] = None if not symbol or without_version(symbol) == gene else symbol
        if aliased is not None and len(row) > aliased:
            aliases[gene] = tuple(a.strip() for a in re.split(r"[|;,]", row[aliased]) if a.strip())
        on_chromosome = chromosome is not None and len(row) > chromosome and row[chromosome].lower() in _MITOCHONDRIAL
        if on_chromosome or symbol.upper().startswith("MT-"):
            mitochondrial.add(gene)
    return GeneTable(symbols, aliases, frozenset(mitochondrial))


def read_gene_list(path: str | PathLike[str]) -> list[str]:
    """Names of genes, as they stand: one per line, or the first column of a csv or tsv; a head is passed over.

    Raises:
        CellmillError: not readable, or empty.
    """
    names = [row[0].strip() for row in _rows(path)]
    if names[0].lower() in _LIST_HEADS:
        names = names[1:]
    names = [n for n in names if n]
    if not names:
        raise CellmillError(path, "names no gene.", "One gene per line, or the first column of a csv or tsv.")
    return names


def _is_id(name: str) -> bool:
    return ENSEMBL.match(name) is not None or name.startswith("ERCC-")


def _column(head: list[str], known: tuple[str, ...]) -> int | None:
    return next((head.index(c) for c in known if c in head), None)


def _rows(path: str | PathLike[str]) -> list[list[str]]:
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CellmillError(path, f"not readable ({error}).", "Delete it, or get it again.") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise CellmillError(path, "is empty.", "Get it again.")
    return list(csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ","))
