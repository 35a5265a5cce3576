"""SCDL archives, with the module paths, names and results of BioNeMo-SCDL.

``cellmill.scdl`` in place of ``bionemo.scdl`` in an import moves a project over: the API is that of 0.1.3.
Projects written for 0.1.2 and before import ``cellmill.scdl.api_0_1_2``.

torch is imported with the first class or function that needs it; ``archive``, ``convert`` and ``writer`` need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellmill.scdl.io.single_cell_collection import SingleCellCollection
    from cellmill.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
    from cellmill.scdl.util.scdl_constants import NeighborSamplingStrategy
    from cellmill.scdl.util.torch_dataloader_utils import (
        collate_neighbor_sparse_matrix_batch,
        collate_sparse_matrix_batch,
    )

__all__ = [
    "NeighborSamplingStrategy",
    "SingleCellCollection",
    "SingleCellMemMapDataset",
    "collate_neighbor_sparse_matrix_batch",
    "collate_sparse_matrix_batch",
]
_WHERE = {
    "NeighborSamplingStrategy": "util.scdl_constants",
    "SingleCellCollection": "io.single_cell_collection",
    "SingleCellMemMapDataset": "io.single_cell_memmap_dataset",
    "collate_neighbor_sparse_matrix_batch": "util.torch_dataloader_utils",
    "collate_sparse_matrix_batch": "util.torch_dataloader_utils",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cellmill.scdl' has no attribute '{name}'")
    return getattr(import_module(f"cellmill.scdl.{_WHERE[name]}"), name)
