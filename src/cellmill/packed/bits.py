"""What numba lacks: counting bits, memory at an address, and xxh64 of aligned words."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

_P1, _P2, _P3 = (np.uint64(p) for p in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_P4, _P5 = (np.uint64(p) for p in (0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5))
_1, _2, _3, _4 = (np.uint64(n) for n in (1, 2, 3, 4))


@intrinsic
def trailing_zeros(_: Any, word: Any = None) -> Any:
    """Number of the lowest bit that is set, of a uint64; 64 of zero."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), code


@intrinsic
def ones(_: Any, word: Any = None) -> Any:
    """How many bits of a uint64 are set."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), code


@intrinsic
def pointer(_: Any, address: Any = None) -> Any:
    """An address (uint64) as what ``numba.carray`` takes; what lies there must outlive its use."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.uint64), code


@numba.njit(cache=True, nogil=True, inline="always")
def _rotated(x: np.uint64, r: int) -> np.uint64:
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@numba.njit(cache=True, nogil=True, inline="always")
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotated(lane + word * _P2, 31) * _P1


@numba.njit(cache=True, nogil=True)
def xxh64(words: np.ndarray, start: int, stop: int, seed: np.uint64) -> np.uint64:
    """XXH64 of the little-endian bytes of uint64 words ``start`` to ``stop``."""
    at, end = np.uint64(start), np.uint64(stop)  # numba asks of signed ones whether they count from the end
    if stop - start >= 4:
        a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        while at + _4 <= end:
            a, b = _round(a, words[at]), _round(b, words[at + _1])
            c, d = _round(c, words[at + _2]), _round(d, words[at + _3])
            at += _4
        h = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
        h = (h ^ _round(np.uint64(0), a)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), b)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), c)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), d)) * _P1 + _P4
    else:
        h = seed + _P5
    h += np.uint64(8 * (stop - start))
    while at < end:
        h = _rotated(h ^ _round(np.uint64(0), words[at]), 27) * _P1 + _P4
        at += _1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))
