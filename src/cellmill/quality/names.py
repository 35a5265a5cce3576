"""The per-cell metrics, by scanpy's names."""

from __future__ import annotations

TOP = (20, 50, 100, 200, 500)
GENE_SETS = ("mt", "ribo", "hb")
METRICS = (
    "n_genes_by_counts",
    "log1p_n_genes_by_counts",
    "total_counts",
    "log1p_total_counts",
    *(f"pct_counts_in_top_{n}_genes" for n in TOP),
    *(f"pct_counts_{s}" for s in GENE_SETS),
)
