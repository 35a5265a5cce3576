"""Memory of batches: used again when nobody holds them, and never before."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cellmill.torch import CellDataset, CellStream, Columns, Tokens, batches, pool

from .loader_exports import Made, make_exports


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_exports(tmp_path_factory.mktemp("pool"))


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the small tensors of these tests travel in shared memory (workers are forked)."""
    monkeypatch.setattr(batches, "INLINE", 64)


def is_of(batch: Any, made: Made) -> bool:
    """Whether a batch has the counts of its rows."""
    return np.array_equal(batch["counts"].to_dense().numpy(), made.dense()[batch["row"].numpy()])


def test_memory_comes_back_when_nobody_holds_it():
    """Not while a view of it lives; what is too small is made anew; a pool keeps a few pieces."""
    mine = pool.Pool(shared=False)
    first = mine.lease(1_000)
    at, view = first.ctypes.data, first[10:20]
    del first
    assert mine.lease(10).ctypes.data != at
    del view
    assert mine.lease(1_000).ctypes.data == at
    held = [mine.lease(5_000) for _ in range(2 * pool.MOST_PRIVATE)]
    assert len({piece.ctypes.data for piece in held}) == len(held) and len(mine.pieces) == pool.MOST_PRIVATE


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("format_", ["scdl", "packed"])
def test_batches_that_are_kept_stay_as_they_are(format_: str, workers: int, made: Made):
    """All of an epoch, and some of another, whose memory others use meanwhile."""
    for loader in (
        CellStream(made.path(format_), batch_size=7).loader(num_workers=workers, persistent_workers=workers > 0),
        DataLoader(CellDataset(made.path(format_)), 7, shuffle=True, num_workers=workers),
    ):
        kept = list(loader)
        some = [batch for number, batch in enumerate(loader) if number % 5 == 0]
        assert all(is_of(batch, made) for batch in kept + some)
        assert sorted(row for batch in kept for row in batch["row"].tolist()) == list(range(700))


class Keeps(Dataset[Any]):
    """Keeps every cell that it gave, as a cache would."""

    def __init__(self, cells: CellDataset) -> None:
        self.cells, self.kept = cells, {}

    def __len__(self) -> int:
        return len(self.cells)

    def __getitems__(self, indices: list[int]) -> Any:
        key = tuple(indices)
        if key not in self.kept:
            self.kept[key] = self.cells.__getitems__(indices)
        return self.kept[key]


def test_what_a_worker_keeps_is_not_written_over(made: Made):
    """Batches are the same when they come a second time."""
    loader = DataLoader(Keeps(CellDataset(made.path("scdl"))), 70, num_workers=1, persistent_workers=True)
    for _ in range(3):
        assert all(is_of(batch, made) for batch in loader)


def test_workers_use_their_memory_again(made: Made):
    """They have no more pieces than batches are on their way; ended workers leave none behind."""
    loader = DataLoader(CellDataset(made.path("scdl")), 64, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(4):
        for batch in loader:
            assert is_of(batch, made)
    assert 0 < len(pool._MAPPED) <= 2 * 6
    del loader, batch
    gc.collect()
    pool.forget()
    assert not pool._MAPPED


def test_batches_of_tables_travel_too(made: Made):
    """Tokens, text and numbers, whose tensors a worker made elsewhere."""
    contents = [Tokens(), Columns(["cell_id"])]
    stream = CellStream(made.path("hf"), batch_size=200, contents=contents, obs=["age"])
    for here, there in zip(stream.loader(num_workers=2), stream, strict=True):
        assert here["cell_id"] == there["cell_id"]
        assert all(torch.equal(here[name], there[name]) for name in ("input_ids", "attention_mask", "row"))


def test_a_batch_is_copied_and_pickled_by_value(made: Made):
    """Outside of a loader, it is a dictionary like any other."""
    batch = next(iter(CellStream(made.path("scdl"))))
    for again in (pickle.loads(pickle.dumps(batch)), copy.copy(batch), copy.deepcopy(batch)):
        assert type(again) is type(batch) and is_of(again, made)
