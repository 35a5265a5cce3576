"""``SingleCellCollection``: several h5ad files as archives of one folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

from cellmill.errors import CellmillError
from cellmill.files import read_json, write_json
from cellmill.scdl.archive import SCDL_VERSION
from cellmill.scdl.index.row_feature_index import VariableFeatureIndex
from cellmill.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

__all__ = ["SingleCellCollection"]
LIST = "collection.json"
"""Names of the archives in their order."""


class SingleCellCollection:
    """Archives of a folder, in the order in which they were added; a folder that is there is gone on with.

    Args:
        data_path: the folder.
    """

    dataset_class: ClassVar[type[SingleCellMemMapDataset]] = SingleCellMemMapDataset

    def __init__(self, data_path: str | os.PathLike[str]) -> None:
        self.data_path = data_path
        self.fname_to_mmap: dict[Path, SingleCellMemMapDataset] = {}
        self._var_feature_index = VariableFeatureIndex()
        folder = Path(data_path)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / LIST).is_file():
            for name in read_json(folder / LIST):
                self._add(folder / name)
        elif not (folder / "version.json").is_file():
            write_json(folder / "version.json", SCDL_VERSION)

    def _add(self, path: Path) -> None:
        self.fname_to_mmap[path] = self.dataset_class(path)
        self._var_feature_index.concat(self.fname_to_mmap[path]._var_feature_index)

    def version(self) -> str:
        """The version of SCDL that this API is of."""
        return self.dataset_class._version

    def load_h5ad(
        self,
        h5ad_path: str | os.PathLike[str],
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        use_X_not_raw: bool = False,
    ) -> None:
        """Convert a file to an archive of its name, and add it."""
        if not os.path.exists(h5ad_path):
            raise FileNotFoundError(f"Error: could not find h5ad path {h5ad_path}")
        self._convert([Path(h5ad_path)], use_X_not_raw=use_X_not_raw, data_dtype=None, threads=os.cpu_count() or 1)

    def load_h5ad_multi(
        self,
        directory_path: str | os.PathLike[str],
        max_workers: int = 5,
        use_processes: bool = False,
        data_dtype: str | None = None,
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        use_X_not_raw: bool = False,
    ) -> None:
        """Convert the h5ad files below a folder, sorted by path, and add them.

        Args:
            max_workers: threads that decompress; files are converted one after the other.
            use_processes, paginated_load_cutoff, load_block_row_size: without meaning here.
            data_dtype: as that of ``SingleCellMemMapDataset``.

        Raises:
            FileNotFoundError: there is no h5ad file.
            RuntimeError: a file cannot be converted; its archive is not there.
        """
        paths = sorted(Path(directory_path).rglob("*.h5ad"))
        if not paths:
            raise FileNotFoundError(f"{directory_path}: there is no h5ad file in this folder or below it.")
        try:
            self._convert(paths, use_X_not_raw=use_X_not_raw, data_dtype=data_dtype, threads=max_workers)
        except (CellmillError, OSError) as error:
            raise RuntimeError(f"Error in processing: {error}") from error

    def _convert(self, paths: list[Path], *, use_X_not_raw: bool, data_dtype: str | None, threads: int) -> None:
        from cellmill.scdl.convert import Options, convert_each, look

        options = Options(
            matrix="X" if use_X_not_raw else "raw",
            data_dtype=None if data_dtype == "auto" else data_dtype or "float32",
            neighbors=None,
            threads=min(threads, os.cpu_count() or 1),
        )
        folder = Path(self.data_path)
        for archive in convert_each(look(paths, options), folder, options):
            self._add(Path(archive))
            write_json(folder / LIST, [path.name for path in self.fname_to_mmap])

    def _sum(self, name: str) -> int:
        return sum(getattr(dataset, name)() for dataset in self.fname_to_mmap.values())

    def number_of_rows(self) -> int:
        """Rows of all archives."""
        return self._sum("number_of_rows")

    def number_of_values(self) -> int:
        """Values of all cells, zeros among them."""
        return self._sum("number_of_values")

    def number_nonzero_values(self) -> int:
        """Stored values."""
        return self._sum("number_nonzero_values")

    def number_of_variables(self) -> list[int]:
        """Genes of each block, where consecutive archives with equal gene tables are one; ``[0]`` without any."""
        return self._var_feature_index.column_dims() or [0]

    def shape(self) -> tuple[int, list[int]]:
        """Rows, and genes of each block."""
        return self.number_of_rows(), self.number_of_variables()

    def sparsity(self) -> float:
        """The share of values that are not stored; 0 where there are none."""
        total = self.number_of_values()
        return (total - self.number_nonzero_values()) / total if total else 0.0

    def flatten(
        self,
        output_path: str | os.PathLike[str],
        destroy_on_copy: bool = False,
        extend_copy_size: int = 10 * 1_024 * 1_024,
    ) -> None:
        """Write all rows to one archive.

        Args:
            output_path: its folder, which must not be there.
            destroy_on_copy: delete the collection when all is written.

        Raises:
            ValueError: the collection is empty.
        """
        if not self.fname_to_mmap:
            raise ValueError(f"{self.data_path}: the collection is empty. Add h5ad files first.")
        first, *others = (self.dataset_class(path) for path in self.fname_to_mmap)
        options: dict[str, Any] = {"extend_copy_size": extend_copy_size, "output_path": output_path}
        first.concat(others, **options)
        if destroy_on_copy:
            shutil.rmtree(self.data_path)
            self.fname_to_mmap = {}
