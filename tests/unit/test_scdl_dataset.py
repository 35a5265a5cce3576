"""Datasets over SCDL archives: what BioNeMo-SCDL's own tests expect, and the same results as it gives."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cellmill.scdl import (
    SingleCellCollection,
    SingleCellMemMapDataset,
    api_0_1_2,
    collate_neighbor_sparse_matrix_batch,
    collate_sparse_matrix_batch,
)
from cellmill.scdl.archive import Header
from cellmill.scdl.util.scdl_constants import Mode

from .scdl_files import (
    SAMPLE_AT,
    SAMPLE_VALUES,
    make_adata,
    neighbor_sample,
    random_counts,
    sample0,
    theirs,
    three_samples,
)

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three samples as h5ad."""
    return three_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def archives(samples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three samples as archives; tests do not write there."""
    folder = tmp_path_factory.mktemp("archives")
    for path in samples:
        SingleCellMemMapDataset(folder / path.stem, h5ad_path=path)
    return [folder / path.stem for path in samples]


@pytest.fixture
def scratch(archives: list[Path], tmp_path: Path) -> list[Path]:
    """Archives to write to."""
    return [Path(shutil.copytree(path, tmp_path / path.name)) for path in archives]


@pytest.fixture(scope="module")
def neighbor_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first sample with neighbours."""
    folder = tmp_path_factory.mktemp("neighbors")
    path = neighbor_sample(folder / "n.h5ad")
    SingleCellMemMapDataset(folder / "archive", h5ad_path=path, load_neighbors=True)
    return folder / "archive"


def test_the_sample_has_the_sizes_that_scdl_expects(archives: list[Path]) -> None:
    """8 cells of 10 genes with five values."""
    dataset = SingleCellMemMapDataset(archives[0])
    assert (len(dataset), dataset.number_of_rows(), dataset.number_of_variables()) == (8, 8, [10])
    assert (dataset.number_of_values(), dataset.number_nonzero_values()) == (80, 5)
    assert (dataset.sparsity(), dataset.shape(), dataset.version()) == (0.9375, (8, [10]), "0.1.3")
    assert dataset.data.tolist() == SAMPLE_VALUES
    assert dataset.data.dtype == np.float32


def test_rows_columns_and_single_values(archives: list[Path]) -> None:
    """At the places that SCDL expects; `ds[i]` holds values and columns."""
    dataset = SingleCellMemMapDataset(archives[0])
    for row, column, value in zip(*SAMPLE_AT, SAMPLE_VALUES, strict=True):
        assert dataset[row].tolist() == [[value], [column]]
        assert dataset.get_row_column(row, column) == value
        (values, columns), var, obs = dataset.get_row(row)
        assert (values.tolist(), columns.tolist(), var, obs) == ([value], [column], None, None)
    assert dataset[1].shape == (2, 0)
    assert dataset.get_row_column(0, 0) == 0.0
    assert dataset.get_row_column(0, 0, impute_missing_zeros=False) is None
    padded, var, obs = dataset.get_row_padded(0, return_var_features=True, var_feature_names=["feature_name"])
    assert (padded.dtype, padded.tolist()) == (np.float64, [0, 0, 6, 0, 0, 0, 0, 0, 0, 0])
    assert var is not None and len(var) == 1 and len(var[0]) == 10
    assert obs is None


def test_the_index_of_var_and_obs_is_kept(archives: list[Path]) -> None:
    """As the last column, so that the others stand where SCDL has them."""
    _, var, obs = SingleCellMemMapDataset(archives[0]).get_row(2, True, None, True, None)
    assert var is not None and obs is not None
    assert [column[0] for column in var] == ["s0-SYM0", "ENSG-s0-0"]
    assert obs == [None, 1.0, 2, "s0-cell2"]


def test_indices_count_from_the_end_and_end_there(archives: list[Path]) -> None:
    """As Python expects, also of many rows at once."""
    dataset = SingleCellMemMapDataset(archives[0])
    assert torch.equal(dataset[-1], dataset[7])
    assert dataset.get_row(-8)[0][0].tolist() == [6.0]
    for index in (8, -9):
        for call in (dataset.__getitem__, dataset.get_row, dataset.get_row_padded, lambda i: dataset.__getitems__([i])):
            with pytest.raises(IndexError, match="out of bounds"):
                call(index)
    assert [t.tolist() for t in dataset.__getitems__([7, -8, 1])] == [dataset[i].tolist() for i in (7, 0, 1)]
    assert dataset.__getitems__([]) == []


def test_an_empty_archive_is_filled_by_hand(tmp_path: Path) -> None:
    """Zeros first; what is written stays after a save."""
    dataset = SingleCellMemMapDataset(tmp_path / "a", num_rows=2, num_elements=10)
    dataset.save()
    again = SingleCellMemMapDataset(tmp_path / "a")
    assert (len(again), again.number_of_variables(), again.number_of_values(), len(again[1][0])) == (0, [0], 0, 0)
    dataset.data[:3], dataset.col_index[:3], dataset.row_index[:] = [1, 2, 3], [0, 4, 2], [0, 2, 3]
    dataset.var_features().append_features(2, {"gene": np.array([f"g{i}" for i in range(5)], object)}, "here")
    dataset.save()
    again = SingleCellMemMapDataset(tmp_path / "a")
    assert again.shape() == (2, [5])
    assert [again[i].tolist() for i in range(2)] == [[[1, 2], [0, 4]], [[3], [2]]]
    assert again.get_row(1, True)[1][0][4] == "g4"  # type: ignore[index]


def test_wrong_arguments_are_refused(tmp_path: Path, samples: list[Path], archives: list[Path]) -> None:
    """With the errors of SCDL."""
    with pytest.raises(ValueError, match=r"An np\.memmap path, an h5ad path, or the number of"):
        SingleCellMemMapDataset(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=f"Error: could not find h5ad path {tmp_path}/b"):
        SingleCellMemMapDataset(tmp_path / "a", h5ad_path=tmp_path / "b")
    with pytest.raises(FileExistsError, match="it is already there"):
        SingleCellMemMapDataset(archives[0], h5ad_path=samples[0])
    with pytest.raises(FileExistsError, match="mode is 'w\\+'"):
        SingleCellMemMapDataset(archives[0], mode=Mode.CREATE_APPEND)
    with pytest.raises(ValueError, match="Invalid data_dtype 'int8'"):
        SingleCellMemMapDataset(tmp_path / "a", h5ad_path=samples[0], data_dtype="int8")
    with pytest.raises(ValueError, match="Unsupported neighbor_sampling_strategy: last"):
        SingleCellMemMapDataset(archives[0], neighbor_sampling_strategy="last")
    with pytest.raises(FileNotFoundError, match=r"it has no metadata\.json"):
        SingleCellMemMapDataset(tmp_path)
    assert not (tmp_path / "a").exists()


def test_raw_is_what_is_read_unless_told_otherwise(tmp_path: Path) -> None:
    """With the genes of raw, which may be more; without raw it is an error, and nothing is left."""
    adata = sample0()
    narrow = adata[:, :4].copy()
    narrow.X = narrow.X * 0.5
    narrow.write_h5ad(tmp_path / "raw.h5ad")
    dataset = SingleCellMemMapDataset(tmp_path / "raw", h5ad_path=tmp_path / "raw.h5ad")
    assert (dataset.shape(), dataset.data.tolist()) == ((8, [10]), SAMPLE_VALUES)
    assert dataset.get_row(0, True)[1][1][9] == "ENSG-s0-9"  # type: ignore[index]
    of_x = SingleCellMemMapDataset(tmp_path / "x", h5ad_path=tmp_path / "raw.h5ad", use_X_not_raw=True)
    assert (of_x.shape(), of_x.data.tolist()) == ((8, [4]), [3.0, 9.5, 6.0, 8.0])
    make_adata(adata.X, raw=False).write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match="it has no matrix 'raw'"):
        SingleCellMemMapDataset(tmp_path / "no", h5ad_path=tmp_path / "x.h5ad")
    assert not (tmp_path / "no").exists()


