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
HARD_BOUNDS = {
    "min_counts": "total_counts",
    "max_counts": "total_counts",
    "min_genes": "n_genes_by_counts",
    "max_genes": "n_genes_by_counts",
    "max_pct_mt": "pct_counts_mt",
    "max_pct_ribo": "pct_counts_ribo",
    "max_pct_hb": "pct_counts_hb",
}
"""The fixed bounds and the metric of each, in the order in which they are reasons; ``min_`` or ``max_`` is the side."""
