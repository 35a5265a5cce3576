"""CellDataset: cells by number, as Python counts, and batches equal to what went in."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc

import anndata
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cellmill.errors import CellmillError
from cellmill.torch import Batches, CellDataset, CellStream, Counts, Grouped, Permuted, Shuffled, to_device
from cellmill.torch.kernels import narrow

from .loader_exports import COUNTS, Made, make_exports


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_exports(tmp_path_factory.mktemp("dataset"))


@pytest.mark.parametrize("format_", COUNTS)
@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_every_cell_comes_once_in_a_shuffled_epoch(format_: str, layout: str, made: Made):
    """A DataLoader as torch makes it, with no collate function of ours."""
    dataset = CellDataset(made.path(format_), counts=Counts(layout=layout), obs=["age"])
    expected, seen = made.dense(), []
    for batch in DataLoader(dataset, batch_size=64, shuffle=True):
        counts = batch["counts"]
        assert counts.layout == (torch.sparse_csr if layout == "csr" else torch.strided)
        assert counts.dtype == torch.float32 and counts.shape[1] == 120
        assert np.array_equal(counts.to_dense().numpy(), expected[batch["row"].numpy()])
        seen += batch["row"].tolist()
    assert sorted(seen) == list(range(700))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-700, 699), max_size=20))
def test_cells_are_counted_as_python_does(made: Made, rows: list[int]):
    """Negative numbers from the end; order and repeats as asked for."""
    dataset = CellDataset(made.path("scdl"))
    expected = made.dense()[rows] if rows else np.empty((0, 120), np.float32)
    found = dataset.__getitems__(rows)
    assert [cell.row for cell in found] == [row % 700 for row in rows]
    assert np.array_equal(np.array([cell.dense() for cell in found]).reshape(-1, 120), expected)
    assert np.array_equal(found.batch()["counts"].to_dense().numpy(), expected)


@pytest.mark.parametrize("row", [700, -701, 10**12])
def test_cells_outside_are_an_index_error(row: int, made: Made):
    """So that iteration by number ends, and no other cell comes instead."""
    dataset = CellDataset(made.path("scdl"))
    with pytest.raises(IndexError, match=f"cell {row} of 700"):
        dataset[row]
    with pytest.raises(TypeError, match="whole numbers"):
        dataset[1.5]


def test_one_cell_a_slice_and_all_of_them_agree(made: Made):
    """Single cells, slices with steps, and iteration."""
    dataset, expected = CellDataset(made.path("scdl"), obs=["umis"]), made.dense()
    assert len(dataset) == 700 and dataset.shape == (700, 120)
    assert np.array_equal(dataset[-1].dense(), expected[-1])
    assert np.array_equal(dataset[650:100:-50].batch()["counts"].to_dense().numpy(), expected[650:100:-50])
    assert np.array_equal([cell.dense() for cell in dataset], expected)
    assert dataset[1:9][2:4][0].row == 3


def test_single_cells_collate_to_the_same_batch(made: Made):
    """A list of cells, as a sampler of one by one gives them."""
    dataset = CellDataset(made.path("scdl"), obs=["donor"])
    rows = [3, 0, 699]
    by_one = torch.utils.data.default_collate([dataset[row] for row in rows])
    at_once = dataset.__getitems__(rows).batch()
    assert np.array_equal(by_one["counts"].to_dense(), at_once["counts"].to_dense())
    assert torch.equal(by_one["donor"], at_once["donor"]) and torch.equal(by_one["row"], at_once["row"])


def test_obs_columns_are_codes_with_categories(made: Made):
    """The codes of a batch decode to the values of its cells; -1 is missing."""
    dataset = CellDataset(made.path("scdl"), obs=["donor", "age"])
    names = dataset.categories("donor")
    donors, ages = made.table()["donor"].to_pylist(), made.table()["age"].to_pylist()
    batch = dataset[:].batch()
    assert [None if code < 0 else names[code] for code in batch["donor"]] == donors
    assert batch["donor"].dtype == torch.int64 and batch["age"].dtype == torch.float32
    assert [None if np.isnan(a) else np.float32(a) for a in batch["age"].numpy()] == [
        None if a is None else np.float32(a) for a in ages
    ]


def test_codes_of_another_split_can_be_those_of_training(made: Made):
    """Given the categories, a code means the same; a value that has none is refused."""
    names = [*CellDataset(made.path("scdl")).categories("donor"), "nobody"][::-1]
    test = CellDataset(made.path("scdl", "test"), obs={"donor": names})
    found = [None if code < 0 else names[code] for code in test[:].batch()["donor"]]
    assert found == made.table("test")["donor"].to_pylist()
    with pytest.raises(CellmillError, match="none of the 1 categories"):
        CellDataset(made.path("scdl", "test"), obs={"donor": ["nobody"]})[0]


def test_genes_come_in_the_order_asked_for(made: Made):
    """Sparse and dense; the columns of a sparse row rise."""
    ids = made.rows.header.genes["gene_id"]
    chosen = [7, 3, 119, 0, 44]
    for layout in ("csr", "dense"):
        dataset = CellDataset(made.path("scdl"), counts=Counts(layout=layout, genes=list(ids[chosen])))
        assert np.array_equal(dataset[:].batch()["counts"].to_dense().numpy(), made.dense()[:, chosen])
        assert all((np.diff(cell.columns) > 0).all() for cell in dataset)
    with pytest.raises(CellmillError, match="1 of 2 genes are not there, such as 'FOXP2'"):
        CellDataset(made.path("scdl"), counts=Counts(genes=[ids[0], "FOXP2"]))
    with pytest.raises(CellmillError, match="named twice"):
        CellDataset(made.path("scdl"), counts=Counts(genes=[ids[0], ids[0]]))


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")  # the first has none, on purpose
@pytest.mark.parametrize("genes", [None, [5, 60, 90]])
def test_normalised_counts_are_scanpys(genes: list[int] | None, made: Made):
    """log1p of counts per 10,000; the library is that of all genes, also where few are taken."""
    cells = anndata.AnnData(sp.csr_matrix(made.dense()))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    ids = made.rows.header.genes["gene_id"]
    asked = Counts(genes=None if genes is None else list(ids[genes]), normalize="log1p_cp10k")
    found = CellDataset(made.path("scdl"), counts=asked)[:].batch()["counts"].to_dense().numpy()
    expected = cells.X.toarray()[:, slice(None) if genes is None else genes]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_workers_give_what_the_main_process_gives(made: Made):
    """Forked: batches in shared memory equal those made here."""
    dataset = CellDataset(made.path("scdl"), obs=["donor"])
    for here, there in zip(
        DataLoader(dataset, batch_size=100), DataLoader(dataset, batch_size=100, num_workers=2), strict=True
    ):
        assert torch.equal(here["counts"].to_dense(), there["counts"].to_dense())
        assert torch.equal(here["donor"], there["donor"]) and torch.equal(here["row"], there["row"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_stream(workers: int, made: Made):
    """Epoch after epoch every cell once, in the order of the sampler; ``set_epoch`` goes back."""
    for sampler in (Permuted(seed=3), Shuffled(block_rows=10), Grouped("donor")):
        stream = CellStream(made.path("scdl"), batch_size=90, sampler=sampler)
        expected = [[batch["row"].tolist() for batch in stream.loader()]]
        stream.set_epoch(1)
        expected.append([batch["row"].tolist() for batch in stream])
        assert expected[0] != expected[1]
        dataset = CellDataset(made.path("scdl"))
        order = Batches(dataset, batch_size=90, sampler=sampler)
        loader = DataLoader(dataset, batch_sampler=order, num_workers=workers, persistent_workers=workers > 0)
        assert order.left_out == stream.left_out and len(loader) == len(stream)
        assert [[batch["row"].tolist() for batch in loader] for _ in range(2)] == expected
        order.set_epoch(0)
        assert [batch["row"].tolist() for batch in loader] == expected[0]


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_ranks_have_every_cell_once(drop_last: bool, made: Made):
    """As many batches on each of three ranks; what is left out is counted; there is no fourth rank."""
    dataset = CellDataset(made.path("scdl"))
    orders = [Batches(dataset, batch_size=16, drop_last=drop_last, ranks=(rank, 3)) for rank in range(3)]
    seen = np.concatenate([cells for order in orders for cells in order])
    assert len({len(order) for order in orders}) == 1
    assert len(np.unique(seen)) == len(seen) == 700 - sum(orders[0].left_out.values())
    assert bool(orders[0].left_out) == drop_last
    with pytest.raises(CellmillError, match="rank 3 of 3"):
        Batches(dataset, ranks=(3, 3))


def test_an_order_takes_no_memory_for_a_cell():
    """A batch is cut by two numbers: less than a byte for each of two million cells, not 40."""

    class Many:
        n_cells, block_rows = 2_000_000, 64

    tracemalloc.start()
    try:
        order = iter(Batches(Many(), batch_size=64))
        assert len(set(itertools.chain(*itertools.islice(order, 10)))) == 640
        assert tracemalloc.get_traced_memory()[1] < Many.n_cells
    finally:
        tracemalloc.stop()


def test_spawned_workers_get_the_path(made: Made):
    """A pickle of some hundred bytes, from which a fresh process opens the archive."""
    dataset = CellDataset(made.path("scdl"), obs=["donor"])
    dataset.obs("donor")
    assert len(pickle.dumps(dataset)) < 1_000
    loader = DataLoader(dataset, batch_size=350, num_workers=1, multiprocessing_context="spawn")
    assert [batch["row"].tolist() for batch in loader] == [list(range(350)), list(range(350, 700))]


@pytest.mark.parametrize(
    ("columns", "fine"), [([0, 119], True), ([], True), ([120], False), ([-1, 3], False), ([1 << 20], False)]
)
def test_columns_outside_of_the_genes_are_seen(columns: list[int], fine: bool):
    """Before anything is written to their place, also negative ones of a damaged file."""
    out = np.empty(len(columns), np.int32)
    assert narrow(np.array(columns, np.int32), 120, out) == fine
    assert not fine or out.tolist() == columns


def test_a_dataset_without_counts_is_refused(made: Made):
    """Tokens are for CellStream."""
    with pytest.raises(CellmillError, match="has no counts"):
        CellDataset(made.path("hf"))


def test_a_batch_becomes_dense_on_its_device(made: Made):
    """The same numbers, and text stays."""
    batch = CellDataset(made.path("scdl"))[:70].batch()
    batch["names"] = ["a"]
    there = to_device(batch, "cpu", densify=True)
    assert there["counts"].layout == torch.strided and there["names"] == ["a"]
    assert np.array_equal(there["counts"].numpy(), made.dense()[:70])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_csr_becomes_dense_on_the_gpu(made: Made):
    """Pinned by the loader, sent as CSR, dense there."""
    loader = DataLoader(CellDataset(made.path("scdl")), batch_size=70, pin_memory=True)
    batch = next(iter(loader))
    assert batch["counts"].values().is_pinned()
    there = to_device(batch, "cuda", densify=True)["counts"]
    assert there.device.type == "cuda" and np.array_equal(there.cpu().numpy(), made.dense()[:70])