def test_read_only_folders_open(archives: list[Path], tmp_path: Path) -> None:
    """Nothing is opened for writing."""
    folder = Path(shutil.copytree(archives[0], tmp_path / "archive"))
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = {path: path.stat().st_mtime_ns for path in paths}
    dataset = SingleCellMemMapDataset(folder)
    assert dataset.get_row(0, True, None, True)[0][0].tolist() == [6.0]
    assert dataset.save()
    with pytest.raises(ValueError, match="read-only"):
        dataset.data[0] = 1
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    if os.geteuid():
        with pytest.raises(PermissionError):
            SingleCellMemMapDataset(folder, mode=Mode.READ_APPEND)


def test_it_pickles_as_a_path(archives: list[Path], neighbor_archive: Path) -> None:
    """Both APIs, with their options."""
    dataset = SingleCellMemMapDataset(
        neighbor_archive, load_neighbors=True, neighbor_sampling_strategy="first", neighbor_seed=4
    )
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 1_500
    again = pickle.loads(dumped)
    assert (again.neighbor_sampling_strategy, again.neighbor_seed) == ("first", 4)
    assert again.get_neighbor_stats() == dataset.get_neighbor_stats()
    old = pickle.loads(pickle.dumps(api_0_1_2.SingleCellMemMapDataset(archives[0])))
    assert (type(old), old.feature_index_name) == (api_0_1_2.SingleCellMemMapDataset, "feature_id")
    assert torch.equal(old[0], dataset[0])


