"""Names that BioNeMo-SCDL publishes, with its values."""

from __future__ import annotations

from enum import StrEnum


class FileNames(StrEnum):
    """Files and folders of an archive."""

    DATA = "data.npy"
    ROWPTR = "row_ptr.npy"
    COLPTR = "col_ptr.npy"
    NEIGHBOR_INDICES = "neighbor_indices.npy"
    NEIGHBOR_INDICES_PTR = "neighbor_indptr.npy"
    NEIGHBOR_VALUES = "neighbor_values.npy"
    METADATA = "metadata.json"
    FEATURES = "features"
    VAR_FEATURES = "var_features"
    OBS_FEATURES = "obs_features"
    VERSION = "version.json"
    HEADER = "header.sch"


class Mode(StrEnum):
    """How files are opened."""

    CREATE_APPEND = "w+"
    READ_APPEND = "r+"
    READ = "r"
    CREATE = "w"


class NeighborSamplingStrategy(StrEnum):
    """How one neighbour is drawn of those that a cell has; ``WEIGHTED`` is cellmill's own."""

    RANDOM = "random"
    FIRST = "first"
    WEIGHTED = "weighted"


INT_ORDER = ["uint8", "uint16", "uint32", "uint64"]
FLOAT_ORDER = ["float16", "float32", "float64"]
