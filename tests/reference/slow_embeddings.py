"""Cell vectors as Geneformer's EmbExtractor says: plain, padded, every layer kept, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertForMaskedLM


def slow_geneformer(
    folder: Path, cells: Sequence[Sequence[int]], *, mode: str, emb_layer: int, special: bool, batch: int = 4
) -> np.ndarray:
    """float32 (cells, hidden).

    The rule: run the model for masked tokens and keep all its hidden states, the embeddings' first;
    take number ``layers + emb_layer`` of them. ``cls`` is the vector of the first token.
    ``cell`` is the mean over the tokens that are neither padding nor, where there are special ones, first or last.
    """
    model = BertForMaskedLM.from_pretrained(folder, output_hidden_states=True, attn_implementation="eager").eval()
    found = []
    for start in range(0, len(cells), batch):
        some = cells[start : start + batch]
        longest = max(map(len, some))
        ids = torch.zeros((len(some), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, cell in enumerate(some):
            ids[i, : len(cell)] = torch.tensor(cell)
            mask[i, : len(cell)] = 1
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask).hidden_states
        layer = states[model.config.num_hidden_layers + emb_layer]
        for i, cell in enumerate(some):
            if mode == "cls":
                found.append(layer[i, 0])
            else:
                around = 1 if special else 0
                found.append(layer[i, around : len(cell) - around].mean(dim=0))
    return torch.stack(found).numpy()
