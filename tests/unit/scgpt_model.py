"""A small real scGPT checkpoint with random weights, made of PyTorch's own encoder layers, and tokens for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cellmill.contracts import tokens, vocabulary
from cellmill.contracts.row_groups import encode_rows

SIZE = 60
ARGS = {"embsize": 32, "nheads": 4, "d_hid": 48, "nlayers": 3, "n_layers_cls": 3, "dropout": 0.2, "pad_value": -2}
VOCABULARY = {f"G{i}": i for i in range(SIZE - 3)} | {"<pad>": SIZE - 3, "<cls>": SIZE - 2, "<eoc>": SIZE - 1}


class Net(torch.nn.Module):
    """The modules of the published model by their names, those that follow the encoder as well."""

    def __init__(self, args: dict[str, Any], size: int) -> None:
        super().__init__()
        d, nn = args["embsize"], torch.nn
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(size, d), "enc_norm": nn.LayerNorm(d)})
        self.value_encoder = nn.ModuleDict(
            {"linear1": nn.Linear(1, d), "linear2": nn.Linear(d, d), "norm": nn.LayerNorm(d)}
        )
        layer = nn.TransformerEncoderLayer(d, args["nheads"], args["d_hid"], args["dropout"], batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, args["nlayers"], enable_nested_tensor=False)
        self.decoder = nn.ModuleDict({"fc": nn.Linear(d, 1)})
        self.flag_encoder = nn.Embedding(2, d)

    def cells(self, ids: torch.Tensor, values: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
        """Vectors of padded cells."""
        hidden = self.value_encoder["linear1"](values.clamp(max=512)[..., None]).relu()
        levels = self.value_encoder["norm"](self.value_encoder["linear2"](hidden))
        x = self.encoder["enc_norm"](self.encoder["embedding"](ids)) + levels
        cell = self.transformer_encoder(x, src_key_padding_mask=padded)[:, 0]
        return cell / cell.norm(dim=1, keepdim=True)


def make_net(*, seed: int = 0, args: dict[str, Any] = ARGS, size: int = SIZE) -> Net:
    """All weights at random, those of norms and biases, too."""
    torch.manual_seed(seed)
    net = Net(args, size).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net


def save(
    folder: Path,
    net: Net,
    *,
    flash: bool = True,
    args: dict[str, Any] = ARGS,
    names: dict[str, int] = VOCABULARY,
    change: Callable[[dict[str, Any]], Any] = lambda weights: None,
) -> Path:
    """The three files; ``flash``: the attention by flash-attention's names, as in the published models."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(net.state_dict())
    if flash:
        weights = {name.replace("in_proj_", "Wqkv."): tensor for name, tensor in weights.items()}
    change(weights)
    torch.save(weights, folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "vocab.json").write_text(json.dumps(names))
    return folder


def cells_of(lengths: Sequence[int], *, seed: int = 0) -> tuple[list[list[int]], list[list[float]]]:
    """Genes and values of cells of so many tokens, <cls> first; a value is above 512."""
    rng = np.random.default_rng(seed)
    genes = [[VOCABULARY["<cls>"], *rng.choice(SIZE - 3, n - 1, replace=False).tolist()] for n in lengths]
    values = [[-2.0, *rng.integers(1, 51, n - 1).astype(float).tolist()] for n in lengths]
    values[0][-1] = 700.0
    return genes, values


def write_tokens(
    folder: Path,
    genes: Sequence[Sequence[int]],
    values: Sequence[Sequence[float]],
    *,
    cls: bool = True,
    names: dict[str, int] = VOCABULARY,
    name: str = "p",
) -> dict[str, Path]:
    """What ``embed_tokens`` reads."""
    made = {"vocabulary": folder / "vocabulary.json", "gene_tokens": folder / "gene_tokens.parquet"}
    ids = np.arange(SIZE - 3, dtype=np.int32)
    laid = vocabulary.Vocabulary(names, ids, np.full(len(ids), np.nan), (names["<cls>"],) if cls else (), ())
    vocabulary.write(made["vocabulary"], made["gene_tokens"], laid, np.array([f"G{i}" for i in ids]))
    fields = [tokens.list_field("genes", np.dtype(np.uint16)), tokens.list_field("expressions", np.dtype(np.float32))]
    columns = [
        pa.array([f"c{i}" for i in range(len(genes))], pa.large_string()),
        pa.array([False] * len(genes)),
        *(pa.array(list(rows), field.type) for rows, field in zip((genes, values), fields, strict=True)),
    ]
    histogram = np.bincount([len(c) // tokens.BIN_TOKENS for c in genes] or [0]).tolist()
    facts = {"cells_left_out": {}, "tokens_per_cell": {"cells": histogram}}
    tokens.write(folder / f"{name}.parquet", fields, [encode_rows(columns)] if genes else [], facts)
    return {"tokens": folder / f"{name}.parquet", **made}
