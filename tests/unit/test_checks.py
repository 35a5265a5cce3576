"""`cellmill check`: every fault of an export is found, and told with its file and its cell."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

import cellmill.checks.compare as compare
from cellmill.checks import Checked, check
from cellmill.checks.columns import differing
from cellmill.checks.compare import Rows, Split
from cellmill.checks.problems import SHOWN, Problems
from cellmill.cli import main
from cellmill.contracts import manifest
from cellmill.contracts.manifest import CONTRACTS
from cellmill.exports import Format
from cellmill.keys import hash_strings

from .exported import EXPORTS, make_dataset, make_export, with_value
from .stages import Made

WITH_COUNTS = [p for p, s in EXPORTS.items() if s["kind"] == "counts"]
OBS = {"donor", "cell_type", "age", "flag"}
HDF5 = {"counts", "experiment_ids", *(f"obs/{c}" for c in OBS - {"donor"})}
NEGATIVES = {f"negative_{k}{more}" for k in (1, 2) for more in ("", "_idx")}
COMPARED = {
    "hf/cells": {"input_ids", "embedding_hvg"} | OBS,
    "hf/multiplets": {"cell_sentence_1", "positive"} | NEGATIVES,
    "mds/tokens": {"input_ids"} | OBS,
    "hdf5/counts": HDF5,
    "hdf5/dense": HDF5,
    "scdl/counts": {"counts"} | OBS,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """The dataset and every export of it."""
    base = tmp_path_factory.mktemp("run")
    folder = base / "results" / "demo"
    done = make_dataset(folder, base / "work")
    for path in EXPORTS:
        make_export(folder, done, path)
    return folder, done


@pytest.fixture
def copy(made: tuple[Path, Made], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "results" / "demo"))


def checked(path: Path) -> Checked:
    (one,) = check(path)
    return one


def told(path: Path) -> list[str]:
    return list(checked(path).problems.lines())


def data_file(export: Path) -> Path:
    """The largest file of the training cells, where the data are."""
    return max((p for p in (export / "train").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# --- sound


@pytest.mark.parametrize("path", EXPORTS)
def test_a_sound_export_has_no_problems(made: tuple[Path, Made], path: str):
    """Every cell was compared, column by column, and nothing is left beside the export."""
    found = checked(made[0] / path)
    assert told(made[0] / path) == []
    assert "each compared with processed/" in found.about
    assert set(re.search(r"processed/ \((.+)\)$", found.about)[1].split(", ")) == COMPARED[path]
    assert not list((made[0] / path).parent.glob(".scratch*"))


def test_every_format_has_a_reader():
    """The formats of today; a new one may be checked by files alone until it has one."""
    from importlib.util import find_spec

    assert [f for f in ("hf", "mds", "hdf5", "scdl") if find_spec(f"cellmill.checks.{f}") is None] == []
    assert set(Format.__args__) == set(CONTRACTS)


@pytest.mark.parametrize("path", ["hf/cells", "scdl/counts"])
def test_without_processed_the_cells_are_read_all_the_same(copy: Path, path: str):
    """And it says what they were not compared with."""
    shutil.rmtree(copy / "processed")
    found = checked(copy / path)
    assert len(found.problems) == 0
    assert "not compared with processed/: processed/z.h5ad is not at hand" in found.about.replace("/a.", "/z.").replace(
        "/m.", "/z."
    )


# --- files


@pytest.mark.parametrize("path", EXPORTS)
@pytest.mark.parametrize("damage", ["a byte", "missing", "cut", "foreign"])
def test_damaged_files_are_named(copy: Path, path: str, damage: str, capsys: pytest.CaptureFixture[str]):
    """A flipped byte, a file that is gone, one that is cut, one too many: by name, with what to do, and exit 1."""
    export = copy / path
    file = data_file(export)
    content = bytearray(file.read_bytes())
    words = {"a byte": "sha256", "missing": "is missing", "cut": "bytes, expected", "foreign": "is not in the manifest"}
    if damage == "a byte":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file = file.with_name("foreign.txt")
        file.write_text("?")
    assert main(["check", str(export)]) == 1
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if words[damage] in line)
    assert file.relative_to(export).as_posix() in line
    assert f"Delete {export / 'manifest.json'} and run snakemake again" in said
    assert main(["check", str(export), "--files-only"]) == 1


def test_several_damaged_files_are_all_told(copy: Path):
    """Not the first alone."""
    files = sorted((copy / "hf/cells/train").iterdir())[:2]
    for file in files:
        file.unlink()
    lines = told(copy / "hf/cells")
    assert all(any(f"{f.parent.name}/{f.name}: is missing" in line for line in lines) for f in files)


# --- cells


def ids_of(folder: Path, done: Made) -> list[str]:
    """Training cells in the order of exports."""
    from cellmill.contracts.counts import CountsPart

    found: list[str] = []
    for part in done.parts:
        with CountsPart(folder / "processed" / f"{part}.h5ad") as file:
            found += file.obs.index[file.obs["split"] == "train"].tolist()
    keys = hash_strings(found, seed=0, purpose="order")
    return [found[i] for i in np.argsort(keys)]


def swap(table: pa.Table) -> pa.Table:
    order = np.arange(table.num_rows)
    order[[3, 9]] = [9, 3]
    return table.take(pa.array(order))


@pytest.mark.parametrize("path", EXPORTS)
def test_two_swapped_cells_are_named(made: tuple[Path, Made], copy: Path, path: str):
    """A manifest that fits the files does not hide it."""
    export = make_export(copy, made[1], path, tamper=swap)
    ids = ids_of(*made)
    lines = told(export)
    assert lines and all("stands behind a cell that should come after it" in line for line in lines)
    assert f"row 4, cell '{ids[4]}'" in lines[0] and len(lines) == 2


@pytest.mark.parametrize("path", WITH_COUNTS)
def test_one_changed_count_is_named(made: tuple[Path, Made], copy: Path, path: str):
    """With cell, gene, found and expected."""
    old: list[int] = []

    def change(counts: list[int]) -> list[int]:
        old.append(counts[2])
        return [*counts[:2], counts[2] + 1, *counts[3:]]

    lines = told(make_export(copy, made[1], path, tamper=lambda t: with_value(t, "counts", 7, change)))
    (line,) = lines
    assert f"cell '{ids_of(*made)[7]}', counts: gene 'ENSG" in line
    assert f"found {old[0] + 1}, expected {old[0]}" in line and "train/" in line and "row 7" in line


@pytest.mark.parametrize(
    ("path", "column"),
    [
        *(("hf/cells", "cell_type"), ("hf/cells", "flag"), ("mds/tokens", "age"), ("mds/tokens", "flag")),
        *(("hdf5/counts", "donor"), ("hdf5/counts", "age"), ("hdf5/dense", "flag"), ("scdl/counts", "cell_type")),
    ],
)
def test_one_changed_obs_value_is_named(made: tuple[Path, Made], copy: Path, path: str, column: str):
    """Text, numbers and truth values; a missing one too."""
    other = {"cell_type": "X", "age": 1.5, "flag": None, "donor": "z"}[column]
    lines = told(make_export(copy, made[1], path, tamper=lambda t: with_value(t, column, 7, lambda _: other)))
    (line,) = lines
    assert f"cell '{ids_of(*made)[7]}'" in line and "expected" in line and column.removeprefix("donor") in line


@pytest.mark.parametrize(
    ("path", "column", "change"),
    [
        ("hf/cells", "tokens:rank", lambda ids: [*ids[:4], ids[4] + 1, *ids[5:]]),
        ("mds/tokens", "tokens:rank", lambda ids: ids[:-1]),
        ("hf/cells", "embedding:hvg", lambda v: [v[0] + 1e-3, *v[1:]]),
        ("hf/multiplets", "cell_type", lambda _: "X"),
        ("hf/multiplets", "counts", lambda c: c[::-1]),
    ],
)
def test_one_changed_value_is_named(
    made: tuple[Path, Made], copy: Path, path: str, column: str, change: Callable[[list], list]
):
    """Tokens, embeddings, captions and sentences."""
    lines = told(make_export(copy, made[1], path, tamper=lambda t: with_value(t, column, 7, change)))
    (line,) = lines
    assert f"row 7, cell '{ids_of(*made)[7]}'" in line and "expected" in line


@pytest.mark.parametrize("path", EXPORTS)
def test_a_cell_under_another_id_is_missing_and_too_much(made: tuple[Path, Made], copy: Path, path: str):
    """Both are told."""
    export = make_export(copy, made[1], path, tamper=lambda t: with_value(t, "cell_id", 7, lambda _: "nobody"))
    lines = "\n".join(told(export))
    assert f"cell '{ids_of(*made)[7]}': is missing" in lines
    assert "cell 'nobody': is no kept cell of the split 'train'" in lines


@pytest.mark.parametrize("path", EXPORTS)
def test_a_cell_that_stands_there_twice_is_named(made: tuple[Path, Made], copy: Path, path: str):
    """In the place of another, which is missing."""
    order = np.arange(400)
    order[8] = 7
    export = make_export(copy, made[1], path, tamper=lambda t: t.take(pa.array(order[: t.num_rows])))
    lines, ids = "\n".join(told(export)), ids_of(*made)
    assert f"cell '{ids[7]}': stands there twice" in lines and f"cell '{ids[8]}': is missing" in lines


def test_a_file_of_cells_that_is_not_there_is_told_with_its_cells(copy: Path):
    """And the cells of the other files are compared all the same."""
    file = sorted((copy / "hf/cells/train").iterdir())[1]
    file.unlink()
    found = checked(copy / "hf/cells")
    lines = list(found.problems.lines())
    assert any(f"train/{file.name}: is missing" in line for line in lines)
    assert sum("is missing; it is a kept cell" in line for line in lines) == SHOWN
    assert any("and 95 more: cells of train that are missing" in line for line in lines)
    assert any("train/: has" in line for line in lines) and not any("another" in line for line in lines)


@pytest.mark.parametrize("path", ["hdf5/counts", "scdl/counts"])
def test_another_list_of_genes_is_told(made: tuple[Path, Made], copy: Path, path: str):
    """The gene and its place."""
    export = copy / path
    if path.startswith("hdf5"):
        with h5py.File(export / "train" / "batch_0000.h5", "r+") as file:
            file["genes"][4] = b"other"
    else:
        import pyarrow.parquet as pq

        table = export / "train" / "var_features" / "dataframe_0.parquet"
        pq.write_table(with_value(pq.read_table(table), "gene_id", 4, lambda _: "other"), table)
    said = manifest.read(export)
    del said["files"], said["written_by"]
    (export / "manifest.json").unlink()
    manifest.write(export, said)
    (line,) = told(export)
    assert "gene 4 is 'other', expected 'ENSG" in line


def test_a_missing_column_is_told(made: tuple[Path, Made], copy: Path):
    """An obs column that the export was asked for."""
    import pyarrow.parquet as pq

    export = copy / "hf/cells"
    for file in export.glob("*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("age"), file)
    said = {k: v for k, v in manifest.read(export).items() if k not in ("files", "written_by")}
    (export / "manifest.json").unlink()
    manifest.write(export, said)
    assert {line for line in told(export)} == {f"{s}/: there is no column 'age'" for s in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("negative_1_idx", lambda row: "nobody", "'nobody' is no cell of this split"),
        ("negative_2_idx", lambda row: row["negative_1_idx"], "is the anchor, or stands twice"),
        ("negative_2_idx", lambda row: row["cell_id"], "has the caption of the anchor"),
        ("negative_1", lambda row: "X", "'X' is not the caption of negative_1_idx"),
        ("negative_2", lambda row: "X", "'X' is not the cell sentence of negative_2_idx"),
    ],
)
def test_wrong_negatives_are_named(copy: Path, column: str, change: Callable[[dict], str], words: str):
    """Of another split, twice, of the same caption, or with the text of another cell."""
    import pyarrow.parquet as pq

    export = copy / "hf/multiplets"
    file = export / "train" / "00000.parquet"
    table = pq.read_table(file)
    row = {"cell_id": table["sample_idx"][7].as_py(), "negative_1_idx": table["negative_1_idx"][7].as_py()}
    pq.write_table(with_value(table, column, 7, lambda _: change(row)), file)
    said = {k: v for k, v in manifest.read(export).items() if k not in ("files", "written_by")}
    (export / "manifest.json").unlink()
    manifest.write(export, said)
    lines = told(export)
    assert any(words in line and f"row 7, cell '{row['cell_id']}', {column}" in line for line in lines)


def test_a_damaged_source_is_told(copy: Path):
    """What cannot be read of processed/ is named, and not the export."""
    (copy / "processed" / "a.h5ad").write_bytes(b"no")
    found = checked(copy / "scdl/counts")
    assert len(found.problems) == 1 or "a.h5ad" in found.about


# --- one pass in bounded memory


def ordered_ids(n: int) -> list[str]:
    ids = [f"c{i}" for i in range(n)]
    return [ids[i] for i in np.argsort(hash_strings(ids, seed=0, purpose="order"))]


def compared(found: list[list[str]], expected: list[list[str]]) -> Problems:
    """Ids alone, in blocks."""
    problems = Problems()
    split = Split("s", (pa.table({"cell_id": b, "n": [1] * len(b)}) for b in expected), problems, genes=[])
    first = 0
    for block in found:
        split.add(Rows("f", first, pa.table({"cell_id": block, "n": [1] * len(block)})))
        first += len(block)
    split.close()
    return problems


def in_blocks(ids: list[str], size: int) -> list[list[str]]:
    return [ids[i : i + size] for i in range(0, len(ids), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_blocks_of_any_size_are_joined(size: int):
    """The two sides are cut differently."""
    ids = ordered_ids(500)
    assert len(compared(in_blocks(ids, size), in_blocks(ids, 100))) == 0
    assert len(compared(in_blocks(ids, 100), in_blocks(ids, size))) == 0


@pytest.mark.parametrize("size", [10, 50])
def test_a_long_gap_is_told_exactly(monkeypatch: pytest.MonkeyPatch, size: int):
    """More missing cells than may wait: each is counted once, and no other cell with them."""
    monkeypatch.setattr(compare, "WAITING_ROWS", 64)
    ids = ordered_ids(2_000)
    problems = compared(in_blocks(ids[:300] + ids[1_500:], size), in_blocks(ids, 50))
    assert len(problems) == 1_200
    problems = compared(in_blocks(ids, size), in_blocks(ids[:300] + ids[1_500:], 50))
    assert len(problems) == 1_200


def test_a_cell_far_from_its_place_is_out_of_order_and_not_missing():
    """The last cell comes first."""
    ids = ordered_ids(1_000)
    problems = compared(in_blocks([ids[-1], *ids[:-1]], 64), in_blocks(ids, 50))
    assert len(problems) == 1 and "stands behind" in next(problems.lines())


def test_columns_are_compared_by_value():
    """Missing equals missing, NaN equals NaN, and the width of a type does not count."""
    for found, expected, differ in [
        (pa.array([1, 2, None], pa.int8()), pa.array([1, 3, None], pa.int64()), [False, True, False]),
        (pa.array([1.0, float("nan"), None]), pa.array([1.0, float("nan"), 2.0]), [False, False, True]),
        (pa.array(["a", None, "c"]), pa.array(["a", "b", "c"], pa.large_string()), [False, True, False]),
        (pa.array([[1], [], [2, 3]]), pa.array([[1], [0], [2, 4]], pa.large_list(pa.uint16())), [False, True, True]),
        (pa.array(["1"]), pa.array([1]), [True]),
    ]:
        assert differing(found, expected).tolist() == differ


# --- other artefacts


def test_everything_of_a_dataset_is_checked(made: tuple[Path, Made], capsys: pytest.CaptureFixture[str]):
    """Parts, tokens, embeddings and exports, a line each."""
    assert main(["check", str(made[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 3 + len(EXPORTS)
    assert sum("aligned with processed/" in line for line in lines) == 6


def test_a_part_with_a_changed_count_is_told(copy: Path):
    """Counts and the totals of obs no longer fit."""
    with h5py.File(copy / "processed" / "a.h5ad", "r+") as file:
        file["X/data"][3] += 1
        cell = file["obs/cell_id"].asstr()[0]
    (line,) = told(copy / "processed" / "a.h5ad")
    assert f"row 0, cell '{cell}'" in line and "counts, obs says" in line


def test_stored_zeros_and_columns_out_of_order_are_told(copy: Path):
    """By the row and the cell."""
    with h5py.File(copy / "processed" / "a.h5ad", "r+") as file:
        file["X/indices"][:2] = file["X/indices"][:2][::-1]
        file["X/data"][5] = 0
    lines = told(copy / "processed" / "a.h5ad")
    assert any("genes that do not rise" in line for line in lines) and any("stored zeros" in line for line in lines)


def test_tokens_and_embeddings_of_other_cells_are_told(copy: Path):
    """A file under the name of another part."""
    for file in ("tokenized/rank/a.parquet", "embedded/hvg/a.npy", "embedded/hvg/a.json"):
        shutil.copy(copy / file.replace("a.", "m."), copy / file)
    assert "cells, " in told(copy / "tokenized/rank/a.parquet")[0]
    assert "vectors, " in told(copy / "embedded/hvg/a.npy")[0]


def test_a_place_with_nothing_to_check_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With what it could be."""
    assert main(["check", str(tmp_path)]) == 1
    assert "expected an export, or a file of processed/" in capsys.readouterr().err
