"""What every export's spec answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellmill.config import Columns, Dataset


class ExportSpec:
    """What every export's spec answers; a mix-in of the specs in this folder."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Tokenizers this export reads, by name."""
        return ()

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders this export reads, by name."""
        return ()

    @property
    def with_counts(self) -> bool:
        """Whether this export reads the counts."""
        return False

    def extra_columns(self, columns: Columns) -> tuple[str, ...]:
        """Obs columns that this export reads without being asked to write them."""
        return ()

    def problems(self, dataset: Dataset) -> list[str]:
        """What this export needs of a dataset and does not find there, as sentences."""
        return []
