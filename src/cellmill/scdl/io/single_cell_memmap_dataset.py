"""``SingleCellMemMapDataset`` with the API of BioNeMo-SCDL 0.1.3, over the same archives."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from cellmill.files import replacing
from cellmill.scdl.archive import (
    NEIGHBORS,
    SCDL_VERSION,
    Access,
    Arrays,
    Header,
    open_arrays,
    open_neighbors,
)
from cellmill.scdl.index.row_feature_index import ObservedFeatureIndex, VariableFeatureIndex
from cellmill.scdl.merge import Archive, cast, merge
from cellmill.scdl.util.scdl_constants import FLOAT_ORDER, INT_ORDER, FileNames, Mode, NeighborSamplingStrategy
from cellmill.scdl.writer import write_about, write_zeros

__all__ = ["FLOAT_ORDER", "INT_ORDER", "FileNames", "Mode", "NeighborSamplingStrategy", "SingleCellMemMapDataset"]

Row = tuple[np.ndarray, np.ndarray]


@numba.njit(cache=True, nogil=True)
def _gather(data: np.ndarray, columns: np.ndarray, starts: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    """Copy rows end to end: values to ``out[0]``, columns to ``out[1]``."""
    for i in range(len(starts)):
        for k in range(offsets[i + 1] - offsets[i]):
            out[0, offsets[i] + k] = data[starts[i] + k]
            out[1, offsets[i] + k] = columns[starts[i] + k]


class SingleCellMemMapDataset(Dataset[torch.Tensor]):
    """Cells of an SCDL archive, mapped into memory.

    Names, arguments and results are those of BioNeMo-SCDL 0.1.3; ``cellmill.scdl.api_0_1_2`` has those of its
    earlier releases.
    An archive that is there is opened for reading only, so that a read-only folder will do, and nothing of it is
    decoded before it is asked for.
    The object pickles as the name of its folder.

    What differs, each a defect of the original: an index below 0 counts from the end and one beyond the end is an
    ``IndexError``; ``dataset[i]`` has one type over a whole archive, float32, or float64 where values or columns may
    be larger than float32 holds; ``h5ad_path`` keeps the index of ``var`` and ``obs`` as the columns
    ``var_feature_index_name`` and ``obs_feature_index_name``, after the others; a type that would change values is
    refused; ``concat`` and ``cast_data_to_dtype`` replace the archive in one step, and neighbours come along.

    Args:
        data_path: folder of the archive.
        h5ad_path: file to convert to it; the folder must not be there.
        num_elements, num_rows: size of an archive of zeros to be filled by hand.
        mode: ``r``: read only; ``r+``: arrays are changed on the disk; ``w+``: the folder must not be there.
        paginated_load_cutoff, load_block_row_size: without meaning here, every file is read in blocks.
        load_neighbors: map the neighbours, and take those of ``h5ad_path`` along.
        neighbor_key: where they are in ``obsp``.
        neighbor_sampling_strategy: ``random``: every neighbour alike; ``first``; ``weighted``: by the stored weights.
        fallback_to_identity: whether a cell without neighbours is its own; with ``False`` it is, too, with a warning.
        data_dtype: type of the values of ``h5ad_path``; ``None`` is float32, ``auto`` the smallest that holds them.
        data_dtype_tolerance: how far a value may move by that.
        use_X_not_raw: take ``X``, not ``raw``.
        neighbor_seed: seed of the drawing of neighbours, in workers beside torch's own; ``None``: of the system.
    """

    _version = SCDL_VERSION

    def __init__(
        self,
        data_path: str | os.PathLike[str],
        h5ad_path: str | os.PathLike[str] | None = None,
        num_elements: int | None = None,
        num_rows: int | None = None,
        mode: Mode | str = Mode.READ,
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        var_feature_index_name: str = "var_feature_id",
        obs_feature_index_name: str = "obs_feature_id",
        load_neighbors: bool = False,
        neighbor_key: str = "next_cell_ids",
        neighbor_sampling_strategy: NeighborSamplingStrategy | str = NeighborSamplingStrategy.RANDOM,
        fallback_to_identity: bool = True,
        data_dtype: str | None = None,
        data_dtype_tolerance: float = 1e-08,
        use_X_not_raw: bool = False,
        *,
        neighbor_seed: int | None = None,
    ) -> None:
        self.data_path: str | os.PathLike[str] = data_path
        self.mode = Mode(mode)
        self.paginated_load_cutoff, self.load_block_row_size = paginated_load_cutoff, load_block_row_size
        self.var_feature_index_name, self.obs_feature_index_name = var_feature_index_name, obs_feature_index_name
        self.load_neighbors, self.neighbor_key = load_neighbors, neighbor_key
        try:
            self.neighbor_sampling_strategy = NeighborSamplingStrategy(neighbor_sampling_strategy)
        except ValueError:
            there = ", ".join(strategy.value for strategy in NeighborSamplingStrategy)
            message = f"Unsupported neighbor_sampling_strategy: {neighbor_sampling_strategy}. There: {there}."
            raise ValueError(message) from None
        self.fallback_to_identity, self.neighbor_seed = fallback_to_identity, neighbor_seed
        self.data_dtype, self.data_dtype_tolerance = data_dtype, data_dtype_tolerance
        self.use_X_not_raw = use_X_not_raw
        self._generator: tuple[tuple[int, int], np.random.Generator] | None = None
        if data_dtype not in (None, "auto", *INT_ORDER, *FLOAT_ORDER):
            allowed = ", ".join(["auto", *INT_ORDER, *FLOAT_ORDER])
            raise ValueError(f"Invalid data_dtype '{data_dtype}'. Must be one of: {allowed}.")
        there_already = os.path.exists(data_path)
        if there_already and (h5ad_path is not None or self.mode is Mode.CREATE_APPEND):
            what = f"and {h5ad_path} would be written there" if h5ad_path is not None else "and mode is 'w+'"
            raise FileExistsError(f"{data_path}: it is already there, {what}. Delete it, or name another folder.")
        if there_already:
            self.load(data_path)
        elif h5ad_path is not None:
            self.load_h5ad(h5ad_path)
        elif num_rows is not None and num_elements is not None:
            self._create(num_rows, num_elements)
        else:
            raise ValueError(
                f"{data_path}: there is no such folder. An np.memmap path, an h5ad path, or the number of elements "
                "and rows is required."
            )

    # --- opening and pickling

    def load(self, stored_path: str | os.PathLike[str]) -> None:
        """Open an archive.

        Raises:
            FileNotFoundError: the folder or a file that belongs to it is missing.
            ScdlError: the files do not fit each other.
        """
        folder = Path(stored_path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder. Name an archive, or convert an h5ad file.")
        if not (folder / FileNames.METADATA.value).is_file():
            raise FileNotFoundError(f"{folder}: it has no {FileNames.METADATA.value}, hence is no SCDL archive.")
        self.data_path = stored_path
        access: Access = "r" if self.mode in (Mode.READ, Mode.CREATE) else "r+"
        self._set_arrays(open_arrays(folder, access=access))
        self.metadata: dict[str, int] = json.loads((folder / FileNames.METADATA.value).read_text())
        header = folder / FileNames.HEADER.value
        self.header = Header.read(header) if header.is_file() else None
        var = next((folder / n for n in ("var_features", "features") if (folder / n).is_dir()), None)
        obs = folder / "obs_features"
        self._var_feature_index = VariableFeatureIndex() if var is None else VariableFeatureIndex.load(var)
        self._obs_feature_index = ObservedFeatureIndex.load(obs) if obs.is_dir() else ObservedFeatureIndex()
        self._open_neighbors(folder, access)

    def _set_arrays(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.data, self.row_index, self.col_index = arrays.data, arrays.row_ptr, arrays.col_ptr
        # Slices of plain arrays cost a tenth of those of memory maps; both see the same bytes.
        self._data, self._row_ptr, self._col_ptr = (np.asarray(a).view(np.ndarray) for a in vars(arrays).values())
        self.dtypes = {
            FileNames.DATA.value: self._data.dtype.name,
            FileNames.COLPTR.value: self._col_ptr.dtype.name,
            FileNames.ROWPTR.value: self._row_ptr.dtype.name,
            **{name: dtype.name for name, dtype in NEIGHBORS.items()},
        }
        small = (np.uint8, np.uint16, np.float16, np.float32)
        exact = self._data.dtype in small and self._col_ptr.dtype in (np.uint8, np.uint16, np.uint32)
        self._row_dtype = np.float32 if exact else np.float64

    def _open_neighbors(self, folder: Path, access: Access) -> None:
        self._has_neighbors = False
        self._neighbor_indptr: np.ndarray | None = None
        self._neighbor_indices: np.ndarray | None = None
        self._neighbor_data: np.ndarray | None = None
        if not self.load_neighbors:
            return
        if not all((folder / name).is_file() for name in NEIGHBORS):
            warnings.warn(f"{folder}: Neighbor loading was requested but neighbor files are missing.", stacklevel=3)
            return
        neighbors = open_neighbors(folder, self._arrays.cells, access=access)
        self._neighbor_indptr, self._neighbor_indices = neighbors.indptr, neighbors.indices
        self._neighbor_data, self._has_neighbors = neighbors.weights, True

    def load_h5ad(self, anndata_path: str | os.PathLike[str]) -> None:
        """Convert an h5ad file to the archive, which it replaces, and open it.

        Raises:
            FileNotFoundError: there is no such file.
            ScdlError: it has no such matrix, or values that do not fit.
        """
        from cellmill.scdl.convert import Options, convert, look

        if not os.path.exists(anndata_path):
            raise FileNotFoundError(f"Error: could not find h5ad path {anndata_path}")
        options = Options(
            matrix="X" if self.use_X_not_raw else "raw",
            data_dtype=None if self.data_dtype == "auto" else self.data_dtype or "float32",
            tolerance=self.data_dtype_tolerance,
            neighbors=self.neighbor_key if self.load_neighbors else None,
            threads=min(os.cpu_count() or 1, 4),
            var_index=self.var_feature_index_name,
            obs_index=self.obs_feature_index_name,
        )
        convert(look([Path(anndata_path)], options), self.data_path, options, force=True)
        self.load(self.data_path)

    def _create(self, rows: int, elements: int) -> None:
        if rows <= 0 or elements <= 0:
            raise ValueError(f"num_rows is {rows} and num_elements {elements}; both must be above 0.")
        dtype = "float32" if self.data_dtype in (None, "auto") else self.data_dtype
        write_zeros(Path(self.data_path), rows=rows, elements=elements, dtype=np.dtype(dtype))
        self.mode = Mode.READ_APPEND
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of neighbours, which nobody expects yet
            self.load(self.data_path)

    def __getstate__(self) -> dict[str, Any]:
        """The folder and the arguments; no arrays."""
        names: tuple[str, ...] = ("mode", "paginated_load_cutoff", "load_block_row_size", "var_feature_index_name")
        names += ("obs_feature_index_name", "load_neighbors", "neighbor_key", "neighbor_sampling_strategy")
        names += ("fallback_to_identity", "data_dtype", "data_dtype_tolerance", "use_X_not_raw", "neighbor_seed")
        return {"data_path": os.path.abspath(self.data_path)} | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mode = Mode.READ_APPEND if state["mode"] is Mode.CREATE_APPEND else state["mode"]
        SingleCellMemMapDataset.__init__(self, **state | {"mode": mode})

    @property
    def header_path(self) -> str:
        """Where the header is."""
        return str(Path(self.data_path) / FileNames.HEADER.value)

    def version(self) -> str:
        """The version of SCDL that this API is of."""
        return self._version

    # --- rows

    def _position(self, index: int) -> int:
        rows = len(self._row_ptr) - 1
        if not -rows <= index < rows:
            raise IndexError(f"Row index {index} is out of bounds for a dataset with {rows} rows.")
        return int(index) + rows if index < 0 else int(index)

    def _row(self, index: int) -> Row:
        start, end = int(self._row_ptr[index]), int(self._row_ptr[index + 1])
        return self._data[start:end], self._col_ptr[start:end]

    def _features(
        self, index: int, var: bool, var_names: Sequence[str] | None, obs: bool, obs_names: Sequence[str] | None
    ) -> tuple[list[np.ndarray] | None, list[Any] | None]:
        return (
            self._var_feature_index.lookup(index, var_names)[0] if var else None,
            self._obs_feature_index.lookup(index, obs_names)[0] if obs else None,
        )

    def _padded(self, index: int) -> np.ndarray:
        values, columns = self._row(index)
        row = np.zeros(self._var_feature_index.number_vars_at_row(index))
        row[columns] = values
        return row

    def get_row(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: Sequence[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: Sequence[str] | None = None,
    ) -> tuple[Row, list[np.ndarray] | None, list[Any] | None]:
        """``((values, columns), var features, obs features)`` of a row; features are None unless asked for.

        Var features are whole columns of the gene table, obs features one value per column.
        """
        index = self._position(index)
        names = (return_var_features, var_feature_names, return_obs_features, obs_feature_names)
        return self._row(index), *self._features(index, *names)

    def get_row_padded(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: Sequence[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray] | None, list[Any] | None]:
        """As ``get_row``, but all genes of the row's block (genes,) float64 in place of values and columns."""
        index = self._position(index)
        names = (return_var_features, var_feature_names, return_obs_features, obs_feature_names)
        return self._padded(index), *self._features(index, *names)

    def get_row_column(self, index: int, column: int, impute_missing_zeros: bool = True) -> Any:
        """One value; where none is stored 0.0, or None without ``impute_missing_zeros``. Columns need not be sorted."""
        values, columns = self._row(self._position(index))
        at = np.flatnonzero(columns == column)
        if len(at):
            return values[at[0]]
        return 0.0 if impute_missing_zeros else None

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Values and columns of a row, (2, n)."""
        values, columns = self._row(self._position(idx))
        out = np.empty((2, len(values)), self._row_dtype)
        out[0], out[1] = values, columns
        return torch.from_numpy(out)

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Many rows at once, which ``DataLoader`` asks for; views of one tensor."""
        rows = np.asarray(indices, np.int64)
        n = len(self._row_ptr) - 1
        if len(rows) and not -n <= int(rows.min()) <= int(rows.max()) < n:
            raise IndexError(f"Row indices {rows.min()} to {rows.max()} are out of bounds for {n} rows.")
        rows = np.where(rows < 0, rows + n, rows)
        starts = self._row_ptr[rows].astype(np.int64)
        lengths = self._row_ptr[rows + 1].astype(np.int64) - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        out = np.empty((2, int(offsets[-1])), self._row_dtype)
        half = self._data.dtype == np.float16  # numba has none on the CPU
        _gather(self._data.view(np.uint16) if half else self._data, self._col_ptr, starts, offsets, out)
        if half:
            out[0] = out[0].astype(np.uint16).view(np.float16)
        return list(torch.split(torch.from_numpy(out), lengths.tolist(), dim=1))

    def __len__(self) -> int:
        return self.number_of_rows()

    # --- neighbours

    def _cell(self, cell_index: int) -> int:
        if not 0 <= cell_index < self.number_of_rows():
            rows = self.number_of_rows()
            raise IndexError(f"Cell index {cell_index} out of bounds for dataset with {rows} cells.")
        if self.load_neighbors and not self._has_neighbors:
            raise ValueError("Neighbor functionality was enabled but no neighbor data is available.")
        return int(cell_index)

    def _of_cell(self, array: np.ndarray | None, cell_index: int) -> np.ndarray:
        cell = self._cell(cell_index)
        if array is None or self._neighbor_indptr is None:
            return np.array([], int)
        return array[int(self._neighbor_indptr[cell]) : int(self._neighbor_indptr[cell + 1])]

    def get_neighbor_indices_for_cell(self, cell_index: int) -> np.ndarray:
        """The neighbours of a cell; none where neighbours are not loaded."""
        return self._of_cell(self._neighbor_indices, cell_index)

    def get_neighbor_weights_for_cell(self, cell_index: int) -> np.ndarray:
        """The weights of the neighbours of a cell; none where neighbours are not loaded."""
        return self._of_cell(self._neighbor_data, cell_index)

    def sample_neighbor_index(self, cell_index: int) -> int:
        """One neighbour of a cell by the strategy; the cell itself where it has none, or none are loaded.

        Raises:
            ValueError: with ``weighted``, where the weights of the cell are negative or all 0.
        """
        neighbors = self.get_neighbor_indices_for_cell(cell_index)
        if not len(neighbors):
            if self.load_neighbors and not self.fallback_to_identity:
                warnings.warn(f"Cell {cell_index} has no neighbors; it is its own neighbor.", stacklevel=2)
            return cell_index
        if self.neighbor_sampling_strategy is NeighborSamplingStrategy.FIRST:
            return int(neighbors[0])
        if self.neighbor_sampling_strategy is NeighborSamplingStrategy.RANDOM:
            return int(neighbors[self._rng().integers(len(neighbors))])
        weights = self.get_neighbor_weights_for_cell(cell_index).astype(np.float64)
        total = weights.sum()
        if weights.min() < 0 or not 0 < total < np.inf:
            raise ValueError(
                f"Cell {cell_index} has the weights {weights.tolist()}; they must be at least 0, one more."
            )
        return int(self._rng().choice(neighbors, p=weights / total))

    def _rng(self) -> np.random.Generator:
        """A generator of this process; in a worker also of torch's seed for it, which is another one in each epoch."""
        info = get_worker_info()
        key = (os.getpid(), 0 if info is None else info.seed)
        if self._generator is None or self._generator[0] != key:
            seed = None if self.neighbor_seed is None else [self.neighbor_seed, key[1]]
            self._generator = (key, np.random.default_rng(seed))
        return self._generator[1]

    def _require_neighbors(self) -> None:
        if not (self.load_neighbors and self._has_neighbors):
            raise ValueError(
                "Cannot include neighbor data: it was not asked for (load_neighbors=True), or the archive has none."
            )

    def get_row_with_neighbor(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: Sequence[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """A row and one of its neighbours as (values, columns), their indices, and the features of the row."""
        self._require_neighbors()
        index = self._position(index)
        other = self.sample_neighbor_index(index)
        names = (return_var_features, var_feature_names, return_obs_features, obs_feature_names)
        var, obs = self._features(index, *names)
        return {
            "current_cell": self._row(index),
            "next_cell": self._row(other),
            "current_cell_index": index,
            "next_cell_index": other,
            "var_features": var,
            "obs_features": obs,
        }

    def get_row_padded_with_neighbor(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: Sequence[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """As ``get_row_with_neighbor``, with the cells as in ``get_row_padded``."""
        names = (return_var_features, var_feature_names, return_obs_features, obs_feature_names)
        said = SingleCellMemMapDataset.get_row_with_neighbor(self, index, *names)
        said["current_cell"] = self._padded(said["current_cell_index"])
        said["next_cell"] = self._padded(said["next_cell_index"])
        return said

    def get_neighbor_stats(self) -> dict[str, Any]:
        """How many neighbours cells have."""
        if self._neighbor_indptr is None or self._neighbor_indices is None:
            return {"has_neighbors": False}
        counts = np.diff(self._neighbor_indptr.astype(np.int64))
        return {
            "has_neighbors": True,
            "total_connections": len(self._neighbor_indices),
            "min_neighbors_per_cell": int(counts.min()),
            "max_neighbors_per_cell": int(counts.max()),
            "avg_neighbors_per_cell": float(counts.mean()),
            "cells_with_no_neighbors": int((counts == 0).sum()),
        }

    # --- sizes

    def var_features(self) -> VariableFeatureIndex:
        """The gene tables."""
        return self._var_feature_index

    def obs_features(self) -> ObservedFeatureIndex:
        """The obs tables."""
        return self._obs_feature_index

    def number_of_rows(self) -> int:
        """Rows that have genes.

        Raises:
            ValueError: the gene tables are for another number of rows than there are.
        """
        rows, stored = self._var_feature_index.number_of_rows(), len(self._row_ptr) - 1
        if len(self._var_feature_index) and rows != stored:
            raise ValueError(f"{self.data_path}: the gene tables are for {rows} rows, and there are {stored}.")
        return rows

    def number_of_values(self) -> int:
        """Values of all cells, zeros among them."""
        return sum(self._var_feature_index.number_of_values())

    def number_nonzero_values(self) -> int:
        """Stored values."""
        return int(self._data.size)

    def number_of_variables(self) -> list[int]:
        """Genes of each block; ``[0]`` where there is none."""
        return self._var_feature_index.column_dims() or [0]

    def shape(self) -> tuple[int, list[int]]:
        """Rows, and genes of each block."""
        return self.number_of_rows(), self.number_of_variables()

    def sparsity(self) -> float:
        """The share of values that are not stored; 0 where there are none."""
        total = self.number_of_values()
        return (total - self.number_nonzero_values()) / total if total else 0.0

    # --- writing

    def save(self, output_path: str | os.PathLike[str] | None = None) -> bool:
        """Write what was changed, where ``mode`` is not ``r``; with ``output_path``, a copy of the archive."""
        if output_path is not None:
            if os.path.exists(output_path):
                raise FileExistsError(f"{output_path}: it is already there. Delete it, or name another folder.")
            with replacing(output_path, directory=True) as aside:
                merge([self._archive()], aside)
            return True
        if self.mode in (Mode.READ, Mode.CREATE):
            return True
        folder = Path(self.data_path)
        for array in (self.data, self.row_index, self.col_index):
            if isinstance(array, np.memmap):
                array.flush()
        tables = []
        for name, index in (("var_features", self._var_feature_index), ("obs_features", self._obs_feature_index)):
            index.save(folder / name)
            tables.append((name, *index.blocks()))
        arrays = {"DATA": self._data, "ROWPTR": self._row_ptr, "COLPTR": self._col_ptr}
        write_about(folder, {name: (len(array), array.dtype) for name, array in arrays.items()}, tables)
        self.load(folder)
        return True

    def cast_data_to_dtype(self, dtype: str) -> None:
        """Rewrite the values in another type, in one step; values may lose digits.

        Raises:
            ScdlError: a value is beyond the type.
        """
        if dtype not in (*INT_ORDER, *FLOAT_ORDER):
            allowed = ", ".join((*INT_ORDER, *FLOAT_ORDER))
            raise ValueError(f"Invalid data_dtype '{dtype}'. Must be one of: {allowed}.")
        with replacing(self.data_path, directory=True) as aside:
            cast(self._archive(), aside, np.dtype(dtype))
        self.load(self.data_path)

    def _archive(self) -> Archive:
        folder = Path(self.data_path)
        there = all((folder / name).is_file() for name in NEIGHBORS)
        neighbors = open_neighbors(folder, self._arrays.cells) if there else None
        return Archive(folder, self._arrays, self._var_feature_index, self._obs_feature_index, neighbors)

    def concat(
        self,
        other_dataset: SingleCellMemMapDataset | list[Any],
        extend_copy_size: int = 10 * 1_024 * 1_024,
        output_path: str | os.PathLike[str] | None = None,
        destroy_on_copy: bool = False,
    ) -> None:
        """Append the rows of other archives; this object then is the longer one.

        Args:
            other_dataset: one, or a list.
            extend_copy_size: values that are copied at once.
            output_path: a new folder for the whole; without one, this archive is replaced, in one step.
            destroy_on_copy: delete the archives that were copied, when all is written.

        Raises:
            ValueError: something else is appended, or some values are integers and others are not.
        """
        others = [other_dataset] if isinstance(other_dataset, SingleCellMemMapDataset) else other_dataset
        if not isinstance(others, list) or not all(isinstance(o, SingleCellMemMapDataset) for o in others):
            found = type(other_dataset).__name__ if not isinstance(others, list) else "a list with something else"
            raise ValueError(f"Expecting either a SingleCellMemMapDataset or a list thereof. Actually got: {found}.")
        if not others and output_path is None:
            return
        out = Path(self.data_path if output_path is None else output_path)
        if output_path is not None and out.exists():
            raise FileExistsError(f"{out}: it is already there. Delete it, or name another folder.")
        archives = [dataset._archive() for dataset in (self, *others)]
        with replacing(out, directory=True) as aside:
            merge(archives, aside, block=extend_copy_size)
        if destroy_on_copy:
            for archive in archives:
                if archive.path.resolve() != out.resolve() and archive.path.exists():
                    shutil.rmtree(archive.path)
        self.load(out)
