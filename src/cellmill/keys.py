"""Stable hashes of strings: the ground of splits and of the order of exports.

A key depends on the seed, the purpose and the string, and on nothing else:
not on the part, the order, the number of cores or what else is in the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np
import pyarrow as pa

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


@numba.njit(cache=True, nogil=True)
def mix64(h: np.uint64) -> np.uint64:
    """Spread a uint64 over all 64 bits (the finaliser of splitmix64), one to one."""
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _hash_rows(data: np.ndarray, offsets: np.ndarray, start: np.uint64) -> np.ndarray:
    out = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(out)):
        h = start
        for b in range(offsets[i], offsets[i + 1]):
            h = (h ^ np.uint64(data[b])) * _FNV_PRIME
        out[i] = mix64(h)
    return out


def hash_strings(strings: pa.Array | list[str], *, seed: int, purpose: str) -> np.ndarray:
    """uint64 keys (n,) of n strings: FNV-1a over their UTF-8 bytes, finished as in splitmix64.

    ``seed`` and ``purpose`` (such as ``"split"``) go in first,
    so that two uses of one seed have nothing to do with each other.
    """
    array = pa.array(strings, pa.large_string()) if isinstance(strings, list) else strings.cast(pa.large_string())
    if array.null_count:
        raise ValueError("a key cannot be made from a missing value")
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"\0", np.uint8)
    prefix = np.frombuffer(f"{purpose}\0{seed}\0".encode(), np.uint8)
    start = _hash_rows(prefix, np.array([0, len(prefix)], np.int64), _FNV_OFFSET)[0]
    return _hash_rows(data, offsets, start)


def assign_splits(keys: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    """int8 split codes (n,), in the order of ``fractions``, from uniform uint64 keys (n,).

    The splits share the keys out in the order of their names, so that the order in which they are written says nothing.
    """
    names = list(fractions)
    by_name = sorted(names)
    edges = np.cumsum(np.array([fractions[name] for name in by_name], np.float64))
    uniform = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53
    codes = np.array([names.index(name) for name in by_name], np.int8)
    return codes[np.searchsorted(edges[:-1], uniform, side="right")]
