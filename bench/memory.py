"""Whether memory grows with the cells: the peak of every job on atlases of two sizes, each in one part."""

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
EMBEDDERS = ["pca", "scvi", "model"]
EXPORTS = ["h5ad/cells", "zarr/counts"]
TARGETS = [
    *(f"results/atlas/embedded/{e}/0.npy" for e in EMBEDDERS),
    *(f"results/atlas/{e}/manifest.json" for e in EXPORTS),
]


def table(atlases: dict[int, Path]) -> str:
    """A line for each rule, a column for each number of cells, and what each cell takes between the two."""
    with tempfile.TemporaryDirectory() as folder:
        embedders = CONFIG["embedders"] | {"model": {"kind": "transformer", "tokenizer": "short", "model": folder}}
        _save_model(Path(folder))
        found = {
            cells: {
                job["rule"]: job["mb"]
                for job in workflow(
                    [path],
                    targets=TARGETS,
                    exports=EXPORTS,
                    more={"embedders": EMBEDDERS},
                    config=CONFIG | {"embedders": embedders},
                )
            }
            for cells, path in atlases.items()
        }
    few, many = sorted(found)
    lines = [f"{'peak MB of':<24}{few:>12,}{many:>12,} cells{'bytes per cell':>18}"]
    for rule, peak in sorted(found[many].items(), key=lambda item: -item[1]):
        grown = (peak - found[few][rule]) * 1e6 / (many - few)
        lines.append(f"{rule:<24}{found[few][rule]:>12,.0f}{peak:>12,.0f}      {grown:>18,.0f}")
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
