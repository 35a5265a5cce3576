"""The API of BioNeMo-SCDL up to 0.1.2: rows as two-tuples, without obs features.

The archives are the same; which API a project was written for is chosen by the module that it imports.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cellmill.scdl.index.row_feature_index import VariableFeatureIndex
from cellmill.scdl.io import single_cell_collection, single_cell_memmap_dataset
from cellmill.scdl.io.single_cell_memmap_dataset import Row
from cellmill.scdl.util.scdl_constants import FileNames, Mode, NeighborSamplingStrategy

__all__ = ["FileNames", "Mode", "NeighborSamplingStrategy", "SingleCellCollection", "SingleCellMemMapDataset"]


class SingleCellMemMapDataset(single_cell_memmap_dataset.SingleCellMemMapDataset):
    """As the class of 0.1.3, with the arguments and results of 0.1.2; ``h5ad_path`` is read from ``X``."""

    _version = "0.1.2"

    def __init__(
        self,
        data_path: str | os.PathLike[str],
        h5ad_path: str | os.PathLike[str] | None = None,
        num_elements: int | None = None,
        num_rows: int | None = None,
        mode: Mode | str = Mode.READ,
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        feature_index_name: str = "feature_id",
        load_neighbors: bool = False,
        neighbor_key: str = "next_cell_ids",
        neighbor_sampling_strategy: NeighborSamplingStrategy | str = NeighborSamplingStrategy.RANDOM,
        fallback_to_identity: bool = True,
        *,
        neighbor_seed: int | None = None,
    ) -> None:
        super().__init__(
            data_path,
            h5ad_path,
            num_elements,
            num_rows,
            mode,
            paginated_load_cutoff,
            load_block_row_size,
            var_feature_index_name=feature_index_name,
            load_neighbors=load_neighbors,
            neighbor_key=neighbor_key,
            neighbor_sampling_strategy=neighbor_sampling_strategy,
            fallback_to_identity=fallback_to_identity,
            use_X_not_raw=True,
            neighbor_seed=neighbor_seed,
        )

    @property
    def feature_index_name(self) -> str:
        """The column of the index of ``var``."""
        return self.var_feature_index_name

    def features(self) -> VariableFeatureIndex:
        """The gene tables."""
        return self._var_feature_index

    def get_row(  # type: ignore[override]
        self, index: int, return_features: bool = False, feature_vars: Sequence[str] | None = None
    ) -> tuple[Row, list[np.ndarray] | None]:
        """``((values, columns), features)`` of a row; features are whole columns of the gene table."""
        return super().get_row(index, return_features, feature_vars)[:2]

    def get_row_padded(  # type: ignore[override]
        self, index: int, return_features: bool = False, feature_vars: Sequence[str] | None = None
    ) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """All genes of a row (genes,) float64, and features."""
        return super().get_row_padded(index, return_features, feature_vars)[:2]

    def get_row_with_neighbor(  # type: ignore[override]
        self, index: int, return_features: bool = False, feature_vars: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """As in 0.1.3, with ``features`` in place of ``var_features`` and ``obs_features``."""
        return _renamed(super().get_row_with_neighbor(index, return_features, feature_vars))

    def get_row_padded_with_neighbor(  # type: ignore[override]
        self, index: int, return_features: bool = False, feature_vars: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """As ``get_row_with_neighbor``, with the cells as in ``get_row_padded``."""
        return _renamed(super().get_row_padded_with_neighbor(index, return_features, feature_vars))


def _renamed(said: dict[str, Any]) -> dict[str, Any]:
    said["features"] = said.pop("var_features")
    said.pop("obs_features")
    return said


class SingleCellCollection(single_cell_collection.SingleCellCollection):
    """As the class of 0.1.3, over the datasets of 0.1.2; files are read from ``X``."""

    dataset_class = SingleCellMemMapDataset

    def load_h5ad(self, h5ad_path: str | os.PathLike[str]) -> None:  # type: ignore[override]
        """Convert a file to an archive of its name, and add it."""
        super().load_h5ad(h5ad_path, use_X_not_raw=True)

    def load_h5ad_multi(  # type: ignore[override]
        self, directory_path: str | os.PathLike[str], max_workers: int = 5, use_processes: bool = False
    ) -> None:
        """Convert the h5ad files below a folder, sorted by path, and add them."""
        super().load_h5ad_multi(directory_path, max_workers, use_processes, use_X_not_raw=True)
