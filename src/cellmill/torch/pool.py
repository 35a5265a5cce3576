"""Memory for batches that is used again once nobody holds them; a worker's is shared with the main process.

New memory costs as much as filling it: the system hands it out in pages of 4 kB, each cleared first.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

ALIGNED = 64
"""Arrays begin at multiples of so many bytes."""
SPARE = 1.25
"""How much larger than asked for memory is made, because batches differ in size."""
MOST_PRIVATE, MOST_SHARED = 4, 32
"""Pieces that a pool keeps; beyond, memory is made for one use."""
LARGEST_PRIVATE = 1 << 26
"""Bytes of a private piece that is kept."""

Key = tuple[int, int]
"""A piece of a worker's: the process, and its number there."""


def aligned(size: int) -> int:
    """The next multiple of ``ALIGNED``."""
    return -(-size // ALIGNED) * ALIGNED


class Piece:
    """One piece of memory: who has it, and, where it is shared, whether the main process has it.

    Its first bytes are 1 from when it is sent to when the main process lets go of it.
    """

    def __init__(self, size: int, key: Key, *, shared: bool) -> None:
        self.key, self.shared = key, shared
        if shared:
            # As torch's own collate function does in a worker.
            storage = torch.UntypedStorage._new_shared(size + ALIGNED, device="cpu")  # type: ignore[no-untyped-call]
            self._whole: torch.Tensor | None = torch.empty(0, dtype=torch.uint8).set_(storage)
            memory = self._whole.numpy()
        else:
            memory = np.empty(size + ALIGNED, np.uint8)
        memory[:ALIGNED] = 0
        self.sent, self.memory = memory[:ALIGNED], memory[ALIGNED:]
        self._lease: weakref.ref[np.ndarray] | None = None

    @property
    def free(self) -> bool:
        return not self.sent[0] and (self._lease is None or self._lease() is None)

    def lease(self, size: int) -> np.ndarray:
        """The first ``size`` bytes, until the array and all its views are gone."""
        lease = np.frombuffer(self.memory.data, np.uint8, size)
        self._lease = weakref.ref(lease)
        return lease

    def place(self, array: np.ndarray) -> int | None:
        """Where an array lies in what is leased; ``None``: elsewhere."""
        at = array.ctypes.data - self.memory.ctypes.data
        return at if 0 <= at and at + array.nbytes <= len(self.memory) else None

    def send(self) -> tuple[Key, torch.Tensor | None]:
        """Give what is leased to the main process: by name, and the first time the memory itself."""
        whole, self._whole = self._whole, None
        self.sent[0] = 1
        return self.key, whole


class Pool:
    """The pieces of one process, for any of its threads: a worker packs its batches in one of its own."""

    def __init__(self, *, shared: bool) -> None:
        self.process, self.shared = os.getpid(), shared
        self.pieces: list[Piece] = []
        self._made, self._lock = 0, threading.Lock()

    def lease(self, size: int) -> np.ndarray:
        """Memory (uint8, not cleared) that comes back when the array and all its views are gone."""
        if not self.shared and size > LARGEST_PRIVATE:
            return np.empty(size, np.uint8)
        with self._lock:
            free = [piece for piece in self.pieces if piece.free]
            for piece in free:
                if len(piece.memory) >= size:
                    return piece.lease(size)
            for piece in free[:1]:
                self.pieces.remove(piece)  # too small
            if len(self.pieces) >= (MOST_SHARED if self.shared else MOST_PRIVATE):
                return np.empty(size, np.uint8)
            self._made += 1
            self.pieces.append(Piece(int(size * SPARE), (self.process, self._made), shared=self.shared))
            return self.pieces[-1].lease(size)

    def piece_of(self, array: np.ndarray) -> Piece | None:
        """The shared piece that an array lies in, where it was not sent already."""
        with self._lock:
            for piece in self.pieces:
                if piece.shared and not piece.sent[0] and piece.place(array) is not None:
                    return piece
        return None


_POOL = Pool(shared=False)


def pool() -> Pool:
    """The pool of this process: a worker of a ``DataLoader`` has one that it shares with the main process."""
    global _POOL
    shared = get_worker_info() is not None
    if _POOL.process != os.getpid() or _POOL.shared != shared:
        _POOL = Pool(shared=shared)
    return _POOL


def empty(*wanted: tuple[int, Any]) -> list[np.ndarray]:
    """Arrays ``(length, dtype)`` side by side in memory of this process's pool, not cleared."""
    sizes = [aligned(length * np.dtype(dtype).itemsize) for length, dtype in wanted]
    lease, arrays, at = pool().lease(sum(sizes)), [], 0
    for (length, dtype), size in zip(wanted, sizes, strict=True):
        arrays.append(lease[at : at + length * np.dtype(dtype).itemsize].view(dtype))
        at += size
    return arrays


_MAPPED: dict[Key, torch.Tensor] = {}
"""Pieces of workers as this process sees them."""


def received(key: Key, whole: torch.Tensor | None, size: int) -> np.ndarray:
    """The first ``size`` bytes of a piece that a worker sent; the worker has it back when all views are gone."""
    if whole is not None:
        forget()
        _MAPPED[key] = whole
    memory = _MAPPED[key].numpy()
    lease = np.frombuffer(memory[ALIGNED:].data, np.uint8, size)
    weakref.finalize(lease, _give_back, memory[:ALIGNED], os.getpid()).atexit = False
    return lease


def forget() -> None:
    """Let go of the pieces of workers that have ended."""
    alive = {child.pid for child in multiprocessing.active_children()}
    for key in [key for key in _MAPPED if key[0] not in alive]:
        _MAPPED.pop(key, None)


def _give_back(sent: np.ndarray, process: int) -> None:
    if process == os.getpid():  # not a child that was forked meanwhile
        sent[0] = 0
