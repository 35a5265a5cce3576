"""``CellStream``: batches of an export in a fixed order, shared by workers and ranks, to be resumed anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cellmill.errors import CellmillError
from cellmill.torch.batches import Batch, Bundle
from cellmill.torch.contents import Contents, Counts, CountsReader, Reader, default_contents
from cellmill.torch.dataset import tensor_of
from cellmill.torch.obs import ObsColumn, obs_column
from cellmill.torch.pool import forget
from cellmill.torch.samplers import TURN, Plan, Sampler, Shuffled, checked_ranks, level
from cellmill.torch.stores import Store, block_rows, open_store

EPOCH, START = 0, 1
"""Places in the numbers that a stream shares with its workers."""
AT_ONCE_ROWS = 2_048
"""Cells that are read at once, at most, of a store whose rows lie open: 25 MB of 1,500 values each."""


class CellStream(IterableDataset[Batch]):
    """Batches of a split of any export, or of token files.

    Batch ``i`` of an epoch goes to rank ``i % ranks``; there, to worker ``i // ranks % workers``.
    The batches and their order are therefore the same for any number of workers, and no cell is lost or doubled.
    The order depends on the sampler, its seed, the epoch and the batch size; ``set_epoch`` names the epoch, as with
    ``torch.utils.data.DistributedSampler``; ``loader`` counts epochs by itself.

    Every rank makes as many steps.
    With ``drop_last``, every batch is full, and what is over is left out and counted (``left_out``).
    Without, every cell comes: the last batch is smaller, and where the ranks cannot share the batches, the last full
    ones are halved until they can.

    Args:
        path: a split folder, such as ``results/pbmc68k/hf/cells/train``, or ``results/pbmc68k/tokenized/rank``.
        batch_size: cells of a batch (of one rank).
        sampler: ``Shuffled()``, ``Permuted()``, ``Sequential()``, ``Weighted``, ``Balanced``, ``Grouped`` or
            ``WithControls``.
        contents: ``Counts``, ``Tokens`` or ``Columns``, or several; ``None``: counts, else tokens.
        obs: obs columns of a batch, as codes of text (int64) or numbers; a map gives the categories of the codes.
        only: values of obs columns to keep, such as ``{"disease": "normal"}`` or ``{"split": "train"}``.
        drop_last: leave out what makes no full batch for every rank.
        ranks: ``(rank, number of ranks)``; ``None``: those of ``torch.distributed``, where it is initialised.

    Raises:
        CellmillError: there is no such export, column or cell.

    A batch has the tensors of its contents, ``row`` (int64, the numbers of its cells in the split) and the obs columns.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        batch_size: int = 64,
        sampler: Sampler | None = None,
        contents: Contents | Sequence[Contents] | None = None,
        obs: Sequence[str] | Mapping[str, Sequence[str] | None] = (),
        only: Mapping[str, Any] | None = None,
        drop_last: bool = False,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        self.path, self.batch_size, self.drop_last = Path(path), batch_size, drop_last
        self.sampler: Sampler = Shuffled() if sampler is None else sampler
        self.rank, self.ranks = checked_ranks("CellStream", batch_size, ranks)
        self._only = dict(only or {})
        self._asked = dict(obs) if isinstance(obs, Mapping) else dict.fromkeys(obs)
        self._contents = contents
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._done = 0
        self._open()

    def _open(self) -> None:
        self.store: Store = open_store(self.path)
        self._readers = self._make_readers()
        self._obs: dict[str, ObsColumn] = {}
        self._kept = self._choose()
        self.n_cells = self.store.n_rows if self._kept is None else len(self._kept)
        self.block_rows = block_rows(self.store)
        self._plans: dict[int, Plan] = {}
        for column in self._asked:
            self._whole(column)
        if not self.n_cells:
            raise CellmillError(self.path, "there is no cell.", f"Check the split, and only={self._only}.")

    def __getstate__(self) -> dict[str, Any]:
        left = ("store", "_readers", "_obs", "_kept", "_plans")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _make_readers(self) -> list[Reader]:
        asked = default_contents(self.store) if self._contents is None else self._contents
        every = list(asked) if isinstance(asked, Sequence) else [asked]
        self.dense = any(isinstance(c, Counts) and c.layout == "dense" for c in every)
        # Rows that lie open cost the same in any batches; blocks are decoded once where a whole turn is read at once.
        open_rows = not hasattr(self.store, "block_rows")
        most = max(1, AT_ONCE_ROWS // self.batch_size) if open_rows else TURN
        self.at_once = 1 if self.dense else min(TURN, most)
        return [c.reader(self.store) for c in every]

    # --- obs

    def _whole(self, column: str) -> ObsColumn:
        """An obs column of all rows of the store, decoded once."""
        if column not in self._obs:
            found = obs_column(column, self.store.obs(column))
            categories = self._asked.get(column)
            self._obs[column] = found if categories is None else found.recoded(categories)
        return self._obs[column]

    def obs(self, column: str) -> ObsColumn:
        """An obs column of the cells of this stream."""
        found = self._whole(column)
        return found if self._kept is None else ObsColumn(column, found.values[self._kept], found.categories)

    def categories(self, column: str) -> list[str]:
        """What the codes of a text column stand for."""
        found = self._whole(column).categories
        return [] if found is None else [str(name) for name in found]

    def _choose(self) -> np.ndarray | None:
        """Rows (int64, rising) of the values in ``only``; ``None``: all."""
        if not self._only:
            return None
        kept = np.ones(self.store.n_rows, np.bool_)
        for column, wanted in self._only.items():
            found = obs_column(column, self.store.obs(column))
            values = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
            if found.categories is not None:
                code_of = {str(name): code for code, name in enumerate(found.categories)}
                values = [code_of.get(str(value), -2) for value in values]
            kept &= np.isin(found.values, values)
        return np.flatnonzero(kept)

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives."""
        return int(self._shared[EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; workers that run already will see it, too."""
        self._shared[EPOCH], self._shared[START] = epoch, 0
        self._done = 0

    def _plan(self) -> Plan:
        epoch = self.epoch
        if epoch not in self._plans:
            plan = self.sampler.plan(self, epoch=epoch, batch_size=self.batch_size, ranks=self.ranks)
            levelled = level(plan, ranks=self.ranks, batch_size=self.batch_size, drop_last=self.drop_last)
            self._plans = {epoch: levelled}
        return self._plans[epoch]

    @property
    def left_out(self) -> dict[str, int]:
        """Cells that this epoch leaves out, over all ranks, by reason."""
        return dict(self._plan().left_out)

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self._plan().n_batches // self.ranks

    def __iter__(self) -> Iterator[Batch]:
        steps = len(self)
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        resumed, self._resumed = getattr(self, "_resumed", 0), 0
        self._done = resumed
        mine = range(int(self._shared[START]) + worker + resumed * workers, steps, workers)
        for begin in range(0, len(mine), self.at_once):
            for batch in self.batches(mine[begin : begin + self.at_once]):
                self._done += 1
                yield batch
        if info is None:
            self._shared[START], self._done = 0, 0

    def batches(self, steps: Sequence[int]) -> Bundle:
        """The batches of some steps of this epoch, of this rank; sparse counts are read at once."""
        plan, bundle = self._plan(), Bundle(Batch() for _ in steps)
        cells = [plan.rows(self.rank + step * self.ranks) for step in steps]
        rows = cells if self._kept is None else [self._kept[mine] for mine in cells]
        for read in self._readers:
            found = read.many(rows) if isinstance(read, CountsReader) else map(read, rows)
            for batch, part in zip(bundle, found, strict=True):
                batch.update(part)
        for batch, mine in zip(bundle, rows, strict=True):
            batch["row"] = torch.from_numpy(mine)
            batch.update({name: tensor_of(self._whole(name).values[mine]) for name in self._asked})
        return bundle

    # --- resuming

    def _identity(self) -> dict[str, Any]:
        """What the order depends on."""
        said = {"cells": self.n_cells, "batch_size": self.batch_size, "ranks": self.ranks, "drop_last": self.drop_last}
        weights = getattr(self.sampler, "weights", "")
        sampler = repr(self.sampler) if isinstance(weights, str) else type(self.sampler).__name__
        return said | {"sampler": sampler, "only": repr(self._only)}

    def state_dict(self) -> dict[str, Any]:
        """Where this stream is: of this process, or of this worker (as torchdata's ``StatefulDataLoader`` asks it)."""
        info = get_worker_info()
        return {
            "epoch": self.epoch,
            "start": int(self._shared[START]),
            "done": self._done,
            "workers": 1 if info is None else info.num_workers,
            "of": self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; the number of workers may differ where it was taken outside of them.

        Raises:
            CellmillError: it is of a stream whose order is another.
        """
        mine = self._identity()
        other = sorted(k for k in mine if state["of"].get(k) != mine[k])
        if other:
            found = ", ".join(f"{k} {state['of'].get(k)} and not {mine[k]}" for k in other)
            raise CellmillError(self.path, f"the state is of a stream with {found}.", "Make the stream as it was.")
        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        if info is not None and state["workers"] != workers:
            found = f"the state is of one of {state['workers']} workers, there are {workers}."
            raise CellmillError(self.path, found, "Take as many workers, or the state of stream.loader().")
        self._shared[EPOCH] = state["epoch"]
        if info is None:
            self._shared[START], self._done = state["start"] + state["done"] * state["workers"], 0
        else:
            self._shared[START], self._resumed = state["start"], state["done"]

    def loader(self, *, num_workers: int = 0, **options: Any) -> StreamLoader:
        """A loader that counts epochs and can be resumed; ``options`` go to ``torch.utils.data.DataLoader``."""
        return StreamLoader(self, num_workers=num_workers, **options)


class StreamLoader:
    """A ``DataLoader`` over a stream that goes on to the next epoch by itself, and knows where it is.

    Workers send ``TURN`` batches at once (fewer where they are large, dense ones each by itself), in turns: of
    ``Shuffled``, each worker then decodes blocks that no other needs, where their number divides ``lanes``.
    ``state_dict`` counts the batches that came out, not those that workers hold ready;
    it may be loaded with any number of workers.
    """

    def __init__(self, stream: CellStream, **options: Any) -> None:
        self.stream = stream
        self._bundles = _Bundles(stream)
        workers = options.get("num_workers", 0)
        self._loader = DataLoader(self._bundles if workers else stream, batch_size=None, **options)
        self._given = 0

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch after ``load_state_dict``, else the whole."""
        start, self._given = int(self.stream._shared[START]), 0
        forget()
        for found in self._loader:
            for batch in found if isinstance(found, Bundle) else [found]:
                self._given += 1
                yield batch
        if start + self._given != len(self.stream):
            found = f"{start + self._given} batches of {len(self.stream)} came."
            raise CellmillError(self.stream.path, found, "A worker ended early: see its message.")
        self.set_epoch(self.stream.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.stream.set_epoch(epoch)
        self._given = 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches of it that came out."""
        return self.stream.state_dict() | {"done": self._given, "workers": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, with any number of workers."""
        self.stream.load_state_dict(state)
        self._given = 0


class _Bundles(IterableDataset[Bundle]):
    """The batches of a stream in bundles: bundle ``i`` is made by worker ``i % workers``."""

    def __init__(self, stream: CellStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Bundle]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start, steps = int(self.stream._shared[START]), len(self.stream)
        size = self.stream.at_once
        for begin in range(start + worker * size, steps, size * workers):
            yield self.stream.batches(range(begin, min(begin + size, steps)))
