"""From processed counts to tokens: the bench atlas with the ids of real genes, and the published dictionaries."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

READING, IN_MEMORY = "reading alone, 2 threads", "geneformer_v2 in memory, 1 thread"
WHO = (READING, IN_MEMORY, "geneformer_v2, 2 threads", "tahoe_x1, 2 threads")
IN_MEMORY_CELLS, WARM_UP_CELLS = 20_000, 64


def spec_of(who: str) -> Any:
    from cellmill.tokenizers import parse_tokenizer

    return parse_tokenizer({"kind": who.split()[0].rstrip(",")})


def prepare(paths: list[Path], out: Path) -> None:
    """One processed file of all cells, where it is not there yet, a small one to warm up with, and vocabularies.

    The genes that have most counts bear the ids that Geneformer has tokens for, the others ids that nobody has.
    """
    from cellmill.contracts import vocabulary

    resources = _resources(out.parent)
    genes = {role: str(resources / f) for role, f in spec_of(IN_MEMORY).needs().items()}
    ids = _ids(paths[0], genes)
    for path, cells in ((_warm_up(out), WARM_UP_CELLS), (out, None)):
        if not path.exists():
            _write_processed(paths, path, ids, cells)
    for who in WHO[2:]:
        spec = spec_of(who)
        files = {role: str(resources / file) for role, file in spec.needs().items()}
        learned = spec.learn(pd.DataFrame({"gene_id": ids}), files)
        vocabulary.write(*_vocabulary(out, who), learned, ids)


def _resources(folder: Path) -> Path:
    """The folder that has ``resources/``, with every outside file of these tokenizers.

    They are retrieved as the workflow does; ``CELLMILL_SHARED_DATA`` names a mirror.
    """
    from cellmill.sources.ledger import LEDGER, retrieve_resource

    mirror = os.environ.get("CELLMILL_SHARED_DATA")
    for who in WHO[2:]:
        for file in spec_of(who).needs().values():
            if not (folder / file).exists():
                name = file.removeprefix("resources/")
                retrieve_resource(name, folder / file, ledger=LEDGER, mirror=Path(mirror) if mirror else None)
    return folder


def _ids(path: Path, files: dict[str, str]) -> np.ndarray:
    from cellmill.matrix.reader import CountsFile
    from cellmill.tokenizers.dictionaries import read_dictionary

    with CountsFile(path, "X") as file:
        total = sum(np.asarray(b.counts.sum(axis=0)).ravel() for b, _ in zip(file.blocks(), range(8), strict=False))
    medians = read_dictionary(files["medians"])
    known = [gene for gene in read_dictionary(files["tokens"]) if gene in medians]
    ids = np.array([f"gene{i}" for i in range(len(total))], object)
    ids[np.argsort(-total, kind="stable")[: len(known)]] = known[: len(total)]
    return ids


def _write_processed(paths: list[Path], out: Path, ids: np.ndarray, cells: int | None) -> None:
    """As ``process_part`` writes it, with every cell kept."""
    from cellmill.contracts.versions import COUNTS
    from cellmill.matrix.reader import CountsFile
    from cellmill.matrix.writer import H5adWriter

    aside = out.with_suffix(".partial")
    writer = H5adWriter(aside, n_genes=len(ids), dtype=np.dtype(np.uint16), threads=2)
    tables = []
    for path in paths[: None if cells is None else 1]:
        with CountsFile(path, "X", threads=2) as file:
            totals = []
            for block in file.blocks(1_024):
                counts = block.counts[: None if cells is None else cells]
                writer.append(counts)
                totals.append(np.asarray(counts.sum(axis=1)).ravel())
                if cells is not None:
                    break
            obs = file.obs.iloc[: cells or len(file.obs)].copy()
            tables.append(obs.assign(total_counts=np.concatenate(totals)))
    obs = pd.concat(tables)
    for name in ("cell_type", "donor"):
        obs[name] = obs[name].astype(str).astype("category")
    obs["split"] = pd.Categorical(np.where(np.arange(len(obs)) % 10, "train", "test"))
    obs.index.name = "cell_id"
    var = pd.DataFrame({"gene_symbol": ""}, index=pd.Index(ids, name="gene_id"))
    facts = {"contract": str(COUNTS), "part": "0", "cells": len(obs)}
    writer.close(obs=obs, var=var, uns={"cellmill": json.dumps(facts, sort_keys=True)})
    aside.rename(out)


def _warm_up(path: Path) -> Path:
    return path.with_name(f"processed_{WARM_UP_CELLS}.h5ad")


def _vocabulary(path: Path, who: str) -> tuple[Path, Path]:
    kind = spec_of(who).kind
    return path.with_name(f"{kind}.json"), path.with_name(f"{kind}.parquet")


def contender(who: str, path: Path) -> Callable[[], dict[str, Any]]:
    """What is measured; everything compiled is loaded before."""
    from cellmill.contracts.counts import CountsPart

    def read(file: Path = path) -> dict[str, Any]:
        with CountsPart(file, threads=2) as part:
            return {"cells": part.n_cells, "values": sum(counts.nnz for _, _, counts in part.blocks())}

    if who == READING:
        read(_warm_up(path))
        return read
    _tokenize(who, _warm_up(path))
    return _in_memory(who, path) if who == IN_MEMORY else lambda: _tokenize(who, path)


def _tokenize(who: str, path: Path) -> dict[str, Any]:
    from cellmill.contracts.tokens import TokensPart
    from cellmill.tokenizers.tokenize import tokenize_part

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        out, (vocabulary, genes) = Path(folder) / "tokens.parquet", _vocabulary(path, who)
        tokenize_part(path, vocabulary=vocabulary, gene_tokens=genes, spec=spec_of(who), out=out, threads=2)
        with TokensPart(out) as file:
            covered = file.facts["values_with_token"] / file.facts["values"]
            said = {name: file.facts[name] for name in ("cells", "tokens")}
            return said | {"covered": covered, "bytes": out.stat().st_size}


def _in_memory(who: str, path: Path) -> Callable[[], dict[str, Any]]:
    """The encoder alone, block by block, on counts that are read already."""
    from cellmill.contracts import vocabulary
    from cellmill.contracts.counts import CountsPart
    from cellmill.tokenizers.encoder import Rows

    encoder = spec_of(who).encoder(vocabulary.read(*_vocabulary(path, who)))
    with CountsPart(path, threads=2) as part:
        blocks = [counts for _, stop, counts in part.blocks() if stop <= max(IN_MEMORY_CELLS, 1_024)]
    rows = [Rows(np.asarray(b.sum(axis=1), np.float64).ravel(), np.zeros(b.shape[0], np.uint64)) for b in blocks]

    def encode() -> dict[str, Any]:
        found = [int(encoder.encode(b, r).written.sum()) for b, r in zip(blocks, rows, strict=True)]
        return {"cells": sum(b.shape[0] for b in blocks), "tokens": sum(found)}

    return encode


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Cells and tokens per second, memory, and the time beside that of reading alone; the middle of the runs.

    Tokens are those of the cells, without padding: nothing is padded.
    """
    middle = {who: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for who, runs in found.items()}
    per_cell = {who: said["seconds"] / said["cells"] for who, said in middle.items()}
    lines = [f"{'':<36}{'seconds':>10}{'cells/s':>12}{'tokens/s':>14}{'peak MB':>10}{'times reading':>15}"]
    for who, said in middle.items():
        tokens = f"{said['tokens'] / said['seconds']:,.0f}" if "tokens" in said else ""
        peak = "" if who == IN_MEMORY else f"{said['mb']:,.0f}"
        ratio = "" if who in (READING, IN_MEMORY) else f"{per_cell[who] / per_cell[READING]:.2f}"
        lines.append(f"{who:<36}{said['seconds']:>10.2f}{1 / per_cell[who]:>12,.0f}{tokens:>14}{peak:>10}{ratio:>15}")
    said = middle[WHO[2]]
    lines.append(
        f"{said['tokens'] / said['cells']:,.0f} tokens per cell of geneformer_v2, "
        f"{said['bytes'] / said['tokens']:.2f} bytes each on disk; {100 * said['covered']:.1f} % of the values covered"
    )
    return "\n".join(lines)
