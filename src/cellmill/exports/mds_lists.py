"""Lists of MDS from bytes: pickled tensors, of which nothing is unpickled, and JSON.

``mds_columns`` writes them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.json

from cellmill.exports.mds_columns import STORAGES, tensor_frame


def gather(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The bytes of pieces, end to end."""
    offsets = np.r_[0, sizes.cumsum()]
    index = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
    return np.ascontiguousarray(data[index])


def tensors(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """Pickled tensors of one dimension, by the bytes that stand around their values: nothing is unpickled.

    Tensors of one size have one number of values, hence the same bytes before and after them.
    """
    first = bytes(data[starts[0] : starts[0] + sizes[0]]) if len(starts) else b""
    dtype = next((d for d, storage in STORAGES.items() if b"ctorch\n" + storage + b"\n" in first), None)
    if dtype is None:
        raise ValueError("a pickle is no tensor of whole numbers or float32")
    at, lengths = starts.copy(), np.zeros(len(starts), np.int64)
    for size in np.unique(sizes):
        mine = np.flatnonzero(sizes == size)
        n, before, after = _frame_of(int(size), dtype)
        for wanted, places in ((before, starts[mine]), (after, starts[mine] + size - len(after))):
            found = gather(data, places, np.full(len(mine), len(wanted))).reshape(len(mine), -1)
            if (found != np.frombuffer(wanted, np.uint8)).any():
                raise ValueError("a pickle is not that of a tensor of one dimension, as it is written here")
        at[mine] += len(before)
        lengths[mine] = n
    type_ = np.dtype(dtype).newbyteorder("<")
    values = gather(data, at, lengths * type_.itemsize).view(type_)
    return pa.LargeListArray.from_arrays(np.r_[0, lengths.cumsum()], values)


@lru_cache(maxsize=1 << 16)
def _frame_of(size: int, dtype: str) -> tuple[int, bytes, bytes]:
    """The number of values of a pickled tensor of so many bytes, and what stands before and after them."""
    width = np.dtype(dtype).itemsize
    least = sum(map(len, tensor_frame(0, dtype)))
    most = max(0, (size - least) // width)
    for n in range(most, max(-1, most - 16), -1):
        before, after = tensor_frame(n, dtype)
        if len(before) + n * width + len(after) == size:
            return n, before, after
    raise ValueError(f"a pickle of {size:,} bytes is no tensor of {dtype}")


def json_lists(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """Lists of numbers, read as lines of an object each."""
    before, after = b'{"v":', b"}\n"
    lines = np.empty(int(sizes.sum()) + len(sizes) * (len(before) + len(after)), np.uint8)
    ends = (sizes + len(before) + len(after)).cumsum()
    begins = np.r_[0, ends[:-1]]
    for text, places in ((before, begins), (after, ends - len(after))):
        lines[(places[:, None] + np.arange(len(text))).ravel()] = np.tile(np.frombuffer(text, np.uint8), len(sizes))
    within = np.repeat(begins + len(before) - np.r_[0, sizes.cumsum()[:-1]], sizes) + np.arange(int(sizes.sum()))
    lines[within] = gather(data, starts, sizes)
    options = pa.json.ReadOptions(use_threads=False, block_size=max(1, len(lines)))
    table = pa.json.read_json(pa.BufferReader(pa.py_buffer(lines)), options)
    if table.column_names != ["v"] or len(table) != len(sizes) or not pa.types.is_list(table["v"].type):
        raise ValueError("a text is no list of JSON")
    return pa.concat_arrays(table["v"].chunks)
