"""The per-cell metrics, by scanpy's names."""

from __future__ import annotations

from collections.abc import Iterable

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
_TITLES = {
    "total_counts": "Counts per cell",
    "log1p_total_counts": "Counts per cell",
    "n_genes_by_counts": "Genes per cell",
    "log1p_n_genes_by_counts": "Genes per cell",
    "pct_counts_mt": "Mitochondrial counts (%)",
    "pct_counts_ribo": "Ribosomal counts (%)",
    "pct_counts_hb": "Haemoglobin counts (%)",
}


def metric_of(gene_set: str) -> str:
    """The metric of a gene set: the percentage of a cell's counts."""
    return f"pct_counts_{gene_set}"


def bounded_metric(bound: str) -> str:
    """The metric of a fixed bound; ``max_pct_<set>`` is that of a gene set of the configuration."""
    return HARD_BOUNDS.get(bound) or metric_of(bound.removeprefix("max_pct_"))


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of ``METRICS``, those of the configuration's gene sets behind them by name."""
    return sorted(metrics, key=lambda m: (METRICS.index(m) if m in METRICS else len(METRICS), m))


def metric_title(metric: str) -> str:
    """What a metric is, in words."""
    if metric not in METRICS:
        return f"Counts of {metric.removeprefix('pct_counts_')} (%)"
    top = metric.removeprefix("pct_counts_in_top_").removesuffix("_genes")
    return _TITLES.get(metric) or f"Counts in the top {top} genes (%)"
