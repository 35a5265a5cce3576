"""Every real file of the shared test data: what it is read as, or what is said where it is refused.

A new file there without a row here is an error.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import pytest
import scanpy
import scipy.sparse as sp
import zarr

from cellmill.errors import CellmillError
from cellmill.matrix.reader import CountsFile, NotCountsError
from cellmill.sources import Files
from cellmill.sources.retrieve import retrieve_part

FOLDERS = ("derived", "edge", "h5ad", "tenx")


@dataclass(frozen=True)
class Read:
    """Which matrix is taken, its shape, its stored values and their sum; of ``genome``, where the config names one."""

    where: str
    cells: int
    genes: int
    values: int
    total: int
    genome: str | None = None


@dataclass(frozen=True)
class Refused:
    """What the error says, word for word."""

    phrase: str


def none_of(*values: str) -> Refused:
    """No matrix of it holds counts; the values that show it, matrix by matrix."""
    return Refused(" ".join(values))


TABLE: dict[str, Read | Refused] = {
    "derived/panglao/SRA578634_SRS2302659.h5ad": none_of("X 0.00128089205827564"),
    "derived/panglao/SRA617020_SRS2566664.h5ad": none_of("X 0.7727444171905518"),
    "derived/panglao/SRA617020_SRS2566665.h5ad": none_of("X 0.005432814359664917"),
    "derived/panglao/SRA782908_SRS3815594.h5ad": none_of("X 0.04276911914348602"),
    "derived/panglao/SRA782908_SRS3815596.h5ad": none_of("X 0.033942557871341705"),
    "derived/panglao/SRA782908_SRS3815598.h5ad": none_of("X 0.003086419776082039"),
    "derived/panglao/SRA782908_SRS3815603.h5ad": none_of("X 0.09154929220676422"),
    "derived/panglao/SRA782908_SRS3815605.h5ad": none_of("X 0.0263671875"),
    "derived/pbmc4k_soupx_2170.h5ad": Read("X", 2170, 33694, 2867135, 9436596),
    "derived/pbmc68k_recovered_counts_700.h5ad": Read("X", 700, 765, 174400, 486651),
    "derived/placenta_ensembl_220.h5ad": Read("X", 220, 16427, 408245, 1541246),
    "edge/anndataR_csr_csc_dense_layers.h5ad": Read("layers/counts", 50, 100, 4317, 9805),
    "edge/anndata_v0.11.4.zarr.zip": Refused("no X in it"),
    "edge/anndata_v0.11.4_noX.h5ad": Refused("no X in it"),
    "edge/anndata_v0.5.0_legacy.h5ad": none_of("X -0.32600000500679016", "raw 2.177000045776367"),
    "edge/anndata_v0.7.0.zarr.zip": Read("X", 30, 20, 228, 285),
    "edge/anndata_v0.7.0_lzf.h5ad": Read("X", 30, 20, 228, 285),
    "edge/cellxgene_nan_legacy.h5ad": none_of("X -0.17146950960159302"),
    "edge/csc_unsorted_lognorm_sim.h5ad": none_of("X 0.9602781534194946"),
    "edge/cxg_schema_int64idx_raw.h5ad": Read("raw", 2, 7, 13, 49),
    "edge/dense_counts_layer_int32.h5ad": Read("layers/counts", 200, 459, 53667, 610126),
    "edge/dup_cell.h5ad": Read("X", 41, 4, 164, 590),
    "edge/dup_feature.h5ad": Read("X", 40, 5, 200, 699),
    "edge/empty_cells_float.h5ad": none_of("X 0.23578475158200363"),
    "edge/kb_mouse_allzero_cells.h5ad": Read("X", 29, 17, 2, 2),
    "edge/legacy_compound_csr.h5ad": Read("X", 47, 10, 470, 633),
    "edge/mini_int64_dense.h5ad": Read("X", 5, 6, 30, 1498),
    "edge/mini_uint16.h5ad": Read("X", 3, 5, 8, 15),
    "edge/mini_v0.6.22.h5ad": Read("X", 3, 5, 8, 15),
    "edge/nan_value.h5ad": none_of("X nan"),
    "edge/pbmc68k_reduced.zarr.zip": Read("layers/counts", 700, 765, 174400, 486651),
    "edge/sparse_mouse_ensembl_int64_layers.h5ad": Read("X", 200, 100, 1272, 2575),
    "edge/truncated.h5": Refused("not a whole, readable HDF5 file (Unable to synchronously open file (truncated file"),
    "h5ad/brain_dev_cxg_lognorm_2237.h5ad": none_of("X 1.7303317785263062"),
    "h5ad/breast_scllm_100.h5ad": Read("X", 100, 18082, 275327, 696673),
    "h5ad/cpdb_ensembl_lognorm_10.h5ad": none_of("X 1.26778505975402"),
    "h5ad/dentategyrus_mouse_100.h5ad": Read("X", 100, 13913, 139156, 288220),
    "h5ad/heart_cxg_schema_ercc_320.h5ad": Read("X", 320, 136, 20991, 176783),
    "h5ad/merfish_mouse_1000.h5ad": Read("X", 1000, 1122, 103165, 263707),
    "h5ad/muon_rna_1000.h5ad": Read("X", 1000, 45, 14512, 63338),
    "h5ad/pancreas_3tech_669.h5ad": none_of("X 1.0019582509994507", "layers/logcounts 3.5881199836730957"),
    "h5ad/pbmc10k_citeseq_200_dense.h5ad": Read("X", 200, 16727, 317760, 909531),
    "h5ad/pbmc68k_reduced_700.h5ad": none_of("X -0.32600000500679016", "raw 2.177000045776367"),
    "h5ad/placenta_cellxgene_220.h5ad": Read("X", 220, 18357, 414148, 1549399),
    "h5ad/retina_mouse_ensembl_lognorm_150.h5ad": none_of("X 1.2678139209747314"),
    "h5ad/scicar_mouse_versioned_554.h5ad": Read("X", 554, 1482, 26721, 49360),
    "h5ad/scimilarity_counts_layer_1000.h5ad": Read("layers/counts", 1000, 1000, 90431, 295271),
    "h5ad/sciplex3_lognorm_2247.h5ad": none_of("X 0.28310883045196533"),
    "h5ad/wu2020_200.h5ad": Read("X", 200, 3000, 49105, 170426),
    "h5ad/zheng68k_165.h5ad": Read("X", 165, 9621, 96500, 246289),
    "tenx/probe_raw_mouse.h5": Read("X", 4987, 671, 736, 2838),
    "tenx/v1_filtered_chr21.h5": Read("X", 12, 343, 12, 12),
    "tenx/v1_multiple_genomes.h5": Refused("several genomes in one file: another_genome, hg19_chr21."),
    "tenx/v1_multiple_genomes.h5:hg19_chr21": Read("X", 12, 343, 12, 12, "hg19_chr21"),
    "tenx/v1_multiple_genomes.h5:another_genome": Read("X", 12, 343, 12, 13, "another_genome"),
    "tenx/v3_filtered_chr21.h5": Read("X", 1107, 507, 23866, 41549),
    "tenx/v3_mtx_chr21": Read("X", 1107, 507, 23866, 41549),
    "tenx/visium_mouse_100genes.h5": Read("X", 2695, 100, 50355, 132231),
    "tenx/visium_mouse_mtx_2898": Read("X", 2898, 19465, 1069459, 3085005),
}


def found_in(folder: Path) -> list[str]:
    """Files, and 10x folders as one."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return sorted({(p.parent if p.name.endswith((".mtx.gz", ".tsv.gz")) else p).as_posix() for p in files})


