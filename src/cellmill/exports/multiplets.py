"""Pairs and multiplets: the text of a split goes to disk first, then negatives are drawn among all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.exports.captions import render
from cellmill.exports.columns import string_bytes
from cellmill.exports.given import Given
from cellmill.exports.hf import HfContrastive, HfMultiplets, HfPairs
from cellmill.exports.hf_files import Shards
from cellmill.exports.hf_rows import numbered, place, sentences
from cellmill.exports.negatives import Negatives, Wanted
from cellmill.exports.rows import Header


def contrastive_rows(shards: Shards, given: Given, spec: HfContrastive, folder: Path) -> dict[str, Any]:
    """Write the pairs or multiplets of every split; says from how many cells the negatives were drawn.

    Raises:
        CellmillError: a cell without a caption, or with fewer eligible cells than negatives asked for.
    """
    header, fewest = given.header, {}
    for split, batches in given.by_split():
        anchors = _Anchors(folder / split, header, spec, batches, place(header, split))
        negatives = anchors.negatives()
        fewest[split] = negatives.fewest
        per_cell = 1 + spec.negatives if isinstance(spec, HfPairs) else 1
        for file, start, stop in shards.groups(split, per_cell):
            drawn = negatives.of(start, anchors.ids.take(np.arange(start, stop)))
            make = _pairs if isinstance(spec, HfPairs) else _multiplets
            shards.write(split, file, make(anchors, drawn, start, stop, shards))
        anchors.close()
    captions = spec.captions_of(header.label)
    return {"captions": captions, "fewest_eligible": fewest, "negatives": _shares(spec)}


def _shares(spec: HfContrastive) -> dict[str, int]:
    wanted = _wanted(spec)
    return {k: getattr(wanted, k) for k in ("anywhere", "in_batch", "out_of_batch", "hard")}


def _wanted(spec: HfContrastive) -> Wanted:
    some = {k: spec.number(getattr(spec.shares, k)) for k in ("in_batch", "out_of_batch", "hard")}
    return Wanted(spec.negatives - sum(some.values()), **some, candidates=spec.shares.candidates)


class _Anchors:
    """The cells of a split: ids and sentences on disk, captions, label and batch as codes in memory."""

    def __init__(
        self, folder: Path, header: Header, spec: HfContrastive, batches: Iterator[pa.RecordBatch], where: str
    ) -> None:
        folder.mkdir()
        self._spec, self._where = spec, where
        self._asked = spec.captions_of(header.label)
        self.ids = _Text(folder / "ids")
        self.sentences = {n: _Text(folder / n) for n in (header.tokens[spec.sentences] if spec.sentences else {})}
        self.captions = [_Codes() for _ in self._asked]
        self._label, self._batch = _Codes(), _Codes()
        near = spec.shares.embedding if spec.shares.hard else None
        self._vectors: np.ndarray | None = None
        with pa.OSFile(str(folder / "more"), "wb") as more, open(folder / "vectors", "wb") as vectors:
            writer = None
            for batch in batches:
                self.ids.append(batch["cell_id"])
                for name, column in sentences(batch, header, spec).items():
                    self.sentences[name].append(column)
                for codes, caption in zip(self.captions, self._asked, strict=True):
                    codes.append(render(batch, caption, missing=spec.missing, fill=spec.fill, where=where))
                for codes, column in ((self._label, header.label), (self._batch, header.batch)):
                    if column is not None:
                        codes.append(pc.fill_null(batch[column].cast(pa.string()), ""))
                if near is not None:
                    vectors.write(batch[f"embedding:{near}"].flatten().to_numpy())
                kept = batch.select([c for c in batch.schema.names if c in self._more(header)])
                if writer is None:
                    writer = pa.ipc.new_file(more, kept.schema)
                writer.write_batch(kept)
            if writer is not None:
                writer.close()
        if near is not None:
            shape = (-1, header.widths[near])
            self._vectors = np.memmap(folder / "vectors", np.float32, "r").reshape(shape)
        self._map = pa.memory_map(str(folder / "more"))
        self.more = pa.ipc.open_file(self._map).read_all()
        self._has_label, self._has_batch = header.label is not None, header.batch is not None

    def _more(self, header: Header) -> list[str]:
        """Columns that are carried along, to be written with the anchor."""
        spec = self._spec
        return [
            *(f"embedding:{e}" for e in spec.embeddings),
            *(spec.columns if spec.columns is not None else header.obs.names),
        ]

    def negatives(self) -> Negatives:
        attributes = [c.codes() for c in self.captions] + ([self._label.codes()] if self._has_label else [])
        return Negatives(
            attributes,
            _wanted(self._spec),
            ids=self.ids,
            seed=self._spec.seed,
            where=self._where,
            batch=self._batch.codes() if self._has_batch else None,
            vectors=self._vectors,
        )

    def close(self) -> None:
        self._map.close()


def _multiplets(anchors: _Anchors, drawn: np.ndarray, start: int, stop: int, shards: Shards) -> dict[str, pa.Array]:
    spec, rows = anchors._spec, np.arange(start, stop)
    assert isinstance(spec, HfMultiplets)
    columns = {"sample_idx": anchors.ids.take(rows)}
    columns |= {name: text.take(rows) for name, text in anchors.sentences.items()}
    for name, caption in zip(numbered("positive", len(anchors.captions)), anchors.captions, strict=True):
        columns[name] = caption.take(rows)
    for j in range(spec.negatives):
        columns[f"negative_{j + 1}_idx"] = anchors.ids.take(drawn[:, j])
    for j in range(spec.negatives if spec.resolve_negatives else 0):
        text = anchors.captions[0] if j % 2 == 0 else anchors.sentences["cell_sentence_1"]
        columns[f"negative_{j + 1}"] = text.take(drawn[:, j])
    return columns | shards.more(anchors.more.slice(start, stop - start))


def _pairs(anchors: _Anchors, drawn: np.ndarray, start: int, stop: int, shards: Shards) -> dict[str, pa.Array]:
    own = np.arange(start, stop)
    rows = np.repeat(own, drawn.shape[1] + 1)
    captioned = np.column_stack([own, drawn]).ravel()
    columns = {"sample_idx": anchors.ids.take(rows)}
    columns |= {name: text.take(rows) for name, text in anchors.sentences.items()}
    for name, caption in zip(numbered("caption", len(anchors.captions)), anchors.captions, strict=True):
        columns[name] = caption.take(captioned)
    columns["label"] = pa.array((rows == captioned).astype(np.float64))
    more = shards.more(anchors.more.slice(start, stop - start))
    again = pa.array(rows - start)
    return columns | {name: column.take(again) for name, column in more.items()}


class _Codes:
    """Text of every cell as codes in the order of first appearance; each different text is in memory once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._codes: list[np.ndarray] = []
        self._names: pa.Array | None = None
        self._whole: np.ndarray | None = None

    def append(self, text: pa.Array) -> None:
        coded = text.dictionary_encode()
        known = [self._known.setdefault(t, len(self._known)) for t in coded.dictionary.to_pylist()]
        self._codes.append(np.array(known, np.int32)[coded.indices.to_numpy()])

    def codes(self) -> np.ndarray:
        """int32 (cells,)."""
        if self._whole is None:
            self._whole, self._codes = np.concatenate(self._codes), []
        return self._whole

    def take(self, rows: np.ndarray) -> pa.Array:
        if self._names is None:
            self._names = pa.array(self._known, pa.string())
        return self._names.take(pa.array(self.codes()[rows]))


