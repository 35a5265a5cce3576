"""Every file of cellmill: read back as it was written, refused where it is something else."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from cellmill.contracts import (
    doublets,
    embedding,
    flat_vocabulary,
    genes,
    judged,
    ledger,
    manifest,
    obs,
    parquet,
    plan,
    profiles,
    published,
    quality,
    scvi,
    splits,
    subset,
    tokens,
    versions,
    vocabulary,
)
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.row_groups import encode_rows
from cellmill.contracts.versions import Contract
from cellmill.embedders import components
from cellmill.errors import CellmillError
from cellmill.genes.identifiers import PartGenes
from cellmill.matrix.writer import H5adWriter
from cellmill.quality.names import METRICS

GENE_TABLE = pa.table({"gene_id": ["a", "b"], "gene_symbol": pa.array(["A", None], pa.string())})
GENE_CELLS = pa.table({"gene_id": ["a", "b"], "cells": [0, 7]})
ARRAYS = {"sums": np.arange(6).reshape(2, 3), "n": np.array([7])}
VOCABULARY = vocabulary.Vocabulary(
    {"<pad>": 0, "a": 1, "ü": 2}, np.array([1, -1], np.int32), np.array([0.5, np.nan]), (0,), (2, 1)
)

SCORES = [judged.Score("clisi", "type", None, 7, 0.25), judged.Score("kbet", None, "donor", 3, None, "too few")]
OBS, FOUND = pa.table({"age": pa.array([1, None, 3], pa.int64())}), pd.DataFrame(index=list("abc"))

PLAN = [
    plan.Member("0000", "a", "gs://b/a.h5ad", 3, 70, "crc32c:4waSgw==", None, {"tissue": "lung", "disease": None}),
    plan.Member("0001", "b", "data/b.h5ad", rows=(0, 9), about={"tissue": None, "disease": "none\tof these"}),
]


def quality_rows() -> pa.RecordBatch:
    columns = {"cell_id": ["x", "y"], "batch": ["p", "q"]} | {m: [1, 2] for m in METRICS}
    columns |= {"content_1": [2**64 - 1, 0], "content_2": [3, 4]}
    return pa.RecordBatch.from_pydict(columns, schema=quality.QUALITY_SCHEMA)


def cells() -> pa.Table:
    columns = {"cell_id": ["x", "y"], "batch": ["p", "q"], "outcome": ["kept", "min_counts"], "split": ["train", None]}
    return pa.table(columns, schema=quality.CELLS_SCHEMA)


def labels() -> pa.Table:
    columns = {"filter": [None, "filter a"], "group": ["g", "h"], "stratum": [None, None], "category": ["T", None]}
    return pa.table(columns, schema=quality.LABELS_SCHEMA)


def scored() -> pa.Table:
    columns = {"part": ["p", "p", "q"], "row": [1, 4, 0], "cell_id": ["x", "y", "z"], "batch": ["a", "b", "a"]}
    columns |= {"doublet_score": [0.1, 0.9, 0.2], "predicted_doublet": [False, True, False]}
    return pa.table(columns, schema=doublets.DOUBLETS_SCHEMA)


def of_parts(path: Path) -> Any:
    """What is read of a part of five cells, of another, and of one without scores."""
    found = doublets.DoubletScores([path])
    said = [found.of(part, 5) for part in ("p", "q", "r")]
    return [np.nan_to_num(scores, nan=-1).tolist() for scores, _ in said], [p.tolist() for _, p in said], found.batches


def twins() -> pa.RecordBatch:
    columns = {"part": ["p", "q"], "row": [0, 3], "content_1": [2**64 - 1] * 2, "content_2": [1, 1]}
    return pa.RecordBatch.from_pydict(columns | {"first": [True, False]}, schema=splits.DUPLICATES_SCHEMA)


def decided() -> pa.Table:
    columns = {"role": ["stratum", "cell"], "value": ["", "x"], "cells": [9, 1], "split": [None, "train"]}
    return pa.table(columns | {"edges": [[5, 2**64 - 1], None]}, schema=splits.SPLITS_SCHEMA)


def drawn() -> pa.Table:
    columns = {"part": ["p", "p"], "stratum": [["T", None], []], "found": [9, 5], "passed": [8, 5], "drawn": [2, 0]}
    return pa.table(columns | {"last": [2**64 - 1, None]}, schema=subset.SUBSET_SCHEMA)


def accounts() -> pa.Table:
    columns = {"part": ["p", "p"], "batch": ["a", "a"], "outcome": ["kept", "min_counts"], "split": ["train", None]}
    return pa.table(columns | {"cells": [3, 4]}, schema=ledger.LEDGER_SCHEMA)


IDS = tokens.list_field("input_ids", np.dtype(np.uint16))


def token_rows() -> pa.RecordBatch:
    columns = {"cell_id": ["x", "y"], "left_out": [False, True], "input_ids": [[3, 1], []]}
    return pa.RecordBatch.from_pydict(columns, schema=tokens.schema([IDS]))


def write_counts(path: Path) -> None:
    writer = H5adWriter(path, n_genes=2, dtype=np.dtype(np.uint8))
    writer.append(sp.csr_matrix(np.array([[1, 0], [2, 3]], np.uint32)))
    obs = pd.DataFrame({"split": pd.Categorical(["train", "test"])}, index=pd.Index(["x", "y"], name="cell_id"))
    var = pd.DataFrame({"gene_symbol": ["A", ""]}, index=pd.Index(["a", "b"], name="gene_id"))
    writer.close(obs=obs, var=var, uns={"cellmill": json.dumps({"contract": str(versions.COUNTS), "cells": 2})})


def read_counts(path: Path) -> Any:
    with CountsPart(path) as part:
        return part.facts["cells"], part.rows(0, 2).toarray().tolist(), part.obs.index.tolist(), part.var.index.tolist()


def read_tokens(path: Path) -> Any:
    with tokens.TokensPart(path) as part:
        return part.n_cells, part.facts["tokenizer"], part.rows(0, 2).to_pylist()


def plain(vocabulary_: vocabulary.Vocabulary) -> Any:
    ids, medians = vocabulary_.token_ids, vocabulary_.medians
    return vocabulary_.tokens, ids.tolist(), medians[:1].tolist(), vocabulary_.prefix, vocabulary_.suffix


@dataclass(frozen=True)
class Case:
    """How a contract is written and read, and what is read then."""

    contract: Contract
    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    expected: Any


def write_profiles(path: Path, contract: Contract) -> None:
    x, obs, var = (
        sp.csr_matrix(np.eye(2, dtype=np.uint16)),
        pd.DataFrame(index=["p", "q"]),
        pd.DataFrame(index=["a", "b"]),
    )
    profiles.write_rows(path, [x], obs=obs, var=var, dtype=x.dtype, facts={"profiles": 2}, contract=contract)


def arrays(contract: Contract) -> Case:
    return Case(
        contract,
        "x.npz",
        lambda path: genes.write_arrays(path, ARRAYS, str(contract)),
        lambda path: {k: v.tolist() for k, v in genes.read_arrays(path, contract).items()},
        {k: v.tolist() for k, v in ARRAYS.items()},
    )


CASES = [
    *(
        Case(
            contract,
            "x.h5ad",
            lambda path, contract=contract: write_profiles(path, contract),
            lambda path, contract=contract: profiles.read_facts(path, contract)["profiles"],
            2,
        )
        for contract in (versions.GROUP_SUMS, versions.PSEUDOBULK)
    ),
    Case(
        versions.ENRICHED,
        "x.parquet",
        lambda path: parquet.write(path, OBS, versions.ENRICHED, {"found": 3}),
        lambda path: parquet.read(path, versions.ENRICHED)[1]["found"],
        3,
    ),
    Case(
        versions.OBS,
        "x.parquet",
        lambda path: obs.write_obs(path, OBS, {"cells": 3, "missing": {"donor": 1}, "joins": []}),
        lambda path: (
            obs.read_facts(path)["missing"],
            obs.laid_over(FOUND, path, where=path).fillna(-1).values.tolist(),
        ),
        ({"donor": 1}, [[1], [-1], [3]]),
    ),
    Case(
        versions.SUBSET,
        "x.parquet",
        lambda path: subset.write_subset(path, drawn(), {"found": 14}),
        lambda path: (subset.read_subset(path)[0].to_pylist(), subset.read_subset(path)[1]["found"]),
        (drawn().to_pylist(), 14),
    ),
    Case(
        versions.PUBLISHED,
        "x.json",
        lambda path: published.write_export(path, {"repo": "lab/demo", "commit": "0" * 40}),
        lambda path: published.read_export(path)["repo"],
        "lab/demo",
    ),
    Case(
        versions.QUALITY,
        "x.parquet",
        lambda path: quality.write_quality(path, [quality_rows()], {"counts": "X"}),
        lambda path: (quality.read_quality(path)[0].to_pylist(), quality.read_quality(path)[1]["counts"]),
        (quality_rows().to_pylist(), "X"),
    ),
    Case(
        versions.LABELS,
        "x.parquet",
        lambda path: quality.write_labels(path, labels(), {"cells": 2}),
        lambda path: (quality.read_labels(path)[0].to_pylist(), quality.read_labels(path)[1]["cells"]),
        (labels().to_pylist(), 2),
    ),
    Case(
        versions.DOUBLETS,
        "x.parquet",
        lambda path: doublets.write_doublets(path, scored(), {"b": {"cells": 1}, "a": {"cells": 2}}),
        lambda path: (doublets.read_doublets(path)[0].to_pylist(), *of_parts(path)),
        (
            scored().to_pylist(),
            [[-1, 0.1, -1, -1, 0.9], [0.2, -1, -1, -1, -1], [-1] * 5],
            [[False] * 4 + [True], [False] * 5, [False] * 5],
            {"a": {"cells": 2}, "b": {"cells": 1}},
        ),
    ),
    Case(
        versions.DUPLICATES,
        "x.parquet",
        lambda path: splits.write_duplicates(path, [twins()], {"cells": 2}),
        lambda path: (splits.read_duplicates(path, "p")[0].to_pylist(), splits.read_duplicates(path)[1]["cells"]),
        (twins().to_pylist()[:1], 2),
    ),
    Case(
        versions.SPLITS,
        "x.parquet",
        lambda path: splits.write_splits(path, decided(), {"rare": {}}),
        lambda path: (splits.read_splits(path)[0].to_pylist(), splits.read_splits(path)[1]["rare"]),
        (decided().to_pylist(), {}),
    ),
    Case(
        versions.LEDGER,
        "x.parquet",
        lambda path: ledger.write_ledger(path, accounts(), {"groups": None}),
        lambda path: (ledger.read_ledger(path)[0].to_pylist(), ledger.read_ledger(path)[1]["groups"]),
        (accounts().to_pylist(), None),
    ),
    Case(
        versions.PART_GENES,
        "x.parquet",
        lambda path: genes.write_part_genes(path, PartGenes(np.array(["b", "a"]), np.array(["B", None]), "index")),
        lambda path: [genes.read_part_genes(path).gene_ids.tolist(), genes.read_part_genes(path).gene_symbols.tolist()],
        [["b", "a"], ["B", None]],
    ),
    Case(
        versions.THRESHOLDS,
        "x.json",
        lambda path: quality.write_thresholds(path, {"cells": 3}),
        lambda path: quality.read_thresholds(path)["cells"],
        3,
    ),
    Case(
        versions.GENE_SPACE,
        "x.parquet",
        lambda path: genes.write_space(path, GENE_TABLE, {"genes": 2}),
        lambda path: genes.read_space(path).to_dict("list"),
        {"gene_id": ["a", "b"], "gene_symbol": ["A", None]},
    ),
    Case(
        versions.GENE_MAPPING,
        "x.parquet",
        lambda path: genes.write_mapping(path, GENE_TABLE, {"names": 2}),
        lambda path: (genes.read_mapping(path)[0]["gene_id"].tolist(), genes.read_mapping(path)[1]["names"]),
        (["a", "b"], 2),
    ),
    Case(
        versions.GENE_CELLS,
        "x.parquet",
        lambda path: genes.write_gene_cells(path, GENE_CELLS, {"part": "p"}),
        lambda path: genes.read_gene_cells(path).to_dict("list"),
        GENE_CELLS.to_pydict(),
    ),
    Case(versions.COUNTS, "x.h5ad", write_counts, read_counts, (2, [[1, 0], [2, 3]], ["x", "y"], ["a", "b"])),
    Case(
        versions.CELLS,
        "x.parquet",
        lambda path: quality.write_cells(path, cells(), {"part": "0"}),
        lambda path: quality.read_cells(path)[0].to_pylist(),
        cells().to_pylist(),
    ),
    arrays(versions.GENE_SUMS),
    arrays(versions.GENE_CLIP),
    arrays(versions.CLIPPED_SUMS),
    Case(
        versions.GENES,
        "x.parquet",
        lambda path: genes.write_genes(path, GENE_TABLE, {"train_cells": 5}),
        lambda path: (genes.read_genes(path)[0]["gene_id"].tolist(), genes.read_genes(path)[1]["train_cells"]),
        (["a", "b"], 5),
    ),
    Case(
        versions.FLAT_VOCABULARY,
        "x.parquet",
        lambda path: flat_vocabulary.write(path, {"<pad>": 0, "ü": 1}, {"made_by": "a test"}, force=False),
        flat_vocabulary.read,
        {"<pad>": 0, "ü": 1},
    ),
    Case(
        versions.VOCABULARY,
        "x.parquet",
        lambda path: vocabulary.write(path.with_suffix(".json"), path, VOCABULARY, np.array(["a", "b"])),
        lambda path: plain(vocabulary.read(path.with_suffix(".json"), path)),
        plain(VOCABULARY),
    ),
    Case(
        versions.TOKENS,
        "x.parquet",
        lambda path: tokens.write(path, [IDS], [encode_rows(token_rows().columns)], {"tokenizer": "rank"}),
        read_tokens,
        (2, "rank", token_rows().to_pylist()),
    ),
    arrays(versions.COVARIANCE),
    arrays(versions.PCA),
    Case(
        versions.EMBEDDING,
        "x.npy",
        lambda path: embedding.write(path, path.with_suffix(".json"), [np.eye(2, 3)], shape=(2, 3), facts={}),
        lambda path: embedding.read(path).tolist(),
        np.eye(2, 3).tolist(),
    ),
    Case(
        versions.JUDGED,
        "x.json",
        lambda path: judged.write(path, SCORES, {"embedder": "pca"}),
        judged.read,
        (SCORES, {"embedder": "pca"}),
    ),
    Case(
        versions.PLAN,
        "plan.tsv",
        lambda path: plan.write_plan(path, PLAN, {"kind": "files"}),
        lambda path: plan.read_plan(path).members,
        PLAN,
    ),
    *(
        Case(
            contract,
            contract.name,
            lambda path, c=contract: (path.mkdir(), scvi.write_manifest(path / scvi.MANIFEST, c, {"cells": 3}))[0],
            lambda path, c=contract: scvi.read_manifest(path, c)["cells"],
            3,
        )
        for contract in (versions.TRAINING, versions.SCVI)
    ),
    *(
        Case(
            contract,
            format_,
            lambda path, f=format_, c=contract: (
                path.mkdir(),
                manifest.write(path, {"contract": str(c), "export": f"{f}/x"}),
            )[0],
            lambda path: manifest.read(path)["export"],
            f"{format_}/x",
        )
        for format_, contract in manifest.CONTRACTS.items()
    ),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda c: c.contract.name)


def restate(path: Path, contract: str | None) -> None:
    """Make the file say that it is of another contract, or of none."""
    if path.is_dir() or path.suffix in (".json", ".npy"):
        file = path / manifest.NAME if path.is_dir() else path.with_suffix(".json")
        said = {k: v for k, v in json.loads(file.read_text()).items() if k != "contract"}
        file.write_text(json.dumps(said | ({"contract": contract} if contract else {})))
    elif path.suffix == ".tsv":
        first, rest = path.read_text().split("\n", 1)
        said = {k: v for k, v in json.loads(first[2:]).items() if k != "contract"}
        path.write_text(f"# {json.dumps(said | ({'contract': contract} if contract else {}))}\n{rest}")
    elif path.suffix == ".h5ad":
        with h5py.File(path, "r+") as file:
            del file["uns/cellmill"]
            if contract:
                file["uns/cellmill"] = json.dumps({"contract": contract})
    elif path.suffix == ".npz":
        with np.load(path) as file:
            values = {k: file[k] for k in file.files if k != "cellmill"}
        if contract:
            values["cellmill"] = np.frombuffer(json.dumps({"contract": contract}).encode(), np.uint8)
        np.savez(path, **values)
    else:
        table = pq.read_table(path)
        facts = json.loads(pq.read_metadata(path).metadata[b"cellmill"]) | {"contract": contract}
        said = {b"cellmill": json.dumps(facts).encode()} if contract else {}
        pq.write_table(table.replace_schema_metadata(said), path)


@EVERY
def test_what_was_written_is_read(tmp_path: Path, case: Case) -> None:
    """Of every contract."""
    case.write(tmp_path / case.name)
    assert case.read(tmp_path / case.name) == case.expected


@EVERY
def test_the_same_values_give_the_same_bytes(tmp_path: Path, case: Case) -> None:
    """No time stamps, no names of machines."""
    written = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        case.write(tmp_path / folder / case.name)
        files = sorted(p for p in (tmp_path / folder).rglob("*") if p.is_file())
        written.append([(p.name, p.read_bytes()) for p in files])
    assert written[0] == written[1]


@EVERY
@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("other 1", r"found other 1, expected '{name} {version}'\. Delete it and run snakemake again"),
        (
            "{name} 99",
            r"found '{name} 99', this cellmill reads '{name} {version}'\. It was written by a newer cellmill: update",
        ),
        (
            "{name} 0",
            r"found '{name} 0', this cellmill reads '{name} {version}'\. Run snakemake again: it is made anew",
        ),
        (None, r"found (no contract|None), expected '{name} {version}'"),
    ],
    ids=["another contract", "newer", "older", "none"],
)
def test_what_is_of_another_contract_is_refused(tmp_path: Path, case: Case, found: str | None, said: str) -> None:
    """Found against expected, and what to do."""
    path, facts = tmp_path / case.name, {"name": case.contract.name, "version": case.contract.version}
    case.write(path)
    restate(path, found and found.format(**facts))
    with pytest.raises(CellmillError, match=said.format(**facts)):
        case.read(path)


@EVERY
@pytest.mark.parametrize("content", [b"", b"{}", b"something else"])
def test_what_is_something_else_is_refused(tmp_path: Path, case: Case, content: bytes) -> None:
    """By an error of ours that names the file."""
    path = tmp_path / case.name
    case.write(path)
    broken = path / manifest.NAME if path.is_dir() else path
    broken.write_bytes(content)
    with pytest.raises(CellmillError, match=path.name):
        case.read(path)


@EVERY
def test_what_is_truncated_is_refused(tmp_path: Path, case: Case) -> None:
    """By an error of ours that names the file."""
    path = tmp_path / case.name
    case.write(path)
    broken = path / manifest.NAME if path.is_dir() else path
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(CellmillError, match=path.name):
        case.read(path)


@EVERY
def test_what_is_not_there_is_refused(tmp_path: Path, case: Case) -> None:
    """By an error of ours that names the file."""
    with pytest.raises(CellmillError, match=Path(case.name).stem):
        case.read(tmp_path / case.name)


def test_every_contract_has_a_name_of_its_own() -> None:
    """And is tested here, but for those whose files others write."""
    known = [c for c in vars(versions).values() if isinstance(c, Contract)]
    assert len({c.name for c in known}) == len(known)
    assert {c.name for c in known} - {c.contract.name for c in CASES} == {"raw", "report"}


def test_arrays_hold_no_pickles(tmp_path: Path) -> None:
    """Neither are they read."""
    with pytest.raises(ValueError):
        genes.write_arrays(tmp_path / "x.npz", {"a": np.array([{}], object)}, str(versions.PCA))
    np.savez(tmp_path / "y.npz", cellmill=np.frombuffer(b'{"contract": "pca 2"}', np.uint8), a=np.array([{}], object))
    with pytest.raises(CellmillError, match=r"y\.npz: not readable"):
        genes.read_arrays(tmp_path / "y.npz", versions.PCA)


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    """The checksum of its entry does not fit."""
    genes.write_arrays(tmp_path / "x.npz", {"a": np.random.default_rng(0).random(1000)}, str(versions.PCA))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        at = archive.getinfo("a.npy").header_offset + 300
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[at : at + 8] = bytes(8)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CellmillError, match=r"x\.npz: not readable"):
        genes.read_arrays(tmp_path / "x.npz", versions.PCA)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    """With the row."""
    blocks = [np.zeros((3, 2)), np.array([[0, 0], [0, value]])]
    with pytest.raises(CellmillError, match="the vector of row 4 is not finite"):
        embedding.write(tmp_path / "x.npy", tmp_path / "x.json", blocks, shape=(5, 2), facts={})
    assert list(tmp_path.iterdir()) == []


def test_too_few_vectors_are_not_written(tmp_path: Path) -> None:
    """With both numbers."""
    with pytest.raises(CellmillError, match="3 vectors for 5 cells"):
        embedding.write(tmp_path / "x.npy", tmp_path / "x.json", [np.zeros((3, 2))], shape=(5, 2), facts={})
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_what_numpy_reads(tmp_path: Path) -> None:
    """float32, little-endian, in C order."""
    embedding.write(tmp_path / "x.npy", tmp_path / "x.json", [np.eye(2, 3)], shape=(2, 3), facts={})
    assert np.load(tmp_path / "x.npy").dtype == np.dtype("<f4")


def test_vectors_may_have_half_the_bytes(tmp_path: Path) -> None:
    """float16 says so in its manifest; a value that it cannot hold is refused."""
    path, said = tmp_path / "x.npy", tmp_path / "x.json"
    embedding.write(path, said, [np.eye(2, 3)], shape=(2, 3), facts={}, dtype="float16")
    assert embedding.read(path).dtype == np.dtype("<f2") and json.loads(said.read_text())["dtype"] == "float16"
    with pytest.raises(CellmillError, match=r"row 0 has 1,000,000, and float16 ends at 65,504\. Take dtype: float32"):
        embedding.write(path, said, [np.full((2, 3), 1e6)], shape=(2, 3), facts={}, dtype="float16")


# Manifests


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A finished export with files in folders."""
    folder = tmp_path / "cells"
    for name in ("README.md", "train/0.bin", "test/0.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    manifest.write(folder, {"contract": str(versions.HF), "export": "hf/cells"})
    return folder


def test_a_whole_export_is_verified(exported: Path) -> None:
    """Given its folder or its manifest; every file stands there with its size."""
    for path in (exported, exported / manifest.NAME):
        said = manifest.verify(path)
        assert {k: v["bytes"] for k, v in said["files"].items()} == {
            "README.md": 9,
            "test/0.bin": 10,
            "train/0.bin": 11,
        }
    assert said["written_by"]["cellmill"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "train/0.bin").unlink(), r"train/0\.bin is missing"),
        (lambda f: (f / "train/0.bin").write_text("train/1.bin"), r"train/0\.bin: sha256 \w{12}…, expected \w{12}…"),
        (lambda f: (f / "train/0.bin").write_text(""), r"train/0\.bin: sha256"),
        (lambda f: (f / "train/1.bin").write_text("x"), r"train/1\.bin is not in the manifest"),
        (lambda f: (f / manifest.NAME).unlink(), r"there is no manifest\.json"),
    ],
    ids=["missing", "changed", "emptied", "surplus", "no manifest"],
)
def test_a_changed_export_is_not_verified(exported: Path, change: Callable[[Path], object], said: str) -> None:
    """What is wrong, and what to do."""
    change(exported)
    with pytest.raises(CellmillError, match=rf"{said}.* run snakemake"):
        manifest.verify(exported)