def test_concat_appends_rows_and_genes(scratch: list[Path], archives: list[Path]) -> None:
    """One by one or as a list; the archive on the disk is the whole."""
    one = SingleCellMemMapDataset(scratch[0])
    for path in archives[1:]:
        one.concat(SingleCellMemMapDataset(path))
    many = SingleCellMemMapDataset(scratch[1])
    many.concat([SingleCellMemMapDataset(archives[0]), SingleCellMemMapDataset(archives[2])], extend_copy_size=1)
    for dataset, order in ((SingleCellMemMapDataset(scratch[0]), (0, 1, 2)), (many, (1, 0, 2))):
        assert (len(dataset), dataset.number_nonzero_values(), dataset.number_of_values()) == (114, 57, 2092)
        assert dataset.number_of_variables() == [[10, 2, 20][i] for i in order]
        row = 0
        for number in order:
            part = SingleCellMemMapDataset(archives[number])
            for i in range(len(part)):
                assert torch.equal(dataset[row], part[i])
                found, expected = (
                    dataset.get_row_padded(row, True, None, True),
                    part.get_row_padded(i, True, None, True),
                )
                assert found[0].tolist() == expected[0].tolist()
                assert [c.tolist() for c in found[1]] == [c.tolist() for c in expected[1]]  # type: ignore[union-attr]
                assert found[2] == expected[2]
                row += 1


def test_concat_to_another_folder_leaves_the_first_alone(scratch: list[Path], tmp_path: Path) -> None:
    """Unless they are to be deleted; a folder that is there is not replaced."""
    dataset, other = SingleCellMemMapDataset(scratch[0]), SingleCellMemMapDataset(scratch[0])
    dataset.concat(other, output_path=tmp_path / "twice")
    assert (len(dataset), len(other), dataset.number_of_variables()) == (16, 8, [10])
    assert len(SingleCellMemMapDataset(scratch[0])) == 8
    with pytest.raises(FileExistsError):
        dataset.concat(other, output_path=tmp_path / "twice")
    dataset.concat(other, output_path=tmp_path / "thrice", destroy_on_copy=True)
    assert len(dataset) == 24
    assert not scratch[0].exists() and not (tmp_path / "twice").exists()


