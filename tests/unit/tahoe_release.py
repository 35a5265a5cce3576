"""Tahoe-100M in the image of the real one: plates, Parquet files of tokens, and the tables, made by seed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from .release import h5ad

ROOT, REPOSITORY = "arc-institute-virtual-cell-atlas/tahoe100M", "hub/Tahoe-100M"
ENDING = "filt_Vevo_Tahoe100M_WServicesFrom_ParseGigalab.h5ad"
LINES = {"CVCL_0023": "A549", "CVCL_0480": "PANC-1", "CVCL_0546": "SW480"}
DRUGS = ["Infigratinib", "Erdafitinib ", "DMSO_TF", "Trametinib (DMSO_TF solvate)"]
"""As the samples call them: with a blank at the end, and two that look alike."""
GENES = 50


@dataclass(frozen=True)
class Tahoe:
    """What lies in the bucket and the repository, and the plates by name."""

    plates: dict[str, anndata.AnnData]
    objects: dict[str, bytes]

    @property
    def full(self) -> dict[str, anndata.AnnData]:
        """The cells of each plate that pass the full filters."""
        return {name: plate[plate.obs["pass_filter"] == "full"] for name, plate in self.plates.items()}


def genes() -> pd.DataFrame:
    ids = [f"ENSG{i:011d}" for i in range(GENES)]
    return pd.DataFrame(
        {"gene_symbol": [f"GENE{i}" for i in range(GENES)], "ensembl_id": ids, "token_id": range(3, GENES + 3)}
    )


def samples() -> pd.DataFrame:
    """Four of each plate, one per drug."""
    rows = [(f"smp_{1495 + i}", f"plate{1 + i // 4}", DRUGS[i % 4]) for i in range(12)]
    table = pd.DataFrame(rows, columns=["sample", "plate", "drug"])
    table["mean_gene_count"] = np.arange(12) + 1354.25
    table["drugname_drugconc"] = [f"[('{drug}', 0.05, 'uM')]" for drug in table["drug"]]
    return table


def drugs() -> pd.DataFrame:
    """None of the vehicle, as in the real table."""
    return pd.DataFrame(
        {
            "drug": [d.strip() for d in DRUGS if d != "DMSO_TF"],
            "targets": ["FGFR", None, "MEK"],
            "moa-fine": ["unclear", "unclear", "MEK inhibitor"],
            "canonical_smiles": ["CC", "CCO", "CCN"],
            "pubchem_cid": [53235510.0, 67462786.0, 11707110.0],
        }
    )


def cell_lines() -> pd.DataFrame:
    """A row per driver mutation, as in the real table; one line that no cell is of."""
    rows = [("CVCL_0023", "CDKN2A"), ("CVCL_0023", "KRAS"), ("CVCL_0480", "TP53"), ("CVCL_9999", None)]
    table = pd.DataFrame(rows, columns=["Cell_ID_Cellosaur", "Driver_Gene_Symbol"])
    table.insert(0, "cell_name", [LINES.get(line, "other") for line, _ in rows])
    table["Organ"] = table["Cell_ID_Cellosaur"].map({"CVCL_0023": "Lung", "CVCL_0480": "Pancreas"})
    table["Driver_VarZyg"] = ["Hom", "Het", "Het", None]
    return table


def plate(number: int, cells: int) -> anndata.AnnData:
    """float32 CSR, symbols alone, and the obs columns of Arc's conversion."""
    rng = np.random.default_rng(number)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(0.6, 2.0, GENES), (cells, GENES)).astype(np.float32))
    table = samples()
    rows = table[table["plate"] == f"plate{number}"].sample(cells, replace=True, random_state=number)
    line = rng.choice(list(LINES), cells)
    ids = [f"{i % 96:02d}_{i:03d}_052-lib_{1105 + number}" for i in range(cells)]
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical(rows["sample"]),
            "gene_count": np.diff(counts.indptr),
            "tscp_count": np.asarray(counts.sum(axis=1)).ravel(),
            "drugname_drugconc": pd.Categorical(rows["drugname_drugconc"]),
            "drug": pd.Categorical(rows["drug"]),
            "cell_line": pd.Categorical(line),
            "sublibrary": pd.Categorical([f"lib_{1105 + number}"] * cells),
            "phase": pd.Categorical(rng.choice(["G1", "S", "G2M"], cells)),
            "pass_filter": pd.Categorical(rng.choice(["full", "minimal"], cells, p=[0.9, 0.1])),
            "cell_name": pd.Categorical([LINES[name] for name in line]),
            "plate": pd.Categorical([f"plate{number}"] * cells),
        },
        index=pd.Index(ids, name="BARCODE_SUB_LIB_ID"),
    )
    var = pd.DataFrame(index=pd.Index(genes()["gene_symbol"].tolist(), name="gene_name"))
    return anndata.AnnData(counts, obs=obs, var=var)


def tokens(data: anndata.AnnData) -> dict[str, Any]:
    """The columns of a Parquet file: each list begins with the marker."""
    matrix = sp.csr_matrix(data.X)
    rows = [matrix.getrow(i) for i in range(matrix.shape[0])]
    known = drugs().set_index("drug")
    of = known.reindex([str(drug).strip() for drug in data.obs["drug"]])
    return {
        "genes": [[1, *(row.indices + 3).tolist()] for row in rows],
        "expressions": [[-2.0, *row.data.tolist()] for row in rows],
        "drug": data.obs["drug"].astype(str).tolist(),
        "sample": data.obs["sample"].astype(str).tolist(),
        "BARCODE_SUB_LIB_ID": data.obs_names.tolist(),
        "cell_line_id": data.obs["cell_line"].astype(str).tolist(),
        "moa-fine": of["moa-fine"].fillna("unclear").tolist(),
        "canonical_smiles": of["canonical_smiles"].fillna("").tolist(),
        "pubchem_cid": of["pubchem_cid"].astype(str).tolist(),
        "plate": data.obs["plate"].astype(str).tolist(),
    }


def parquet(columns: dict[str, Any]) -> bytes:
    types = {"genes": pa.list_(pa.int64()), "expressions": pa.list_(pa.float32())}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    stream = io.BytesIO()
    pq.write_table(pa.table(arrays), stream, row_group_size=70)
    return stream.getvalue()


def tables() -> dict[str, bytes]:
    made = {"gene": genes(), "drug": drugs(), "sample": samples(), "cell_line": cell_lines()}
    found = {}
    for name, table in made.items():
        stream = io.BytesIO()
        table.to_parquet(stream)
        found[f"metadata/{name}_metadata.parquet"] = stream.getvalue()
    return found


def tahoe(folder: Path, *, cells: int = 120, files: int = 3) -> Tahoe:
    """Three plates, and of the cells that pass the full filters ``files`` Parquet files for each."""
    plates = {f"plate{n}": plate(n, cells + n) for n in (1, 2, 3)}
    made = Tahoe(plates, {f"{REPOSITORY}/{name}": content for name, content in tables().items()})
    for name, data in plates.items():
        made.objects[f"{ROOT}/2025-02-25/h5ad/{name}_{ENDING}"] = h5ad(data, folder)
    pieces = [data[rows] for data in made.full.values() for rows in np.array_split(np.arange(data.n_obs), files)]
    for i, piece in enumerate(pieces):
        made.objects[f"{REPOSITORY}/data/train-{i:05d}-of-{len(pieces):05d}.parquet"] = parquet(tokens(piece))
    return made
