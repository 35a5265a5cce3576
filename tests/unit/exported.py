"""A small dataset with every stage and export that tests of checks and publishing look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cellmill.exports.export as frame
from cellmill.config import Columns
from cellmill.embedders.embed import embed_part
from cellmill.embedders.hvg import Hvg
from cellmill.exports import parse_export
from cellmill.exports.export import About
from cellmill.exports.rows import PartFiles
from cellmill.tokenizers.log import Log
from cellmill.tokenizers.rank import Rank
from cellmill.tokenizers.sentence import Sentence
from cellmill.tokenizers.tokenize import build_vocabulary, tokenize_part

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

CELLS = 400
EXPORTS: dict[str, dict[str, Any]] = {
    "hf/cells": {"kind": "tokens", "embeddings": ["hvg"], "cells_per_file": 100, "min_files": 1},
    "hf/counts": {"kind": "expression", "embeddings": ["hvg"], "max_classes": 2, "min_files": 1},
    "hf/single": {
        "kind": "single",
        "captions": ["{cell_type}[ of {donor}, {age}]", "donor"],
        "missing": "drop",
        "min_files": 1,
    },
    "hf/pairs": {"kind": "pairs", "negatives": 2, "columns": None, "min_files": 1},
    "hf/multiplets": {
        "kind": "multiplets",
        "captions": ["cell_type", "{age} years"],
        "missing": "fill",
        "negatives": 4,
        "shares": {"in_batch": 0.25, "out_of_batch": 0.25, "hard": 0.25, "embedding": "hvg"},
        "columns": ["flag", "donor"],
        "min_files": 2,
    },
    "mds/tokens": {"kind": "tokens"},
    "mds/json": {"kind": "tokens", "encoding": "json", "compression": None, "hashes": ["sha1"]},
    "mds/values": {"kind": "tokens", "tokenizer": "log", "encoding": "json", "columns": ["age"]},
    "mds/tensors": {"kind": "expression", "encoding": "tensors", "columns": ["donor"]},
    "mds/counts": {"kind": "expression", "level": 1, "hashes": []},
    "hdf5/counts": {"kind": "counts", "cells_per_file": 150},
    "hdf5/dense": {"kind": "counts", "layout": "dense", "genes": "variable", "dtype": "int16"},
    "h5ad/cells": {"kind": "counts", "embeddings": ["hvg"]},
    "scdl/counts": {"kind": "counts"},
    "geneformer/rank": {"kind": "tokens", "cells_per_file": 150},
    "zarr/counts": {
        "kind": "counts",
        "embeddings": ["hvg"],
        "cells_per_dataset": 150,
        "values_per_chunk": 512,
        "chunks_per_shard": 4,
    },
    "packed/counts": {"kind": "counts", "cells_per_file": 150},
}
TOKENIZERS: dict[str, Any] = {"rank": Rank(), "log": Log(), "sentence": Sentence(lengths=[20, 5])}
Tamper = Callable[[pa.Table], pa.Table]


def make_dataset(folder: Path, work: Path) -> Made:
    """``processed``, ``tokenized`` and ``embedded`` of three parts in ``folder``, as a run lays them out."""
    rng = np.random.default_rng(5)
    obs = {
        "donor": rng.choice(["x", "y"], CELLS).astype(object),
        "cell_type": rng.choice(["B", "T", "NK"], CELLS).astype(object),
        "age": np.where(rng.random(CELLS) < 0.1, np.nan, rng.random(CELLS) * 90),
        "flag": pd.array(rng.random(CELLS) < 0.5, "boolean"),
    }
    raw = write_raw(work / "raw.h5ad", random_counts(CELLS, 50), obs=obs)
    columns = {"batch": "donor", "label": "cell_type", "keep": ["age", "flag"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"dataset": {"columns": columns}}))
    raws = split_raw(raw, work / "raws", three_parts(CELLS))
    made = make(work, raws, columns=columns, variable_genes={"n_top": 20})
    for name in ("processed", "genes"):
        (folder / name).mkdir(parents=True)
    shutil.copy(made.genes, folder / "genes")
    for part in made.parts:
        shutil.copy(made.file(part, "h5ad"), folder / "processed")
    for name, spec in TOKENIZERS.items():
        vocabulary = folder / "tokenized" / name / "vocabulary.json"
        tokens = vocabulary.with_name("gene_tokens.parquet")
        build_vocabulary(made.genes, files={}, spec=spec, out=vocabulary, out_genes=tokens)
        for part in made.parts:
            processed, out = folder / "processed" / f"{part}.h5ad", vocabulary.with_name(f"{part}.parquet")
            tokenize_part(processed, vocabulary=vocabulary, gene_tokens=tokens, spec=spec, out=out)
    for part in made.parts:
        processed = folder / "processed" / f"{part}.h5ad"
        vectors = folder / "embedded" / "hvg" / f"{part}.npy"
        said = vectors.with_suffix(".json")
        spec = Hvg(n_genes=8, dtype="float16")  # what reads vectors takes both types
        embed_part(processed, genes=made.genes, files=[], spec=spec, out=vectors, manifest=said)
    return made


def make_export(
    folder: Path, made: Made, path: str, *, tamper: Tamper | None = None, split: str = "train", **options: Any
) -> Path:
    """One export; ``tamper`` changes the rows of a split on their way, as a writer with a mistake would."""
    spec = parse_export(path, EXPORTS[path] | options)
    parts = [
        PartFiles(
            str(folder / "processed" / f"{p}.h5ad"),
            {t: str(folder / "tokenized" / t / f"{p}.parquet") for t in spec.tokenizers},
            {e: str(folder / "embedded" / e / f"{p}.npy") for e in spec.embedders},
        )
        for p in made.parts
    ]
    dataset = made.dataset
    about = About(
        dataset="demo",
        title=dataset.title,
        organism=dataset.organism,
        license=None,
        columns=Columns(batch="donor", label="cell_type"),
        kept_columns=dataset.exported_columns,
        split=dataset.split.model_dump(mode="json"),
    )
    with pytest.MonkeyPatch.context() as patch:
        if tamper is not None:
            patch.setattr(frame, "ordered", _tampered(tamper, split))
        frame.export(
            parts,
            path=path,
            spec=spec,
            about=about,
            ledger=made.ledger,
            genes=made.genes,
            vocabulary_file=next((str(folder / "tokenized" / t / "vocabulary.json") for t in spec.tokenizers), None),
            out=folder / path / "manifest.json",
        )
    return folder / path


def _tampered(tamper: Tamper, split: str) -> Any:
    ordered = frame.ordered

    def rows(*args: Any, **options: Any) -> Any:
        for name, batch in ordered(*args, **options):
            table = pa.Table.from_batches([batch])
            yield name, (tamper(table) if name == split else table).combine_chunks().to_batches()[0]

    return rows


def with_value(table: pa.Table, column: str, row: int, change: Callable[[Any], Any]) -> pa.Table:
    """The table with another value in one cell."""
    values = table[column].to_pylist()
    values[row] = change(values[row])
    at = table.column_names.index(column)
    return table.set_column(at, column, pa.array(values, table[column].type))
