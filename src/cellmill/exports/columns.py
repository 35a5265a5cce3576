"""Columns of a batch as plain arrays, checked: shared by the formats that do not take Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.exports.rows import Header

MISSING: dict[str, Any] = {"string": "", "bool": -1, "int64": -(1 << 63), "float64": "NaN"}
"""What stands for a missing value where a format has no place for one, by type of the column."""


def lists(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (n + 1, int64, from 0) and values of a list column, also of a slice of one."""
    import numpy as np

    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy()
    return offsets - offsets[0], values


def string_bytes(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (n + 1, int64, from 0) and UTF-8 bytes of a string column; a missing string is empty."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.fill_null(column.cast(pa.large_string()), "")
    _, offset_buffer, data_buffer = text.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(text) + 1, text.offset * 8)
    data = np.frombuffer(data_buffer if data_buffer is not None else b"", np.uint8)
    return offsets - offsets[0], data[offsets[0] : offsets[-1]]


def plain(column: pa.Array) -> np.ndarray:
    """Numbers of a bool (as int8), int64 or float64 column; missing ones as in ``MISSING``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        column, value = column.cast(pa.int8()), MISSING["bool"]
    else:
        value = float("nan") if pa.types.is_float64(column.type) else MISSING["int64"]
    numbers: np.ndarray = pc.fill_null(column, pa.scalar(value, column.type)).to_numpy(zero_copy_only=False)
    return numbers


def filled(column: pa.Array) -> pa.Array:
    """An obs column with the values of ``MISSING`` in place of missing ones; bool becomes int8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type) or pa.types.is_int64(column.type) or pa.types.is_float64(column.type):
        return pa.array(plain(column))
    return pc.fill_null(column.cast(pa.large_string()), MISSING["string"])


def checked_counts(batch: pa.RecordBatch, header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets (n + 1), genes and counts of a batch, the counts in the header's type.

    Raises:
        CellmillError: with cell, gene and value, where a count does not fit that type.
    """
    import numpy as np

    offsets, genes = lists(batch["genes"])
    _, counts = lists(batch["counts"])
    limit = np.iinfo(header.counts_dtype).max
    if len(genes) != len(counts) or (len(genes) and genes.max() >= len(header.genes)):
        found = f"has {len(genes):,} genes up to number {genes.max(initial=0):,} for {len(counts):,} counts"
        fix = "Delete the counts of this dataset and run again; if it comes back, report it."
        raise CellmillError(header.dataset, f"{found} in a space of {len(header.genes):,} genes.", fix)
    if len(counts) and counts.max() > limit:
        at = int(np.argmax(counts > limit))
        cell = batch["cell_id"][int(np.searchsorted(offsets, at, side="right")) - 1].as_py()
        gene = header.genes["gene_id"].iloc[int(genes[at])]
        raise CellmillError(
            f"{header.dataset}, cell '{cell}', gene '{gene}'",
            f"the count {int(counts[at]):,} does not fit {header.counts_dtype}, which ends at {limit:,}.",
            "Delete the counts of this dataset and run again, so that the largest count is measured anew.",
        )
    return offsets, genes, counts.astype(header.counts_dtype, copy=False)