def test_concat_refuses_what_is_no_dataset_and_mixed_types(scratch: list[Path]) -> None:
    """And leaves the archive as it was; an empty list is nothing."""
    dataset, other = SingleCellMemMapDataset(scratch[0]), SingleCellMemMapDataset(scratch[1])
    dataset.concat([])
    with pytest.raises(ValueError, match=r"a SingleCellMemMapDataset or a list thereof\. Actually got: AnnData"):
        dataset.concat(sample0())  # type: ignore[arg-type]
    other.cast_data_to_dtype("uint8")
    with pytest.raises(ValueError, match="int and float dtypes: adata_sample0 is float32, adata_sample1 is uint8"):
        dataset.concat(other)
    assert dataset.data.tolist() == SAMPLE_VALUES
    assert len(list(scratch[0].parent.iterdir())) == 3


def test_a_cast_is_there_after_a_reload(scratch: list[Path]) -> None:
    """The recipe of SCDL's README, which there leaves an unreadable archive; also of a dataset that was appended to."""
    SingleCellMemMapDataset(scratch[0]).cast_data_to_dtype("uint8")
    dataset = SingleCellMemMapDataset(scratch[0])
    assert (dataset.data.dtype, dataset.data.tolist()) == (np.uint8, SAMPLE_VALUES)
    wide = SingleCellMemMapDataset(scratch[1])
    wide.cast_data_to_dtype("uint16")
    dataset.concat(wide)
    again = SingleCellMemMapDataset(scratch[0])
    assert (again.data.dtype, len(again), again.metadata) == (np.uint16, 14, {"num_rows": 14})
    assert theirs()(str(scratch[0])).data.tolist() == again.data.tolist()
    with pytest.raises(ValueError, match="Invalid data_dtype 'int8'"):
        again.cast_data_to_dtype("int8")


def test_a_cast_beyond_the_type_is_refused(tmp_path: Path) -> None:
    """And the archive stays as it was, in every file."""
    counts = sp.csr_matrix(np.array([[1, 850], [0, 3]], np.float32))
    make_adata(counts).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"value 1 is 850.*uint8 cannot hold"):
        SingleCellMemMapDataset(tmp_path / "u8", h5ad_path=tmp_path / "a.h5ad", data_dtype="uint8")
    assert not (tmp_path / "u8").exists()
    dataset = SingleCellMemMapDataset(tmp_path / "f4", h5ad_path=tmp_path / "a.h5ad")
    files = {p: p.read_bytes() for p in (tmp_path / "f4").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="uint8 cannot hold"):
        dataset.cast_data_to_dtype("uint8")
    assert {p: p.read_bytes() for p in (tmp_path / "f4").rglob("*") if p.is_file()} == files
    auto = SingleCellMemMapDataset(tmp_path / "auto", h5ad_path=tmp_path / "a.h5ad", data_dtype="auto")
    assert auto.data.dtype == np.uint16


def test_files_that_do_not_fit_are_refused(scratch: list[Path]) -> None:
    """A header of other data, a file that is cut off, a missing one, chunks."""
    header, data = scratch[0] / "header.sch", scratch[0] / "data.npy"
    said, values = header.read_bytes(), data.read_bytes()
    arrays = Header.read(header).arrays
    header.write_bytes(Header(arrays | {"DATA": (5, np.dtype(np.uint8))}, {}).to_bytes())
    with pytest.raises(ValueError, match=r"there are 20 values, 5 columns.*convert the h5ad file again"):
        SingleCellMemMapDataset(scratch[0])
    header.write_bytes(said)
    data.write_bytes(values[:-1])
    with pytest.raises(ValueError, match=r"data\.npy: 19 bytes are no whole number of float32"):
        SingleCellMemMapDataset(scratch[0])
    data.unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.npy: it is missing"):
        SingleCellMemMapDataset(scratch[0])
    for change, match in (
        (said[:8] + b"\0\0\0\2" + said[12:], "the arrays lie in chunks"),
        (b"\1" + said[1:], "it does not begin with 'SCDL'"),
        (said[:40], "it ends too early"),
        (said[:4] + b"\2" + said[5:], r"it is of layout 2\.1\.0"),
    ):
        header.write_bytes(change)
        with pytest.raises(ValueError, match=match):
            SingleCellMemMapDataset(scratch[0])


