"""Where gene names come from: results of cellmill, var tables, other tables, plain lists."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.errors import CellmillError, nearest
from cellmill.vocabularies.check import SPECIAL_TOKEN, is_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GeneNames:
    """``names`` as they stand in ``path``; ``cells``: in how many training cells each has a count, where known."""

    path: Path
    names: list[str]
    cells: list[int] | None = None


def read_genes(path: str | PathLike[str], *, column: str | None = None) -> GeneNames:
    """The gene names of a source, versions and duplicates as they are there.

    A folder ``results/<dataset>``: its genes, else its gene space. ``.parquet``: such a file, or a table.
    ``.h5ad``, zarr: the var table. Everything else: a list, or with ``column`` a table with a head (csv, tsv).
    Of tables, ``column`` names the genes; without it, the column of Ensembl ids, of var tables else the index.

    Raises:
        CellmillError: not readable, no such column, or a name that is none: missing, or like a special token.
    """
    found = _read(Path(path), column)
    wrong = [name for name in found.names if SPECIAL_TOKEN.fullmatch(name) or not is_name(name)]
    if wrong or not found.names:
        what = f"{len(wrong)} of {len(found.names)} names are no genes" + (f" ({wrong[0]!r})." if wrong else ".")
        raise CellmillError(found.path, what, "Give names of genes; special tokens are named by themselves.")
    return found


def _read(path: Path, column: str | None) -> GeneNames:
    from cellmill.genes.table import read_gene_list
    from cellmill.matrix.reader import read_var
    from cellmill.matrix.zarr_store import is_zarr

    if is_zarr(path) or path.suffix == ".h5ad":
        return GeneNames(path, _column(path, read_var(path), column, index=True))
    if path.is_dir():
        files = [path / "genes" / name for name in ("genes.parquet", "space.parquet")]
        there = [file for file in files if file.is_file()]
        if not there:
            raise CellmillError(path, f"has neither {files[0]} nor {files[1].name}.", "Name a folder of results/.")
        path = there[0]
    if path.suffix in (".json", ".pkl"):
        fix = "Use it with: cellmill vocab extend, or merge."
        raise CellmillError(path, "is a vocabulary by its name, not a source of genes.", fix)
    if path.suffix == ".parquet":
        return _parquet(path, column)
    if column is None:
        return GeneNames(path, read_gene_list(path))
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CellmillError(path, f"not readable ({error}).", "Give a csv or tsv with a head.") from error
    return GeneNames(path, _column(path, table, column, index=False))


def _parquet(path: Path, column: str | None) -> GeneNames:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellmill.contracts import genes as files

    try:
        said = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(path, f"not readable as Parquet ({error}).", "Delete it, or get it again.") from error
    if b"cellmill" not in (said.metadata or {}):
        return GeneNames(path, _column(path, pq.read_table(path).to_pandas(), column, index=False))
    if "n_cells" not in said.schema.names:
        return GeneNames(path, files.read_space(path)["gene_id"].tolist())
    genes, _ = files.read_genes(path)
    return GeneNames(path, genes["gene_id"].tolist(), genes["n_cells"].tolist())


def _column(path: Path, table: pd.DataFrame, column: str | None, *, index: bool) -> list[str]:
    """The names as they stand in the column that ``resolve_genes`` would take, or in that of ``column``."""
    from cellmill.genes.identifiers import names_of, resolve_genes

    taken = resolve_genes(table, ids=column or "auto", where=path).taken_from
    if taken == "index" and not index:
        raise CellmillError(path, "no column of Ensembl ids.", f"Name one with --column. {nearest('', table.columns)}")
    names: list[str] = names_of(table.index if taken == "index" else table[taken]).tolist()
    return names
