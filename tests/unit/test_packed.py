"""Packed archives: what goes in comes out, any rows in any order, and damage is named."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellmill.errors import CellmillError
from cellmill.packed import writer as writer_module
from cellmill.packed.reader import PackedRows
from cellmill.packed.writer import PackedWriter

from ..reference.slow_packed import read_archive
from .stages import random_counts

Row = tuple[list[int], list[int]]


def arrays(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of genes and counts as offsets, genes and counts."""
    offsets = np.cumsum([0, *(len(genes) for genes, _ in rows)]).astype(np.int64)
    genes = np.array([g for genes, _ in rows for g in genes], np.uint32)
    return offsets, genes, np.array([c for _, counts in rows for c in counts], np.uint32)


def pack(folder: Path, rows: list[Row], *, genes: int, cells_per_file: int = 1 << 20, cut: int = 1 << 20) -> PackedRows:
    """Write rows, ``cut`` of them at a time, and open them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"gene_id": [f"g{i}" for i in range(genes)], "gene_symbol": None})
    made = PackedWriter(folder, genes=table, dtype=np.dtype(np.uint32), rows_per_file=cells_per_file)
    for start in range(0, len(rows), cut):
        made.append(*arrays(rows[start : start + cut]))
    made.close()
    return PackedRows(folder)


def unpacked(archive: PackedRows, rows: np.ndarray) -> list[Row]:
    """Rows of an archive as lists."""
    indptr, indices, values = archive.take(rows)
    bounds = pairwise(indptr)
    return [(indices[a:b].tolist(), values[a:b].tolist()) for a, b in bounds]


def random_rows(cells: int, genes: int, *, seed: int = 0) -> list[Row]:
    """Rows of random counts, as lists."""
    counts = random_counts(cells, genes, seed=seed)
    bounds = pairwise(counts.indptr)
    return [(counts.indices[a:b].tolist(), counts.data[a:b].astype(int).tolist()) for a, b in bounds]


EDGES = [131, 132, 16_387, 16_388, 65_535, 2**32 - 1]
COUNT = st.one_of(st.integers(1, 5), st.sampled_from(EDGES), st.integers(1, 2**32 - 1))


@st.composite
def rows_of_counts(draw: Any) -> tuple[int, list[Row]]:
    """A number of genes and rows: of some genes, of none, of all."""
    genes = draw(st.sampled_from([1, 2, 63, 64, 65, 129, 700]))
    kinds = st.one_of(
        st.sets(st.integers(0, genes - 1), max_size=min(genes, 80)),
        st.just(set()),
        st.just(set(range(genes))),
        st.just({genes - 1}),
    )
    rows = []
    for chosen in draw(st.lists(kinds, min_size=1, max_size=12)):
        few = draw(st.lists(COUNT, min_size=1, max_size=8))
        rows.append((sorted(chosen), [few[i % len(few)] for i in range(len(chosen))]))
    return genes, rows


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=rows_of_counts(), cells_per_file=st.integers(1, 8), data=st.data())
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[int, list[Row]], cells_per_file: int, data: Any
) -> None:
    """Empty rows, rows of every gene, counts up to 2^32 - 1; in any order, also read by the plain reader."""
    genes, rows = case
    archive = pack(tmp_path_factory.mktemp("a"), rows, genes=genes, cells_per_file=cells_per_file)
    assert unpacked(archive, np.arange(len(rows))) == rows
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    assert unpacked(archive, np.array(order, np.int64)) == [rows[i] for i in order]
    assert read_archive(archive.path) == rows
    archive.check()


def test_rare_genes_far_apart_are_found(tmp_path: Path) -> None:
    """Where more than 255 rare genes lie between two, also at the end."""
    rows = [([i, 5_000 + i, 69_999 - i], [1, 2, 300]) for i in range(0, 2_000, 40)] + [([], [])] * 30
    archive = pack(tmp_path, rows, genes=70_000)
    assert archive.index_dtype == np.uint32
    assert unpacked(archive, np.arange(len(rows))) == rows
    assert read_archive(tmp_path) == rows


def test_bytes_do_not_depend_on_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows one by one, or all at once, also where the sample of frequent genes ends within them."""
    monkeypatch.setattr(writer_module, "SAMPLE_ROWS", 37)
    rows = random_rows(90, 200)
    for cut in (1, 7, 37, 1_000):
        pack(tmp_path / str(cut), rows, genes=200, cells_per_file=40, cut=cut)
    names = sorted(p.name for p in (tmp_path / "1").iterdir())
    assert names == ["00000.cells", "00001.cells", "00002.cells", "archive.json", "genes.parquet"]
    for name in names:
        assert len({(tmp_path / str(cut) / name).read_bytes() for cut in (1, 7, 37, 1_000)}) == 1


def test_genes_of_more_than_one_cell_in_ten_are_frequent(tmp_path: Path) -> None:
    """Of the first cells."""
    rows = [([0, 1] if i < 3 else [0] if i == 3 else [], [1] * (2 if i < 3 else i == 3)) for i in range(31)]
    archive = pack(tmp_path, rows, genes=4)
    assert archive.genes["frequent"].tolist() == [True, False, False, False]


def test_a_row_that_is_not_there_is_an_index_error(tmp_path: Path) -> None:
    """Also a negative one; no row at all is fine."""
    archive = pack(tmp_path, random_rows(5, 20), genes=20)
    for rows in ([5], [-1], [0, 7]):
        with pytest.raises(IndexError, match="has 5 rows, not"):
            archive.take(np.array(rows))
    indptr, indices, values = archive.take(np.array([], np.int64))
    assert (indptr.tolist(), len(indices), len(values)) == ([0], 0, 0)


