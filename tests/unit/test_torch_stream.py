"""CellStream: the same batches for any number of workers, shared by ranks, resumed anywhere."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cellmill.errors import CellmillError
from cellmill.torch import (
    Balanced,
    CellStream,
    Columns,
    Counts,
    Grouped,
    Sequential,
    Shuffled,
    Tokens,
    Weighted,
    WithControls,
)

from .loader_exports import COUNTS, FORMATS, TABLES, Made, make_exports

SMALL = Shuffled(seed=5, buffer_rows=256, block_rows=10, lanes=2)
"""A buffer smaller than the split."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_exports(tmp_path_factory.mktemp("stream"))


def rows(batches: Any) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


def same(here: Any, there: Any) -> bool:
    """Equal in every tensor; missing values, too."""
    return set(here) == set(there) and all(
        np.array_equal(value.to_dense(), there[name].to_dense(), equal_nan=True) for name, value in here.items()
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_every_cell_comes_once(format_: str, made: Made):
    """Of every export, with its own counts or tokens and its obs values."""
    stream = CellStream(made.path(format_), batch_size=9, sampler=SMALL, obs=["age"])
    table, ages, seen = made.table(), made.table()["age"].to_numpy(zero_copy_only=False), []
    for batch in stream:
        mine = batch["row"].tolist()
        if format_ in COUNTS:
            assert np.array_equal(batch["counts"].to_dense().numpy(), made.dense()[mine])
        else:
            lists = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
            assert lists == [table["tokens:rank"][i].as_py() for i in mine]
        np.testing.assert_array_equal(batch["age"].numpy(), ages[mine].astype(np.float32))
        seen += mine
    assert sorted(seen) == list(range(700)) and len(stream) == 78


@pytest.mark.parametrize("format_", ["scdl", "hdf5", "mds", "hf"])
def test_the_order_is_the_same_for_any_number_of_workers(format_: str, made: Made):
    """Batch by batch, value by value, through our loader and through torch's."""
    stream = CellStream(made.path(format_), batch_size=9, sampler=SMALL, obs=["age", "umis"])
    expected = list(stream)
    for workers in (1, 3):
        stream.set_epoch(0)
        found = list(stream.loader(num_workers=workers))
        assert len(found) == len(expected)
        assert all(map(same, found, expected))
    stream.set_epoch(0)
    assert rows(DataLoader(stream, batch_size=None, num_workers=2)) == rows(expected)


def test_epochs_differ_and_come_again(made: Made):
    """Our loader goes on by itself, also in workers that stay; torch's is told by set_epoch."""
    stream = CellStream(made.path("scdl"), batch_size=64)
    epochs = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        epochs.append(rows(stream))
    assert epochs[0] != epochs[1] != epochs[2]
    for options in ({}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}):
        stream.set_epoch(0)
        loader = stream.loader(**options)
        assert [rows(loader) for _ in range(3)] == epochs
    stream.set_epoch(1)
    torchs = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    assert rows(torchs) == epochs[1]
    stream.set_epoch(2)
    assert rows(torchs) == epochs[2]


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_all_cells(drop_last: bool, made: Made):
    """Three ranks with two workers each: together every cell once, and as many steps each."""
    found = []
    for rank in range(3):
        stream = CellStream(made.path("scdl"), batch_size=16, sampler=SMALL, drop_last=drop_last, ranks=(rank, 3))
        mine = rows(stream.loader(num_workers=2))
        assert len(mine) == len(stream)
        found.append(mine)
    assert len({len(mine) for mine in found}) == 1
    seen = [row for mine in found for batch in mine for row in batch]
    assert len(seen) == len(set(seen)) == 700 - sum(stream.left_out.values())
    assert stream.left_out == ({"in batches that were dropped": 700 - 14 * 48} if drop_last else {})


def test_ranks_are_those_of_torch_distributed(made: Made):
    """Where it is initialised and nothing else is said."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=3)
    try:
        stream = CellStream(made.path("scdl"), batch_size=16)
    finally:
        distributed.destroy_process_group()
    said = CellStream(made.path("scdl"), batch_size=16, ranks=(1, 3))
    assert (stream.rank, stream.ranks) == (1, 3) and rows(stream) == rows(said)


@pytest.mark.parametrize("taken", [0, 1, 20, 77, 78])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 0), (2, 3)])
def test_a_resumed_epoch_gives_the_rest(taken: int, before: int, after: int, made: Made):
    """After any number of batches, with other workers, by a state that was pickled."""
    if before and after and taken not in (1, 20):
        pytest.skip("as tested with fewer workers")
    stream = CellStream(made.path("scdl"), batch_size=9, sampler=SMALL)
    stream.set_epoch(2)
    whole = rows(stream)
    loader = stream.loader(num_workers=before)
    found = rows(itertools.islice(loader, taken))
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    again = CellStream(made.path("scdl"), batch_size=9, sampler=SMALL).loader(num_workers=after)
    again.load_state_dict(state)
    assert found + rows(again) == whole
    assert again.stream.epoch == 3 and rows(again) != whole


def test_a_stream_resumes_without_a_loader(made: Made):
    """Its own state, also in a second turn."""
    stream = CellStream(made.path("scdl"), batch_size=9, sampler=SMALL)
    whole = rows(stream)
    first = rows(itertools.islice(stream, 5))
    state = stream.state_dict()
    stream.load_state_dict(state)
    second = rows(itertools.islice(stream, 7))
    stream.load_state_dict(stream.state_dict())
    assert first + second + rows(stream) == whole
    assert rows(stream) == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 asks torch 2.13 for it
def test_torchdata_resumes_it_in_workers(made: Made):
    """StatefulDataLoader asks each worker's stream for its state."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    def make() -> Any:
        return StatefulDataLoader(
            CellStream(made.path("scdl"), batch_size=9, sampler=SMALL), batch_size=None, num_workers=2
        )

    first = make()
    whole = rows(make())
    taken = rows(itertools.islice(first, 21))
    again = make()
    again.load_state_dict(first.state_dict())
    assert taken + rows(again) == whole


