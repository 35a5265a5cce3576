"""`cellmill check`: every fault of an export is found, and told with its file and its cell."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cellmill.checks.compare as compare
from cellmill.checks import Checked, check
from cellmill.checks.columns import differing
from cellmill.checks.compare import Rows, Split
from cellmill.checks.problems import SHOWN, Problems
from cellmill.cli import main
from cellmill.contracts import manifest
from cellmill.contracts.manifest import CONTRACTS
from cellmill.exports import Export, Format, parse_export
from cellmill.keys import hash_strings

from .exported import EXPORTS, TOKENIZERS, make_dataset, make_export, with_value
from .stages import Made

EXACT = ["mds/tensors", "packed/counts"]
"""Exports of which it is asked that nothing is told but the fault."""
OBS = {"donor", "cell_type", "age", "flag"}
HDF5 = {"counts", "experiment_ids", "obs/SRX_accession", "obs/gene_count", "obs/umi_count"}
HDF5 |= {f"obs/{c}" for c in OBS - {"donor"}}
SENTENCES = {"cell_sentence_1", "cell_sentence_2"}
NEGATIVES = {f"negative_{k}{more}" for k in (1, 2, 3, 4) for more in ("", "_idx")}
COMPARED = {
    "hf/cells": {"input_ids", "embedding_hvg"} | OBS,
    "hf/counts": {"counts", "embedding_hvg"} | OBS,
    "hf/single": {"caption", "caption_2"} | SENTENCES,
    "hf/pairs": {"caption", "label"} | SENTENCES | OBS,
    "hf/multiplets": {"positive", "positive_2", "flag", "donor"} | SENTENCES | NEGATIVES,
    "mds/tokens": {"input_ids"} | OBS,
    "mds/json": {"input_ids"} | OBS,
    "mds/values": {"input_ids", "age"},
    "mds/tensors": {"counts", "donor"},
    "mds/counts": {"counts"} | OBS,
    "hdf5/counts": HDF5,
    "hdf5/dense": HDF5,
    "scdl/counts": {"counts"} | OBS,
    "geneformer/rank": {"input_ids", "length"} | OBS,
    "h5ad/cells": {"counts", "X_hvg"} | OBS,
    "zarr/counts": {"counts", "X_hvg"} | OBS,
    "packed/counts": {"counts"} | OBS,
}
CUT = ["hf/pairs", "mds/json", "mds/tensors", "hdf5/counts"]
CUT += ["h5ad/cells", "scdl/counts", "geneformer/rank", "zarr/counts", "packed/counts"]
PER_CELL = {"hf/pairs": 3}
"""Rows of a cell, where there are more than one."""


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
def copy(made: tuple[Path, Made], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy to damage: what exports are made from, and the exports that the test names as ``path``, or all."""
    folder, exports = tmp_path / "results" / "demo", {path.split("/")[0] for path in EXPORTS}
    params = getattr(request.node, "callspec", None)
    wanted = EXPORTS if params is None or "path" not in params.params else [params.params["path"]]
    shutil.copytree(made[0], folder, ignore=lambda at, _: exports if Path(at) == made[0] else [])
    for path in wanted:
        shutil.copytree(made[0] / path, folder / path)
    return folder


def sealed(export: Path) -> Path:
    """The export with a manifest that fits its files as they are now."""
    said = {k: v for k, v in manifest.read(export).items() if k not in ("files", "written_by")}
    (export / "manifest.json").unlink()
    manifest.write(export, said)
    return export


def checked(path: Path) -> Checked:
    (one,) = check(path)
    return one


def told(path: Path) -> list[str]:
    return list(checked(path).problems.lines())


def data_file(export: Path) -> Path:
    """The largest file of the training cells, where the data are."""
    files = (p for p in (export / "train").rglob("*") if p.is_file() and p.name != "zarr.json")
    return max(files, key=lambda p: p.stat().st_size)


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
    """And every kind of every format an export that is tested here."""
    from importlib.util import find_spec

    assert [f for f in Format.__args__ if find_spec(f"cellmill.checks.{f}") is None] == []
    assert set(Format.__args__) == set(CONTRACTS)
    kinds = {(path.split("/")[0], spec["kind"]) for path, spec in EXPORTS.items()}
    assert kinds == {(c.__module__.split(".")[-1], c.model_fields["kind"].default) for c in get_args(Export)}


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


DAMAGES = {"missing": "is missing", "cut": "bytes, expected", "foreign": "is not in the manifest", "a byte": "sha256"}


