"""Aligned rows to the formats people train from. One file per format; these unions are the registry."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from cellmill.exports.geneformer import GeneformerTokens
from cellmill.exports.h5ad import H5adCounts
from cellmill.exports.hdf5 import Hdf5Counts
from cellmill.exports.hf import HfExport, HfExpression, HfMultiplets, HfPairs, HfSingle, HfTokens, Shares
from cellmill.exports.mds import MdsExpression, MdsTokens
from cellmill.exports.packed import PackedCounts
from cellmill.exports.scdl import ScdlCounts
from cellmill.exports.zarr import ZarrCounts
from cellmill.spec import Name, Spec

Format = Literal["hf", "mds", "hdf5", "h5ad", "scdl", "geneformer", "zarr", "packed"]
Hf = Annotated[HfExport, Field(discriminator="kind")]
Mds = Annotated[MdsTokens | MdsExpression, Field(discriminator="kind")]
Export = (
    HfExport
    | MdsTokens
    | MdsExpression
    | Hdf5Counts
    | H5adCounts
    | ScdlCounts
    | GeneformerTokens
    | ZarrCounts
    | PackedCounts
)


class Exports(Spec):
    """Every export by format and name; a dataset asks for one by its path, such as `hf/cells`.

    Cells of a split are shuffled in all of them, in the order of a hash of their id, the same whatever the parts.
    """

    hf: dict[Name, Hf] = {}
    """Hugging Face datasets: `datasets.load_dataset("results/<dataset>/hf/<name>")`."""
    mds: dict[Name, Mds] = {}
    """MosaicML MDS shards: `StreamingDataset(remote="results/<dataset>/mds/<name>/train", local="<cache>")`."""
    hdf5: dict[Name, Hdf5Counts] = {}
    """HDF5 batches: `h5py.File("results/<dataset>/hdf5/<name>/train/batch_0000.h5")`."""
    h5ad: dict[Name, H5adCounts] = {}
    """AnnData files with embeddings: `anndata.read_h5ad("results/<dataset>/h5ad/<name>/train/cells.h5ad")`."""
    scdl: dict[Name, ScdlCounts] = {}
    """BioNeMo-SCDL memory maps: `SingleCellMemMapDataset("results/<dataset>/scdl/<name>/train")`."""
    geneformer: dict[Name, GeneformerTokens] = {}
    """Geneformer's dataset folders: `datasets.load_from_disk("results/<dataset>/geneformer/<name>")`."""
    zarr: dict[Name, ZarrCounts] = {}
    """Sharded AnnData for annbatch: `anndata.read_zarr("results/<dataset>/zarr/<name>/train/dataset_0")`."""
    packed: dict[Name, PackedCounts] = {}
    """The smallest and fastest, for training: `PackedRows("results/<dataset>/packed/<name>/train")`."""

    @staticmethod
    def formats() -> tuple[str, ...]:
        """Every format."""
        return get_args(Format)

    def by_path(self) -> dict[str, Export]:
        """Every export under its path, such as `hf/cells`."""
        return {
            f"{format_}/{name}": spec for format_ in get_args(Format) for name, spec in getattr(self, format_).items()
        }


def parse_export(path: str, values: dict[str, Any]) -> Export:
    """The spec of one export from its plain values, by its path (`hf/cells`)."""
    format_, _, name = path.partition("/")
    return Exports.model_validate({format_: {name: values}}).by_path()[path]


__all__ = [
    "Export",
    "Exports",
    "Format",
    "GeneformerTokens",
    "H5adCounts",
    "Hdf5Counts",
    "HfExport",
    "HfExpression",
    "HfMultiplets",
    "HfPairs",
    "HfSingle",
    "HfTokens",
    "MdsExpression",
    "MdsTokens",
    "PackedCounts",
    "ScdlCounts",
    "Shares",
    "ZarrCounts",
    "parse_export",
]
