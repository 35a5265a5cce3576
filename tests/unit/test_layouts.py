"""Counts in layouts that are not rows, and outside h5ad: CSC out of core, zarr, Matrix Market, genomes, codecs."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import cellmill
from cellmill.errors import CellmillError
from cellmill.matrix import mtx, transpose
from cellmill.matrix.mtx import MatrixMarket
from cellmill.matrix.reader import CountsFile, NotCountsError
from cellmill.matrix.transpose import count_rows, rows_of, sorted_into_buckets
from cellmill.matrix.zarr_store import obs_columns
from cellmill.sources import Files
from cellmill.sources.retrieve import retrieve_part
from cellmill.sources.tenx import convert_tenx_folder

from .stages import random_counts, write_raw
from .test_matrix import read_all, same, write_arrays
from .test_retrieve import write_folder, write_tenx

COUNTS = random_counts(60, 40, seed=3)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets that make every matrix here go through the scratch disk, in many buckets and slabs."""
    monkeypatch.setattr(transpose, "BUDGET", 600)
    monkeypatch.setattr(transpose, "SLAB", 37)
    monkeypatch.setattr("cellmill.matrix.reader.SLAB", 41)
    monkeypatch.setattr(mtx, "CHUNK", 101)


def get(path: Path, out: Path, **options: Any) -> Path:
    """The part as retrieved."""
    source = Files(files={"a": str(path)}, **options)
    retrieve_part(source, "a", out, out.with_suffix(".json"), ledger=Path("none.tsv"), mirror=None)
    return out


# --- rows out of entries in any order


@settings(deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(1, 9)), max_size=80),
    slab=st.integers(1, 30),
    budget=st.sampled_from([1, 300, 600, 10**6]),
    max_rows=st.integers(1, 9),
)
def test_entries_in_any_order_become_rows(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], slab: int, budget: int, max_rows: int
) -> None:
    """In memory and through the disk; entries of a row keep their order."""
    rows, columns, values = (np.array([e[k] for e in entries], t) for k, t in enumerate(transpose._TYPES))
    per_row = np.zeros(9, np.int64)
    count_rows(rows, per_row)
    slabs = [(rows[i : i + slab], columns[i : i + slab], values[i : i + slab]) for i in range(0, len(rows), slab)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transpose, "BUDGET", budget)
        with sorted_into_buckets(slabs, per_row, beside=tmp_path_factory.getbasetemp() / "x", shown="x") as there:
            blocks = list(rows_of(there, per_row, 6, max_rows=max_rows, max_values=7))
    assert [start for start, _ in blocks] == [0, *np.cumsum([b.shape[0] for _, b in blocks])][:-1]
    order = np.argsort(rows, kind="stable")
    assert np.concatenate([b.indices for _, b in blocks]).tolist() == columns[order].tolist()
    assert np.concatenate([b.data for _, b in blocks]).tolist() == values[order].tolist()
    assert np.concatenate([np.diff(b.indptr) for _, b in blocks]).tolist() == per_row.tolist()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16", "bool"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_csc_out_of_core_gives_the_same_rows(tmp_path: Path, dtype: str, rows: int) -> None:
    """Any type, any block; and nothing stays on the disk."""
    path = write_raw(tmp_path / "x.h5ad", sp.csc_matrix(COUNTS.astype(dtype)))
    assert same(read_all(path, rows=rows), COUNTS.astype(dtype).astype(int))
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


@pytest.mark.usefixtures("tiny")
def test_csc_out_of_core_may_be_unsorted_and_have_duplicates(tmp_path: Path) -> None:
    """Rows come out sorted, duplicates are added up, also beyond the type of the file."""
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 20, 900), np.sort(rng.integers(0, 10, 900))
    data = rng.integers(1, 120, 900).astype(np.uint8)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=10))])
    path = write_arrays(tmp_path / "x.h5ad", data, rows.astype(np.int64), indptr, (20, 10), "csc")
    assert same(read_all(path), sp.coo_matrix((data.astype(int), (rows, columns)), shape=(20, 10)).toarray())


