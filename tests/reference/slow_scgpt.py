"""Cell vectors as scGPT's publication and code say: one cell at a time, head by head, in NumPy and double precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def slow_scgpt(folder: Path, genes: Sequence[Sequence[int]], values: Sequence[Sequence[float]]) -> np.ndarray:
    """float64 (cells, embsize), of length 1. Either naming of the attention's weights."""
    args = json.loads((folder / "args.json").read_text())
    found = torch.load(folder / "best_model.pt", weights_only=True)
    w = {name.replace("Wqkv.", "in_proj_"): tensor.double().numpy() for name, tensor in found.items()}
    heads, width = args["nheads"], args["embsize"] // args["nheads"]

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        away = x - x.mean(axis=-1, keepdims=True)
        scaled = away / np.sqrt((away**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    vectors = []
    for ids, levels in zip(genes, values, strict=True):
        level = np.minimum(np.array(levels, float), 512)[:, None]
        hidden = np.maximum(dense("value_encoder.linear1", level), 0)
        x = norm("encoder.enc_norm", w["encoder.embedding.weight"][list(ids)])
        x = x + norm("value_encoder.norm", dense("value_encoder.linear2", hidden))
        for i in range(args["nlayers"]):
            layer = f"transformer_encoder.layers.{i}"
            both = x @ w[f"{layer}.self_attn.in_proj_weight"].T + w[f"{layer}.self_attn.in_proj_bias"]
            query, key, value = np.split(both, 3, axis=1)
            seen = []
            for h in range(heads):
                mine = slice(h * width, (h + 1) * width)
                logits = query[:, mine] @ key[:, mine].T / np.sqrt(width)
                shares = np.exp(logits - logits.max(axis=1, keepdims=True))
                seen.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, mine])
            x = norm(f"{layer}.norm1", x + dense(f"{layer}.self_attn.out_proj", np.hstack(seen)))
            x = norm(f"{layer}.norm2", x + dense(f"{layer}.linear2", np.maximum(dense(f"{layer}.linear1", x), 0)))
        vectors.append(x[0] / np.linalg.norm(x[0]))
    return np.array(vectors)