@numba.njit(cache=True, nogil=True)
def _gather(data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    out = np.empty(ends[-1], np.uint8)
    for i in range(len(rows)):
        at = offsets[rows[i]]
        for b in range(ends[i], ends[i + 1]):
            out[b] = data[at + b - ends[i]]
    return out


class _Text:
    """Text of every cell in one file, any rows of which can be taken; 8 bytes per cell are in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._sizes = path, list[np.ndarray]()
        self._data: np.ndarray | None = None
        self._offsets = np.zeros(1, np.int64)
        path.touch()

    def append(self, text: pa.Array) -> None:
        offsets, data = string_bytes(text)
        with open(self._path, "ab") as file:
            file.write(data.data)
        self._sizes.append(np.diff(offsets))

    def take(self, rows: np.ndarray) -> pa.Array:
        """string (rows,)."""
        if self._data is None:
            self._offsets = np.concatenate([np.zeros(1, np.int64), *self._sizes]).cumsum()
            self._sizes = []
            empty = self._offsets[-1] == 0
            self._data = np.zeros(0, np.uint8) if empty else np.memmap(self._path, np.uint8, "r")
        rows = np.asarray(rows, np.int64)
        ends = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._offsets[rows + 1] - self._offsets[rows], out=ends[1:])
        text = _gather(self._data, self._offsets, rows, ends)
        return pa.StringArray.from_buffers(len(rows), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(text))

    def __getitem__(self, row: int) -> str:
        return str(self.take(np.array([row]))[0])
