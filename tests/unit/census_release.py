"""A Census release in the image of the real one: list of releases, Discover's catalogue, files by its schema."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from .release import h5ad
from .store import Store

NAME = "2025-11-08"
BUCKET = "cellxgene-census-public-us-west-2"
FOLDER = f"{BUCKET}/cell-census/{NAME}/h5ads"
DIRECTORY, CATALOGUE, ASSETS = "web/census/v1/release.json", "web/curation/v1/datasets", "web/files"
TISSUES = {"lung": "UBERON:0002048", "blood": "UBERON:0000178", "heart left ventricle": "UBERON:0002084"}
DISEASES = {"normal": "PATO:0000461", "COVID-19": "MONDO:0100096"}
ASSAYS = {"10x 3' v3": "EFO:0009922", "10x 5' v1": "EFO:0011025", "Smart-seq2": "EFO:0008931"}
TYPES = {"T cell": "CL:0000084", "macrophage": "CL:0000235", "unknown": "unknown"}
ORGANISMS = {"Homo sapiens": "NCBITaxon:9606", "Mus musculus": "NCBITaxon:10090"}


@dataclass(frozen=True)
class Census:
    """What lies in the bucket and behind the interface, and the datasets by id."""

    described: list[dict[str, Any]]
    datasets: dict[str, anndata.AnnData]
    objects: dict[str, bytes]

    def put(self, store: Store) -> None:
        """Into a store, which the addresses of the catalogue then lead to."""
        store.objects |= self.objects
        store.objects[CATALOGUE] = self.objects[CATALOGUE].replace(b"STORE", store.address.encode())


def dataset_id(number: int) -> str:
    return str(uuid.UUID(int=number + 1, version=4))


def dataset(number: int, cells: int, *, organism: str = "Homo sapiens", genes: int = 60) -> anndata.AnnData:
    """One file by the schema: Ensembl ids, counts in ``raw.X`` where X is normalised, a share of copied cells."""
    rng = np.random.default_rng(number)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(0.6, 2.0, genes), (cells, genes)).astype(np.float32))
    columns = {"tissue": TISSUES, "disease": DISEASES, "assay": ASSAYS, "cell_type": TYPES}
    obs = pd.DataFrame(index=[f"{'ACGT'[number % 4]}{i:07d}-1" for i in range(cells)])
    for column, terms in columns.items():
        few = list(terms)[number % len(terms) :][:2]  # no dataset has them all
        obs[column] = pd.Categorical(rng.choice(few, cells))
        obs[f"{column}_ontology_term_id"] = obs[column].map(terms).astype("category")
    obs["tissue_type"] = pd.Categorical(["tissue"] * cells)
    obs["suspension_type"] = pd.Categorical(["nucleus" if number % 3 == 2 else "cell"] * cells)
    obs["donor_id"] = pd.Categorical(rng.choice([f"D{number}a", f"D{number}b"], cells))
    obs["is_primary_data"] = rng.random(cells) < (0.0 if number == 4 else 0.7)
    obs["author_cluster"] = rng.integers(0, 9, cells) if number % 2 else rng.choice(["1", "b"], cells)
    first = number % 3  # other datasets, other genes
    mouse = organism == "Mus musculus"
    ids = [f"{'ENSMUSG' if mouse else 'ENSG'}{i:011d}" for i in range(first, first + genes)]
    var = pd.DataFrame(
        {
            "feature_name": [f"GENE{i}" for i in range(first, first + genes)],
            "feature_reference": ORGANISMS[organism],
            "feature_biotype": "gene",
            "feature_is_filtered": False,
        },
        index=ids,
    )
    uns = {"schema_version": "7.0.0", "title": f"Title {number}", "organism_ontology_term_id": ORGANISMS[organism]}
    made = anndata.AnnData(counts, obs=obs, var=var, uns=uns)
    if number % 2 == 0:
        made.raw = made.copy()
        made.X = sp.csr_matrix((np.log1p(counts.data), counts.indices, counts.indptr), counts.shape)
    return made


def described(number: int, made: anndata.AnnData, organism: str, size: int) -> dict[str, Any]:
    """As Discover's catalogue says it."""

    def terms(column: str, known: dict[str, str]) -> list[dict[str, str]]:
        return [{"label": v, "ontology_term_id": known[v]} for v in sorted(set(made.obs[column]))]

    name, primary = dataset_id(number), made.obs["is_primary_data"]
    version = str(uuid.UUID(int=number + 1000, version=4))
    return {
        "dataset_id": name,
        "dataset_version_id": version,
        "collection_id": str(uuid.UUID(int=number // 2 + 5000, version=4)),
        "collection_name": f"Collection {number // 2}",
        "collection_doi": "10.1000/xyz" if number % 2 else None,
        "title": f"Title\n {number}",
        "assay": terms("assay", ASSAYS),
        "cell_type": terms("cell_type", TYPES),
        "disease": terms("disease", DISEASES),
        "tissue": [t | {"tissue_type": "tissue"} for t in terms("tissue", TISSUES)],
        "organism": [{"label": organism, "ontology_term_id": ORGANISMS[organism]}],
        "donor_id": sorted(set(made.obs["donor_id"])),
        "suspension_type": sorted(set(made.obs["suspension_type"])),
        "is_primary_data": sorted({bool(p) for p in primary}, reverse=True),
        "cell_count": made.n_obs,
        "primary_cell_count": int(primary.sum()),
        "schema_version": "7.0.0",
        "assets": [
            {"filetype": "RDS", "filesize": 7, "url": f"https://datasets.example/{version}.rds"},
            {"filetype": "H5AD", "filesize": size, "url": f"STORE/{ASSETS}/{version}.h5ad"},
        ],
    }


def census(folder: Path, *, datasets: int = 7, cells: int = 90) -> Census:
    """A whole small release: one dataset of mouse, one of copies alone, and one that Discover has dropped since."""
    made, said, objects = {}, [], dict[str, bytes]()
    for number in range(datasets):
        organism = "Mus musculus" if number == 1 else "Homo sapiens"
        data = dataset(number, cells + number, organism=organism)
        content = h5ad(data, folder)
        entry = described(number, data, organism, len(content))
        made[dataset_id(number)] = data
        objects[f"{FOLDER}/{dataset_id(number)}.h5ad"] = content
        if number == datasets - 1:
            continue
        said.append(entry)
        objects[f"{ASSETS}/{entry['dataset_version_id']}.h5ad"] = content
    release = {
        "release_build": NAME,
        "flags": {"lts": True},
        "h5ads": {"uri": f"s3://{FOLDER}/", "s3_region": "us-west-2"},
    }
    objects[DIRECTORY] = json.dumps({"stable": NAME, "latest": NAME, NAME: release}).encode()
    objects[CATALOGUE] = json.dumps(said).encode()
    return Census(said, made, objects)