@pytest.mark.usefixtures("tiny")
def test_csc_out_of_core_refuses_what_is_no_count_by_name(tmp_path: Path) -> None:
    """Cell, gene and value, as for every layout."""
    matrix = COUNTS.toarray()
    matrix[37, 11] = 0.5
    path = write_raw(tmp_path / "x.h5ad", sp.csc_matrix(matrix))
    with pytest.raises(NotCountsError, match=r"cell 'c37' \(row 37\), gene 'ENSG00000000011' has 0\.5"):
        read_all(path)


@pytest.mark.usefixtures("tiny")
def test_a_full_scratch_disk_is_said_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it takes, what there is, and the way out."""
    path = write_raw(tmp_path / "x.h5ad", sp.csc_matrix(COUNTS))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        CellmillError, match=r"x\.h5ad: .* takes \d.* of scratch disk, and 1\.0 kB are free.*CELLMILL_SCRATCH"
    ):
        read_all(path)


@pytest.mark.usefixtures("tiny")
def test_scratch_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CELLMILL_SCRATCH names the folder."""
    path = write_raw(tmp_path / "x.h5ad", sp.csc_matrix(COUNTS))
    monkeypatch.setenv("CELLMILL_SCRATCH", str(tmp_path / "elsewhere"))
    assert same(read_all(path), COUNTS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


PEAK = """
import resource, sys
from cellmill.matrix import reader, transpose
from cellmill.matrix.reader import CountsFile
transpose.BUDGET, transpose.SLAB, reader.SLAB, reader.BLOCK_VALUES = 1 << 22, 1 << 16, 1 << 16, 1 << 17
for path in sys.argv[1:]:
    with CountsFile(path, "X") as file:
        total = sum(int(block.counts.sum()) for block in file.blocks())
    print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_for_csc_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    """A matrix with eight times the values, 144 MB of them as entries, takes hardly more than the small one."""
    paths = []
    for name, per_gene in (("warm", 10), ("small", 1_500), ("large", 12_000)):
        path = write_raw(tmp_path / f"{name}.h5ad", sp.csc_matrix((20_000, 1_000), dtype=np.uint8))
        indices = np.concatenate([np.arange(i % 7, per_gene + i % 7, dtype=np.int32) for i in range(1_000)])
        with h5py.File(path, "r+") as file:
            for part, values in (
                ("data", np.ones(len(indices), np.uint8)),
                ("indices", indices),
                ("indptr", np.arange(0, len(indices) + 1, per_gene)),
            ):
                del file[f"X/{part}"]
                file.create_dataset(f"X/{part}", data=values, chunks=(min(1 << 15, len(values)),))
        paths.append(str(path))
    environment = os.environ | {"PYTHONPATH": str(Path(cellmill.__file__).parents[1])}
    command = [sys.executable, "-c", PEAK, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (_, _), (small, before), (large, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (small, large) == (1_500_000, 12_000_000)
    assert after - before < 20_000, f"peak memory grew from {before} to {after} kB"


def test_raw_of_old_files_is_found(tmp_path: Path) -> None:
    """anndata before 0.7 wrote raw.X and raw.var beside X."""
    made = anndata.AnnData(COUNTS.copy())
    made.raw = made.copy()
    made = made[:, :10].copy()
    made.X = made.X * 0.5
    made.write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file.move("raw/X", "raw.X")
        file.move("raw/var", "raw.var")
        del file["raw"]
    assert CountsFile.candidates(tmp_path / "x.h5ad") == ["X", "raw"]
    assert same(read_all(tmp_path / "x.h5ad", "raw"), COUNTS)


# --- zarr


def as_zarr(made: anndata.AnnData, path: Path, version: int, *, zipped: bool = False) -> Path:
    """A store, as anndata writes it."""
    with anndata.settings.override(zarr_write_format=version):
        made.write_zarr(path)
    if not zipped:
        return path
    with zipfile.ZipFile(path.with_name(path.name + ".zip"), "w") as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(path))
    return path.with_name(path.name + ".zip")


def atlas(layout: Any = sp.csr_matrix) -> anndata.AnnData:
    """Counts in raw and a layer, values that are none in X, columns of every kind."""
    whole = COUNTS.astype(np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["x", "y"] * 30),
            "text": [f"t{i}" for i in range(60)],
            "number": np.arange(60) / 2,
            "whole": pd.array([None, *range(59)], "Int64"),
            "truth": [True, False] * 30,
        },
        index=[f"c{i}" for i in range(60)],
    )
    made = anndata.AnnData(whole, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    made.raw = made.copy()
    made = made[:, :30].copy()
    made.layers["counts"] = layout(made.X)
    made.X = sp.csr_matrix(made.X * 0.5)
    return made


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_store_is_read_as_it_was_written(tmp_path: Path, version: int, layout: Any, zipped: bool) -> None:
    """By itself, and as the h5ad file that retrieval makes of it."""
    made = atlas(layout)
    store = as_zarr(made, tmp_path / "x.zarr", version, zipped=zipped)
    raw = get(store, tmp_path / "raw" / "a.h5ad")
    for path in (store, raw):
        assert CountsFile.candidates(path) == ["X", "raw", "layers/counts"]
        assert same(read_all(path, "layers/counts", rows=7), COUNTS[:, :30])
        assert same(read_all(path, "raw"), COUNTS)
        with pytest.raises(NotCountsError):
            read_all(path, "X")
        with CountsFile(path, "raw") as file:
            assert list(file.var.index) == [f"g{i}" for i in range(40)]
            pd.testing.assert_frame_equal(file.obs, made.obs, check_index_type=False, check_dtype=False)
    assert zipped or obs_columns(store) == list(made.obs.columns)
    again = anndata.read_h5ad(raw)
    assert same(sp.csr_matrix(again.layers["counts"]), COUNTS[:, :30])


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_store_in_a_folder_of_its_archive_is_found(tmp_path: Path) -> None:
    """As `zip -r` packs it."""
    store = as_zarr(atlas(), tmp_path / "x.zarr", 2)
    packed = shutil.make_archive(str(tmp_path / "y.zarr"), "zip", tmp_path, "x.zarr")
    assert same(read_all(Path(packed), "raw"), COUNTS)
    assert store.exists()


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_store_with_a_missing_chunk_is_refused(tmp_path: Path, version: int) -> None:
    """zarr alone would read zeros."""
    store = as_zarr(atlas(), tmp_path / "x.zarr", version)
    home = store / "layers" / "counts" / "data"
    (chunk,) = [p for p in home.rglob("0") if p.is_file()]
    chunk.unlink()
    with pytest.raises(
        CellmillError, match=r"x\.zarr: 1 of the 1 chunks of layers/counts/data are missing.*get it again"
    ):
        get(store, tmp_path / "raw" / "a.h5ad")
    assert not (tmp_path / "raw" / "a.h5ad").exists()


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_sharded_zarr_store_is_read(tmp_path: Path) -> None:
    """Shards of many chunks, the last of them not full; one that is missing is refused."""
    store = as_zarr(atlas(), tmp_path / "x.zarr", 3)
    counts = zarr.open_group(store, mode="r+", use_consolidated=False)["layers/counts"]
    for name in ("data", "indices"):
        values = counts[name][:]
        del counts[name]
        counts.create_array(name, data=values, chunks=(10,), shards=(100,))
    raw = get(store, tmp_path / "raw" / "a.h5ad")
    for path in (store, raw):
        assert same(read_all(path, "layers/counts", rows=7), COUNTS[:, :30])
    (store / "layers" / "counts" / "data" / "c" / "1").unlink()
    with pytest.raises(CellmillError, match=r"of the \d+ chunks of layers/counts/data are missing"):
        read_all(store, "layers/counts")


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_damaged_zarr_store_is_refused(tmp_path: Path) -> None:
    """A chunk that cannot be decoded, a zip cut off, a folder that is no store of AnnData."""
    store = as_zarr(atlas(), tmp_path / "x.zarr", 2, zipped=True)
    store.write_bytes(store.read_bytes()[:-500])
    with pytest.raises(CellmillError, match=r"x\.zarr\.zip: not a readable zarr store"):
        get(store, tmp_path / "raw" / "a.h5ad")
    (chunk,) = [p for p in (tmp_path / "x.zarr" / "raw" / "X" / "data").iterdir() if p.name == "0"]
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(CellmillError, match=r"x\.zarr: not a readable zarr store"):
        get(tmp_path / "x.zarr", tmp_path / "raw" / "a.h5ad")
    zarr.open_group(tmp_path / "y.zarr", mode="w", zarr_format=2)
    with pytest.raises(CellmillError, match=r"y\.zarr: zarr, but not AnnData: no obs, var, X in it"):
        get(tmp_path / "y.zarr", tmp_path / "raw" / "a.h5ad")


# --- Matrix Market


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("order", ["cells", "genes", "none"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_matrix_folder_may_be_in_any_order(tmp_path: Path, order: str, zipped: bool) -> None:
    """Same bytes by cell, by gene and shuffled, through the scratch disk and in memory."""
    entries = sp.coo_matrix(COUNTS.T.astype(int))
    keys = {"cells": entries.col, "genes": entries.row, "none": np.random.default_rng(0).permutation(entries.nnz)}
    at = np.argsort(keys[order], kind="stable")
    shuffled = sp.coo_matrix((entries.data[at], (entries.row[at], entries.col[at])), shape=entries.shape)
    features = "".join(f"ENSG{i}\tG{i}\t{'Gene Expression' if i % 5 else 'Antibody Capture'}\n" for i in range(40))
    folder = write_folder(tmp_path / "m", shuffled, features, zipped=zipped)
    convert_tenx_folder(folder, tmp_path / "out" / "disk.h5ad")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["disk.h5ad"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transpose, "BUDGET", 1 << 28)
        convert_tenx_folder(folder, tmp_path / "memory.h5ad")
    assert (tmp_path / "memory.h5ad").read_bytes() == (tmp_path / "out" / "disk.h5ad").read_bytes()
    assert same(read_all(tmp_path / "memory.h5ad"), COUNTS[:, np.arange(40) % 5 > 0])


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_every_notation_of_numbers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Whole and real numbers, blanks, tabs, Windows line ends, comments, no newline at the end."""
    monkeypatch.setattr(mtx, "CHUNK", chunk)
    text = b"%%MatrixMarket matrix coordinate real general\r\n% made by hand\n%\n 3 4 5\n"
    text += b"1 1 2\r\n 2\t4  7.0\n3 2 1e2\n\n3 3 4294967295\n1 4 12"
    (tmp_path / "m.mtx").write_bytes(text)
    with MatrixMarket(tmp_path / "m.mtx") as matrix:
        slabs = list(matrix.slabs())
    rows, columns, values = (np.concatenate(arrays) for arrays in zip(*slabs, strict=True))
    assert rows.tolist() == [0, 1, 2, 2, 0]
    assert columns.tolist() == [0, 3, 1, 2, 3]
    assert values.tolist() == [2, 7, 100, 4294967295, 12]


def test_matrix_market_is_read_as_scipy_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks that cut lines anywhere; places without values are ones."""
    monkeypatch.setattr(mtx, "CHUNK", 1000)
    for field in ("integer", "real", "pattern"):
        scipy.io.mmwrite(tmp_path / "m.mtx", sp.coo_matrix(COUNTS.astype(int)), field=field)
        with MatrixMarket(tmp_path / "m.mtx") as matrix:
            rows, columns, values = (np.concatenate(a) for a in zip(*matrix.slabs(), strict=True))
            found = sp.coo_matrix((values, (rows, columns)), shape=matrix.shape)
        assert same(found, scipy.io.mmread(tmp_path / "m.mtx"))


HEAD = "%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "2 2 3\n1 1 1\n2 2 1\n", "2 of its 3 entries"),
        (HEAD + "2 2 1\n1 1 1\n2 2 1\n", "more than its 1 entries"),
        (HEAD + "2 2 1\n3 1 1\n", "a row outside 1 to 2"),
        (HEAD + "2 2 1\n1 0 1\n", "a column outside 1 to 2"),
        (HEAD + "2 2 1\n1 1.5 1\n", "an entry without row and column"),
        (HEAD + "2 2 1\n1 x 1\n", "could not convert|not readable"),
        (HEAD + "2 2 1\n1 1\n", "not counts: it holds nan"),
        (HEAD + "2 2 1\n1 1 0.5\n", r"not counts: it holds 0\.5"),
        (HEAD + "2 2 1\n1 1 -1\n", "not counts: it holds -1"),
        (HEAD + "2 2 1\n1 1 4294967296\n", "not counts: it holds 4294967296"),
        (HEAD + "2 2 2\n1 1 4294967295\n1 1 1\n", "not counts: it holds 4294967296"),
        (HEAD + "two\n", "no line with its rows"),
        ("2 2 1\n1 1 1\n", "does not begin with"),
        (HEAD.replace("coordinate", "array") + "2 2\n1\n1\n1\n1\n", "does not begin with"),
        (HEAD.replace("general", "symmetric") + "2 2 1\n1 1 1\n", "a matrix of kind 'integer symmetric'"),
    ],
)
def test_a_damaged_matrix_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With what is wrong with it."""
    folder = write_folder(tmp_path / "m", sp.coo_matrix(np.ones((2, 2), int)), "A\nB\n", zipped=True)
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(CellmillError, match=message):
        convert_tenx_folder(folder, tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


# --- genomes


def test_the_named_genome_is_taken(tmp_path: Path) -> None:
    """Its genes alone, without the prefix that Cell Ranger puts before them; the note counts the others."""
    types = ["Gene Expression"] * 4 + ["Antibody Capture"]
    path = write_tenx(tmp_path / "x.h5", types=types, genomes=["GRCh38", "mm10", "GRCh38", "mm10", ""], value=3)
    with h5py.File(path, "r+") as file:
        for name in ("id", "name"):
            values = file[f"matrix/features/{name}"][:].astype(str)
            del file[f"matrix/features/{name}"]
            named = [("mm10_" if i in (1, 3) else "GRCh38_" if i < 4 else "") + v for i, v in enumerate(values)]
            file[f"matrix/features/{name}"] = np.array(named, "S")
    found = anndata.read_h5ad(get(path, tmp_path / "a.h5ad", genome="mm10"))
    assert list(found.var_names) == ["ENSG1", "ENSG3"]
    assert list(found.var["gene_symbols"]) == ["GENE1", "GENE3"]
    assert found.X.toarray().tolist() == [[3, 3], [0, 0]]
    note = (tmp_path / "a.json").read_text()
    assert "1 Antibody Capture features. Left out: 2 genes of other genomes." in note


def test_an_unknown_genome_gets_the_list(tmp_path: Path) -> None:
    """Also in a file with only one."""
    path = write_tenx(tmp_path / "x.h5", types=["Gene Expression"], genomes=["GRCh38"])
    with pytest.raises(CellmillError, match=r"no genome 'GRCh37' in it \(source\.genome\)\. There: GRCh38"):
        get(path, tmp_path / "a.h5ad", genome="GRCh37")


# --- codecs


CODECS = importlib.util.find_spec("hdf5plugin") is not None


@pytest.mark.skipif(not CODECS, reason="hdf5plugin is not installed")
@pytest.mark.parametrize("name", ["Zstd", "Blosc", "Blosc2", "LZ4", "Bitshuffle"])
def test_codecs_of_hdf5plugin_are_read(tmp_path: Path, name: str) -> None:
    """With it: the same counts. Without it: the name of the codec, and what to type."""
    import hdf5plugin

    path = write_raw(tmp_path / "x.h5ad", COUNTS)
    with h5py.File(path, "r+") as file:
        for part in ("data", "indices"):
            values = file[f"X/{part}"][:]
            del file[f"X/{part}"]
            file.create_dataset(f"X/{part}", data=values, chunks=(100,), **getattr(hdf5plugin, name)())
    assert same(read_all(tmp_path / "x.h5ad"), COUNTS)
    code = f"""
        import sys
        sys.modules["hdf5plugin"] = None
        from cellmill.matrix.reader import CountsFile
        try:
            with CountsFile({str(tmp_path / "x.h5ad")!r}, "X") as file:
                list(file.blocks())
        except Exception as error:
            print(type(error).__name__, error)
    """
    environment = {k: v for k, v in os.environ.items() if k != "HDF5_PLUGIN_PATH"}
    environment["PYTHONPATH"] = str(Path(cellmill.__file__).parents[1])
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith(
        f"CellmillError {tmp_path / 'x.h5ad'}: it is compressed by {name.lower()} (HDF5 filter"
    )
    assert "pip install hdf5plugin" in done.stdout