def test_a_state_of_another_order_is_refused(made: Made):
    """With what differs."""
    state = CellStream(made.path("scdl"), batch_size=9).state_dict()
    with pytest.raises(CellmillError, match=r"batch_size 9 and not 8"):
        CellStream(made.path("scdl"), batch_size=8).load_state_dict(state)
    with pytest.raises(CellmillError, match=r"seed=0.*seed=1"):
        CellStream(made.path("scdl"), batch_size=9, sampler=Shuffled(seed=1)).load_state_dict(state)


@pytest.mark.parametrize("format_", ["scdl", "hf"])
@pytest.mark.parametrize(
    "sampler",
    [Sequential(), Grouped("donor"), Balanced("donor"), Weighted(np.arange(700.0)), WithControls("donor", "spender é")],
    ids=lambda s: type(s).__name__,
)
def test_every_sampler_is_the_same_for_any_number_of_workers(format_: str, sampler: Any, made: Made):
    """Also those that draw."""
    stream = CellStream(made.path(format_), batch_size=32, sampler=sampler, obs=["donor"])
    expected = rows(stream)
    assert rows(stream.loader(num_workers=2)) == expected
    donors = [v or None for v in made.table()["donor"].to_pylist()]
    if isinstance(sampler, Grouped):
        assert all(len({donors[i] for i in batch}) == 1 for batch in expected)
        assert stream.left_out == {"without donor": donors.count(None)}


@pytest.mark.parametrize("format_", FORMATS)
def test_only_some_cells(format_: str, made: Made):
    """By values of obs columns; none is an error that says so."""
    column = "experiment_id" if format_ in ("hdf5", "dense") else "donor"
    donors, control = made.table()["donor"].to_pylist(), made.table()["control"].to_pylist()
    stream = CellStream(made.path(format_), only={column: ["spender é", "spender éé"], "control": True}, obs=[column])
    expected = [i for i in range(700) if donors[i] in ("spender é", "spender éé") and control[i]]
    assert sorted(itertools.chain(*rows(stream))) == expected and stream.n_cells == len(expected)
    with pytest.raises(CellmillError, match="no cell"):
        CellStream(made.path(format_), only={column: "nobody"})


def test_tokens_are_padded_and_cut(made: Made):
    """To the longest of the batch, to a multiple, to a limit; the mask says what is padding."""
    table = made.table()["tokens:rank"].to_pylist()
    asked = Tokens(padding=(-7,), max_len_tokens=13, multiple_of=8)
    for batch in CellStream(made.path("hf"), batch_size=10, contents=asked, sampler=Sequential()):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape and ids.shape[1] % 8 == 0 and ids.dtype == torch.int64
        assert (ids[~mask] == -7).all()
        for row, found, there in zip(batch["row"].tolist(), ids, mask, strict=True):
            assert found[there].tolist() == table[row][:13]


def test_several_contents_make_one_batch(made: Made):
    """Tokens beside columns as they are."""
    stream = CellStream(made.path("hf"), contents=[Tokens(), Columns(["cell_id", "umis"])], sampler=Sequential())
    batch = next(iter(stream))
    assert batch["cell_id"] == made.table()["cell_id"].to_pylist()[:64]
    umis = made.table()["umis"].to_pylist()[:64]
    assert [None if np.isnan(v) else int(v) for v in batch["umis"].tolist()] == umis


@pytest.mark.parametrize("format_", TABLES)
def test_contents_that_are_not_there_are_refused(format_: str, made: Made):
    """When the stream is made, not in a worker."""
    with pytest.raises(CellmillError, match="has no counts"):
        CellStream(made.path(format_), contents=Counts())
    with pytest.raises(CellmillError, match=r"no column 'inputs'.*input_ids"):
        CellStream(made.path(format_), contents=Tokens(["inputs"]))
    with pytest.raises(CellmillError, match="no such columns"):
        CellStream(made.path("scdl"), contents=Tokens())
    with pytest.raises(CellmillError, match="no lists"):
        CellStream(made.path(format_), contents=Tokens(["cell_id"]))


def test_a_stream_pickles_without_its_data(made: Made):
    """As its path and options, also after reading, so that workers may be spawned."""
    stream = CellStream(made.path("hdf5"), batch_size=9, obs=["age"])
    expected = rows(stream)
    data = pickle.dumps(stream)
    assert len(data) < 5_000 and rows(pickle.loads(data)) == expected


def test_dense_batches_travel_one_by_one(made: Made):
    """And are what sparse ones are."""
    dense = CellStream(made.path("scdl"), batch_size=9, contents=Counts(layout="dense"))
    sparse = CellStream(made.path("scdl"), batch_size=9)
    assert dense.dense and not sparse.dense
    assert all(map(same, dense.loader(num_workers=2), sparse))
