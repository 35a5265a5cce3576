"""Whether memory grows with the cells, and what rules ask for: every job on atlases of two sizes, each in one part."""

from __future__ import annotations

import tempfile
from pathlib import Path

from quality import workflow

TOKENS = 64
"""Longest cell of the model over tokens; its memory is that of a cell, not of their number."""
CONFIG = {
    "tokenizers": {"short": {"kind": "rank", "max_len_tokens": TOKENS}},
    "embedders": {"scvi": {"kind": "scvi", "n_genes": 200, "train": {"max_epochs": 1}}},
    "exports": {"h5ad": {"cells": {"kind": "counts"}}},
}
EMBEDDERS = ["hvg", "pca", "scvi", "model"]
EXPORTS = [
    *("h5ad/cells", "zarr/counts", "hdf5/counts", "scdl/counts", "packed/counts", "mds/counts"),
    *("hf/cells", "hf/expression", "hf/multiplets", "geneformer/tokens"),
]
TARGETS = [
    *(f"results/atlas/embedded/{e}/0.npy" for e in EMBEDDERS),
    *(f"results/atlas/{e}/manifest.json" for e in EXPORTS),
    "results/atlas/report/index.html",
]
SNAKEMAKE_MB = 250
"""What Snakemake's own processes take in a job of a cluster."""


def table(atlases: dict[int, Path]) -> str:
    """A line for each rule: its largest job of either size, what a cell takes between the two, and what it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        embedders = CONFIG["embedders"] | {"model": {"kind": "transformer", "tokenizer": "short", "model": folder}}
        _save_model(Path(folder))
        found = {
            cells: workflow(
                [path],
                targets=TARGETS,
                exports=EXPORTS,
                columns={"label": "cell_type"},
                more={"embedders": EMBEDDERS},
                config=CONFIG | {"embedders": embedders},
            )
            for cells, path in atlases.items()
        }
    few, many = sorted(found)
    peaks, asked = (
        {
            cells: {job["rule"]: max(j[of] for j in jobs if j["rule"] == job["rule"]) for job in jobs}
            for cells, jobs in found.items()
        }
        for of in ("mb", "asked")
    )
    lines = [
        f"{'MB of':<20}{few:>10,}{many:>10,} cells{'bytes per cell':>16}{'asked':>9}{'asked':>9}{'used of it':>12}"
    ]
    for rule, peak in sorted(peaks[many].items(), key=lambda item: -item[1]):
        grown = (peak - peaks[few][rule]) * 1e6 / (many - few)
        share = (peak + SNAKEMAKE_MB) / asked[many][rule]
        lines.append(
            f"{rule:<20}{peaks[few][rule]:>10,.0f}{peak:>10,.0f}      {grown:>16,.0f}"
            f"{asked[few][rule]:>9,.0f}{asked[many][rule]:>9,.0f}{share:>12.0%}"
        )
    return "\n".join(lines)


def _save_model(folder: Path) -> None:
    """A small encoder with random weights."""
    import torch
    from atlas import N_GENES
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=N_GENES + 2, max_position_embeddings=TOKENS, pad_token_id=0, **sizes)
    BertModel(config).save_pretrained(folder)
