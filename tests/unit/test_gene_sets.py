"""Gene sets of the configuration: which genes are in them, what becomes of their percentages, and what is told."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy

from cellmill.contracts.genes import naming_facts, read_genes, read_part_genes
from cellmill.contracts.quality import read_cells, read_quality, read_thresholds
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.genes.identifiers import PartGenes
from cellmill.genes.sets import read_sets, with_sets
from cellmill.genes.table import read_gene_table
from cellmill.quality.names import METRICS

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

GENES = ["MKI67", "TOP2A", "FOS", "JUN", "MT-CO1", "RPL3", "HBB", *(f"G{i}" for i in range(33))]
SETS = {"cell_cycle": ["MKI67", "TOP2A"], "stress": ["FOS", "JUN"]}


def raw_file(folder: Path, *, cells: int = 300, seed: int = 2) -> Path:
    return write_raw(folder / "raw.h5ad", random_counts(cells, 40, seed=seed), genes=GENES)


def percentages(made: Made, *names: str, part: str = "0") -> pd.DataFrame:
    columns = [f"pct_counts_{name}" for name in names]
    return read_quality(made.file(part, "quality.parquet"), columns=columns)[0].to_pandas()


def by_scanpy(raw: Path, **sets: list[str]) -> pd.DataFrame:
    """The same columns by scanpy, with ``isin`` of the var names."""
    cells = anndata.read_h5ad(raw)
    cells.X = cells.X.astype(np.float64)
    for name, genes in sets.items():
        cells.var[name] = cells.var_names.isin(genes)
    found, _ = scanpy.pp.calculate_qc_metrics(cells, qc_vars=list(sets), percent_top=None)
    return found[[f"pct_counts_{name}" for name in sets]].reset_index(drop=True)


def named(ids: list[str], symbols: list[str | None] | None = None, names: list[str] | None = None) -> PartGenes:
    return PartGenes(
        np.array(ids, object),
        np.array(symbols or [None] * len(ids), object),
        "index",
        None if names is None else np.array(names, object),
    )


def members(genes: PartGenes, *asked: str, **options: Any) -> tuple[list[int], list[str]]:
    """Columns of a set, and its names that no column has."""
    found = with_sets(genes, {"s": asked}, **options)
    return np.flatnonzero(found.sets["s"]).tolist(), found.not_found["s"]


# Percentages


def test_percentages_are_those_of_scanpy(tmp_path: Path) -> None:
    """Exactly those of calculate_qc_metrics, in the quality file and in the obs of the kept cells."""
    raw = raw_file(tmp_path)
    made = make(tmp_path / "m", {"0": raw}, genes={"sets": SETS})
    expected = by_scanpy(raw, **SETS)
    assert (expected.mean() > 1).all()
    pd.testing.assert_frame_equal(percentages(made, *SETS), expected, rtol=1e-12)
    kept = anndata.read_h5ad(made.file("0", "h5ad")).obs
    assert list(kept.columns) == ["split", *METRICS, "pct_counts_cell_cycle", "pct_counts_stress"]
    rows = read_cells(made.file("0", "cells.parquet"))[0]["outcome"].to_numpy() == "kept"
    for name in SETS:
        assert kept[f"pct_counts_{name}"].tolist() == percentages(made, name)[f"pct_counts_{name}"][rows].tolist()


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_percentages_of_real_cells_are_those_of_scanpy(shared_data: Path, tmp_path: Path) -> None:
    """Genes named by symbol, by id of any version and in other case, of cells that are named by Ensembl ids."""
    raw = shared_data / "derived" / "placenta_ensembl_220.h5ad"
    cells = anndata.read_h5ad(raw)
    chosen = cells.var.loc[cells.var["feature_name"].isin(["FOS", "JUN", "HSPA1A", "MKI67"])]
    assert len(chosen) == 4
    asked = ["fos", "JUN", f"{chosen.index[chosen['feature_name'] == 'HSPA1A'][0]}.99", "MKI67"]
    made = make(tmp_path, {"0": raw}, genes={"sets": {"s": asked}})
    expected = by_scanpy(raw, s=chosen.index.tolist())
    assert expected["pct_counts_s"].mean() > 0.05
    pd.testing.assert_frame_equal(percentages(made, "s"), expected, rtol=1e-12)


def test_other_metrics_do_not_depend_on_sets(tmp_path: Path) -> None:
    """A set adds a column, and changes none."""
    raw = raw_file(tmp_path)
    with_set, without = (make(tmp_path / n, {"0": raw}, genes={"sets": s}) for n, s in (("a", SETS), ("b", {})))
    one, two = (read_quality(m.file("0", "quality.parquet"))[0] for m in (with_set, without))
    assert one.select(two.column_names).equals(two)


def test_sets_do_not_depend_on_parts_or_their_order(tmp_path: Path) -> None:
    """The same gene file, thresholds and percentages of the same cells in one part or in three."""
    raw = raw_file(tmp_path)
    spec = {"genes": {"sets": SETS}, "quality": {"mads": {"pct_counts_stress": 3}, "max_pct": {"cell_cycle": 40}}}
    raws = split_raw(raw, tmp_path / "raws", three_parts(300))
    one = make(tmp_path / "one", {"0": raw}, **spec)
    three = make(tmp_path / "three", raws, **spec)
    back = make(tmp_path / "back", dict(reversed(raws.items())), **spec)
    assert sha256_of(one.genes) == sha256_of(three.genes) == sha256_of(back.genes)
    assert sha256_of(one.thresholds) == sha256_of(three.thresholds) == sha256_of(back.thresholds)


# Which genes


def test_a_name_is_an_id_a_symbol_or_a_name_as_found() -> None:
    """In upper or lower case, ids of any version; each column once."""
    ids = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "x"]
    genes = named(ids, ["FOS", "Jun", None, None], ["ENSG00000000001.5", "jun.2", "ENSG00000000003.1", "x"])
    assert members(genes, "FOS", "ENSG00000000001.9") == ([0], [])
    assert members(genes, "JUN", "ENSG00000000003") == ([1, 2], [])
    assert members(genes, "JUN.2", "X", "nothing") == ([1, 3], ["nothing"])


def test_a_prefix_is_every_name_that_begins_so() -> None:
    """Nothing else is special in a name."""
    genes = named(["HIST1H1A", "Hist2h2", "AHIST", "RP11-34P13.7", "RP11x34P13.7"])
    assert members(genes, "HIST*") == ([0, 1], [])
    assert members(genes, "RP11-34P13.7", "HST*") == ([3], ["HST*"])


def test_a_gene_table_knows_names_that_the_file_does_not(tmp_path: Path) -> None:
    """Symbols and aliases, of a file that has ids alone, or other symbols."""
    path = tmp_path / "t.tsv"
    path.write_text("gene_id\tsymbol\taliases\nENSG00000000001\tFOS\tCFOS\nENSG00000000002\tJUN\t\n")
    table = read_gene_table(path)
    genes = named(["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"])
    assert members(genes, "CFOS", "jun") == ([], ["CFOS", "jun"])
    assert members(genes, "CFOS", "jun", table=table) == ([0, 1], [])


def test_names_are_mapped_by_the_table_of_the_dataset(tmp_path: Path) -> None:
    """A set of symbols has the same percentages in a file of symbols and in one of ids, by either's names."""
    table = tmp_path / "table.csv.gz"
    rows = [f"ENSG{i:011d},{name},1,1000,protein_coding" for i, name in enumerate(GENES)]
    table.write_bytes(gzip.compress("\n".join(rows).encode()))
    counts = random_counts(50, 40)
    by_symbol = write_raw(tmp_path / "s.h5ad", counts, genes=GENES)
    by_id = write_raw(tmp_path / "i.h5ad", counts)
    sets = {"s": ["FOS", "JUN"], "i": [f"ENSG{GENES.index(g):011d}" for g in ("FOS", "JUN")]}
    for name, raw in (("symbol", by_symbol), ("id", by_id)):
        found = percentages(make(tmp_path / name, {"0": raw}, genes={"table": str(table), "sets": sets}), "s", "i")
        expected = by_scanpy(by_symbol, s=["FOS", "JUN"], i=["FOS", "JUN"])
        pd.testing.assert_frame_equal(found, expected, rtol=1e-12)


