"""Counts in and out of h5ad files."""

from __future__ import annotations

import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.matrix import reader
from cellmill.matrix.reader import CountsFile, NotCountsError
from cellmill.matrix.tables import read_table
from cellmill.matrix.writer import H5adWriter, compressed

from .stages import random_counts, write_raw

COUNTS = random_counts(50, 30, seed=1)


def read_all(path: Path, where: str = "X", rows: int = 8_192) -> sp.csr_matrix:
    """Every block of a matrix, one below the other; each is checked for what readers promise."""
    with CountsFile(path, where) as file:
        blocks = list(file.blocks(rows))
    assert [b.start for b in blocks] == [0, *(b.stop for b in blocks)][:-1]
    for block in blocks:
        assert block.counts.dtype == np.uint32
        assert sp.csr_matrix(block.counts, copy=True).has_canonical_format
        assert block.counts.nnz == 0 or block.counts.data.min() > 0
    return sp.vstack([b.counts for b in blocks])


def same(found: sp.csr_matrix, expected: Any) -> bool:
    wanted = expected.toarray() if sp.issparse(expected) else np.asarray(expected)
    return found.shape == wanted.shape and bool((found.toarray() == wanted).all())


def write_arrays(path: Path, data: Any, indices: Any, indptr: Any, shape: tuple[int, int], kind: str = "csr") -> Path:
    """An h5ad file whose X has exactly these arrays."""
    write_raw(path, sp.csr_matrix(shape, dtype=np.float32))
    with h5py.File(path, "r+") as file:
        for name, values in (("data", data), ("indices", indices), ("indptr", indptr)):
            del file[f"X/{name}"]
            file[f"X/{name}"] = np.asarray(values)
        file["X"].attrs["encoding-type"] = f"{kind}_matrix"
    return path


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "int8"]
)
def test_every_layout_and_type_gives_the_same_counts(tmp_path: Path, layout: Any, dtype: str) -> None:
    """CSR, CSC and dense, whole numbers and floats."""
    path = write_raw(tmp_path / "x.h5ad", layout(COUNTS.astype(dtype)))
    assert same(read_all(path), COUNTS)


