"""``pseudobulk/{name}/{part}.h5ad`` and ``pseudobulk/{name}.h5ad``: sums of groups of cells, and their profiles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cellmill.contracts.counts import to_arrow
from cellmill.contracts.obs import to_pandas
from cellmill.contracts.versions import GROUP_SUMS, PSEUDOBULK, Contract
from cellmill.files import replacing
from cellmill.matrix.reader import open_h5ad
from cellmill.matrix.tables import read_table
from cellmill.matrix.writer import H5adWriter

_OWN = ("group", "cell_id", "n_cells", "key")


@dataclass(frozen=True)
class Rows:
    """The obs table of a part's sums: groups, then single cells."""

    group: list[str]
    """A JSON list of the values of ``by``, of each row."""
    cell_id: pa.Array
    """Of a single cell."""
    n_cells: np.ndarray
    key: np.ndarray
    """Of a single cell: the lowest are kept (rows,) uint64."""
    columns: dict[str, pa.Array]

    def table(self) -> pd.DataFrame:
        """As it is written; the dataset's columns behind a prefix, so that no name is taken twice."""
        own = {
            "group": pd.Categorical(self.group),
            "cell_id": to_pandas(pa.chunked_array([self.cell_id.cast(pa.string())])),
            "n_cells": self.n_cells,
            "key": self.key,
        }
        columns = {f"of {name}": to_pandas(pa.chunked_array([values])) for name, values in self.columns.items()}
        return pd.DataFrame(own | columns, index=pd.Index([str(i) for i in range(len(self.group))], dtype=object))


@dataclass(frozen=True)
class PartSums:
    """The sums of a part, in memory."""

    rows: Rows
    counts: sp.csr_matrix
    """Sums of the groups, then counts of single cells (rows, genes), uint64."""
    var: pd.DataFrame
    groups: int
    cells: int
    """All cells of the part."""
    varies: dict[str, list[int]]
    """Of each column the groups in which cells differ."""


def write_rows(
    path: str | PathLike[str],
    blocks: Iterable[sp.csr_matrix],
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    dtype: np.dtype,
    facts: dict[str, Any],
    contract: Contract,
) -> None:
    """X (rows, genes) of ``dtype`` from its blocks, with its tables and facts."""
    with replacing(path) as aside:
        writer = H5adWriter(aside, n_genes=len(var), dtype=dtype)
        try:
            for block in blocks:
                writer.append(block)
            said = json.dumps({"contract": str(contract), **facts}, sort_keys=True)
            writer.close(obs=obs, var=var, uns={"cellmill": said})
        except BaseException:
            writer.abandon()
            raise


def read_facts(path: str | PathLike[str], contract: Contract = PSEUDOBULK) -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        CellmillError: another contract or version.
    """
    with open_h5ad(Path(path)) as file:
        facts: dict[str, Any] = json.loads(file["uns/cellmill"][()] if "uns/cellmill" in file else b"{}")
    contract.verify(path, facts.get("contract"))
    return facts


def read_sums(path: str | PathLike[str]) -> PartSums:
    """The sums of a part.

    Raises:
        CellmillError: another contract or version.
    """
    facts = read_facts(path, GROUP_SUMS)
    with open_h5ad(Path(path)) as file:
        obs, var, x = read_table(file["obs"]), read_table(file["var"]), file["X"]
        shape = (len(obs), len(var))
        counts = sp.csr_matrix((x["data"][:], x["indices"][:], x["indptr"][:]), shape=shape)
    rows = Rows(
        group=obs["group"].astype(object).tolist(),
        cell_id=to_arrow(obs["cell_id"]),
        n_cells=obs["n_cells"].to_numpy(np.int64),
        key=obs["key"].to_numpy(np.uint64),
        columns={str(c).removeprefix("of "): to_arrow(obs[c]) for c in obs.columns if c not in _OWN},
    )
    return PartSums(rows, counts, var, facts["groups"], facts["cells"], facts["varies"])


def of_one_type(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """The values of a column in several parts: numbers as float64 where some are, and as text where they differ."""
    types = {values.type for values in columns}
    if len(types) == 1:
        return list(columns)
    wanted = pa.float64() if types <= {pa.int64(), pa.float64()} else pa.string()
    return [values.cast(wanted) for values in columns]
