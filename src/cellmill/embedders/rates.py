"""How fast a model ran: cells, tokens and operations per second, and the share of what its device can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.ahead import InOrder, Workers, workers
from cellmill.files import write_json

if TYPE_CHECKING:
    import torch

SMALLEST = 256
"""Rows and columns of the first product that is timed."""
LARGEST = {"cpu": 1_024, "cuda": 8_192}
"""Of the last one."""
TRIES = {"cpu": 3, "cuda": 10}
LONG_SECONDS = 0.02
"""A product that takes as long is the last one."""


@dataclass(frozen=True)
class Rates:
    """What a job did, and in how long."""

    cells: int
    tokens: int | None
    """None: a model that reads counts."""
    operations: float
    """Floating-point operations (a multiplication and an addition are two) that the model's definition asks for;
    padding and what else a kernel does on its way do not count."""
    seconds: float
    device: str
    precision: str
    peak: float | None = None
    """Operations per second of `matrix_peak`; None: not measured."""

    def said(self) -> dict[str, Any]:
        """By name, as they stand beside the benchmark; rates are rounded to four digits."""
        seconds = max(self.seconds, 1e-9)
        done, peak = self.operations / seconds, self.peak
        return {
            "cells": self.cells,
            "tokens": self.tokens,
            "model_seconds": _rounded(self.seconds),
            "cells_per_s": _rounded(self.cells / seconds),
            "tokens_per_s": None if self.tokens is None else _rounded(self.tokens / seconds),
            "tflop_per_s": _rounded(done / 1e12),
            "peak_tflop_per_s": None if peak is None else _rounded(peak / 1e12),
            "peak_share": None if peak is None else _rounded(done / peak),
            "device": self.device,
            "precision": self.precision,
        }

    def __str__(self) -> str:
        said = self.said()
        tokens = "" if self.tokens is None else f", {said['tokens_per_s']:,.0f} tokens/s"
        peak = (
            ""
            if self.peak is None
            else f" ({said['peak_share']:.1%} of {said['peak_tflop_per_s']:.3g}, the peak of {self.precision} products)"
        )
        return f"{said['cells_per_s']:,.1f} cells/s{tokens}, {said['tflop_per_s']:.3g} TFLOP/s{peak}"

    def write(self, path: str | PathLike[str]) -> None:
        write_json(path, self.said())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def encoder_operations(lengths: np.ndarray, *, weights: int, layers: int, width: int) -> float:
    """Operations of an encoder over cells of so many tokens (int64 (n,)): 2·weights per token, and 4·L·d per layer.

    Args:
        weights: numbers in the matrices of all layers; each is multiplied and added once for a token.
        width: d, numbers of a token's state; a layer's attention multiplies L × d numbers per token twice.

    Embeddings, norms and softmax are left out, as usual; layers with a local window count as if they saw all L.
    Source: the rule of Kaplan et al. 2020 (arXiv 2001.08361), with attention as in PaLM's appendix B (2204.02311).
    """
    long = lengths.astype(np.float64)
    return float(2 * weights * long.sum() + 4 * layers * width * (long * long).sum())


def matrix_weights(*modules: Any) -> int:
    """Numbers in the matrices of PyTorch modules; biases and norms are not among them."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim >= 2)


def matrix_peak(device: str, precision: str, *, threads: int = 1) -> float:
    """Operations per second of the fastest of some products of two n × n matrices, 2·n³ each.

    n doubles from 256, until a product takes 20 ms or n is 1,024 (CPU) or 8,192 (GPU), and the best try counts:
    some 0.2 s on a CPU and 20 ms on a GPU, at most 1 GB there.
    On a CPU ``threads`` products are at work side by side, each in one thread, as cells of `embed_tokens` are;
    what else runs on the machine at the same time lowers it, as it lowers the rates.
    Nobody else's random numbers are drawn.
    """
    import torch

    kind, best, n = torch.device(device).type, 0.0, SMALLEST
    with workers(threads if kind == "cpu" else 1) as pool:
        while n <= LARGEST[kind]:
            try:
                seconds = _product_seconds(n, device, getattr(torch, precision), pool)
            except torch.OutOfMemoryError:
                break
            best = max(best, pool.threads * 2 * n**3 / seconds)
            if seconds > LONG_SECONDS:
                break
            n *= 2
    if kind == "cuda":
        torch.cuda.empty_cache()
    return best


def _product_seconds(n: int, device: str, dtype: torch.dtype, pool: Workers) -> float:
    """Of a product in every thread, side by side: the best of some tries."""
    import torch

    kind, drawn = torch.device(device).type, torch.Generator(device).manual_seed(0)
    a, b = (torch.rand((n, n), generator=drawn, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.set_num_threads(1)  # of this thread
        with torch.inference_mode():
            a @ b

    def once() -> float:
        if kind == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        calls: InOrder[None] = InOrder(pool, take=lambda _: None)
        for _ in range(pool.threads):
            calls.put(product)
        calls.finish()
        if kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return min(once() for _ in range(TRIES[kind]))