@pytest.mark.parametrize("dtype", ["float16", ">f4", ">i4", "bool"])
def test_rare_types_give_the_same_counts(tmp_path: Path, dtype: str) -> None:
    """Half precision, big-endian, truth values."""
    path = write_arrays(tmp_path / "x.h5ad", np.array([1, 1, 1], dtype), [0, 2, 1], [0, 2, 3], (2, 3))
    assert same(read_all(path), [[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("dtype", ["float16", ">f4", "bool"])
def test_rare_dense_types_give_the_same_counts(tmp_path: Path, dtype: str) -> None:
    """Half precision, big-endian, truth values, in a dense matrix."""
    path = write_raw(tmp_path / "x.h5ad", np.zeros((2, 3), np.float32))
    with h5py.File(path, "r+") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        file["X"] = np.array([[1, 0, 1], [0, 1, 0]]).astype(dtype)
        file["X"].attrs.update(attributes)
    assert same(read_all(path), [[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_every_compression_gives_the_same_counts(tmp_path: Path, compression: Any) -> None:
    """Uncompressed, gzip and lzf."""
    made = anndata.AnnData(COUNTS)
    made.write_h5ad(tmp_path / "x.h5ad", compression=compression)
    assert same(read_all(tmp_path / "x.h5ad"), COUNTS)


@pytest.mark.parametrize("where", ["X", "raw", "layers/spliced counts"])
def test_counts_are_read_where_they_are_said_to_be(tmp_path: Path, where: str) -> None:
    """X, raw and layers, each with its own var."""
    made = anndata.AnnData(COUNTS.copy())
    made.raw = anndata.AnnData(COUNTS * 2)
    made = made[:, :10].copy()
    made.layers["spliced counts"] = made.X * 3
    made.write_h5ad(tmp_path / "x.h5ad")
    factor, genes = {"X": (1, 10), "raw": (2, 30), "layers/spliced counts": (3, 10)}[where]
    assert same(read_all(tmp_path / "x.h5ad", where), (COUNTS * factor)[:, :genes])


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_block_sizes_give_the_same_rows(tmp_path: Path, layout: Any, rows: int) -> None:
    """Blocks are cuts of the same matrix."""
    path = write_raw(tmp_path / "x.h5ad", layout(COUNTS))
    assert same(read_all(path, rows=rows), COUNTS)


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csr_matrix.toarray])
def test_a_block_is_bounded_by_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    """Where rows are long, a block has fewer of them; a row longer than the bound is a block of its own."""
    monkeypatch.setattr(reader, "BLOCK_VALUES", 60)
    path = write_raw(tmp_path / "x.h5ad", layout(COUNTS))
    with CountsFile(path, "X") as file:
        blocks = list(file.blocks())
    assert max(b.counts.nnz for b in blocks) <= 60
    assert same(sp.vstack([b.counts for b in blocks]), COUNTS)


def test_indices_may_be_int64_and_unsorted(tmp_path: Path) -> None:
    """Rows come out sorted, with the values where they belong."""
    indices, indptr = np.array([2, 0, 1], np.int64), np.array([0, 2, 3], np.int64)
    path = write_arrays(tmp_path / "x.h5ad", np.array([5.0, 3.0, 1.0]), indices, indptr, (2, 3))
    assert same(read_all(path), [[3, 0, 5], [0, 1, 0]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_duplicate_entries_are_added_up(tmp_path: Path, dtype: str) -> None:
    """Also where their sum does not fit the type of the file."""
    data = np.array([120, 120, 7], dtype)
    path = write_arrays(tmp_path / "x.h5ad", data, [1, 1, 0], [0, 2, 3], (2, 3))
    assert same(read_all(path), [[0, 240, 0], [7, 0, 0]])


def test_duplicate_entries_do_not_hide_what_is_no_count(tmp_path: Path) -> None:
    """A negative value is refused even where another entry makes up for it."""
    path = write_arrays(tmp_path / "x.h5ad", np.array([-1.0, 2.0]), [1, 1], [0, 2, 2], (2, 3))
    with pytest.raises(NotCountsError, match=r"has -1\.0"):
        read_all(path)


def test_a_sum_of_duplicates_above_uint32_is_refused(tmp_path: Path) -> None:
    """It is never cut to fit."""
    data = np.array([4294967295, 4294967295], np.uint32)
    path = write_arrays(tmp_path / "x.h5ad", data, [1, 1], [0, 2, 2], (2, 3))
    with pytest.raises(NotCountsError, match="8589934590"):
        read_all(path)


def test_explicit_zeros_are_no_values(tmp_path: Path) -> None:
    """A stored zero is not an expressed gene."""
    path = write_arrays(tmp_path / "x.h5ad", np.array([0.0, 4.0, 0.0]), [0, 1, 2], [0, 2, 3], (2, 3))
    assert read_all(path).nnz == 1


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize(
    ("value", "shown"),
    [(np.nan, "nan"), (-1.0, "-1.0"), (0.5, "0.5"), (np.inf, "inf"), (2.0**32, "4294967296.0"), (1e300, "1e+300")],
)
def test_what_is_no_count_is_refused_by_name(tmp_path: Path, layout: Any, value: float, shown: str) -> None:
    """File, cell, gene and value stand in the error."""
    matrix = COUNTS.toarray().astype(np.float64)
    matrix[37, 11] = value
    path = write_raw(tmp_path / "x.h5ad", layout(matrix))
    with pytest.raises(NotCountsError) as caught:
        read_all(path, rows=10)
    text = str(caught.value)
    assert all(part in text for part in (str(path), "'c37'", "row 37", "'ENSG00000000011'", f"has {shown}."))


@pytest.mark.parametrize("value", [-1, 2**32])
def test_whole_numbers_that_are_no_counts_are_refused(tmp_path: Path, value: int) -> None:
    """Negative or too large, in an integer matrix."""
    matrix = np.zeros((3, 2), np.int64)
    matrix[2, 1] = value
    with pytest.raises(NotCountsError, match=rf"cell 'c2'.*gene 'ENSG00000000001' has {value}\."):
        read_all(write_raw(tmp_path / "x.h5ad", matrix))


def test_the_largest_count_is_kept(tmp_path: Path) -> None:
    """4,294,967,295 is a count."""
    assert read_all(write_raw(tmp_path / "x.h5ad", np.array([[2**32 - 1]], np.int64))).data.tolist() == [2**32 - 1]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """By name, and with what to do."""
    path = write_raw(tmp_path / "x.h5ad", COUNTS)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CellmillError, match=r"x\.h5ad: not a whole, readable HDF5 file.*truncated.*get it again"):
        CountsFile(path, "X")


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_damage_in_the_middle_of_a_file_is_refused(tmp_path: Path, layout: Any) -> None:
    """A compressed chunk that does not decompress is an error with the file's name, not a traceback."""
    path = tmp_path / "x.h5ad"
    anndata.AnnData(layout(COUNTS)).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        values = file["X"] if isinstance(file["X"], h5py.Dataset) else file["X/data"]
        chunk = values.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(CellmillError, match=r"x\.h5ad: not a whole, readable HDF5 file"):
        read_all(path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    """Such as a page that says that the file has moved."""
    (tmp_path / "x.h5ad").write_text("<html>moved</html>")
    with pytest.raises(CellmillError, match="not a whole, readable HDF5 file"):
        CountsFile(tmp_path / "x.h5ad", "X")


def test_a_missing_matrix_is_named_with_the_nearest(tmp_path: Path) -> None:
    """What is there stands in the error."""
    made = anndata.AnnData(COUNTS.copy(), layers={"counts": COUNTS.copy()})
    made.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(CellmillError, match=r"no matrix at 'layers/count'.*There: X, layers/counts.*'layers/counts'\?"):
        CountsFile(tmp_path / "x.h5ad", "layers/count")


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("index", [3, -1, 2**32 + 1, 2**31])
def test_an_index_out_of_range_is_refused(tmp_path: Path, kind: str, index: int) -> None:
    """It would be written to memory that is not the matrix."""
    indices = np.array([0, index], np.int64)
    path = write_arrays(tmp_path / "x.h5ad", np.ones(2), indices, [0, 1, 2, 2], (3, 3), kind)
    with pytest.raises(CellmillError, match="outside"):
        read_all(path)


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("indptr", [[0, 1, 2], [0, 2, 1, 2], [0, 1, 2, 9], [1, 1, 2, 2]])
def test_row_pointers_that_do_not_fit_are_refused(tmp_path: Path, kind: str, indptr: list[int]) -> None:
    """Too few, falling, beyond the values, or not from 0."""
    path = write_arrays(tmp_path / "x.h5ad", np.ones(2), [0, 1], indptr, (3, 3), kind)
    with pytest.raises(CellmillError, match="damaged"):
        read_all(path)


def test_a_matrix_that_does_not_fit_its_tables_is_refused(tmp_path: Path) -> None:
    """Both numbers stand in the error."""
    path = write_raw(tmp_path / "x.h5ad", COUNTS)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([49, 30])
    with pytest.raises(CellmillError, match=r"49 × 30, but there are 50 rows of obs"):
        CountsFile(path, "X")


def test_a_matrix_without_values_is_read(tmp_path: Path) -> None:
    """Cells without counts are rows without values."""
    assert same(read_all(write_raw(tmp_path / "x.h5ad", sp.csr_matrix((4, 3), dtype=np.float32))), np.zeros((4, 3)))


def test_files_from_the_field_are_read_or_refused(shared_data: Path) -> None:
    """Every matrix of every file gives the counts that anndata gives, or an error of ours."""
    read = 0
    for path in sorted([*(shared_data / "edge").glob("*.h5ad"), *(shared_data / "h5ad").glob("*.h5ad")]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata's, on its own old files
            whole = anndata.read_h5ad(path)
            for where in CountsFile.candidates(path):
                layer = whole.X if where == "X" else whole.raw.X if where == "raw" else whole.layers[where[7:]]
                try:
                    found = read_all(path, where)
                except NotCountsError:
                    continue
                assert same(found, layer), f"{path.name} {where}"
                read += 1
    assert read >= 35


# Writing


def write_blocks(path: Path, counts: sp.csr_matrix, cuts: list[int], dtype: str = "uint16") -> Path:
    writer = H5adWriter(path, n_genes=counts.shape[1], dtype=np.dtype(dtype))
    for start, stop in zip([0, *cuts], [*cuts, counts.shape[0]], strict=True):
        writer.append(counts[start:stop])
    obs = pd.DataFrame({"n": np.arange(counts.shape[0])}, index=[f"c{i}" for i in range(counts.shape[0])])
    writer.close(obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])]), uns={"a": "b"})
    return path


def test_written_counts_are_what_anndata_reads(tmp_path: Path) -> None:
    """Values, tables and type."""
    made = anndata.read_h5ad(write_blocks(tmp_path / "x.h5ad", COUNTS.astype(np.uint32), [3, 3, 20]))
    assert made.X.dtype == np.uint16
    assert same(made.X, COUNTS)
    assert made.obs["n"].tolist() == list(range(50))


def test_a_file_without_cells_is_what_anndata_reads(tmp_path: Path) -> None:
    """A part of which no cell is kept is a file like any other."""
    made = anndata.read_h5ad(write_blocks(tmp_path / "x.h5ad", sp.csr_matrix((0, 7), dtype=np.uint32), []))
    assert made.shape == (0, 7)


@pytest.mark.parametrize("cuts", [[1, 2, 3], [40], [10, 20, 30]])
def test_bytes_do_not_depend_on_the_blocks_of_a_small_file(tmp_path: Path, cuts: list[int]) -> None:
    """The same values give the same file, however they were cut."""
    counts = COUNTS.astype(np.uint32)
    whole, cut = write_blocks(tmp_path / "a.h5ad", counts, []), write_blocks(tmp_path / "b.h5ad", counts, cuts)
    assert sha256_of(whole) == sha256_of(cut)


def test_bytes_do_not_depend_on_the_blocks_of_a_large_file(tmp_path: Path) -> None:
    """Neither where values fill many chunks of the file."""
    n, width = 6000, 1000  # more than HDF5 holds in its cache
    indices = np.tile(np.arange(width, dtype=np.int32), n)
    counts = sp.csr_matrix(
        (np.ones(n * width, np.uint32), indices, np.arange(0, n * width + 1, width)), shape=(n, width)
    )
    made = [
        write_blocks(tmp_path / f"{i}.h5ad", counts, cuts)
        for i, cuts in enumerate(([], [1100, 4500], [500, 1700, 3000]))
    ]
    assert len({sha256_of(path) for path in made}) == 1


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Counts are never cut to the type of the file."""
    writer = H5adWriter(tmp_path / "x.h5ad", n_genes=2, dtype=np.dtype(np.uint8))
    with pytest.raises(OverflowError, match="256 does not fit uint8"):
        writer.append(sp.csr_matrix(np.array([[255, 256]], np.uint32)))
    writer.abandon()


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A row of obs per row of X."""
    writer = H5adWriter(tmp_path / "x.h5ad", n_genes=2, dtype=np.dtype(np.uint8))
    writer.append(sp.csr_matrix(np.ones((1, 2), np.uint32)))
    with pytest.raises(ValueError, match="X is 1 × 2, the tables have 3 and 2 rows"):
        writer.close(obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=list("de")), uns={})
    writer.abandon()


# Tables

TABLE = pd.DataFrame(
    {
        "category": pd.Categorical(["x", None, "y", "x"], categories=["y", "x", "unused"]),
        "ordered": pd.Categorical(["lo", "hi", None, "lo"], categories=["lo", "hi"], ordered=True),
        "numeric category": pd.Categorical([1, 2, 1, 3]),
        "numeric category with missing": pd.Categorical([0.5, None, 0.5, 2.0]),
        "truth category": pd.Categorical([True, False, True, True]),
        "string": ["a", "b", "ü", ""],
        "integer": np.array([1, -2, 3, 4], np.int32),
        "float": [0.5, np.nan, np.inf, 1.0],
        "float32": np.array([0.5, 1, 2, 3], np.float32),
        "truth": [True, False, True, False],
        "nullable integer": pd.array([1, None, 3, 4], "Int64"),
        "nullable truth": pd.array([True, None, False, True], "boolean"),
    },
    index=pd.Index(["c0", "c1", "c2", "c3"], name="barcode"),
)


@pytest.mark.parametrize("columns", [list(TABLE.columns), []])
def test_tables_are_read_as_anndata_reads_them(tmp_path: Path, columns: list[str]) -> None:
    """Every kind of column, and none."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        anndata.io.write_elem(file, "obs", TABLE[columns].assign(n=1) if columns else TABLE[columns])
        expected, found = anndata.io.read_elem(file["obs"]), read_table(file["obs"])
    pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_column_type=False)


@pytest.mark.parametrize("rows", [(0, 4), (1, 3), (2, 2), (3, 4)])
def test_rows_of_a_table_are_those_of_the_whole(tmp_path: Path, rows: tuple[int, int]) -> None:
    """Every kind of column; categories stay as they are."""
    made = anndata.AnnData(sp.csr_matrix(np.ones((4, 2), np.float32)), obs=TABLE)
    made.write_h5ad(tmp_path / "x.h5ad")
    with CountsFile(tmp_path / "x.h5ad", "X") as file:
        pd.testing.assert_frame_equal(file.obs_rows(*rows), file.obs.iloc[slice(*rows)])
    with CountsFile(tmp_path / "x.h5ad", "X") as file:
        file.obs_rows(1, 2)
        assert "obs" not in vars(file)  # the others were not read


def test_tables_from_the_field_are_read_as_anndata_reads_them(shared_data: Path) -> None:
    """obs and var of real files of many authors."""
    compared = 0
    for path in sorted([*(shared_data / "h5ad").glob("*.h5ad"), *(shared_data / "edge").glob("*.h5ad")]):
        with h5py.File(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata's, on its own old files
            for name in ("obs", "var"):
                if not isinstance(file[name], h5py.Group):
                    continue
                expected, found = anndata.io.read_elem(file[name]), read_table(file[name])
                pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_column_type=False)
                compared += 1
    assert compared >= 40


def test_a_chunk_is_the_same_bytes_in_every_thread() -> None:
    """ISA-L alone takes a part of an address on the stack into account: some of these chunks came out otherwise."""
    rng = np.random.default_rng(0)
    chunks = rng.integers(1, 256, (20_000, 80)).astype(np.uint8)
    chunks[:, 60:68] = chunks[:, 2:10]  # a match that is found where position 2 is known

    def of_all() -> list[bytes]:
        return [compressed(chunk, len(chunk)) for chunk in chunks]

    expected = of_all()
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(of_all).result() == expected
    assert all(zlib.decompress(c) == chunk.tobytes() for c, chunk in zip(expected, chunks, strict=True))