def test_old_archives_without_a_header_open(scratch: list[Path]) -> None:
    """Of 0.0.8 and before: `features`, `dtypes.json`, no obs."""
    dataset = SingleCellMemMapDataset(scratch[0])
    (scratch[0] / "header.sch").unlink()
    shutil.rmtree(scratch[0] / "obs_features")
    (scratch[0] / "var_features").rename(scratch[0] / "features")
    types = {name: dtype for name, dtype in dataset.dtypes.items() if not name.startswith("neighbor")}
    (scratch[0] / "dtypes.json").write_text(str(types).replace("'", '"'))
    old = api_0_1_2.SingleCellMemMapDataset(scratch[0])
    assert (old.shape(), old.data.tolist(), len(old.features())) == ((8, [10]), SAMPLE_VALUES, 1)
    assert old.get_row(0, True, ["feature_name"])[1][0][3] == "s0-SYM3"  # type: ignore[index]


def test_neighbours_are_those_of_obsp(neighbor_archive: Path) -> None:
    """29 of them, none for the first two cells."""
    dataset = SingleCellMemMapDataset(neighbor_archive, load_neighbors=True)
    stats = dataset.get_neighbor_stats()
    assert (stats["total_connections"], stats["cells_with_no_neighbors"], stats["has_neighbors"]) == (29, 2, True)
    for cell in range(8):
        neighbors, weights = dataset.get_neighbor_indices_for_cell(cell), dataset.get_neighbor_weights_for_cell(cell)
        assert len(neighbors) == len(weights)
        assert (weights > 0).all()
        assert dataset.sample_neighbor_index(cell) in (neighbors if len(neighbors) else [cell])
    for call in (dataset.get_neighbor_indices_for_cell, dataset.sample_neighbor_index):
        with pytest.raises(IndexError, match="Cell index 8 out of bounds for dataset with 8 cells"):
            call(8)


@pytest.mark.parametrize("strategy", ["random", "first", "weighted"])
def test_neighbours_are_drawn_by_the_strategy(neighbor_archive: Path, strategy: str) -> None:
    """As often as the strategy says, and the same again with the same seed."""
    cells = SingleCellMemMapDataset(
        neighbor_archive, load_neighbors=True, neighbor_sampling_strategy=strategy, neighbor_seed=1
    )
    cell = int(np.argmax(np.diff(cells._neighbor_indptr.astype(int))))  # type: ignore[union-attr]
    neighbors, weights = cells.get_neighbor_indices_for_cell(cell), cells.get_neighbor_weights_for_cell(cell)
    assert len(neighbors) > 3
    drawn = [cells.sample_neighbor_index(cell) for _ in range(4_000)]
    shares = np.bincount(drawn, minlength=8)[neighbors] / len(drawn)
    expected = {"random": np.full(len(neighbors), 1 / len(neighbors)), "first": np.eye(len(neighbors))[0]}
    assert np.allclose(shares, expected.get(strategy, weights / weights.sum()), atol=0.03)
    again = pickle.loads(pickle.dumps(cells))
    assert [again.sample_neighbor_index(cell) for _ in range(50)] == drawn[:50]


