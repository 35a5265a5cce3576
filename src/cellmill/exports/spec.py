"""What every export's spec answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from cellmill.spec import Column, Name, Spec

if TYPE_CHECKING:
    from cellmill.columns import Columns
    from cellmill.config import Dataset


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


class CountsSpec(Spec, ExportSpec):
    """What the exports of counts and obs columns have in common."""

    kind: Literal["counts"] = "counts"
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""

    @property
    def with_counts(self) -> bool:
        return True


class AnnDataCounts(CountsSpec):
    """What those of them have in common that are AnnData."""

    container: ClassVar[str]
    """What holds it, for an error."""
    embeddings: list[Name] = []
    """Embeddings to add, each as `obsm["X_<name>"]`."""

    @property
    def embedders(self) -> tuple[str, ...]:
        return tuple(self.embeddings)

    def problems(self, dataset: Dataset) -> list[str]:
        return [
            f"{self.container} takes '/' for a group, so the column '{column}' has no place there; rename it."
            for column in (dataset.kept_columns if self.columns is None else self.columns)
            if "/" in column
        ]
