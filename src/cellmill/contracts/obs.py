"""``raw/{part}.obs.parquet``: obs columns of a part that were added, or changed, after it was found."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import OBS
from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import pandas as pd


def write_obs(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """A row per cell of the part, in its order; columns are string, bool, int64 or float64."""
    parquet.write(path, table, OBS, facts)


def read_facts(path: str | PathLike[str]) -> dict[str, Any]:
    """What was counted."""
    file, facts = parquet.open_file(path, OBS)
    file.close()
    return facts


def laid_over(obs: pd.DataFrame, path: str | PathLike[str], *, where: object) -> pd.DataFrame:
    """The obs table (cells, columns) of a part with the columns of ``path`` added, or in the place of its own.

    Raises:
        CellmillError: not of this part.
    """
    import pandas as pd

    table, facts = parquet.read(path, OBS)
    if facts["cells"] != len(obs):
        raise CellmillError(
            path, f"it has {facts['cells']} rows, {where} has {len(obs)}.", "Delete it and run snakemake again."
        )
    columns = {name: pd.Series(to_pandas(table[name]), obs.index) for name in table.column_names}
    return pd.concat(
        [obs[[c for c in obs.columns if c not in columns]], pd.DataFrame(columns, index=obs.index)], axis=1
    )[[*obs.columns, *(c for c in columns if c not in obs.columns)]]


def to_pandas(values: pa.ChunkedArray) -> Any:
    """Text as categories in their order; numbers and truth by numpy, or nullable where values are missing."""
    import pandas as pd

    type_ = values.type
    if pa.types.is_string(type_):
        coded = values.combine_chunks().dictionary_encode()
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        names = coded.dictionary.to_numpy(zero_copy_only=False)
        order = np.argsort(names)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        there = coded.indices.is_valid().to_numpy(zero_copy_only=False)
        codes = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        placed = rank[codes] if len(order) else np.zeros(len(codes), np.int64)
        final: Any = np.where(there, placed, -1)  # pandas-stubs want a sequence
        return pd.Categorical.from_codes(final, pd.Index(names[order], dtype=object))
    if values.null_count == 0 or pa.types.is_floating(type_):
        return values.to_numpy()
    mask = values.is_null().to_numpy()
    if pa.types.is_boolean(type_):
        return pd.arrays.BooleanArray(values.fill_null(False).to_numpy(), mask)
    return pd.arrays.IntegerArray(values.fill_null(0).to_numpy(), mask)


__all__ = ["laid_over", "read_facts", "write_obs"]
