"""Geneformer exports, read back with `datasets` and used as Geneformer uses them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from cellmill.contracts import manifest
from cellmill.errors import CellmillError
from cellmill.exports import geneformer
from cellmill.exports.geneformer import GeneformerTokens
from cellmill.exports.given import Given

from .export_rows import Rows, digests, make_rows, new_folder

OBS = ["donor", "age", "umis", "control"]
TOKENS = {"<pad>": 0, "<mask>": 1, "b": 3, "ä": 2}


def written(out: Path, rows: Rows, batches: Any = None, **options: Any) -> dict[str, Any]:
    spec = GeneformerTokens(**options)
    return geneformer.write(Given(new_folder(out), rows.header, batches or rows.batches(16), vocabulary=TOKENS), spec)


def expected(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    return [
        {"input_ids": row["tokens:rank"], "length": len(row["tokens:rank"]), "cell_id": row["cell_id"]}
        | {c: row[c] for c in columns}
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize("cells_per_file", [100_000, 32, 7])
def test_datasets_reads_every_cell_as_it_was(tmp_path: Path, cells_per_file: int) -> None:
    """The whole as a DatasetDict, in order, missing values and a cell without tokens included."""
    rows = make_rows()
    said = written(tmp_path / "out", rows, cells_per_file=cells_per_file)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert list(loaded) == ["train", "test"]
    for split, table in rows.tables.items():
        assert loaded[split].to_list() == expected(table, OBS)
        assert loaded[split].column_names == ["input_ids", "length", "cell_id", *OBS]
        sizes = [f["cells"] for f in said["splits"][split]["files"]]
        assert sum(sizes) == table.num_rows and set(sizes[:-1]) <= {cells_per_file}


def test_a_split_is_a_dataset_of_its_own(tmp_path: Path) -> None:
    """Geneformer takes one folder; a shard alone opens, too."""
    rows = make_rows()
    written(tmp_path / "out", rows, columns=["donor"])
    one = datasets.load_from_disk(str(tmp_path / "out" / "test"))
    assert isinstance(one, datasets.Dataset) and str(one.split) == "test"
    assert one.to_list() == expected(rows.tables["test"], ["donor"])
    assert one.features["input_ids"] == datasets.List(datasets.Value("int32"))
    shard = datasets.Dataset.from_file(str(tmp_path / "out" / "test" / "data-00000-of-00001.arrow"))
    assert shard.features == one.features


def test_it_is_what_datasets_saves_itself(tmp_path: Path) -> None:
    """The same files, the same Arrow tables, the same keys in what stands beside them."""
    import json

    rows = make_rows()
    written(tmp_path / "out", rows, cells_per_file=40)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    loaded.save_to_disk(str(tmp_path / "again"), num_shards={"train": 2, "test": 1})
    ours, theirs = ({n for n in digests(tmp_path / f)} for f in ("out", "again"))
    extra = {"vocabulary.json", "token_dictionary.pkl", "train/lengths.pkl", "test/lengths.pkl"}
    assert ours == theirs | extra
    for name in sorted(theirs):
        if name.endswith(".arrow"):
            tables = [pa.ipc.open_stream(pa.OSFile(str(tmp_path / f / name))).read_all() for f in ("out", "again")]
            assert tables[0].schema.equals(tables[1].schema, check_metadata=False)
        else:
            said = [json.loads((tmp_path / f / name).read_text()) for f in ("out", "again")]
            assert set(said[0]) == set(said[1])
            assert said[0].get("_data_files") == said[1].get("_data_files")


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")  # of datasets itself
def test_geneformers_embedding_extractor_finds_what_it_asks_for(tmp_path: Path) -> None:
    """Its steps: filter by a column, shuffle by seed, select, sort by length, tensors, padded to the longest."""
    torch = pytest.importorskip("torch")
    rows = make_rows({"train": 300}, missing=False)
    written(tmp_path / "out", rows)
    data = datasets.load_from_disk(str(tmp_path / "out" / "train"))
    donors = sorted(set(data["donor"]))[:2]
    kept = data.filter(lambda cell: cell["donor"] in donors)
    drawn = kept.shuffle(seed=42).select(range(50)).sort("length", reverse=True)
    batch = drawn.select(range(10))
    longest, lengths = max(batch["length"]), torch.tensor(batch["length"])
    batch = batch.with_format("torch")
    tensors = list(batch["input_ids"])
    padded = torch.stack([torch.nn.functional.pad(t, (0, longest - len(t))) for t in tensors])
    assert padded.shape == (10, longest) and padded.dtype == torch.int64
    assert (lengths == torch.tensor([len(t) for t in tensors])).all() and lengths[0] == longest
    there = {row["cell_id"]: row for row in rows.tables["train"].to_pylist()}
    for cell, tokens in zip(drawn.select(range(10)), padded, strict=True):
        assert tokens[: cell["length"]].tolist() == there[cell["cell_id"]]["tokens:rank"]
        assert cell["donor"] in donors


def test_geneformers_trainer_finds_its_lengths_and_its_dictionary(tmp_path: Path) -> None:
    """Both are pickles that hold plain values: a list in the order of the cells, and tokens by rising id."""
    rows = make_rows({"train": 2_500, "test": 1}, tokens=400)
    written(tmp_path / "out", rows, cells_per_file=1_200)
    for split in rows.tables:
        with open(tmp_path / "out" / split / "lengths.pkl", "rb") as stream:
            lengths = pickle.load(stream)
        data = datasets.load_from_disk(str(tmp_path / "out" / split))
        assert type(lengths) is list and lengths == list(data["length"])
    dictionary = pickle.loads((tmp_path / "out" / "token_dictionary.pkl").read_bytes())
    assert dictionary == TOKENS and list(dictionary.values()) == [0, 1, 2, 3]


def test_bytes_do_not_depend_on_batches(tmp_path: Path) -> None:
    """Whatever the cuts, also slices of one batch whose buffers begin elsewhere."""
    rows = make_rows({"train": 2_300, "test": 23})
    cuts = [rows.batches(1_000), rows.batches(7, 501, 1), rows.sliced(13), rows.sliced(2_301)]
    for i, batches in enumerate(cuts):
        written(tmp_path / str(i), rows, batches, cells_per_file=1_111)
    found = [digests(tmp_path / str(i)) for i in range(len(cuts))]
    assert all(f == found[0] for f in found)


def test_another_content_has_another_fingerprint(tmp_path: Path) -> None:
    """`datasets` finds its caches by it: the same for the same cells, another for others."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(tmp_path / name, make_rows(seed=seed))
    prints = [datasets.load_from_disk(str(tmp_path / n / "train"))._fingerprint for n in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_caches_of_datasets_are_no_damage(tmp_path: Path) -> None:
    """Who filters the export writes into its folder; `cellmill check` looks past that, and at nothing else."""
    out = tmp_path / "out"
    written(out, make_rows())
    manifest.write(out, {"contract": "geneformer 1", "export": "geneformer/out"})
    data = datasets.load_from_disk(str(out / "train"), keep_in_memory=False)
    data.filter(lambda cell: cell["length"] > 3)
    assert list((out / "train").glob("cache-*.arrow"))
    manifest.verify(out)
    (out / "train" / "more.arrow").write_bytes(b"")
    with pytest.raises(CellmillError, match=r"train/more.arrow is not in the manifest"):
        manifest.verify(out)


def test_a_column_that_is_written_anyway_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    rows = make_rows()
    with pytest.raises(CellmillError, match=r"writes 'length' itself"):
        obs = rows.header.obs.append(pa.field("length", pa.int64()))
        header = type(rows.header)(**{**rows.header.__dict__, "obs": obs})
        geneformer.write(Given(new_folder(tmp_path / "out"), header, rows.batches(16)), GeneformerTokens())


@pytest.mark.parametrize("name", ["placenta_ensembl_220.V1", "placenta_ensembl_220.V2", "pbmc68k_recovered_700.V2"])
def test_published_datasets_have_the_same_columns(shared_data: Path, tmp_path: Path, name: str) -> None:
    """What the published tokenizer wrote, exported: the same ids and lengths, under the same names."""
    import pyarrow.parquet as pq

    golden = pq.read_table(shared_data / "geneformer" / "golden" / f"{name}.parquet")
    rows = make_rows({"train": golden.num_rows}, missing=False)
    ids = golden["input_ids"].cast(pa.large_list(pa.uint16()))
    table = rows.tables["train"].set_column(3, "tokens:rank", ids)
    written(tmp_path / "out", Rows(rows.header, {"train": table}))
    loaded = datasets.load_from_disk(str(tmp_path / "out" / "train"))
    assert list(loaded["input_ids"]) == golden["input_ids"].to_pylist()
    assert np.array_equal(loaded["length"], golden["length"].to_numpy())
    assert {"input_ids", "length"} < set(golden.column_names)