def test_every_file_of_the_shared_data_has_a_row(shared_data: Path) -> None:
    """And no row is without its file."""
    there = {Path(p).relative_to(shared_data).as_posix() for f in FOLDERS for p in found_in(shared_data / f)}
    assert there == {name.partition(":")[0] for name in TABLE}


def take_counts(raw: Path) -> tuple[str, sp.csr_matrix]:
    """As ``counts: auto`` does: the first matrix of which every value is a count."""
    refused = []
    for where in CountsFile.candidates(raw):
        try:
            with CountsFile(raw, where) as file:
                assert len(file.obs) == file.shape[0] and len(file.var) == file.shape[1]
                return where, sp.vstack([sp.csr_matrix((0, file.shape[1])), *(b.counts for b in file.blocks(500))])
        except NotCountsError as error:
            refused.append(f"{where} {error.found.rpartition(' has ')[2].rstrip('.')}")
    raise CellmillError(raw, " ".join(refused), "")


def read_by_others(path: Path, expected: Read) -> sp.csr_matrix:
    """The same matrix by anndata or scanpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, on old files
        if path.is_dir():
            return sp.csr_matrix(scanpy.read_10x_mtx(path, var_names="gene_ids", make_unique=False).X)
        if path.name == "probe_raw_mouse.h5":
            return probes_by_hand(path)
        if path.suffix == ".h5":
            return sp.csr_matrix(scanpy.read_10x_h5(path, genome=expected.genome).X)
        if path.suffix == ".zip":
            group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", use_consolidated=False)
            return sp.csr_matrix(anndata.io.read_elem(group[expected.where]))
        made = anndata.read_h5ad(path)
    layer: Any = {"X": lambda: made.X, "raw": lambda: made.raw.X}.get(expected.where)
    return sp.csr_matrix(layer() if layer else made.layers[expected.where.removeprefix("layers/")])


def probes_by_hand(path: Path) -> sp.csr_matrix:
    """Probes that pass the filter, added up by gene, by pandas."""
    import h5py
    import pandas as pd

    with h5py.File(path) as file:
        m, f = file["matrix"], file["matrix/features"]
        counts = sp.csc_matrix((m["data"][:], m["indices"][:], m["indptr"][:]), shape=m["shape"][:])
        passing, genes = f["filtered_probes"][:], f["gene_id"].asstr()[:]
    dense = pd.DataFrame(counts.toarray()[passing]).groupby(genes[passing], sort=False).sum()
    return sp.csr_matrix(dense.to_numpy().T)


@pytest.mark.parametrize("name", TABLE)
def test_a_shared_file_is_read_right_or_refused_rightly(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Which matrix, its shape, its values; or an error that says what is wrong."""
    expected = TABLE[name]
    path = shared_data / name.partition(":")[0]
    genome = expected.genome if isinstance(expected, Read) else None
    raw = tmp_path / "raw" / "a.h5ad"
    source = Files(files={"a": str(path)}, genome=genome)

    def taken() -> tuple[str, sp.csr_matrix]:
        if path.name != "truncated.h5":
            retrieve_part(source, "a", raw, tmp_path / "a.json", ledger=shared_data / "none.tsv", mirror=None)
        return take_counts(raw if path.name != "truncated.h5" else path)

    if isinstance(expected, Refused):
        with pytest.raises(CellmillError) as caught:
            taken()
        assert expected.phrase in str(caught.value)
        return
    where, counts = taken()
    assert (where, *counts.shape, counts.nnz, int(counts.sum())) == (
        expected.where, expected.cells, expected.genes, expected.values, expected.total,
    )  # fmt: skip
    others = read_by_others(path, expected)
    others.eliminate_zeros()
    assert others.nnz == counts.nnz and (others != counts).nnz == 0
