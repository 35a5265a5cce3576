"""The model step of embedders over tokens: the vectors of a part, row-aligned with its tokens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cellmill.ahead import InOrder, ahead, workers
from cellmill.contracts import embedding as contract
from cellmill.contracts import vocabulary as vocabulary_files
from cellmill.contracts.tokens import BIN_TOKENS, TokensPart
from cellmill.embedders import Geneformer, OfTokens, ScGpt
from cellmill.embedders.batches import Batch, Plan, fill, fill_values, halving
from cellmill.embedders.device import described, faults_told
from cellmill.embedders.encoder import Encoder
from cellmill.embedders.model_files import files_of, revision_of
from cellmill.embedders.rates import Rates, matrix_peak
from cellmill.embedders.scgpt_encoder import ScGptEncoder
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.progress import progress
from cellmill.sources.ledger import LEDGER, Ledger

log = logging.getLogger("cellmill")
WINDOW_CELLS = 8_192
"""Cells that are read, put in order of length and embedded together: 64 MB of ids at 4,096 tokens per cell."""


def embed_tokens(
    tokens: str | PathLike[str],
    *,
    vocabulary: str | PathLike[str],
    gene_tokens: str | PathLike[str],
    spec: OfTokens,
    out: str | PathLike[str],
    manifest: str | PathLike[str],
    threads: int = 1,
    rates: str | PathLike[str] | None = None,
) -> None:
    """A vector for every kept cell, by the model of ``spec`` over its tokens.

    On the CPU, ``threads`` cells are at work side by side, each in one thread: the bytes are the same for any number.

    Args:
        rates: where it is written how fast that was, with the peak of the device, which is measured for it.

    Raises:
        CellmillError: a model that cannot be read or does not fit the vocabulary,
            a cell that is left out, has nothing to pool, or is longer than the model takes;
            a GPU that fails, or is too small for one cell.
    """
    laid = vocabulary_files.read(vocabulary, gene_tokens)
    with faults_told(tokens), TokensPart(tokens) as part:
        around = (len(laid.prefix), len(laid.suffix))
        _check_tokens(part, spec, around)
        precision = spec.precision or ("bfloat16" if spec.device == "cuda" else "float32")
        encoder = _encoder(spec, precision)
        _check_model(encoder, spec, laid.tokens, part)
        run = _Run(part, encoder, spec, around, laid.tokens.get("<pad>", 0), threads)
        peak = None if rates is None else matrix_peak(spec.device, precision, threads=threads)
        device = described(encoder.device)
        contract.write(
            out,
            manifest,
            ahead(run.windows(), depth=1),
            shape=(part.n_cells, encoder.dimensions),
            dtype=spec.dtype,
            facts={
                "embedder": spec.model_dump(mode="json"),
                "vectors": [
                    {"layer": layer, "columns": [i * encoder.hidden, (i + 1) * encoder.hidden]}
                    for i, layer in enumerate(spec.layers)
                ],
                "model": _about_model(encoder, spec),
                "device": device,
                "precision": precision,
                "written_by": {p: version(p) for p in ("numpy", "torch", "transformers")},
            },
        )
        found = Rates(**run.done, cells=part.n_cells, device=device, precision=precision, peak=peak)
        log.info("%s; %.1f %% of what the model read was padding", found, run.padding_pct)
        if rates is not None:
            found.write(rates)


def _encoder(spec: OfTokens, precision: Literal["float32", "bfloat16"]) -> Encoder | ScGptEncoder:
    if isinstance(spec, ScGpt):
        return ScGptEncoder(spec.model, device=spec.device, precision=precision)
    return Encoder(spec.model, layers=spec.layers, device=spec.device, precision=precision)


def _about_model(encoder: Encoder | ScGptEncoder, spec: OfTokens) -> dict[str, Any]:
    files = files_of(Path(spec.model), spec.kind)
    return {
        "kind": encoder.kind,
        "layers": encoder.n_layers,
        "revision": revision_of(spec.model, Ledger(LEDGER)),
        "files": {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files},
    }


def _check_tokens(part: TokensPart, spec: OfTokens, around: tuple[int, int]) -> None:
    """What the token file says of itself."""
    absent = [column for column in spec.columns if column not in part.fields]
    if absent:
        raise CellmillError(
            part.path,
            f"has the columns {', '.join(part.fields)}, and no {' and '.join(absent)}.",
            f"'{spec.kind}' reads {' and '.join(spec.columns)}: name another tokenizer.",
        )
    out = sum(part.facts["cells_left_out"].values())
    if out:
        raise CellmillError(
            part.path,
            f"{out:,} of {part.n_cells:,} cells are left out by the tokenizer, and have no vector.",
            "No row is made up: filter these cells (quality.min_genes), or take the tokenizer's 'empty: keep'.",
        )
    if isinstance(spec, Geneformer) and spec.pooling == "cls" and not around[0]:
        raise CellmillError(
            part.path, "its cells do not begin with <cls>.", "Take pooling: cell, or tokens of geneformer_v2."
        )
    if isinstance(spec, ScGpt) and not around[0]:
        raise CellmillError(part.path, "its cells do not begin with <cls>.", f"Set cls: true of '{spec.tokenizer}'.")


def _check_model(encoder: Encoder | ScGptEncoder, spec: OfTokens, tokens: dict[str, int], part: TokensPart) -> None:
    """Whether the model can have been trained on these tokens."""
    if isinstance(encoder, ScGptEncoder):
        other = sorted(tokens.items() ^ encoder.tokens.items())
        if other:
            name = other[0][0]
            raise CellmillError(
                spec.model,
                f"its vocab.json has the id {encoder.tokens.get(name)} for '{name}', '{spec.tokenizer}' has "
                f"{tokens.get(name)}; {len({n for n, _ in other}):,} tokens differ.",
                f"Give '{spec.tokenizer}' the vocabulary of the model: vocabulary: {spec.model}/vocab.json.",
            )
    size = max(tokens.values(), default=-1) + 1
    if size > encoder.vocabulary or (isinstance(spec, Geneformer) and size != encoder.vocabulary):
        raise CellmillError(
            spec.model,
            f"knows {encoder.vocabulary:,} tokens, the vocabulary of '{spec.tokenizer}' has {size:,}.",
            "Take the tokenizer that the model was trained with: V1 has 25,426 tokens, V2 20,275.",
        )
    bins = part.facts["tokens_per_cell"]["cells"]
    _check_length((len(bins) - 1) * BIN_TOKENS, encoder, spec, part)


def _check_length(found: int, encoder: Encoder | ScGptEncoder, spec: OfTokens, part: TokensPart) -> None:
    if encoder.longest is not None and found > encoder.longest:
        raise CellmillError(
            part.path,
            f"has cells of {found:,} tokens and more, {spec.model} takes {encoder.longest:,}.",
            f"Set max_len_tokens of '{spec.tokenizer}' to {encoder.longest}.",
        )


class _Run:
    """One pass over a part."""

    def __init__(
        self,
        part: TokensPart,
        encoder: Encoder | ScGptEncoder,
        spec: OfTokens,
        around: tuple[int, int],
        pad: int,
        threads: int,
    ) -> None:
        self._part, self._encoder, self._spec, self._around, self._pad = part, encoder, spec, around, pad
        self._threads = threads if spec.device == "cpu" else 2  # one prepares a batch while the other's is at work
        self._plan = Plan(spec.batch_tokens if spec.device == "cuda" else 0, encoder.longest or 1 << 30)
        self.done: dict[str, Any] = {"tokens": 0, "operations": 0.0, "seconds": 0.0}
        """As of `Rates`, once all windows were taken."""
        self._padded = 0

    @property
    def padding_pct(self) -> float:
        """Of what the model read."""
        return 100 * (1 - self.done["tokens"] / self._padded) if self._padded else 0.0

    def windows(self) -> Iterator[np.ndarray]:
        """Vectors float32 (n, dimensions) of the cells in their order; reading goes on meanwhile."""
        began, done = time.perf_counter(), self.done
        with workers(self._threads) as pool, progress(self._part.n_cells, "cells", "embedding") as counter:
            for columns, offsets in ahead(self._read(), depth=1):
                vectors = np.empty((len(offsets) - 1, self._encoder.dimensions), np.float32)

                def take(done: list[tuple[Batch, Any]], vectors: np.ndarray = vectors) -> None:
                    for batch, found in done:
                        vectors[batch.cells] = found.cpu().numpy()[: len(batch.cells)]
                        counter.update(len(batch.cells))

                calls = InOrder(pool, take=take, calls_per_worker=8)
                for batch in self._plan.batches(np.diff(offsets)):
                    calls.put(self._embed, batch, columns, offsets)
                    self._padded += batch.rows * batch.width
                calls.finish()
                done["tokens"] += len(columns[0])
                done["operations"] += self._encoder.operations(np.diff(offsets))
                yield vectors
        done["seconds"] = time.perf_counter() - began

    def _read(self) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        """Each column of a window end to end, ids first, and the offsets int64 (n + 1,) of its cells."""
        for start in range(0, self._part.n_cells, WINDOW_CELLS):
            stop = min(start + WINDOW_CELLS, self._part.n_cells)
            table = self._part.rows(start, stop, self._spec.columns)
            columns = []
            for name in self._spec.columns:
                column = table[name].combine_chunks()
                chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                offsets = chunk.offsets.to_numpy().astype(np.int64)
                columns.append(chunk.values.to_numpy()[offsets[0] : offsets[-1]])
                offsets = offsets - offsets[0]
            self._check(start, np.diff(offsets))
            self._check_first(columns, offsets)
            yield columns, offsets

    def _check_first(self, columns: list[np.ndarray], offsets: np.ndarray) -> None:
        """The value of ``<cls>`` is the one that the model was trained with."""
        encoder = self._encoder
        if isinstance(encoder, ScGptEncoder):
            found = columns[1][offsets[:-1]]
            if len(found) and (found != encoder.pad_value).any():
                raise CellmillError(
                    self._part.path,
                    f"<cls> has the value {found[0]:g}, the model's is {encoder.pad_value:g}.",
                    f"Set cls_value: {encoder.pad_value:g} of '{self._spec.tokenizer}'.",
                )

    def _check(self, start: int, lengths: np.ndarray) -> None:
        """Every cell has something to pool, and fits the model."""
        genes = self._spec.pool == "mean" or isinstance(self._spec, ScGpt)
        least = sum(self._around) + 1 if genes else 1
        empty = np.flatnonzero(lengths < least)
        if len(empty):
            row = start + int(empty[0])
            cell = self._part.rows(row, row + 1, ["cell_id"])["cell_id"][0].as_py()
            raise CellmillError(
                self._part.path,
                f"cell '{cell}' has no gene of the vocabulary, and {len(empty):,} of the {len(lengths):,} cells from "
                f"row {start:,} on: there is nothing to embed.",
                "No row is made up: filter such cells (quality.min_genes), or see why their genes have no token.",
            )
        _check_length(int(lengths.max()), self._encoder, self._spec, self._part)

    def _embed(self, batch: Batch, columns: list[np.ndarray], offsets: np.ndarray) -> list[tuple[Batch, Any]]:
        import torch

        torch.set_num_threads(1)  # of this thread; a product in several may add up in another order

        def run(some: Batch) -> Any:
            ids, mask, weights = fill(
                some, columns[0], offsets, pool=self._spec.pool, around=self._around, pad=self._pad
            )
            if isinstance(self._encoder, ScGptEncoder):
                return self._encoder.pooled(ids, mask, fill_values(some, columns[1], offsets))
            return self._encoder.pooled(ids, mask, weights)

        done = list(halving(run, batch, full=torch.OutOfMemoryError))
        if len(done) > 1:
            log.warning("memory was full at %d rows of %d tokens: went on with half or less", batch.rows, batch.width)
            torch.cuda.empty_cache()
        return done
