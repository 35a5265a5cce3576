"""A file of ARCHS4 in the image of the real ones, of either version, made by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

TITLES = ["Liver biopsy, donor 3", "HepG2 siRNA rep2", "PBMC scRNA cell 17", "Whole blood Naïve", "NSCLC tumour"]
SOURCES = ["liver", "hepatocyte cell line", "peripheral blood", "", "lung"]


def table(samples: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """What GEO says of the samples: several series to one of them, empty texts, probabilities."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(TITLES), samples)
    series = np.array([f"GSE{100 + i // 7}" for i in range(samples)], object)
    series[::10] = [f"{s},GSE9000" for s in series[::10]]
    return {
        "geo_accession": np.array([f"GSM{1_000_000 + i}" for i in range(samples)], object),
        "series_id": series,
        "title": np.array(TITLES, object)[kind],
        "source_name_ch1": np.array(SOURCES, object)[kind],
        "characteristics_ch1": np.array(
            [f"tissue: {SOURCES[k]},age: {20 + i % 60}" for i, k in enumerate(kind)], object
        ),
        "molecule_ch1": np.array(["total RNA"] * samples, object),
        "readsaligned": rng.integers(10**5, 10**7, samples),
        "singlecellprobability": np.where(kind == 2, 0.93, rng.uniform(0, 0.4, samples)),
    }


def archs4(
    path: Path, samples: int, *, genes: int = 50, seed: int = 0, version: int = 2, **matrix: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Write a file; its counts (samples, genes) and what is said of the samples."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 20.0, genes), (samples, genes)).astype(np.uint32)
    said = table(samples, seed=seed)
    text = h5py.string_dtype()
    given = {"chunks": (20, 16), "compression": "gzip"} | matrix
    symbols = [f"GENE{i}" for i in range(genes)]
    with h5py.File(path, "w") as file:
        file.create_dataset("data/expression", data=counts.T, **given)
        for name, values in said.items():
            where = f"meta/samples/{name}" if version == 2 else f"meta/Sample_{name}"
            if values.dtype == object or version == 1:
                file.create_dataset(where, data=values.astype(str).astype(object), dtype=text)
            else:
                file[where] = values
        if version == 2:
            file.create_dataset("meta/genes/symbol", data=symbols, dtype=text)
            file.create_dataset("meta/genes/ensembl_gene_id", data=[f"ENSG{i:011d}" for i in range(genes)], dtype=text)
            file.create_dataset("meta/genes/biotype", data=["protein_coding"] * genes, dtype=text)
        else:
            file.create_dataset("meta/genes", data=symbols, dtype=text)
        file.create_dataset("meta/info/version", data=f"{version}.2", dtype=text)
    return counts, said
