"""Small real checkpoints with random weights, and token files for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import BertConfig, BertForMaskedLM

from cellmill.contracts import tokens, vocabulary
from cellmill.contracts.row_groups import encode_rows


def geneformer_config(vocabulary: int, **other: Any) -> BertConfig:
    """Geneformer's in small: BERT, ReLU, its own dropout and initialisation."""
    said = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3} | other
    return BertConfig(
        vocab_size=vocabulary,
        hidden_act="relu",
        max_position_embeddings=said.pop("max_position_embeddings", 128),
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.02,
        initializer_range=0.2,
        pad_token_id=0,
        **said,
    )


def save_model(folder: Path, config: BertConfig, *, seed: int = 0, form: str = "safetensors") -> Path:
    """A masked language model with random weights; ``form``: safetensors, torch's own file, or pieces of either."""
    index: dict[str, str] = {}
    torch.manual_seed(seed)
    model = BertForMaskedLM(config)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if form == "pieces" else {}))
    if form.startswith("torch"):
        for path in folder.glob("model*.safetensors"):
            path.unlink()
        weights = model.state_dict()
        pieces = 3 if form.endswith("pieces") else 1
        for i in range(pieces):
            name = f"pytorch_model-{i + 1:05d}-of-{pieces:05d}.bin" if pieces > 1 else "pytorch_model.bin"
            mine = list(weights)[i::pieces]
            torch.save({k: weights[k] for k in mine}, folder / name)
            index |= dict.fromkeys(mine, name)
        if pieces > 1:
            said = {"metadata": {}, "weight_map": index}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(said))
    return folder


def cells_of(lengths: Sequence[int], vocabulary: int, *, special: bool = False, seed: int = 0) -> list[list[int]]:
    """Cells of so many tokens; with special ones, 2 is <cls> and 3 is <eos>."""
    rng = np.random.default_rng(seed)
    made = [rng.integers(4, vocabulary, n).tolist() for n in lengths]
    return [[2, *c[1:-1], 3] for c in made] if special else made


def write_tokens(
    folder: Path, cells: Sequence[Sequence[int]], size: int, *, special: bool = False, name: str = "p", **facts: Any
) -> dict[str, Path]:
    """What ``embed_tokens`` reads, of cells ``c0``, ``c1``, …"""
    made = {"vocabulary": folder / "vocabulary.json", "gene_tokens": folder / "gene_tokens.parquet"}
    names = {"<pad>": 0, "<mask>": 1} | ({"<cls>": 2, "<eos>": 3} if special else {"G2": 2, "G3": 3})
    names |= {f"G{i}": i for i in range(4, size)}
    ids = np.arange(4, size, dtype=np.int32)
    around = ((2,), (3,)) if special else ((), ())
    laid = vocabulary.Vocabulary(names, ids, np.ones(len(ids)), *around)
    vocabulary.write(made["vocabulary"], made["gene_tokens"], laid, np.array([f"G{i}" for i in ids]))
    field = tokens.list_field("input_ids", np.dtype(np.uint16))
    out = facts.pop("left_out", [False] * len(cells))
    groups = []
    for start in range(0, len(cells), tokens.GROUP_ROWS):
        stop = start + tokens.GROUP_ROWS
        some = [list(c) for c in cells[start:stop]]
        columns = [
            pa.array([f"c{start + i}" for i in range(len(some))], pa.large_string()),
            pa.array(out[start:stop]),
            pa.array(some, field.type),
        ]
        groups.append(encode_rows(columns))
    histogram = np.bincount([len(c) // tokens.BIN_TOKENS for c in cells] or [0]).tolist()
    said = {"cells_left_out": {"train": sum(out)} if any(out) else {}, "tokens_per_cell": {"cells": histogram}}
    tokens.write(folder / f"{name}.parquet", [field], groups, said | facts)
    return {"tokens": folder / f"{name}.parquet", **made}
