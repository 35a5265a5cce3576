"""The rules of the workflow by stage: ``cellmill status`` counts their jobs, ``cellmill plan`` adds up their cost.

A rule is entered here, and nowhere else in ``src/``; a test compares the list with ``workflow/rules/``.
"""

from __future__ import annotations

STAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "plan": {"plan_dataset": ()},
    "raw": {
        "retrieve_file": ("member",),
        "retrieve_part": ("part",),
        "retrieve_passing": ("part",),
        "retrieve_found": ("part",),
        "retrieve_table": ("table",),
        "enrich_samples": (),
        "annotate_part": ("part",),
        "annotate_found": ("part",),
        "draw_subset": (),
        "take_subset": ("part",),
        "take_passing": ("part",),
    },
    "quality": {
        "measure_quality": ("part",),
        "read_labels": ("part",),
        "set_thresholds": (),
        "score_doublets": ("share",),
        "find_duplicates": (),
        "assign_splits": (),
    },
    "processed": {"count_gene_cells": ("part",), "unify_genes": (), "process_part": ("part",), "write_ledger": ()},
    "genes": {"measure_genes": ("part",), "fit_clip": (), "measure_clipped": ("part",), "rank_genes": ()},
    "pseudobulk": {"sum_groups": ("pseudobulk", "part"), "write_pseudobulk": ("pseudobulk",)},
    "tokenized": {"build_vocabulary": ("tokenizer",), "tokenize_part": ("tokenizer", "part")},
    "embedded": {
        "measure_covariance": ("embedder", "part"),
        "fit_pca": ("embedder",),
        "embed_part": ("embedder", "part"),
        "gather_training": ("embedder",),
        "fit_scvi": ("embedder",),
        "embed_scvi": ("embedder", "part"),
        "embed_tokens": ("embedder", "part"),
    },
    "exports": {
        "export_hf": ("export",),
        "export_mds": ("export",),
        "export_hdf5": ("export",),
        "export_h5ad": ("export",),
        "export_scdl": ("export",),
        "export_geneformer": ("export",),
        "export_zarr": ("export",),
        "export_packed": ("export",),
        "publish_export": ("format", "export"),
        "publish_parts": ("target",),
    },
    "report": {
        "write_config": (),
        "draw_report": (),
        "draw_doublets": (),
        "judge_embedder": ("embedder",),
        "compare_embedders": (),
        "write_report": (),
    },
}
"""Stage: rule: what it has a job for each of, besides the dataset. In the order of the workflow."""
SHARED = ("retrieve_resource", "make_vocabulary")
"""Rules whose jobs belong to no dataset."""
SAME = {
    "retrieve_passing": "retrieve_part",
    "retrieve_found": "retrieve_part",
    "annotate_found": "annotate_part",
    "take_passing": "take_subset",
}
"""Rules that do what another does, and keep less of it."""
JOBS = {rule: wildcards for rules in STAGES.values() for rule, wildcards in rules.items()}
"""Every rule of ``STAGES``."""
