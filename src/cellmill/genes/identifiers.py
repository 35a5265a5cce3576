"""Gene identifiers: which var column names the genes, versions off, duplicates found."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellmill.errors import CellmillError, nearest

ENSEMBL = re.compile(r"^ENS[A-Z]{0,5}G\d{11}(\.\d+)?(_PAR_Y)?$")
ENSEMBL_VERSION = re.compile(r"\.\d+")
ID_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "feature_id", "ensembl", "ensembl_gene_id")
SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol")
MOSTLY = 0.9

_MT_HUMAN = (
    "198695 198712 198727 198763 198786 198804 198840 198886 198888 198899 198938 209082 210049 210077 210082 "
    "210100 210107 210112 210117 210127 210135 210140 210144 210151 210154 210156 210164 210174 210176 210184 "
    "210191 210194 210195 210196 211459 212907 228253"
)
_MT_MOUSE = (*range(64336, 64362), *range(64363, 64373), 65947)
MITOCHONDRIAL_IDS = frozenset([f"ENSG00000{i}" for i in _MT_HUMAN.split()] + [f"ENSMUSG{i:011d}" for i in _MT_MOUSE])
"""The 37 genes of the mitochondrial genome of human and mouse, for data without symbols (Ensembl)."""

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

    @property
    def n_merged(self) -> int:
        """Columns that are added to another column of the same gene."""
        return len(self.gene_ids) - len(set(self.gene_ids))

    def member(self, gene_set: str) -> np.ndarray:
        """Boolean (columns,): whether a column belongs to ``mt``, ``ribo`` or ``hb``, by symbol, else by id."""
        pattern = _SET_PATTERNS[gene_set]
        symbols = [s if s is not None else i for s, i in zip(self.gene_symbols, self.gene_ids, strict=True)]
        found = np.array([pattern.match(s.upper()) is not None for s in symbols], bool)
        return found | np.isin(self.gene_ids, list(MITOCHONDRIAL_IDS)) if gene_set == "mt" else found


def _names(values: pd.Index | pd.Series) -> np.ndarray:
    array = np.asarray(values.astype(object), object)
    return np.array([None if pd.isna(v) or v == "" else str(v) for v in array], object)


def _without_version(name: str) -> str:
    """``ENSG00000228572.7_PAR_Y`` is ``ENSG00000228572_PAR_Y``: the copy on Y is a gene of its own."""
    return ENSEMBL_VERSION.sub("", name) if ENSEMBL.match(name) else name


def _ensembl_share(names: np.ndarray) -> float:
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
        ids = next((c for c in usual if _ensembl_share(_names(columns[c])) >= MOSTLY), "index")
    if ids not in columns:
        raise CellmillError(where, f"no var column '{ids}' (genes.ids).", nearest(ids, columns))
    names = _names(columns[ids])
    missing = np.flatnonzero(names == None)  # noqa: E711  elementwise
    if len(missing):
        raise CellmillError(
            where,
            f"{len(missing)} genes have no name in '{ids}' (the first in row {missing[0]}, '{var.index[missing[0]]}').",
            "Name a complete var column in genes.ids, or 'index'.",
        )
    is_ensembl = _ensembl_share(names) >= MOSTLY
    gene_ids = np.array([_without_version(n) for n in names], object)
    symbol_column = next((c for c in SYMBOL_COLUMNS if c in columns and c != ids), None)
    if symbol_column is not None:
        symbols = _names(columns[symbol_column])
    elif ids != "index" and _ensembl_share(_names(var.index)) < MOSTLY:
        symbols = _names(var.index)
    else:
        symbols = np.full(len(names), None, object) if is_ensembl else names
    return PartGenes(gene_ids, symbols, ids)
