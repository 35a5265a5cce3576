"""Tokens to MDS: ours from token files, and the loop that Tahoe-x1's data preparation writes them with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np

PACKED = {"compression": "zstd", "hashes": ["sha1", "xxh64"]}
OBS = ("cell_type", "donor")


def mds(who: str, raw: Path) -> Callable[[], object]:
    """Write every cell of ``raw`` as an MDS dataset, in a folder that is deleted afterwards."""
    folder = raw.with_name(f"{raw.stem}_mds")
    if not folder.exists():  # in a process of its own, as its memory is not measured
        subprocess.run([sys.executable, str(Path(__file__).resolve()), str(raw), str(folder)], check=True)
    write = _peer(folder) if who.startswith("MDSWriter") else _ours(folder, *who.split(", ")[1:])

    def run() -> None:
        out = Path(tempfile.mkdtemp(dir=raw.parent))
        try:
            write(out)
        finally:
            shutil.rmtree(out)

    return run


def _ours(folder: Path, encoding: str, threads: str) -> Callable[[Path], object]:
    """From the counts and tokens of a part to shards and the manifest, rows gathered by the hash of the cell id."""
    from cellmill.contracts import manifest
    from cellmill.contracts.counts import CountsPart
    from cellmill.exports import mds as format_
    from cellmill.exports.given import Given
    from cellmill.exports.mds import MdsTokens
    from cellmill.exports.rows import Header, PartFiles, common_schema, ordered, token_column
    from cellmill.tokenizers.tahoe_x1 import TahoeX1

    part = PartFiles(str(folder / "processed.h5ad"), {"tahoe": str(folder / "tokens.parquet")})
    with CountsPart(part.processed) as counts:
        cells, genes, dtype = {"train": counts.n_cells}, counts.var.reset_index(), counts.dtype
    columns = TahoeX1().columns
    header = Header("atlas", cells, genes, dtype, common_schema([part], OBS), tokens={"tahoe": columns})
    spec = MdsTokens.model_validate({"tokenizer": "tahoe", "encoding": encoding})
    needed = tuple(token_column("tahoe", c) for c in columns)

    def write(out: Path) -> None:
        scratch = out / "scratch"
        scratch.mkdir()
        rows = ordered([part], header=header, columns=needed, scratch=scratch)
        facts = format_.write(Given(out, header, rows, threads=int(threads.split()[0])), spec)
        scratch.rmdir()
        manifest.write(out, {"contract": str(manifest.CONTRACTS["mds"]), "export": "mds/tokens", "facts": facts})

    return write


def _peer(folder: Path) -> Callable[[Path], object]:
    """`generate_mds.py` of Tahoe-x1: a row of a dataset as tensors, and `MDSWriter.write`, one after another."""
    for name in ("vision", "multimodal", "text"):
        sys.modules.setdefault(f"streaming.{name}", types.ModuleType(f"streaming.{name}"))
    from datasets import Dataset
    from streaming import MDSWriter

    columns = {"genes": "pkl", "expressions": "pkl", "id": "int64"} | dict.fromkeys(OBS, "str")

    def write(out: Path) -> None:
        dataset = Dataset.from_file(str(folder / "data.arrow")).with_format("torch")
        with MDSWriter(out=str(out / "mds"), columns=columns, **PACKED) as writer:
            for row in dataset:
                writer.write({**row, "id": int(row["id"])})

    return write


def prepare(raw: Path, folder: Path) -> None:
    """Processed counts, tokens, and the same tokens as an Arrow dataset; all cells are kept, in training."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    _process(raw, aside / "processed.h5ad")
    _tokenize(aside)
    _dataset(aside)
    aside.rename(folder)


def _process(raw: Path, out: Path) -> None:
    import anndata
    import pandas as pd

    from cellmill.contracts.versions import COUNTS
    from cellmill.matrix.reader import CountsFile
    from cellmill.matrix.writer import H5adWriter

    found = anndata.read_h5ad(raw, backed="r")
    obs = found.obs[list(OBS)].rename_axis("cell_id")
    obs["split"] = pd.Categorical(["train"] * len(obs))
    var = found.var[["feature_name"]].rename(columns={"feature_name": "gene_symbol"}).rename_axis("gene_id")
    writer = H5adWriter(out, n_genes=len(var), dtype=np.dtype(np.uint16), threads=2)
    with CountsFile(raw, "X", threads=2) as counts:
        for block in counts.blocks(1_024):
            writer.append(block.counts)
    writer.close(obs=obs, var=var, uns={"cellmill": json.dumps({"contract": str(COUNTS), "cells": len(obs)})})


def _tokenize(folder: Path) -> None:
    from cellmill.contracts import vocabulary
    from cellmill.contracts.counts import CountsPart
    from cellmill.tokenizers.tahoe_x1 import TahoeX1
    from cellmill.tokenizers.tokenize import tokenize_part

    with CountsPart(folder / "processed.h5ad") as part:
        genes = part.var.index.to_numpy()
    tokens = {name: i for i, name in enumerate(["<pad>", "<cls>", "<eoc>", *genes])}
    ids = np.arange(3, len(tokens), dtype=np.int32)
    laid = vocabulary.Vocabulary(tokens, ids, np.full(len(genes), np.nan), prefix=(1,), suffix=())
    files = {"vocabulary": folder / "vocabulary.json", "gene_tokens": folder / "gene_tokens.parquet"}
    vocabulary.write(*files.values(), laid, genes)
    tokenize_part(folder / "processed.h5ad", **files, spec=TahoeX1(), out=folder / "tokens.parquet", threads=2)


def _dataset(folder: Path) -> None:
    """What `make_hf_dataset.py` of Tahoe-x1 writes: lists of int64 and float32, and text."""
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    from cellmill.contracts.counts import CountsPart
    from cellmill.contracts.tokens import TokensPart

    with CountsPart(folder / "processed.h5ad") as counts, TokensPart(folder / "tokens.parquet") as tokens:
        obs = counts.obs_table()
        with ArrowWriter(path=str(folder / "data.arrow")) as writer:
            for start in range(0, tokens.n_cells, 1_024):
                stop = min(start + 1_024, tokens.n_cells)
                rows = tokens.rows(start, stop)
                table = {
                    "id": pa.array(np.arange(start, stop)),
                    "genes": rows["genes"].cast(pa.list_(pa.int64())),
                    "expressions": rows["expressions"].cast(pa.list_(pa.float32())),
                }
                writer.write_table(pa.table(table | {c: obs[c].slice(start, stop - start) for c in OBS}))
            writer.finalize()


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