def test_rows_come_with_a_neighbour(neighbor_archive: Path) -> None:
    """Sparse and padded; the batch has both."""
    dataset = SingleCellMemMapDataset(neighbor_archive, load_neighbors=True, neighbor_sampling_strategy="first")
    items = [dataset.get_row_with_neighbor(i, True, ["feature_name"], True, ["n"]) for i in range(8)]
    for i, item in enumerate(items):
        other = item["next_cell_index"]
        assert (item["current_cell_index"], item["obs_features"], len(item["var_features"])) == (i, [i], 1)
        assert other == (dataset.get_neighbor_indices_for_cell(i)[0] if i > 1 else i)
        assert item["next_cell"][0].tolist() == dataset.get_row(other)[0][0].tolist()
        padded = dataset.get_row_padded_with_neighbor(i)
        assert padded["next_cell"].tolist() == dataset.get_row_padded(other)[0].tolist()
        assert padded["current_cell"].shape == (10,)
    batch = collate_neighbor_sparse_matrix_batch(items, n_columns=10)
    assert (batch["batch_size"], batch["current_cell_indices"]) == (8, list(range(8)))
    assert batch["next_cells"].shape == (8, 10)
    dense = np.stack([dataset.get_row_padded(i)[0] for i in batch["next_cell_indices"]])
    assert batch["next_cells"].to_dense().tolist() == dense.tolist()


def test_neighbours_that_are_not_there_are_told(archives: list[Path], neighbor_archive: Path) -> None:
    """A warning on opening, errors where they are asked for, none where they are not."""
    with pytest.warns(UserWarning, match="neighbor files are missing"):
        dataset = SingleCellMemMapDataset(archives[0], load_neighbors=True)
    for call in (dataset.get_row_with_neighbor, dataset.sample_neighbor_index, dataset.get_row_padded_with_neighbor):
        with pytest.raises(ValueError, match=r"[Nn]eighbor"):
            call(0)
    without = SingleCellMemMapDataset(neighbor_archive)
    assert (without.get_neighbor_stats(), without.sample_neighbor_index(5)) == ({"has_neighbors": False}, 5)
    lonely = SingleCellMemMapDataset(neighbor_archive, load_neighbors=True, fallback_to_identity=False)
    with pytest.warns(UserWarning, match="Cell 0 has no neighbors"):
        assert lonely.sample_neighbor_index(0) == 0


def test_neighbours_come_along_in_concat(neighbor_archive: Path, archives: list[Path], tmp_path: Path) -> None:
    """Numbered anew; cells of an archive without any have none."""
    one = SingleCellMemMapDataset(neighbor_archive, load_neighbors=True)
    both = SingleCellMemMapDataset(archives[1])
    both.concat([one, one], output_path=tmp_path / "both")
    both = SingleCellMemMapDataset(tmp_path / "both", load_neighbors=True)
    assert both.get_neighbor_stats()["total_connections"] == 58
    assert len(both.get_neighbor_indices_for_cell(0)) == 0
    for first in (6, 14):
        for cell in range(8):
            found = both.get_neighbor_indices_for_cell(first + cell)
            assert found.tolist() == (one.get_neighbor_indices_for_cell(cell) + np.uint32(first)).tolist()


def test_a_collection_is_the_sum_of_its_files(samples: list[Path], tmp_path: Path) -> None:
    """One by one or as a folder, opened again, and as one archive."""
    one, all_ = SingleCellCollection(tmp_path / "one"), SingleCellCollection(tmp_path / "all")
    assert (one.shape(), one.sparsity()) == ((0, [0]), 0.0)
    for path in samples:
        one.load_h5ad(path)
    all_.load_h5ad_multi(samples[0].parent, max_workers=2, data_dtype="uint8")
    for collection in (one, all_, SingleCellCollection(tmp_path / "one")):
        assert (collection.shape(), collection.number_nonzero_values()) == ((114, [10, 2, 20]), 57)
        assert (collection.number_of_values(), collection.version()) == (2092, "0.1.3")
    all_.flatten(tmp_path / "flat", destroy_on_copy=True)
    assert not (tmp_path / "all").exists()
    flat = SingleCellMemMapDataset(tmp_path / "flat")
    assert (flat.shape(), flat.data.dtype, flat.sparsity()) == ((114, [10, 2, 20]), np.uint8, (2092 - 57) / 2092)
    with pytest.raises(FileNotFoundError, match="there is no h5ad file"):
        one.load_h5ad_multi(tmp_path / "flat")
    with pytest.raises(FileNotFoundError, match="Error: could not find h5ad path"):
        one.load_h5ad(tmp_path / "no.h5ad")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(RuntimeError, match="Error in processing"):
        one.load_h5ad_multi(tmp_path / "bad")


