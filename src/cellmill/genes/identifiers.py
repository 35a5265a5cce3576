"""Gene identifiers: which var column names the genes, versions off, duplicates found."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cellmill.errors import CellmillError, nearest

ENSEMBL = re.compile(r"^ENS[A-Z]{0,5}G\d{11}(\.\d+)?(_PAR_Y)?$")
ENSEMBL_VERSION = re.compile(r"\.\d+")
ID_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "feature_id", "ensembl", "ensembl_gene_id")
SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol")
MOSTLY = 0.9

AS_FOUND = "as_found"
LEFT_OUT = ("other_feature_types", "spike_ins", "other_genomes")
"""Outcomes of columns that are no genes of the dataset: the words of ``genes.leave_out``."""
KEPT = {
    AS_FOUND: "no gene table: the name as it stands, an Ensembl id without its version",
    "id": "an id of the gene table",
    "id_in_name": "an id of the gene table within the name, as in SYMBOL_ENSG00000000003.14",
    "symbol": "a symbol of the gene table",
    "symbol_in_other_case": "a symbol of the gene table, but for upper and lower case",
    "alias": "an alias of the gene table",
    "ambiguous_kept": "several genes of the gene table, kept under its name",
    "unmapped_kept": "not in the gene table, kept under its name",
}
"""Outcomes of columns that stay, and what they mean."""
DROPPED = {
    "ambiguous": "several genes of the gene table",
    "unmapped": "not in the gene table",
    "duplicate": "a gene that an earlier column of the file names",
    "outside_space": "a gene outside the gene space",
    "min_cells": "a gene in fewer kept cells than genes.min_cells",
    "other_feature_types": "no gene expression: an antibody, a guide, a peak",
    "spike_ins": "an ERCC spike-in",
    "other_genomes": "a gene of another genome",
}
"""Outcomes of columns that are dropped, and what they mean."""

_MT_HUMAN = (
    "198695 198712 198727 198763 198786 198804 198840 198886 198888 198899 198938 209082 210049 210077 210082 "
    "210100 210107 210112 210117 210127 210135 210140 210144 210151 210154 210156 210164 210174 210176 210184 "
    "210191 210194 210195 210196 211459 212907 228253"
)
_MT_MOUSE = " ".join(map(str, (*range(64336, 64362), *range(64363, 64373), 65947)))
_RIBO_HUMAN = (
    "8988 37241 63177 71082 83845 89009 89157 100316 105193 105372 105640 108107 108298 109475 110700 112306 "
    "114391 115268 116251 118181 122026 122406 124614 125691 129824 130255 131469 134419 136942 137154 137818 "
    "138326 140986 140988 142534 142541 142676 142937 143947 144713 145425 145592 146223 147403 147604 148303 "
    "149273 149806 156482 161016 161970 162244 163584 163682 163923 164587 165496 165502 166441 167526 168028 "
    "170889 171858 171863 172809 174444 174748 177600 177954 182774 182899 185088 186468 188846 197728 197756 "
    "197958 198034 198242 198755 198918 213741 221983 229117 231500 233927 241343 265681 280969"
)
_RIBO_MOUSE = (
    "740 2500 3429 3970 6333 7892 8668 8682 8683 9927 12405 12848 17404 20460 24608 25290 25362 25508 25794 "
    "28081 28234 28495 28936 29614 30432 30744 31320 32399 32518 34892 36781 37563 37805 38274 38900 39001 39209 "
    "39221 40952 41453 41841 43716 44533 45128 46330 46364 47215 47675 48758 49517 49751 52146 57322 57841 57863 "
    "58546 58558 58600 59070 59291 60036 60499 60636 60938 61477 61787 61983 62006 62328 62647 62997 63171 63316 "
    "63457 63888 67274 67288 71415 73702 74129 79435 79641 90137 90733 90862 93674 98274"
)
_HB_HUMAN = "86506 130656 188536 196565 206172 206177 213931 213934 223609 244734"
_HB_MOUSE = "20295 52187 52217 52305 55609 69917 69919 73063 73940 78621"


def _ids(human: str, mouse: str) -> frozenset[str]:
    """Ensembl ids of human and mouse by their numbers."""
    numbers = (("ENSG", human), ("ENSMUSG", mouse))
    return frozenset(f"{prefix}{int(n):011d}" for prefix, listed in numbers for n in listed.split())


SET_IDS = {
    "mt": _ids(_MT_HUMAN, _MT_MOUSE),
    "ribo": _ids(_RIBO_HUMAN, _RIBO_MOUSE),
    "hb": _ids(_HB_HUMAN, _HB_MOUSE),
}
"""The genes of each set of cellmill's own in human and mouse, for data without symbols (Ensembl)."""

_SET_PATTERNS = {
    "mt": re.compile(r"^MT-"),
    # Cytosolic ribosomal proteins; no pseudogenes (RPL21P28, Rpl6l), no kinases (RPS6KA1).
    "ribo": re.compile(r"^(RP([SL]\d+A?|L(3|10|36A|39)L|L(7|22|26)L1|LP[0-2]|SA|S27L|S3A1|S4(X|Y[12]|L))|FAU|UBA52)$"),
    "hb": re.compile(r"^HB(A[12]|B|D|E1|G[12]|M|Q1[AB]?|Z|A-(A[12]|X)|B-(B[12ST]|BH[12]|Y))$"),
}


