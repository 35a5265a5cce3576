"""A release of scBaseCount in the image of the real one: catalogue and samples, made by seed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

ROOT = "arc-institute-virtual-cell-atlas/scbasecount"
TISSUES = ["lungs, lung-associated lymph nodes", "unsure", "foetal liver, foetal bone marrow", "Retina", "endometrium"]
DISEASES = ["unsure", "cancer", "Trisomy 21 (Down's syndrome)", "osteoarthritis", "none", "Not applicable"]
TECHNOLOGIES = ["3_prime_gex", "5_prime_gex", "not_applicable"]
COLUMNS_2026 = ("tissue_ontology_term_id", "disease_ontology_term_id", "antibody_derived_tag")


def catalogue(samples: int, *, seed: int = 0, cells: int = 8_000, release: str = "2026-01-12") -> pd.DataFrame:
    """As ``sample_metadata.parquet`` of the release: missing values in all the words that it has for them."""
    rng = np.random.default_rng(seed)
    number = np.sort(rng.choice(10**8, samples, replace=False)) + 10**6
    table = pd.DataFrame(
        {
            "entrez_id": number + 7,
            "srx_accession": [f"{'ERX' if n % 5 == 0 else 'SRX'}{n}" for n in number],
            "file_path": [f"gs://{ROOT}/{release}/h5ad/GeneFull_Ex50pAS/Homo_sapiens/SRX{n}.h5ad" for n in number],
            "obs_count": rng.poisson(cells, samples) + 1,
            "lib_prep": "10x_Genomics",
            "tech_10x": rng.choice(TECHNOLOGIES, samples),
            "cell_prep": rng.choice(["single_cell", "single_nucleus", "unsure"], samples),
            "organism": "Homo sapiens",
            "tissue": rng.choice(TISSUES, samples),
            "tissue_ontology_term_id": rng.choice(["UBERON:0000170,UBERON:0039167", "", None], samples),
            "disease": rng.choice(DISEASES, samples),
            "disease_ontology_term_id": rng.choice(["MONDO:0004992", None], samples),
            "perturbation": rng.choice(["none", "unsure", "Ro1138452"], samples),
            "cell_line": rng.choice(["Not applicable", "not_applicable", "PTt-P6-MsNL"], samples),
            "antibody_derived_tag": "no",
            "czi_collection_id": None,
            "czi_collection_name": None,
        }
    )
    return table if release == "2026-01-12" else table.drop(columns=list(COLUMNS_2026))


def parquet(table: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    table.to_parquet(stream)
    return stream.getvalue()


def sample(
    name: str, cells: int, *, genes: int = 60, csc: bool = False, counts: sp.csr_matrix | None = None
) -> anndata.AnnData:
    """One sample: float32 counts, bare barcodes that other samples have, too, and the two fractional layers."""
    rng = np.random.default_rng(int(name[3:]))
    if counts is None:
        counts = sp.csr_matrix(rng.poisson(rng.gamma(0.6, 2.0, genes), (cells, genes)).astype(np.float32))
    multi = counts.copy()
    multi.data = multi.data + rng.choice([0, 0.25, 0.5, 0.6], len(multi.data)).astype(np.float32)
    barcodes = ["".join("ACGT"[(i >> (2 * k)) & 3] for k in range(16)) for i in range(counts.shape[0])]
    obs = pd.DataFrame(
        {
            "gene_count_Unique": np.diff(counts.indptr),
            "umi_count_Unique": np.asarray(counts.sum(axis=1)).ravel(),
            "SRX_accession": name,
            "cell_type": rng.choice(["T cell", "B cell", ""], counts.shape[0]),
        },
        index=pd.Index(barcodes, name="cell_barcode"),
    )
    ids = [f"ENSG{i:011d}" for i in range(counts.shape[1])]
    var = pd.DataFrame({"gene_symbols": [f"GENE{i}" for i in range(counts.shape[1])]}, index=ids)
    layers = {"UniqueAndMult-EM": multi, "UniqueAndMult-Uniform": multi.copy()}
    if csc:
        layers = {key: layer.tocsc() for key, layer in layers.items()}
    return anndata.AnnData(counts.tocsc() if csc else counts, obs=obs, var=var, layers=layers)


def h5ad(data: anndata.AnnData, folder: Path) -> bytes:
    path = folder / "sample.h5ad"
    data.write_h5ad(path, compression="gzip")
    content = path.read_bytes()
    path.unlink()
    return content


@dataclass(frozen=True)
class Release:
    """What lies in the bucket: the catalogue, and the samples by name."""

    table: pd.DataFrame
    samples: dict[str, anndata.AnnData]
    objects: dict[str, bytes]


def release(
    folder: Path, *, samples: int, cells: int = 40, name: str = "2026-01-12", organism: str = "Homo_sapiens"
) -> Release:
    """A whole small release; every third sample is CSC."""
    table = catalogue(samples, cells=cells, release=name)
    made = {
        row.srx_accession: sample(row.srx_accession, row.obs_count, csc=i % 3 == 2)
        for i, row in enumerate(table.itertuples())
    }
    base = f"{ROOT}/{name}"
    objects = {f"{base}/h5ad/GeneFull_Ex50pAS/{organism}/{srx}.h5ad": h5ad(data, folder) for srx, data in made.items()}
    objects[f"{base}/metadata/GeneFull_Ex50pAS/{organism}/sample_metadata.parquet"] = parquet(table)
    return Release(table, made, objects)