def test_an_archive_pickles_as_its_path(tmp_path: Path) -> None:
    """However large it is, so that processes can be started with it."""
    rows = random_rows(300, 500)
    pickled = pickle.dumps(pack(tmp_path, rows, genes=500))
    assert len(pickled) < 1_000
    assert unpacked(pickle.loads(pickled), np.array([7, 299])) == [rows[7], rows[299]]


def test_threads_share_an_archive(tmp_path: Path) -> None:
    """The first use of it, too."""
    rows = random_rows(400, 300)
    archive = pack(tmp_path, rows, genes=300, cells_per_file=90)
    orders = [np.random.default_rng(i).permutation(400) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for order, found in zip(orders, pool.map(lambda o: unpacked(archive, o), orders), strict=True):
            assert found == [rows[i] for i in order]


def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    """Nothing of it is opened for writing."""
    rows = random_rows(5, 20)
    pack(tmp_path / "a", rows, genes=20)
    for path in (*(tmp_path / "a").iterdir(), tmp_path / "a"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert unpacked(PackedRows(tmp_path / "a"), np.arange(5)) == rows
    finally:
        (tmp_path / "a").chmod(0o700)


# Damage


@pytest.fixture
def archive(tmp_path: Path) -> PackedRows:
    """60 rows in three files."""
    return pack(tmp_path / "train", random_rows(60, 150), genes=150, cells_per_file=25)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("byte", [0, 3, 4, 6, 8, 20, -1])
def test_a_damaged_record_is_named_by_file_and_row(archive: PackedRows, byte: int) -> None:
    """Whatever byte of it; other rows are still read."""
    path = archive.path / "00001.cells"
    end = int.from_bytes(path.read_bytes()[24:32], "little")
    index = np.frombuffer(path.read_bytes()[end:], "<u4")
    expected = unpacked(archive, np.array([26, 59]))
    flip(path, 8 * int(index[2]) + byte if byte >= 0 else 8 * int(index[3]) + byte)
    damaged = PackedRows(archive.path)
    assert unpacked(damaged, np.array([26, 59])) == expected
    with pytest.raises(CellmillError, match=r"00001\.cells: the record of row 27 is damaged"):
        damaged.take(np.array([0, 27]))
    with pytest.raises(CellmillError, match=r"00001\.cells: the record of row 27 is damaged"):
        damaged.check()


def test_a_damaged_index_is_found(archive: PackedRows) -> None:
    """By the rows it leads to, and by `check` before any row is decoded."""
    path = archive.path / "00002.cells"
    end = int.from_bytes(path.read_bytes()[24:32], "little")
    for at in (end + 4, end + 7):
        flip(path, at)
        with pytest.raises(CellmillError, match=r"00002\.cells: the record of row 50 is damaged"):
            PackedRows(archive.path).take(np.array([50]))
        with pytest.raises(CellmillError, match=r"00002\.cells: its index is damaged"):
            PackedRows(archive.path).check()
        flip(path, at)
    PackedRows(archive.path).check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "00001.cells").unlink(), r"00001\.cells: cannot be mapped"),
        (lambda f: (f / "00001.cells").write_bytes(b""), r"00001\.cells: cannot be mapped"),
        (lambda f: (f / "00001.cells").write_bytes((f / "00001.cells").read_bytes()[:-1]), r"bytes instead of"),
        (lambda f: (f / "00001.cells").write_bytes((f / "00000.cells").read_bytes()), r"belongs elsewhere"),
        (lambda f: flip(f / "00001.cells", 0), r"no packed cells"),
        (lambda f: flip(f / "00001.cells", 8), r"has layout 17, this cellmill reads 1"),
        (lambda f: flip(f / "00001.cells", 40), r"its head is damaged"),
        (lambda f: (f / "archive.json").unlink(), r"there is no archive\.json.*Name the folder of a split"),
        (
            lambda f: (f / "archive.json").write_text((f / "archive.json").read_text().replace("packed 1", "packed 2")),
            r"found 'packed 2'.*update yours",
        ),
    ],
    ids=["missing", "empty", "cut", "another", "magic", "layout", "head", "no archive", "newer"],
)
def test_a_folder_that_is_no_whole_archive_does_not_open(archive: PackedRows, change: Any, said: str) -> None:
    """The error names the file, what was found, and what to do."""
    change(archive.path)
    with pytest.raises(CellmillError, match=said):
        PackedRows(archive.path)


def test_a_gene_table_of_another_archive_is_refused(archive: PackedRows, tmp_path: Path) -> None:
    """Else genes would be taken for others."""
    other = pack(tmp_path / "other", random_rows(60, 150, seed=3)[:1], genes=150)
    (archive.path / "genes.parquet").write_bytes((other.path / "genes.parquet").read_bytes())
    with pytest.raises(CellmillError, match=r"genes\.parquet: is not the gene table that the cells were packed by"):
        PackedRows(archive.path).take(np.array([0]))


def test_memory_of_a_reader_is_what_it_returns(tmp_path: Path) -> None:
    """Arrays belong to the caller: a second call changes nothing of the first."""
    archive = pack(tmp_path, random_rows(50, 100), genes=100)
    first = archive.read(0, 25)
    kept = [a.copy() for a in first]
    archive.read(25, 50)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    assert sp.csr_matrix((first[2], first[1].astype(np.int32), first[0]), shape=(25, 100)).has_sorted_indices