@dataclass(frozen=True)
class PartGenes:
    """How one file names its genes.

    ``gene_ids`` and ``gene_symbols`` (symbols may be None) have one entry per column of the file's matrix;
    a gene id that stands there several times is one gene, and its counts are added up.
    """

    gene_ids: np.ndarray
    gene_symbols: np.ndarray
    taken_from: str
    names: np.ndarray | None = None
    """Names as found (columns,); None: the ids are the names."""
    outcomes: np.ndarray | None = None
    """What became of each column, by the words of ``KEPT`` and ``DROPPED``; None: every column stays as found."""
    mitochondrial: np.ndarray | None = None
    """Boolean (columns,): genes that the gene table places on the mitochondrial genome; None: no table."""
    sets: dict[str, np.ndarray] = field(default_factory=dict)
    """Boolean (columns,): what counts as a gene of each set, those of cellmill's own and of the configuration."""
    not_found: dict[str, list[str]] = field(default_factory=dict)
    """Names of a set of the configuration that no column of the file has, by set."""

    @property
    def names_as_found(self) -> np.ndarray:
        return self.gene_ids if self.names is None else self.names

    @property
    def outcome(self) -> np.ndarray:
        return np.full(len(self.gene_ids), AS_FOUND, object) if self.outcomes is None else self.outcomes

    @property
    def kept(self) -> np.ndarray:
        """Boolean (columns,): what goes into the gene space."""
        return np.isin(self.outcome.astype(str), list(KEPT))

    @property
    def measured(self) -> np.ndarray:
        """Boolean (columns,): what counts as gene expression of the cell, mapped or not."""
        return ~np.isin(self.outcome.astype(str), list(LEFT_OUT))

    @property
    def n_merged(self) -> int:
        """Columns that are added to another column of the same gene."""
        ids = self.gene_ids[self.kept]
        return len(ids) - len(set(ids))

    def member(self, gene_set: str) -> np.ndarray:
        """Boolean (columns,): whether a column belongs to ``mt``, ``ribo`` or ``hb``, by symbol or by id."""
        pattern = _SET_PATTERNS[gene_set]
        symbols = [s if s is not None else i for s, i in zip(self.gene_symbols, self.gene_ids, strict=True)]
        found = np.array([pattern.match(s.upper()) is not None for s in symbols], bool)
        found |= np.isin(self.gene_ids.astype(str), list(SET_IDS[gene_set]))
        by_table = gene_set == "mt" and self.mitochondrial is not None
        return found | self.mitochondrial if by_table else found


def names_of(values: pd.Index | pd.Series) -> np.ndarray:
    array = np.asarray(values.astype(object), object)
    missing = pd.isna(array)
    names = np.array([str(v) for v in array], object)
    names[missing | (names == "")] = None
    return names


def without_version(name: str) -> str:
    """``ENSG00000228572.7_PAR_Y`` is ``ENSG00000228572_PAR_Y``: the copy on Y is a gene of its own."""
    return ENSEMBL_VERSION.sub("", name) if ENSEMBL.match(name) else name


def ensembl_share(names: Collection[str | None] | np.ndarray) -> float:
    return float(np.mean([n is not None and ENSEMBL.match(n) is not None for n in names])) if len(names) else 0.0


def resolve_genes(var: pd.DataFrame, *, ids: str = "auto", where: object = "var") -> PartGenes:
    """Gene ids and symbols of a var table.

    ``auto`` takes the first of the index and the usual var columns that is Ensembl ids for at least 90 % of the genes,
    else the index as it stands. Versions of Ensembl ids (``.12``) come off.

    Raises:
        CellmillError: no such column, or a gene without a name.
    """
    columns: dict[str, pd.Index | pd.Series] = {"index": var.index}
    columns |= {str(c): var[c] for c in var.columns}
    if ids == "auto":
        usual = ["index", *(c for c in ID_COLUMNS if c in columns)]
        ids = next((c for c in usual if ensembl_share(names_of(columns[c])) >= MOSTLY), "index")
    if ids not in columns:
        raise CellmillError(where, f"no var column '{ids}' (genes.ids).", nearest(ids, columns))
    names = names_of(columns[ids])
    missing = np.flatnonzero(names == None)  # noqa: E711  elementwise
    if len(missing):
        raise CellmillError(
            where,
            f"{len(missing)} genes have no name in '{ids}' (the first in row {missing[0]}, '{var.index[missing[0]]}').",
            "Name a complete var column in genes.ids, or 'index'.",
        )
    is_ensembl = ensembl_share(names) >= MOSTLY
    gene_ids = np.array([without_version(n) for n in names], object)
    symbol_column = next((c for c in SYMBOL_COLUMNS if c in columns and c != ids), None)
    if symbol_column is not None:
        symbols = names_of(columns[symbol_column])
    elif ids != "index" and ensembl_share(names_of(var.index)) < MOSTLY:
        symbols = names_of(var.index)
    else:
        symbols = np.full(len(names), None, object) if is_ensembl else names
    return PartGenes(gene_ids, symbols, ids)
