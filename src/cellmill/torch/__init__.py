"""PyTorch datasets over what the workflow made (docs/loaders.md)."""

from __future__ import annotations

from cellmill.torch.batches import Batch, to_device
from cellmill.torch.contents import Columns, Counts, Tokens, variable_genes
from cellmill.torch.dataset import Batches, Cell, CellDataset, Cells
from cellmill.torch.samplers import Balanced, Grouped, Permuted, Sequential, Shuffled, Weighted, WithControls
from cellmill.torch.scbasecount import HVGDataset, ScRNADataset, create_dataloader, create_hvg_dataloader
from cellmill.torch.stores import open_store
from cellmill.torch.stream import CellStream, StreamLoader

__all__ = [
    "Balanced",
    "Batch",
    "Batches",
    "Cell",
    "CellDataset",
    "CellStream",
    "Cells",
    "Columns",
    "Counts",
    "Grouped",
    "HVGDataset",
    "Permuted",
    "ScRNADataset",
    "Sequential",
    "Shuffled",
    "StreamLoader",
    "Tokens",
    "Weighted",
    "WithControls",
    "create_dataloader",
    "create_hvg_dataloader",
    "open_store",
    "to_device",
    "variable_genes",
]