def test_batches_are_the_rows_as_csr(archives: list[Path]) -> None:
    """Of the width of the batch, as SCDL has it, or of the one that is asked for; the type does not vary."""
    dataset = SingleCellMemMapDataset(archives[0])
    batch = collate_sparse_matrix_batch([dataset[i] for i in (0, 1, 6)])
    assert (batch.shape, batch.values().tolist(), batch.col_indices().dtype) == ((3, 4), [6, 16], torch.int32)
    assert batch.crow_indices().tolist() == [0, 1, 1, 2]
    assert collate_sparse_matrix_batch([dataset[1]]).shape == (1, 0)
    with pytest.raises(ValueError, match="n_columns is 3, and the batch has column 3"):
        collate_sparse_matrix_batch([dataset[6]], n_columns=3)

    def collate(items: list[Any]) -> Any:
        return collate_sparse_matrix_batch(items, n_columns=10)

    found = [b.to_dense() for b in DataLoader(dataset, batch_size=3, collate_fn=collate)]
    assert {b.dtype for b in found} == {torch.float32}
    expected = np.stack([dataset.get_row_padded(i)[0] for i in range(8)])
    assert torch.cat(found).tolist() == expected.tolist()


class _Neighbors(torch.utils.data.Dataset[int]):
    """Indices of drawn neighbours."""

    def __init__(self, cells: SingleCellMemMapDataset) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        return self.cells.sample_neighbor_index(2 + index % 6)


def test_workers_draw_their_own_neighbours(neighbor_archive: Path) -> None:
    """Others in each worker and epoch, and the same again with torch's seed."""
    cells = SingleCellMemMapDataset(neighbor_archive, load_neighbors=True, neighbor_seed=1)
    loader: Any = DataLoader(_Neighbors(cells), batch_size=20, num_workers=2)

    def epochs() -> list[list[int]]:
        torch.manual_seed(3)
        return [batch.tolist() for _ in range(2) for batch in loader]

    first = epochs()
    assert len({tuple(batch) for batch in first}) == 4
    assert epochs() == first


def test_spawned_workers_open_the_archive_themselves(archives: list[Path]) -> None:
    """What is sent to them is a path."""
    dataset = SingleCellMemMapDataset(archives[2])
    options: Any = {"num_workers": 1, "multiprocessing_context": "spawn", "collate_fn": list}
    rows = [row for batch in DataLoader(dataset, batch_size=32, **options) for row in batch]
    assert torch.cat(rows, dim=1)[0].tolist() == dataset.data.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"])
def test_many_rows_are_the_rows(scratch: list[Path], dtype: str) -> None:
    """In every type of values."""
    dataset = SingleCellMemMapDataset(scratch[2])
    dataset.cast_data_to_dtype(dtype)
    order = np.random.default_rng(0).permutation(100)
    together = dataset.__getitems__(order)
    assert all(torch.equal(row, dataset[i]) for row, i in zip(together, order, strict=True))
    assert {row.dtype for row in together} == {
        torch.float64 if dtype[-2:] in ("32", "64") and dtype != "float32" else torch.float32
    }