def test_an_export_of_an_unknown_format_is_refused(exported: Path) -> None:
    """With the known ones."""
    path = exported / manifest.NAME
    path.write_text(path.read_text().replace("hf/cells", "csv/cells"))
    with pytest.raises(
        CellmillError,
        match=r"found export 'csv/cells'\. Known formats: hf, mds, hdf5, h5ad, scdl, geneformer, zarr, packed",
    ):
        manifest.read(exported)


# Archives


ARCHIVES = Path(__file__).parent / "archives"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("gene_sums_1.npz", genes.read_sums),
        ("gene_sums_2.npz", genes.read_sums),
        ("genes_1.parquet", genes.read_genes),
        ("genes_2.parquet", genes.read_genes),
        ("gene_space_1.parquet", genes.read_space),
        ("part_genes_2.parquet", genes.read_part_genes),
    ],
    ids=["gene_sums 1", "gene_sums 2", "genes 1", "genes 2", "gene_space 1", "part_genes 2"],
)
def test_gene_files_of_an_older_version_are_refused(name: str, read: Callable[[Path], object]) -> None:
    """Written by `make` of tests/unit/stages.py from `random_counts(12, 5)`, all cells in training.

    `genes 2`, `gene_space 1` and `part_genes 2` at 43cb615 from `random_counts(6, 5)`.
    """
    version = name.rpartition("_")[2].split(".")[0]
    with pytest.raises(CellmillError, match=rf"found '\w+ {version}', this cellmill reads '\w+ \d'\. Run snakemake"):
        read(ARCHIVES / name)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("quality_1.parquet", quality.read_quality),
        ("quality_2.parquet", quality.read_quality),
        ("thresholds_1.json", quality.read_thresholds),
        ("cells_1.parquet", quality.read_cells),
    ],
    ids=["quality 1", "quality 2", "thresholds 1", "cells 1"],
)
def test_files_of_cells_of_an_older_version_are_refused(name: str, read: Callable[[Path], object]) -> None:
    """Written at 98a1c96 (`quality 2` at 43cb615) by ``make`` of tests/unit/stages.py, of six cells of five genes."""
    with pytest.raises(CellmillError, match=r"found '\w+ [12]', this cellmill reads '\w+ [23]'.*it is made anew"):
        read(ARCHIVES / name)


