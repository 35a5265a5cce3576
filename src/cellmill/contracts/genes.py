"""The gene files: names per part, the gene space, sums per part, and ``genes.parquet``."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import parquet
from cellmill.contracts.versions import (
    CLIPPED_SUMS,
    GENE_CELLS,
    GENE_CLIP,
    GENE_MAPPING,
    GENE_SPACE,
    GENE_SUMS,
    GENES,
    PART_GENES,
)
from cellmill.errors import CellmillError
from cellmill.files import replacing

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.genes.clipped import ClipModel
    from cellmill.genes.identifiers import PartGenes


_SET = "set_"
"""Before the name of a gene set: the column that says which genes are in it."""


def write_part_genes(path: str | PathLike[str], genes: PartGenes) -> None:
    """``quality/{part}.genes.parquet``: what each column of a raw file is, a row per column of its matrix."""
    table = pa.table(
        {
            "gene_id": pa.array(genes.gene_ids, pa.string()),
            "gene_symbol": pa.array(genes.gene_symbols, pa.string(), from_pandas=True),
            "name_as_found": pa.array(genes.names_as_found, pa.string()),
            "outcome": pa.array(genes.outcome, pa.string()),
            **{_SET + name: pa.array(mine, pa.bool_()) for name, mine in genes.sets.items()},
        }
    )
    facts = {"taken_from": genes.taken_from, "merged": genes.n_merged, "not_found": genes.not_found}
    parquet.write(path, table, PART_GENES, facts)


def read_part_genes(path: str | PathLike[str]) -> PartGenes:
    from cellmill.genes.identifiers import PartGenes

    table, facts = parquet.read(path, PART_GENES)
    columns = ("gene_id", "gene_symbol", "name_as_found", "outcome")
    ids, symbols, names, outcomes = (np.array(table[c].to_pylist(), object) for c in columns)
    sets = {c.removeprefix(_SET): table[c].to_numpy() for c in table.column_names if c.startswith(_SET)}
    return PartGenes(ids, symbols, facts["taken_from"], names, outcomes, sets=sets, not_found=facts["not_found"])


def write_space(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """``genes/space.parquet``: ``gene_id``, ``gene_symbol``, sorted by id."""
    parquet.write(path, table, GENE_SPACE, facts)


def read_space(path: str | PathLike[str]) -> pd.DataFrame:
    return parquet.read(path, GENE_SPACE)[0].to_pandas()


def naming_facts(path: str | PathLike[str]) -> dict[str, Any]:
    """What the gene space says of gene names, as ``{"names": …}``, which is not there where every name stays as found;
    and of gene sets (``sets``).
    """
    facts = parquet.open_file(path, GENE_SPACE)[1]
    return {k: v for k, v in facts.items() if k in ("names", "sets")}


def write_mapping(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """``genes/mapping.parquet``: what became of every gene name of any part."""
    parquet.write(path, table, GENE_MAPPING, facts)


def read_mapping(path: str | PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    table, facts = parquet.read(path, GENE_MAPPING)
    return table.to_pandas(), facts


def genes_in_few_cells(path: str | PathLike[str]) -> set[str]:
    """Ids of the genes that ``genes.min_cells`` keeps out of the gene space."""
    table, _ = parquet.read(path, GENE_MAPPING, ["gene_id", "outcome"])
    return set(table.filter(pc.equal(table["outcome"], "min_cells"))["gene_id"].to_pylist())


def write_gene_cells(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """``genes/{part}.cells.parquet``: in how many kept cells of a part each gene has a count."""
    parquet.write(path, table, GENE_CELLS, facts)


def read_gene_cells(path: str | PathLike[str]) -> pd.DataFrame:
    return parquet.read(path, GENE_CELLS)[0].to_pandas()


def write_sums(path: str | PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """``genes/{part}.npz``: sums over the training cells of a part, as whole numbers, so that they add up exactly."""
    write_arrays(path, arrays, str(GENE_SUMS))


def read_sums(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    return read_arrays(path, GENE_SUMS)


def write_clip(path: str | PathLike[str], model: ClipModel) -> None:
    """``genes/clipped/model.npz``: at what the counts of each gene are clipped, per batch."""
    names = {"batches": np.array(model.batches, str), "left_out": np.array(model.left_out, str)}
    write_arrays(path, {**names, "mean": model.mean, "std": model.std, "clip": model.clip}, str(GENE_CLIP))


def read_clip(path: str | PathLike[str]) -> ClipModel:
    from cellmill.genes.clipped import ClipModel

    arrays = read_arrays(path, GENE_CLIP)
    names = {name: arrays[name].tolist() for name in ("batches", "left_out")}
    return ClipModel(mean=arrays["mean"], std=arrays["std"], clip=arrays["clip"], **names)


def write_clipped(path: str | PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """``genes/clipped/part_{part}.npz``: sums of the counts of a part that are clipped, as whole numbers."""
    write_arrays(path, arrays, str(CLIPPED_SUMS))


def read_clipped(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    return read_arrays(path, CLIPPED_SUMS)


def write_arrays(path: str | PathLike[str], arrays: dict[str, np.ndarray], contract: str) -> None:
    """An npz without time stamps and without pickles, with its contract inside; packed fast rather than small."""
    said = np.frombuffer(json.dumps({"contract": contract}).encode(), np.uint8)
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in {"cellmill": said, **arrays}.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")
            file.writestr(entry, stream.getbuffer(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=1)


def read_arrays(path: str | PathLike[str], contract: Any) -> dict[str, np.ndarray]:
    """The arrays of an npz of this contract."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise CellmillError(path, f"not readable ({error}).", "Delete it and run snakemake again.") from error
    said = arrays.pop("cellmill", np.frombuffer(b"{}", np.uint8))
    contract.verify(path, json.loads(said.tobytes()).get("contract"))
    return arrays


def write_genes(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """``genes/genes.parquet``: the gene space with statistics over the training cells of all parts."""
    parquet.write(path, table, GENES, facts)


def read_genes(path: str | PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    table, facts = parquet.read(path, GENES)
    return table.to_pandas(), facts


def variable_columns(genes: pd.DataFrame, n: int) -> np.ndarray:
    """int64 (m <= n,): columns of the gene space of the ``n`` most variable genes, in the order of their rank."""
    ranks = genes["variable_rank"].to_numpy()
    columns = np.flatnonzero((ranks >= 0) & genes["variable"].to_numpy())
    return columns[np.argsort(ranks[columns], kind="stable")][:n]