def test_both_apis_give_what_bionemo_gives(archives: list[Path], neighbor_archive: Path, tmp_path: Path) -> None:
    """On the same archives: every method of 0.1.3, and of 0.1.2 without what was added."""
    whole = SingleCellMemMapDataset(archives[0])
    whole.concat([SingleCellMemMapDataset(p) for p in archives[1:]], output_path=tmp_path / "whole")
    new, old, other = whole, api_0_1_2.SingleCellMemMapDataset(tmp_path / "whole"), theirs()(str(tmp_path / "whole"))
    for name in ("shape", "sparsity", "number_of_values", "number_nonzero_values", "number_of_variables", "__len__"):
        assert getattr(new, name)() == getattr(old, name)() == getattr(other, name)()
    for i in range(len(new)):
        ours, peer = new.get_row(i, True, ["feature_name"], True, None), other.get_row(i, True, ["feature_name"], True)
        assert [a.tolist() for a in ours[0]] == [a.tolist() for a in peer[0]]
        assert [c.tolist() for c in ours[1]] == [c.tolist() for c in peer[1]]  # type: ignore[union-attr]
        assert ours[2] == peer[2]
        pair = old.get_row(i, return_features=True, feature_vars=["feature_name"])
        assert [a.tolist() for a in pair[0]] == [a.tolist() for a in peer[0]]
        assert pair[1][0].tolist() == peer[1][0].tolist()  # type: ignore[index]
        assert (
            new.get_row_padded(i)[0].tolist()
            == old.get_row_padded(i)[0].tolist()
            == other.get_row_padded(i)[0].tolist()
        )
        assert new[i].tolist() == other[i].tolist()
        assert [new.get_row_column(i, c) for c in (0, 1)] == [other.get_row_column(i, c) for c in (0, 1)]
    options: Any = {"load_neighbors": True, "neighbor_sampling_strategy": "first"}
    new = SingleCellMemMapDataset(neighbor_archive, **options)
    old, other = (
        api_0_1_2.SingleCellMemMapDataset(neighbor_archive, **options),
        theirs()(str(neighbor_archive), **options),
    )
    assert new.get_neighbor_stats() == other.get_neighbor_stats()
    for i in range(8):
        ours_, peer_ = new.get_row_padded_with_neighbor(i, True), other.get_row_padded_with_neighbor(i, True)
        assert ours_.keys() == peer_.keys()
        assert old.get_row_with_neighbor(i, True).keys() == {*ours_} - {"var_features", "obs_features"} | {"features"}
        assert all(ours_[k].tolist() == peer_[k].tolist() for k in ("current_cell", "next_cell"))
        assert ours_["next_cell_index"] == peer_["next_cell_index"]


def test_archives_of_bionemo_open(samples: list[Path], tmp_path: Path) -> None:
    """Also those of its command line, whose labels are pickled paths."""
    theirs()
    from bionemo.scdl.io.single_cell_collection import SingleCellCollection as Theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collection = Theirs(tmp_path / "collection")
        collection.load_h5ad_multi(samples[0].parent)
        collection.flatten(tmp_path / "flat")
    dataset = SingleCellMemMapDataset(tmp_path / "flat")
    assert dataset.shape() == (114, [10, 2, 20])
    assert dataset.var_features().lookup(0)[1] == samples[0].as_posix()
    assert dataset.get_row(20, True)[1][0][19] == "s2-SYM19"  # type: ignore[index]


@settings(max_examples=12, deadline=None)
@given(
    cells=st.integers(1, 12),
    genes=st.integers(1, 300),
    high=st.sampled_from([1, 255, 256, 65_535, 65_536, 4_294_967_295]),
    seed=st.integers(0, 1 << 20),
)
def test_any_matrix_survives(
    tmp_path_factory: pytest.TempPathFactory, cells: int, genes: int, high: int, seed: int
) -> None:
    """Converted and read back, in the smallest types that hold it."""
    folder = tmp_path_factory.mktemp("any")
    counts = random_counts(cells, genes, max(cells * genes // 3, 1), seed=seed).astype(np.float64)
    counts.data[0] = high
    make_adata(counts, raw=False).write_h5ad(folder / "a.h5ad")
    dataset = SingleCellMemMapDataset(folder / "a", h5ad_path=folder / "a.h5ad", use_X_not_raw=True, data_dtype="auto")
    found = np.stack([dataset.get_row_padded(i)[0] for i in range(cells)])
    assert np.array_equal(found, counts.toarray())
    assert dataset.data.dtype == np.min_scalar_type(int(counts.data.max()))
    assert dataset.col_index.dtype == np.min_scalar_type(genes - 1)
    assert dataset.row_index.dtype == np.min_scalar_type(counts.nnz)