def test_what_is_left_out_is_in_no_set(tmp_path: Path) -> None:
    """A spike-in that a set names is not found."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(20, 3), genes=["FOS", "ERCC-00002", "JUN"])
    made = make(tmp_path, {"0": raw}, genes={"sets": {"s": ["FOS", "ERCC-00002"]}})
    found = read_part_genes(made.file("0", "genes.parquet"))
    assert found.sets["s"].tolist() == [True, False, False]
    assert found.not_found == {"s": ["ERCC-00002"]}


def test_a_set_may_be_a_list_in_a_file(tmp_path: Path) -> None:
    """As `genes.space`: a line each, or the first column of a table; files go to their sets in order."""
    (tmp_path / "a.txt").write_text("FOS\nJUN\n")
    (tmp_path / "b.tsv").write_text("gene\tscore\nMKI67\t1\nMKI67\t2\n")
    sets = {"a": str(tmp_path / "a.txt"), "own": ["G1"], "b": str(tmp_path / "b.tsv")}
    assert read_sets(sets, [sets["a"], sets["b"]]) == {"a": ["FOS", "JUN"], "own": ["G1"], "b": ["MKI67"]}
    raw = raw_file(tmp_path)
    made = make(tmp_path / "m", {"0": raw}, genes={"sets": sets})
    expected = by_scanpy(raw, a=["FOS", "JUN"], own=["G1"], b=["MKI67"])
    pd.testing.assert_frame_equal(percentages(made, *sets), expected, rtol=1e-12)


# Bounds


def test_sets_have_fixed_bounds_and_thresholds(tmp_path: Path) -> None:
    """Only too much is bad; the reasons are told by the name of the set, fixed bounds first."""
    raw = raw_file(tmp_path)
    quality = {"mads": {"pct_counts_stress": 1}, "max_pct": {"cell_cycle": 10}}
    sets = SETS | {"stress": ["FOS", "JUN", "G*"]}
    made = make(tmp_path / "m", {"0": raw}, genes={"sets": sets}, quality=quality)
    said = read_thresholds(made.thresholds)
    bound = said["dataset"]["pct_counts_stress"]
    assert said["fixed"]["max_pct_cell_cycle"] == 10 and said["fixed"]["max_pct_mt"] is None
    assert bound["applied"] and bound["lower"] is None
    table = percentages(made, *SETS)
    expected = np.where(table["pct_counts_stress"] > bound["upper"], "high pct_counts_stress", "kept")
    expected = np.where(table["pct_counts_cell_cycle"] > 10, "max_pct_cell_cycle", expected)
    assert read_cells(made.file("0", "cells.parquet"))[0]["outcome"].to_pylist() == expected.tolist()
    assert set(expected) == {"kept", "high pct_counts_stress", "max_pct_cell_cycle"}


# What is told


def test_a_set_of_no_part_is_refused(tmp_path: Path) -> None:
    """With the nearest name; nothing is written of the gene space."""
    with pytest.raises(
        CellmillError, match=r"genes\.sets\.s: none of its 2 names is in any part: MKI76, TOP2\..*Did you mean 'MKI67'"
    ):
        make(tmp_path / "m", {"0": raw_file(tmp_path)}, genes={"sets": {"s": ["TOP2", "MKI76"]}})
    assert not list((tmp_path / "m").glob("*space*")) and not list((tmp_path / "m").glob("mapping*"))


def test_names_of_no_part_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name that any part has is found; the others stand in the log and in the gene file."""
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", random_counts(20, 3), genes=["FOS", "A", "MT-CO1"]),
        "q": write_raw(
            tmp_path / "q.h5ad", random_counts(20, 2), genes=["JUN", "A"], cells=[f"d{i}" for i in range(20)]
        ),
    }
    with caplog.at_level(logging.WARNING, "cellmill"):
        made = make(tmp_path / "m", raws, genes={"sets": {"s": ["FOS", "JUN", "FOSS"], "t": ["FOS"]}})
    expected = {
        "mt": {"genes": 1, "in_every_part": 0, "not_found": []},
        "ribo": {"genes": 0, "in_every_part": 0, "not_found": []},
        "hb": {"genes": 0, "in_every_part": 0, "not_found": []},
        "s": {"genes": 2, "in_every_part": 0, "not_found": ["FOSS"]},
        "t": {"genes": 1, "in_every_part": 0, "not_found": []},
    }
    assert read_genes(made.genes)[1]["sets"] == expected == naming_facts(made.folder / "space.parquet")["sets"]
    assert "genes.sets.s: names that are in no part (1): FOSS." in caplog.text
    assert "q.h5ad: no column is a gene of the set 't': pct_counts_t is 0." in caplog.text
    assert "p.h5ad: no column is a gene of the set 'ribo': pct_counts_ribo is 0." in caplog.text
    assert read_quality(made.file("q", "quality.parquet"))[1]["gene_sets"] == {
        "mt": 0,
        "ribo": 0,
        "hb": 0,
        "s": 1,
        "t": 0,
    }
    assert set(percentages(made, "t", part="q")["pct_counts_t"].dropna()) == {0}