@pytest.mark.parametrize("version", [1, 3])
def test_tokens_of_an_older_version_are_refused(version: int) -> None:
    """Written by ``contracts.tokens.write``: ``token_rows`` at b4d6ffc; at 43cb615 without ``left_out``, ids int32."""
    said = rf"found 'tokens {version}', this cellmill reads 'tokens 4'.*it is made anew"
    with pytest.raises(CellmillError, match=said):
        tokens.TokensPart(ARCHIVES / f"tokens_{version}.parquet")


def test_products_of_an_older_version_are_refused() -> None:
    """Written at b4d6ffc by ``measure_covariance`` from ``random_counts(12, 5)``, of three genes."""
    with pytest.raises(CellmillError, match=r"found 'covariance 1', this cellmill reads 'covariance 2'.*made anew"):
        genes.read_arrays(ARCHIVES / "covariance_1.npz", versions.COVARIANCE)


def test_components_of_an_older_version_are_refused() -> None:
    """Written at 7ef8dbb by ``fit_pca`` from ``random_counts(12, 5)``, of columns in place of names of genes."""
    with pytest.raises(CellmillError, match=r"found 'pca 1', this cellmill reads 'pca 2'.*made anew"):
        components.read_components([str(ARCHIVES / "pca_1.npz")])


def test_vectors_of_an_older_version_are_refused() -> None:
    """Written at a80f460 by ``contracts.embedding.write``, without ``dtype``."""
    with pytest.raises(CellmillError, match=r"found 'embedding 1', this cellmill reads 'embedding 2'.*made anew"):
        embedding.read(ARCHIVES / "embedding_1.npy")


@pytest.mark.parametrize(("name", "said"), [("hf_1", "hf 1"), ("hdf5_1.manifest.json", "hdf5 1")])
def test_an_export_of_an_older_version_is_refused(name: str, said: str) -> None:
    """`hf_1` is the manifest of `hf/multiplets` of a `make run` of 694 cells, before the contract was raised.

    `hdf5_1` that of `hdf5.write` at b4d6ffc, of the rows ``make_rows({"train": 6}, genes=5)``.
    """
    with pytest.raises(CellmillError, match=rf"found '{said}', this cellmill reads '{said[:-1]}2'.*it is made anew"):
        manifest.read(ARCHIVES / name)
