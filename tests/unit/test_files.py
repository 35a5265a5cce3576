"""Files: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from cellmill.contracts import embedding, parquet
from cellmill.contracts.genes import write_arrays
from cellmill.contracts.versions import CELLS
from cellmill.errors import CellmillError
from cellmill.exports.given import Given
from cellmill.files import format_bytes, inside, is_disk_full, read_json, replacing, scratch, sha256_of, write_json
from cellmill.matrix.writer import H5adWriter

from .export_rows import make_rows
from .stages import make, random_counts, write_raw


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Until then nothing stands under its name."""
    with replacing(tmp_path / "x") as aside:
        aside.write_text("half")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "half"
    assert listing(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("directory", [False, True])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException], directory: bool) -> None:
    """Neither under the final name nor beside it."""
    with pytest.raises(error), replacing(tmp_path / "x", directory=directory) as aside:
        (aside / "y" if directory else aside).write_text("half")
        raise error
    assert listing(tmp_path) == []


@pytest.mark.parametrize("directory", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, directory: bool) -> None:
    """The old file or folder stays as it is."""
    with replacing(tmp_path / "x", directory=directory) as aside:
        (aside / "y" if directory else aside).write_text("old")
    with pytest.raises(ValueError), replacing(tmp_path / "x", directory=directory) as aside:
        raise ValueError
    assert (tmp_path / "x/y" if directory else tmp_path / "x").read_text() == "old"
    assert listing(tmp_path) == ["x"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    """Nothing of the old one is left in the new one."""
    for name in ("old", "new"):
        with replacing(tmp_path / "x", directory=True) as aside:
            (aside / name).write_text(name)
    assert listing(tmp_path / "x") == ["new"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """By the next one that writes the same file."""
    code = (
        "import os, signal; from cellmill.files import replacing\n"
        f"with replacing({str(tmp_path / 'x')!r}) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(listing(tmp_path)) == 1
    with replacing(tmp_path / "x") as aside:
        aside.write_text("whole")
    assert listing(tmp_path) == ["x"]


def test_a_folder_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Also where it is not empty."""
    (tmp_path / ".x.999999.partial/y").mkdir(parents=True)
    with replacing(tmp_path / "x", directory=True):
        pass
    assert listing(tmp_path) == ["x"]


@pytest.mark.parametrize(("name", "other"), [("0", "0.h5ad"), ("x*", "xy"), ("a[b]", "ab")])
def test_the_partial_file_of_another_name_stays(tmp_path: Path, name: str, other: str) -> None:
    """What another job is writing at the moment is not this job's to remove."""
    with replacing(tmp_path / other) as theirs:
        theirs.write_text("theirs")
        with replacing(tmp_path / name) as aside:
            aside.write_text("mine")
    assert (tmp_path / other).read_text() == "theirs"


def test_odd_names_are_cleaned_up_too(tmp_path: Path) -> None:
    """A name is a name, not a pattern."""
    (tmp_path / ".a[b].999999.partial").write_text("half")
    with replacing(tmp_path / "a[b]") as aside:
        aside.write_text("whole")
    assert listing(tmp_path) == ["a[b]"]


def test_json_bytes_are_stable(tmp_path: Path) -> None:
    """The same value gives the same bytes, in whatever order its keys came."""
    write_json(tmp_path / "a", {"b": 1.5, "a": ["ü", None]})
    write_json(tmp_path / "b", {"a": ["ü", None], "b": 1.5})
    expected = '{\n  "a": [\n    "ü",\n    null\n  ],\n  "b": 1.5\n}\n'
    assert [(tmp_path / n).read_bytes() for n in "ab"] == [expected.encode()] * 2
    assert read_json(tmp_path / "a") == {"b": 1.5, "a": ["ü", None]}


def test_json_without_a_number_is_refused(tmp_path: Path) -> None:
    """NaN is not JSON, and nothing is left of the attempt."""
    with pytest.raises(ValueError):
        write_json(tmp_path / "a", {"a": float("nan")})
    assert listing(tmp_path) == []


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe{}", b""])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    """And what to do about it."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CellmillError, match=r"a: not readable as JSON .*Delete it and run again"):
        read_json(tmp_path / "a")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a/../../../x"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    """Whatever way they take."""
    with pytest.raises(CellmillError, match="points outside this folder"):
        inside(tmp_path / "folder", name)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    """Links are followed before anything is compared."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path)
    with pytest.raises(CellmillError, match="points outside this folder"):
        inside(tmp_path / "folder", "link/x")


@pytest.mark.parametrize("name", ["x", "a/b", "a/../x", "."])
def test_names_within_the_folder_are_taken(tmp_path: Path, name: str) -> None:
    """Also those that take a detour."""
    assert inside(tmp_path, name) == (tmp_path / name).resolve()


def test_scratch_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the result, or where CELLMILL_SCRATCH says."""
    monkeypatch.delenv("CELLMILL_SCRATCH", raising=False)
    with scratch(tmp_path / "a/x") as folder:
        assert folder.parent == tmp_path / "a"
    monkeypatch.setenv("CELLMILL_SCRATCH", str(tmp_path / "b"))
    with scratch(tmp_path / "a/x") as folder:
        (folder / "y").write_text("")
        assert folder.parent == tmp_path / "b"
    assert listing(tmp_path / "a") == listing(tmp_path / "b") == []


def test_sizes_are_written_as_people_read_them() -> None:
    """With a unit that fits."""
    assert [format_bytes(n) for n in (0, 999, 1000, 1_250_000)] == ["0 B", "999 B", "1.0 kB", "1.2 MB"]


def test_a_full_disk_is_known_in_every_library() -> None:
    """By its number, or by its text where the library hides the number."""
    assert is_disk_full(OSError(errno.ENOSPC, "x"))
    assert is_disk_full(RuntimeError("Can't write data (file write failed: ... errno = 28, error message = ...)"))
    assert not is_disk_full(OSError(errno.EACCES, "x"))


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount the small disk that this test fills")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no command 'mount' for the small disk that this test fills")
    if mounted.returncode:
        pytest.skip(f"no small disk could be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def told_that_the_disk_is_full(folder: Path) -> Iterator[None]:
    """The error says so; nothing is left, and its room is free again."""
    with pytest.raises(CellmillError, match=r"the disk is full \(.*nothing was left under this name.*Free some space"):
        yield
    assert listing(folder) == []
    assert os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize >= 60_000


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << 31, n)


def test_a_full_disk_ends_a_parquet_file_politely(small_disk: Path) -> None:
    """Nothing stands under the final name."""
    table = pa.table({"x": noise(100_000)})
    with told_that_the_disk_is_full(small_disk):
        parquet.write(small_disk / "x.parquet", table, CELLS)


def test_a_full_disk_ends_json_politely(small_disk: Path) -> None:
    """Nothing stands under the final name."""
    with told_that_the_disk_is_full(small_disk):
        write_json(small_disk / "x.json", noise(100_000).tolist())


def test_a_full_disk_ends_arrays_politely(small_disk: Path) -> None:
    """Nothing stands under the final name."""
    with told_that_the_disk_is_full(small_disk):
        write_arrays(small_disk / "x.npz", {"x": noise(100_000)}, "x 1")


def test_a_full_disk_ends_an_embedding_politely(small_disk: Path) -> None:
    """Neither vectors nor their manifest are left."""
    blocks = [noise(4000).reshape(-1, 10).astype(np.float32)] * 50
    with told_that_the_disk_is_full(small_disk):
        embedding.write(small_disk / "x.npy", small_disk / "x.json", iter(blocks), shape=(20_000, 10), facts={})


def test_a_full_disk_ends_counts_politely(small_disk: Path) -> None:
    """HDF5 hides the number of the error; the file is removed all the same."""
    counts = sp.csr_matrix(noise(200_000).reshape(200, 1000).astype(np.uint32))
    with told_that_the_disk_is_full(small_disk), replacing(small_disk / "x.h5ad") as aside:
        writer = H5adWriter(aside, n_genes=1000, dtype=np.dtype(np.uint32))
        try:
            for _ in range(20):
                writer.append(counts)
            index = pd.Index([str(i) for i in range(4000)])
            writer.close(obs=pd.DataFrame(index=index), var=pd.DataFrame(index=index[:1000]), uns={})
        except BaseException:
            writer.abandon()
            raise


def test_a_full_disk_ends_a_processed_part_politely(small_disk: Path, tmp_path: Path) -> None:
    """The stage itself, with a file that is small enough to be written only when it is closed."""
    raw = write_raw(tmp_path / "raw.h5ad", random_counts(700, 300))
    made = make(tmp_path / "made", {"0": raw})
    from cellmill.quality.process import process_part

    with told_that_the_disk_is_full(small_disk):
        process_part(
            raw,
            quality=made.file("0", "quality.parquet"),
            labels=made.file("0", "labels.parquet"),
            part_genes=made.file("0", "genes.parquet"),
            thresholds=made.thresholds,
            duplicates=made.duplicates,
            splits=made.splits,
            space=made.folder / "space.parquet",
            mapping=made.folder / "mapping.parquet",
            rules=made.dataset.cell_rules,
            part="0",
            out=small_disk / "0.h5ad",
            out_cells=small_disk / "0.cells.parquet",
        )
    with h5py.File(made.file("0", "h5ad")) as file:
        assert json.loads(file["uns/cellmill"][()])["cells"] == 700  # HDF5 itself works on
    assert sha256_of(raw)


@pytest.mark.parametrize("format_", ["hf", "hdf5", "h5ad", "mds", "scdl", "geneformer", "zarr", "packed"])
def test_a_full_disk_ends_an_export_politely(small_disk: Path, format_: str) -> None:
    """Nothing under its name, and no crash of a library below."""
    from importlib import import_module

    from cellmill.exports import parse_export

    kinds: dict[str, dict[str, object]] = {
        "hf": {"kind": "tokens", "tokenizer": "rank"},
        "mds": {"kind": "tokens", "tokenizer": "rank"},
        "h5ad": {"embeddings": ["pca"]},
        "zarr": {"embeddings": ["pca"]},
    }
    rows = make_rows({"train": 3_000}, genes=2_000, widths={"pca": 50})
    write = import_module(f"cellmill.exports.{format_}").write
    with told_that_the_disk_is_full(small_disk), replacing(small_disk / "cells", directory=True) as folder:
        write(Given(folder, rows.header, rows.batches(500)), parse_export(f"{format_}/cells", kinds.get(format_, {})))
