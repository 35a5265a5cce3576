"""Tokens to vectors with random weights; lengths of cells log-normal, 900 genes in the middle, 2,048 at most.

On the CPU a model of Geneformer V1's size; where there is a GPU, of V2-104M's, in bfloat16 (the loops in float32).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("ours, 1 thread", "ours, 2 threads")
ON_GPU = ("ours, bfloat16",)
PLAIN = "padded to 2,048, a plain loop"
PUBLISHED = "as EmbExtractor"
LONGEST, LAYER = 2_048, -1
MODELS: dict[str, dict[str, int]] = {
    "cpu": {
        "vocab_size": 25_426,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 2_048,
    },
    "cuda": {
        "vocab_size": 20_275,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3_072,
        "max_position_embeddings": 4_096,
    },
}
CELLS = {"cpu": 200, "cuda": 4_000}
"""At most."""
BATCH = 8
"""Cells at once in the loops."""


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def contenders() -> tuple[str, ...]:
    return (*(OURS if device() == "cpu" else ON_GPU), PUBLISHED, PLAIN)


def prepare(folder: Path, cells: int) -> Path:
    """The model, and the tokens of so many cells, where they are not there yet."""
    import pyarrow as pa
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from cellmill.contracts import tokens, vocabulary
    from cellmill.contracts.row_groups import encode_rows

    out = folder / f"embed_{device()}_{cells}"
    if (out / "done").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = BertConfig(hidden_act="relu", pad_token_id=0, **MODELS[device()])
    BertForMaskedLM(config).save_pretrained(out / "model")
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(900), 0.55, cells).astype(np.int64), 20, LONGEST)
    ids = np.arange(2, config.vocab_size, dtype=np.int32)
    names = {"<pad>": 0, "<mask>": 1} | {f"G{i}": i for i in ids.tolist()}
    laid = vocabulary.Vocabulary(names, ids, np.ones(len(ids)), (), ())
    vocabulary.write(out / "vocabulary.json", out / "gene_tokens.parquet", laid, np.array([f"G{i}" for i in ids]))
    field = tokens.list_field("input_ids", np.dtype(np.uint16))

    def groups() -> Any:
        for start in range(0, cells, tokens.GROUP_ROWS):
            some = [rng.permutation(ids)[:n] for n in lengths[start : start + tokens.GROUP_ROWS]]
            names = pa.array([f"c{start + i}" for i in range(len(some))], pa.large_string())
            yield encode_rows([names, pa.array(np.zeros(len(some), np.bool_)), pa.array(some, field.type)])

    bins = np.bincount(lengths // tokens.BIN_TOKENS).tolist()
    facts = {"cells_left_out": {}, "tokens_per_cell": {"cells": bins}, "tokens": int(lengths.sum())}
    tokens.write(out / "tokens.parquet", [field], groups(), facts)
    (out / "done").touch()
    return out


def contender(who: str, path: Path) -> Callable[[], dict[str, Any]]:
    """What is measured; libraries and the model are loaded before, by ours again within."""
    import torch
    import transformers  # noqa: F401

    from cellmill.contracts.tokens import TokensPart

    with TokensPart(path / "tokens.parquet") as part:
        tokens = part.facts["tokens"]
        cells = part.rows(0, part.n_cells, ["input_ids"])["input_ids"].to_pylist()
    if who in OURS + ON_GPU:
        return lambda: _ours(path, 1 if who in ON_GPU else int(who.split()[1])) | {"tokens": tokens}
    torch.set_num_threads(2)
    return lambda: {"vectors": _loop(who, path, cells), "tokens": tokens}


def _ours(path: Path, threads: int) -> dict[str, Any]:
    from cellmill.embedders import Geneformer
    from cellmill.embedders.embed_tokens import embed_tokens

    embed_tokens(
        path / "tokens.parquet",
        vocabulary=path / "vocabulary.json",
        gene_tokens=path / "gene_tokens.parquet",
        spec=Geneformer(tokenizer="geneformer_v1", model=str(path / "model"), layers=[LAYER], device=device()),
        out=path / "ours.npy",
        manifest=path / "ours.json",
        threads=threads,
        rates=path / "rates.json",
    )
    said = json.loads((path / "rates.json").read_text())
    return {"tflop": said["tflop_per_s"] * said["model_seconds"], "peak": said["peak_tflop_per_s"]}


def _loop(who: str, path: Path, cells: list[list[int]]) -> float:
    """The plain loop: the encoder, every cell padded to the maximum. As EmbExtractor: the model for masked tokens with
    its head, a batch padded to its longest cell. Both keep all hidden states and write one array."""
    import torch
    from transformers import AutoModel, BertForMaskedLM

    kind = BertForMaskedLM if who == PUBLISHED else AutoModel
    model = kind.from_pretrained(path / "model", output_hidden_states=True).eval().to(device())
    found = []
    for start in range(0, len(cells), BATCH):
        some = cells[start : start + BATCH]
        width = max(map(len, some)) if who == PUBLISHED else LONGEST
        ids, mask = torch.zeros(len(some), width, dtype=torch.long), torch.zeros(len(some), width, dtype=torch.long)
        for i, cell in enumerate(some):
            ids[i, : len(cell)], mask[i, : len(cell)] = torch.tensor(cell), 1
        ids, mask = ids.to(device()), mask.to(device())
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask).hidden_states[model.config.num_hidden_layers + LAYER]
        found.append((states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
        found[-1] = found[-1].cpu()
    vectors = torch.cat(found).numpy()
    np.save(path / "theirs.npy", vectors)
    ours = path / "ours.npy"
    if not ours.exists():
        return float("nan")
    made = np.load(ours)
    return float(((made * vectors).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(vectors, axis=1)).min())


def table(found: dict[str, list[dict[str, float]]], cells: int) -> str:
    """Seconds, cells and tokens per second, the share of the device's peak, peak memory, times the plain loop.

    The share is what the model asks for (padding does not count) by the time of everything, of the peak that ours
    measured in its precision and threads.
    """
    middle = {who: {k: statistics.median(r[k] for r in runs) for k in ("seconds", "mb")} for who, runs in found.items()}
    ours = [who for who in found if who in OURS + ON_GPU]
    head = f"{'':<32}{'seconds':>10}{'cells/s':>10}{'tokens/s':>12}{'of peak':>10}{'peak MB':>10}{'times the peer':>16}"
    lines = [head]
    for who, said in middle.items():
        seconds, tokens = said["seconds"], found[who][0]["tokens"]
        ratio = middle[PLAIN]["seconds"] / seconds
        measured = found[who if who in ours else ours[-1]]
        share = statistics.median(run["tflop"] / run["peak"] for run in measured) / seconds
        lines.append(
            f"{who:<32}{seconds:>10.2f}{cells / seconds:>10,.1f}{tokens / seconds:>12,.0f}"
            f"{share:>10.1%}{said['mb']:>10,.0f}" + (f"{ratio:>16.2f}" if who != PLAIN else "")
        )
    least = min(run["vectors"] for who in (PLAIN, PUBLISHED) for run in found[who])
    peaks = ", ".join(f"{statistics.median(r['peak'] for r in found[who]):.3g} ({who})" for who in ours)
    return "\n".join([*lines, f"peak, TFLOP/s: {peaks}; least cosine of ours to theirs: {least:.7f}"])
