"""Batches on their way: from workers in shared memory, and to a device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

from cellmill.torch.pool import empty, pool, received

INLINE = 16_384
"""Smaller tensors travel in the message itself: who keeps the labels of a batch does not keep its counts."""


class Batch(dict[str, Any]):
    """Tensors (and lists of strings) by name.

    On its way out of a worker, all its tensors travel as one, in memory that comes back to the worker.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Batch:
        # torch copies no sparse tensor so.
        return Batch({k: v.clone() if isinstance(v, torch.Tensor) else copy.deepcopy(v, memo) for k, v in self.items()})


class Bundle(list[Batch]):
    """Several batches, which travel as one."""


def _reduced(batches: Batch | Bundle) -> tuple[Any, ...]:
    """How batches go to another process: where each tensor is, and the memory, which the first time goes along."""
    single = isinstance(batches, Batch)
    every: list[Batch] = [batches] if isinstance(batches, Batch) else batches
    arrays: list[np.ndarray] = []

    def place(tensor: torch.Tensor) -> tuple[Any, ...]:
        array = tensor.contiguous().view(-1).view(torch.uint8).numpy() if tensor.nbytes else np.empty(0, np.uint8)
        arrays.append(array)
        return len(arrays) - 1, tensor.dtype, tuple(tensor.shape)

    said = []
    for batch in every:
        where: dict[str, Any] = {}
        for name, value in batch.items():
            if not isinstance(value, torch.Tensor):
                where[name] = ("as it is", value)
            elif value.layout == torch.sparse_csr:
                parts = (value.crow_indices(), value.col_indices(), value.values())
                where[name] = ("csr", [place(part) for part in parts], tuple(value.shape))
            else:
                where[name] = ("tensor", place(value))
        said.append(where)
    large = [array for array in arrays if array.nbytes > INLINE]
    mine = pool()
    piece = mine.piece_of(large[0]) if large else None
    if large and not (piece and all(piece.place(array) is not None for array in large)):
        # They were made elsewhere: copied, once.
        copies = iter(empty(*((array.nbytes, np.uint8) for array in large)))
        for at, array in enumerate(arrays):
            if array.nbytes > INLINE:
                arrays[at] = next(copies)
                arrays[at][:] = array
        piece = mine.piece_of(next(array for array in arrays if array.nbytes > INLINE))
    if piece is None:  # few bytes, or the pool has nothing left
        return _restored, (None, None, 0, [(None, array) for array in arrays], said, single)
    places = [(None, array) if array.nbytes <= INLINE else (piece.place(array), array.nbytes) for array in arrays]
    size = max(at + n for at, n in places if at is not None)
    return _restored, (*piece.send(), size, places, said, single)


def _restored(
    key: Any, whole: torch.Tensor | None, size: int, places: list[tuple[Any, Any]], said: list[Any], single: bool
) -> Batch | Bundle:
    """The batches, whose tensors are views of what the worker filled."""
    memory = torch.from_numpy(np.empty(0, np.uint8) if key is None else received(key, whole, size))

    def view(number: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        at, found = places[number]
        flat = torch.from_numpy(found) if at is None else memory[at : at + found]
        return flat.view(dtype).view(shape) if flat.nbytes else torch.empty(shape, dtype=dtype)

    batches = Bundle()
    for where in said:
        batch = Batch()
        for name, (kind, what, *shape) in where.items():
            if kind == "csr":
                crow, columns, values = (view(*place) for place in what)
                batch[name] = torch.sparse_csr_tensor(crow, columns, values, size=shape[0], check_invariants=False)
            else:
                batch[name] = view(*what) if kind == "tensor" else what
        batches.append(batch)
    return batches[0] if single else batches


for _type in (Batch, Bundle):
    ForkingPickler.register(_type, _reduced)


def to_device(batch: Mapping[str, Any], device: torch.device | str, *, densify: bool = False) -> Batch:
    """A batch with its tensors on ``device``; with ``densify``, sparse ones become dense there, after the transfer.

    36,000 genes are 144 kB per cell when dense, and 12 kB as CSR of 1,500 values: the bus should carry the latter.
    From pinned memory the transfer runs beside the program.
    """
    moved = Batch()
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            value = value.to(device, non_blocking=True)
            if densify and value.layout != torch.strided:
                value = value.to_dense()
        moved[name] = value
    return moved
