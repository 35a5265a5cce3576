"""Every contract and its version. Bytes changed? Raise the number here.

The number is a param of the rule that writes the file, so that Snakemake reruns exactly the right jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from cellmill.errors import CellmillError


@dataclass(frozen=True)
class Contract:
    """A kind of file and the version of its layout."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def verify(self, where: object, found: object) -> None:
        """Refuse a file of another kind or version: found against expected, and what to do."""
        if found == str(self):
            return
        name, _, version = str(found).rpartition(" ")
        if name != self.name:
            fix = "Delete it and run snakemake again."
            raise CellmillError(where, f"found {found or 'no contract'}, expected '{self}'.", fix)
        newer = version.isdigit() and int(version) > self.version
        raise CellmillError(
            where,
            f"found '{found}', this cellmill reads '{self}'.",
            "It was written by a newer cellmill: update yours." if newer else "Run snakemake again: it is made anew.",
        )


PLAN = Contract("plan", 1)
RAW = Contract("raw", 1)
OBS = Contract("obs", 1)
ENRICHED = Contract("enriched", 1)
SUBSET = Contract("subset", 1)
QUALITY = Contract("quality", 3)
PART_GENES = Contract("part_genes", 3)
LABELS = Contract("labels", 1)
THRESHOLDS = Contract("thresholds", 2)
DOUBLETS = Contract("doublets", 1)
DUPLICATES = Contract("duplicates", 1)
SPLITS = Contract("splits", 1)
LEDGER = Contract("ledger", 1)
GENE_CELLS = Contract("gene_cells", 1)
GENE_SPACE = Contract("gene_space", 2)
GENE_MAPPING = Contract("gene_mapping", 1)
COUNTS = Contract("counts", 2)
CELLS = Contract("cells", 2)
GROUP_SUMS = Contract("group_sums", 1)
PSEUDOBULK = Contract("pseudobulk", 1)
GENE_SUMS = Contract("gene_sums", 3)
GENE_CLIP = Contract("gene_clip", 1)
CLIPPED_SUMS = Contract("clipped_sums", 1)
GENES = Contract("genes", 3)
FLAT_VOCABULARY = Contract("flat_vocabulary", 1)
VOCABULARY = Contract("vocabulary", 1)
TOKENS = Contract("tokens", 4)
COVARIANCE = Contract("covariance", 2)
PCA = Contract("pca", 2)
TRAINING = Contract("training", 1)
SCVI = Contract("scvi", 1)
EMBEDDING = Contract("embedding", 2)
JUDGED = Contract("judged", 1)
HF = Contract("hf", 2)
MDS = Contract("mds", 1)
HDF5 = Contract("hdf5", 2)
H5AD = Contract("h5ad", 1)
SCDL = Contract("scdl", 1)
GENEFORMER = Contract("geneformer", 1)
ZARR = Contract("zarr", 1)
PACKED = Contract("packed", 1)
PUBLISHED = Contract("published", 1)
REPORT = Contract("report", 2)