@pytest.mark.parametrize("path", EXPORTS)
def test_damaged_files_are_named(copy: Path, path: str, capsys: pytest.CaptureFixture[str]):
    """A file that is gone, one that is cut, one too many, a flipped byte: by name, with what to do, and exit 1."""
    export = copy / path
    file = data_file(export)
    whole = file.read_bytes()
    for damage, words in DAMAGES.items():
        content, foreign = bytearray(whole), file.with_name("foreign.txt")
        content[len(content) // 2] ^= 1
        file.write_bytes(content if damage == "a byte" else whole[: len(whole) // 2] if damage == "cut" else whole)
        if damage == "missing":
            file.unlink()
        elif damage == "foreign":
            foreign.write_text("?")
        assert main(["check", str(export), "--files-only"]) == 1
        said = capsys.readouterr().err
        line = next(line for line in said.splitlines() if words in line)
        name = foreign if damage == "foreign" else file
        assert name.relative_to(export).as_posix() in line
        assert f"Delete {export / 'manifest.json'} and run snakemake again" in said
        foreign.unlink(missing_ok=True)


@pytest.mark.parametrize("path", CUT)
def test_a_cut_file_under_a_manifest_that_fits_it_is_named(copy: Path, path: str):
    """Every reader says which file it cannot read, and none passes over it."""
    file = data_file(copy / path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    lines = told(sealed(copy / path))
    assert any(file.relative_to(copy / path).as_posix().startswith(line.split(": ")[0].split(",")[0]) for line in lines)


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


def value_to_change(path: str) -> tuple[str, str, Callable[[Any], Any]]:
    """A column of tokens, counts or text of the rows, its name in the export, and another value for it."""
    spec = parse_export(path, EXPORTS[path])
    if spec.with_counts:
        return "counts", "counts", lambda counts: [c + 1 for c in counts]
    if "sentence" in spec.tokenizers:
        return "tokens:sentence:cell_sentence_1", "cell_sentence_1", lambda _: "X"
    return f"tokens:{spec.tokenizers[0]}", "input_ids", lambda ids: [ids[0] + 1, *ids[1:]]


def obs_to_change(path: str) -> tuple[str, str, Any]:
    """An obs column, where it shows in the export, and another value for it."""
    if path in ("hf/single", "hf/multiplets"):
        return "cell_type", "caption" if path == "hf/single" else "positive", "X"
    if path in ("mds/values", "mds/tensors"):
        return ("age", "age", 1.5) if path == "mds/values" else ("donor", "donor", "z")
    return "cell_type", "obs/cell_type" if path.startswith("hdf5") else "cell_type", "X"


@pytest.mark.parametrize("path", EXPORTS)
def test_every_fault_of_cells_is_named(made: tuple[Path, Made], copy: Path, path: str):
    """Under a manifest that fits: cells swapped, under another id, twice, with another count or token, another obs."""
    column, shown, change = value_to_change(path)
    obs, obs_shown, other = obs_to_change(path)

    def tamper(table: pa.Table) -> pa.Table:
        order = np.arange(table.num_rows)
        order[[3, 9, 24]] = [9, 3, 23]
        table = with_value(table.take(pa.array(order)), "cell_id", 20, lambda _: "nobody")
        return with_value(with_value(table, column, 28, change), obs, 32, lambda _: other)

    lines = told(make_export(copy, made[1], path, tamper=tamper))
    ids, rows = ids_of(*made), PER_CELL.get(path, 1)
    assert f"row {rows * 4}, cell '{ids[4]}'" in next(line for line in lines if "stands behind" in line)
    for words in (
        f"row {20 * rows}, cell 'nobody': is no kept cell of the split 'train'",
        f"cell '{ids[20]}': is missing",
        f"row {24 * rows}, cell '{ids[23]}': stands there twice",
        f"cell '{ids[24]}': is missing",
        f"row {28 * rows}, cell '{ids[28]}', {shown}: ",
        f"row {32 * rows}, cell '{ids[32]}', {obs_shown}: ",
    ):
        assert any("train/" in line and words in line for line in lines), words


@pytest.mark.parametrize("path", EXACT)
def test_two_swapped_cells_are_named(made: tuple[Path, Made], copy: Path, path: str):
    """A manifest that fits the files does not hide it."""
    export = make_export(copy, made[1], path, tamper=swap)
    ids = ids_of(*made)
    lines = told(export)
    assert lines and all("stands behind a cell that should come after it" in line for line in lines)
    assert f"row 4, cell '{ids[4]}'" in lines[0] and len(lines) == 2


@pytest.mark.parametrize("path", ["mds/tensors", "packed/counts", "scdl/counts"])
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
    [("hf/cells", "flag"), ("mds/tokens", "age"), ("mds/counts", "flag"), ("packed/counts", "age")],
)
def test_one_changed_obs_value_is_named(made: tuple[Path, Made], copy: Path, path: str, column: str):
    """Numbers and truth values; a missing one too."""
    other = {"age": 1.5, "flag": None}[column]
    (line,) = told(make_export(copy, made[1], path, tamper=lambda t: with_value(t, column, 7, lambda _: other)))
    assert f"cell '{ids_of(*made)[7]}', {column}: found" in line and "expected" in line


@pytest.mark.parametrize(
    ("path", "column", "change"),
    [
        ("mds/tokens", "tokens:rank", lambda ids: ids[:-1]),
        ("mds/values", "tokens:log", lambda ids: ids[::-1]),
        ("geneformer/rank", "tokens:rank", lambda ids: [*ids[:1], ids[2], ids[1], *ids[3:]]),
        ("hf/counts", "embedding:hvg", lambda v: [v[0] + 1e-3, *v[1:]]),
        ("h5ad/cells", "embedding:hvg", lambda v: [v[0] + 1e-3, *v[1:]]),
        ("zarr/counts", "embedding:hvg", lambda v: [v[0] + 1e-3, *v[1:]]),
        ("hf/single", "donor", lambda _: "z"),
    ],
)
def test_one_changed_value_is_named(
    made: tuple[Path, Made], copy: Path, path: str, column: str, change: Callable[[list], list]
):
    """Tokens, embeddings and captions."""
    lines = told(make_export(copy, made[1], path, tamper=lambda t: with_value(t, column, 7, change)))
    assert lines and all(f"row 7, cell '{ids_of(*made)[7]}'" in line and "expected" in line for line in lines)


@pytest.mark.parametrize("path", EXACT)
def test_a_cell_under_another_id_is_missing_and_too_much(made: tuple[Path, Made], copy: Path, path: str):
    """Both are told."""
    export = make_export(copy, made[1], path, tamper=lambda t: with_value(t, "cell_id", 7, lambda _: "nobody"))
    lines = "\n".join(told(export))
    assert f"cell '{ids_of(*made)[7]}': is missing" in lines
    assert "cell 'nobody': is no kept cell of the split 'train'" in lines


@pytest.mark.parametrize("path", EXACT)
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
    cells = pq.read_metadata(file).num_rows
    file.unlink()
    found = checked(copy / "hf/cells")
    lines = list(found.problems.lines())
    assert any(f"train/{file.name}: is missing" in line for line in lines)
    assert sum("is missing; it is a kept cell" in line for line in lines) == SHOWN
    assert any(f"and {cells - SHOWN} more: cells of train that are missing" in line for line in lines)
    assert any("train/: has" in line for line in lines) and not any("another" in line for line in lines)


@pytest.mark.parametrize("path", ["hdf5/counts", "scdl/counts"])
def test_another_list_of_genes_is_told(made: tuple[Path, Made], copy: Path, path: str):
    """The gene and its place."""
    export = copy / path
    if path.startswith("hdf5"):
        with h5py.File(export / "train" / "batch_0000.h5", "r+") as file:
            file["genes"][4] = b"other"
    else:
        table = export / "train" / "var_features" / "dataframe_0.parquet"
        pq.write_table(with_value(pq.read_table(table), "gene_id", 4, lambda _: "other"), table)
    (line,) = told(sealed(export))
    assert "gene 4 is 'other', expected 'ENSG" in line


def test_a_missing_column_is_told(made: tuple[Path, Made], copy: Path):
    """An obs column that the export was asked for."""
    export = copy / "hf/cells"
    for file in export.glob("*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("age"), file)
    assert {line for line in told(sealed(export))} == {
        f"{s}/: there is no column 'age'" for s in ("train", "val", "test")
    }


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
    export = copy / "hf/multiplets"
    file = export / "train" / "00000.parquet"
    table = pq.read_table(file)
    row = {"cell_id": table["sample_idx"][7].as_py(), "negative_1_idx": table["negative_1_idx"][7].as_py()}
    pq.write_table(with_value(table, column, 7, lambda _: change(row)), file)
    lines = told(sealed(export))
    assert any(words in line and f"row 7, cell '{row['cell_id']}', {column}" in line for line in lines)


@pytest.mark.parametrize(
    ("own", "words"),
    [(False, "is the batch of fewer than 1 of its negatives"), (True, "is the batch of all but fewer than 1 of its")],
)
def test_shares_of_negatives_that_are_not_kept_are_named(copy: Path, own: bool, words: str):
    """A cell whose negatives are all of other batches, or all of its own."""
    file = copy / "hf/multiplets" / "train" / "00000.parquet"
    table = pq.read_table(file)
    donors, ids = table["donor"].to_pylist(), table["sample_idx"].to_pylist()
    others = [i for i, donor in enumerate(donors) if i != 7 and (donor == donors[7]) == own][:4]
    for k, other in enumerate(others, start=1):
        table = with_value(table, f"negative_{k}_idx", 7, lambda _, o=other: ids[o])
    pq.write_table(table, file)
    lines = told(sealed(copy / "hf/multiplets"))
    assert [line for line in lines if words in line and f"row 7, cell '{ids[7]}', donor" in line], lines
    assert len([line for line in lines if "of its negatives" in line]) == 1


@pytest.mark.parametrize(
    ("path", "row", "column", "value", "words"),
    [
        ("hf/pairs", 22, "label", 1.0, "row 22 is cell '{7}' with label 1.0, expected cell '{7}' with label 0.0"),
        ("hf/pairs", 22, "sample_idx", "nobody", "row 22 is cell 'nobody' with label 0.0, expected cell '{7}'"),
        ("hf/pairs", 22, "caption", "X", "row 22, cell '{7}', caption: 'X' is the caption of no cell of this split"),
        ("hf/pairs", 22, "caption", None, "row 22, cell '{7}', caption: '{own}' is the caption of the cell itself"),
        ("hf/pairs", 22, "cell_sentence_2", "X", "row 22, cell '{7}', cell_sentence_2: 'X' is not what the row of"),
        ("hf/pairs", 22, "cell_type", 0, "row 22, cell '{7}', cell_type: "),
        ("hf/counts", 7, "donor", 9, "train/00000.parquet: not readable behind row 0"),
        ("hf/cells", 7, "cell_type", 0, "row 7, cell '{7}', cell_type: found 'B', expected "),
    ],
)
def test_wrong_rows_of_parquet_files_are_named(
    made: tuple[Path, Made], copy: Path, path: str, row: int, column: str, value: Any, words: str
):
    """Pairs: rows of a cell out of order, captions from nowhere; codes that are no class, or another."""
    file = copy / path / "train" / "00000.parquet"
    table = pq.read_table(file)
    ids, at = ids_of(*made), 3 * (row // 3) if path == "hf/pairs" else row
    own = table["caption"][at].as_py() if "caption" in table.column_names else ""
    if column == "cell_type":
        value = next(c for c in (0, 1, 2) if c != table[column][at].as_py())
        words = words.replace("'B'", f"'{['B', 'NK', 'T'][value]}'")
    pq.write_table(with_value(table, column, row, lambda _: own if value is None else value), file)
    words = words.replace("{7}", ids[7]).replace("{own}", own)
    assert any(words in line for line in told(sealed(copy / path)))


class Bomb:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("path", "file"),
    [("geneformer/rank", "train/lengths.pkl"), ("geneformer/rank", "token_dictionary.pkl")],
)
def test_pickles_are_never_loaded(copy: Path, tmp_path: Path, path: str, file: str):
    """One that would run code is told, and runs none."""
    import pickle

    (copy / path / file).write_bytes(pickle.dumps(Bomb(tmp_path / "loaded")))
    (line,) = told(sealed(copy / path))
    assert line.startswith(f"{file}: ") and not (tmp_path / "loaded").exists()


@pytest.mark.parametrize("path", ["mds/tensors"])
def test_tensors_are_read_by_the_bytes_around_their_values(copy: Path, path: str):
    """Whatever else a pickle says is told, and not loaded."""
    folder = copy / path / "train"
    index = json.loads((folder / "index.json").read_text())
    (shard,) = index["shards"]
    packed, raw = folder / shard["zip_data"]["basename"], shard["raw_data"]["basename"]
    content = bytearray(pa.Codec("zstd").decompress(packed.read_bytes(), shard["raw_data"]["bytes"], asbytes=True))
    at = content.index(b"_rebuild_tensor_v2")
    content[at : at + 18] = b"_rebuild_tensor_v3"
    packed.unlink()
    (folder / raw).write_bytes(content)
    shard |= {"zip_data": None, "compression": None, "raw_data": shard["raw_data"] | {"hashes": {}}}
    (folder / "index.json").write_text(json.dumps(index))
    lines = told(sealed(copy / path))
    assert any(f"train/{raw}: not readable (a pickle is not that of a tensor" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "file", "change", "words"),
    [
        (
            "geneformer/rank",
            "train/lengths.pkl",
            lambda b: b[:9] + bytes([b[9] ^ 1]) + b[10:],
            "train/lengths.pkl: is not the list of the lengths of the cells",
        ),
        (
            "geneformer/rank",
            "vocabulary.json",
            lambda b: b.replace(b": 7", b": 70"),
            "token_dictionary.pkl: token 'ENSG",
        ),
        ("geneformer/rank", "dataset_dict.json", lambda b: b.replace(b"val", b"xxx"), "dataset_dict.json: names ["),
        (
            "mds/counts",
            "genes.json",
            lambda b: b.replace(b"ENSG00000000004", b"other"),
            "genes.json: gene 4 is 'other'",
        ),
        (
            "hdf5/counts",
            "metadata/cells.json",
            lambda b: b.replace(b"null", b"1", 1),
            "metadata/cells.json: does not say what the batches hold",
        ),
        (
            "hdf5/counts",
            "metadata/experiments.json",
            lambda b: re.sub(rb'"n_cells": \d+', b'"n_cells": 1', b, count=1),
            "metadata/experiments.json, 'x': found 1 cells, the batches have",
        ),
        (
            "hdf5/dense",
            "config.json",
            lambda b: re.sub(rb'"n_batches": \d+', b'"n_batches": 77', b),
            "config.json, n_batches: found 77, expected 3",
        ),
        (
            "hdf5/dense",
            "hvg_info.json",
            lambda b: b.replace(b'"hvg_indices": [', b'"hvg_indices": [77, '),
            "hvg_info.json, hvg_indices: value 0 is 77, expected",
        ),
        (
            "zarr/counts",
            "train/zarr.json",
            lambda b: b.replace(b"preshuffled", b"other"),
            "train/zarr.json: has the attributes",
        ),
        (
            "zarr/counts",
            "train/dataset_0/zarr.json",
            lambda b: b.replace(b'"uint8"', b'"uint16"'),
            "train/dataset_0/zarr.json: says other things of 'X/data'",
        ),
    ],
)
def test_what_stands_beside_the_cells_is_compared(
    copy: Path, path: str, file: str, change: Callable[[bytes], bytes], words: str
):
    """Each file, by name."""
    there = copy / path / file
    before = there.read_bytes()
    there.write_bytes(change(before))
    assert there.read_bytes() != before
    assert any(words in line for line in told(sealed(copy / path)))


@pytest.mark.parametrize(("path", "gone"), [("zarr/counts", "X/data/c"), ("zarr/counts", "X/indices/c")])
def test_chunks_that_are_gone_are_told(copy: Path, path: str, gone: str):
    """zarr would read them as zeros."""
    shutil.rmtree(copy / path / "train" / "dataset_1" / gone)
    lines = told(sealed(copy / path))
    assert any("train/dataset_1: " in line and "chunks" in line for line in lines)


@pytest.mark.parametrize("path", ["packed/counts"])
def test_a_damaged_record_is_named(copy: Path, path: str):
    """By its file and row."""
    file = copy / path / "train" / "00001.cells"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    lines = told(sealed(copy / path))
    assert any(re.match(r"train/00001\.cells: the record of row 15\d is damaged", line) for line in lines), lines


@pytest.mark.parametrize("path", ["hdf5/counts"])
def test_the_second_name_of_the_counts_is_looked_at(copy: Path, path: str):
    """``X`` must be ``expression``."""
    with h5py.File(copy / path / "train" / "batch_0000.h5", "r+") as file:
        del file["X"]
        file["X"] = np.zeros(3)
    assert any("'X' is not 'expression' under another name" in line for line in told(sealed(copy / path)))


def test_caches_of_datasets_are_no_foreign_files(copy: Path):
    """`datasets` writes them into folders that it loaded."""
    (copy / "geneformer/rank/train/cache-0123456789abcdef.arrow").write_bytes(b"?")
    assert told(copy / "geneformer/rank") == []


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
    assert main(["check", str(made[0]), "--files-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * (1 + len(TOKENIZERS) + 1) + len(EXPORTS)
    assert sum("aligned with processed/" in line for line in lines) == 3 * (len(TOKENIZERS) + 1)


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
