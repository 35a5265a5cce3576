"""Collate functions for ``torch.utils.data.DataLoader``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def collate_sparse_matrix_batch(batch: list[torch.Tensor], *, n_columns: int | None = None) -> torch.Tensor:
    """A batch as CSR, (cells, columns), with int32 columns.

    Args:
        batch: what ``dataset[i]`` gives: values and columns, (2, n) each.
        n_columns: the width; ``None``: the last column of this batch + 1, which is another one for every batch.

    Raises:
        ValueError: a column is beyond ``n_columns``.
    """
    import torch

    lengths = torch.tensor([0, *(cell.shape[1] for cell in batch)])
    together = torch.cat(batch, dim=1) if batch else torch.zeros(2, 0)
    columns = together[1].to(torch.int32)
    needed = int(columns.max()) + 1 if len(columns) else 0
    if n_columns is not None and needed > n_columns:
        raise ValueError(f"n_columns is {n_columns}, and the batch has column {needed - 1}. Take the largest width.")
    size = (len(batch), needed if n_columns is None else n_columns)
    # Columns need not be sorted in an archive, which the checks would ask for.
    return torch.sparse_csr_tensor(lengths.cumsum(0), columns, together[0], size=size, check_invariants=False)


def collate_neighbor_sparse_matrix_batch(
    batch: list[dict[str, Any]], *, n_columns: int | None = None
) -> dict[str, Any]:
    """Cells and one neighbour of each, as ``get_row_with_neighbor`` gives them.

    Returns:
        ``current_cells`` and ``next_cells`` as CSR in float32, ``current_cell_indices`` and ``next_cell_indices`` as
        lists, and ``batch_size``.
    """
    import numpy as np
    import torch

    def cells(name: str) -> torch.Tensor:
        tensors = [torch.from_numpy(np.stack([np.asarray(part, np.float32) for part in item[name]])) for item in batch]
        return collate_sparse_matrix_batch(tensors, n_columns=n_columns)

    return {
        "current_cells": cells("current_cell"),
        "next_cells": cells("next_cell"),
        "current_cell_indices": [item["current_cell_index"] for item in batch],
        "next_cell_indices": [item["next_cell_index"] for item in batch],
        "batch_size": len(batch),
    }
