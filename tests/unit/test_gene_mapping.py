"""Gene tables, what names become by them, what is left out, gene spaces, and that no count is lost unsaid."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from cellmill.config import ConfigError, load_project
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import naming_facts, read_genes, read_mapping, read_part_genes, read_space
from cellmill.contracts.quality import read_cells, read_quality
from cellmill.errors import CellmillError
from cellmill.exports.export import gene_names, name_rows
from cellmill.files import sha256_of
from cellmill.genes.files import TABLES, gene_list, gene_table
from cellmill.genes.identifiers import DROPPED, KEPT, LEFT_OUT, PartGenes
from cellmill.genes.mapping import locate, name_genes
from cellmill.genes.spec import GeneRules
from cellmill.genes.table import GeneTable, read_gene_list, read_gene_table
from cellmill.matrix.reader import CountsFile
from cellmill.quality.names import METRICS
from cellmill.sources.ledger import LEDGER, Ledger

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

HUMAN, MOUSE = "homo_sapiens", "mus_musculus"


def human(n: int) -> str:
    return f"ENSG{n:011d}"


TABLE = f"""\
{human(1)},ACTB,3,1000,protein_coding
{human(2)},MATR3,1,1000,protein_coding
{human(3)},MATR3,1,1000,protein_coding
{human(4)},C1orf112,1,1000,protein_coding
{human(5)},HLA-A,1,1000,protein_coding
{human(6)},{human(6)},1,1000,lncRNA
{human(7)},MT-XX,1,1000,Mt_tRNA
{human(8)},GAPDH,1,1000,protein_coding
"""


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    """Eight genes, as CELLxGENE's schema writes them."""
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    return path


@pytest.fixture
def table(table_file: Path) -> GeneTable:
    """The same, read."""
    return read_gene_table(table_file)


def rules(organism: str = HUMAN, **values: Any) -> GeneRules:
    return GeneRules.model_validate({"organism": organism, "table": "x"} | values)


def named(names: list[str], table: GeneTable | None = None, **values: Any) -> PartGenes:
    """The genes of a file whose var index is ``names``."""
    organism = values.pop("organism", HUMAN)
    var = pd.DataFrame(values.pop("var", None), index=names)
    return name_genes(var, rules=rules(organism, **values), table=table)


# Tables


def test_a_table_has_every_gene_once(table: GeneTable) -> None:
    """By id; a symbol that is the id again is none."""
    assert table.symbols[human(1)] == "ACTB" and table.symbols[human(6)] is None
    assert len(table.symbols) == 8
    assert table.by_symbol["MATR3"] == (human(2), human(3))
    assert table.mitochondrial == {human(7)}


def test_a_table_with_a_head_may_have_chromosomes_and_aliases(tmp_path: Path) -> None:
    """In any order of columns, as csv or tsv."""
    rows = [("Gene_Name", "aliases", "chromosome", "gene_id"), ("A", "A1|A2", "chr1", f"{human(1)}.4")]
    rows += [("B", "", "chrM", human(2))]
    for separator in (",", "\t"):
        path = tmp_path / "t"
        path.write_text("\n".join(separator.join(r) for r in rows))
        found = read_gene_table(path)
        assert found.symbols == {human(1): "A", human(2): "B"}
        assert found.by_alias == {"A1": (human(1),), "A2": (human(1),)}
        assert found.mitochondrial == {human(2)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "no column of gene ids and one of symbols; found: a, b"),
        (f"{human(1)},A\n{human(1)}.2,B\n", f"gene '{human(1)}' stands there twice"),
        (f"{human(1)},A\n{human(2)}\n", "a row of 1 columns"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With what is wrong about it."""
    (tmp_path / "t").write_text(text)
    with pytest.raises(CellmillError, match=said):
        read_gene_table(tmp_path / "t")


@pytest.mark.parametrize("organism", TABLES)
def test_the_tables_of_the_ledger_are_those_of_the_mirror(shared_data: Path, organism: str) -> None:
    """Checksum and size, and about 78,000 genes with the 37 of the mitochondrion."""
    entry = Ledger(LEDGER).entry(TABLES[organism])
    path = shared_data / "genes" / Path(entry.name).name
    assert (sha256_of(path), path.stat().st_size) == (entry.sha256, entry.bytes)
    found = read_gene_table(path)
    assert len(found.symbols) > 78_000 and len(found.mitochondrial) == 37


def test_chromosomes_agree_with_symbols(shared_data: Path) -> None:
    """Another table, with chromosomes and versions: the same 37 genes."""
    ours = read_gene_table(shared_data / "genes" / "genes_homo_sapiens.csv.gz")
    other = read_gene_table(shared_data / "genes" / "sclucid_human_ensembl_latest.csv.gz")
    assert ours.mitochondrial == other.mitochondrial


def test_every_ercc_of_the_ledger_is_a_spike_in(shared_data: Path) -> None:
    """And no gene of human or mouse is."""
    names = list(read_gene_table(shared_data / "genes" / "genes_ercc.csv.gz").symbols)
    assert set(named([*names, "ERCC1", "ERCC6L"]).outcome[:92]) == {"spike_ins"} and len(names) == 92
    for organism in TABLES:
        table = read_gene_table(shared_data / "genes" / f"genes_{organism}.csv.gz")
        assert not set(named([s for s in table.by_symbol], organism=organism).outcome) & set(LEFT_OUT)


# Names


@pytest.mark.parametrize(
    ("name", "gene", "outcome"),
    [
        (human(1), human(1), "id"),
        (f"{human(1)}.7", human(1), "id"),
        (human(99), None, "unmapped"),
        ("ACTB", human(1), "symbol"),
        ("actb", human(1), "symbol_in_other_case"),
        ("C1ORF112", human(4), "symbol_in_other_case"),
        ("MATR3", None, "ambiguous"),
        ("matr3", None, "ambiguous"),
        (f"WRONG_{human(1)}.4", human(1), "id_in_name"),
        (f"ACTB_{human(99)}.4", None, "unmapped"),
        (f"{human(1)}_ACTB", human(1), "id_in_name"),
        ("MATR3-1", None, "ambiguous"),
        ("MATR3.1", None, "ambiguous"),
        ("HLA-A", human(5), "symbol"),
        ("HLA-A-1", None, "unmapped"),
        ("ACTB.1", None, "unmapped"),
        ("nothing", None, "unmapped"),
    ],
)
def test_a_name_is_one_gene_or_none(table: GeneTable, name: str, gene: str | None, outcome: str) -> None:
    """The id wins, then symbols as they stand, then in another case; what was made unique is not guessed."""
    assert locate(name, table) == (gene, outcome)


def test_aliases_come_last() -> None:
    """A symbol of one gene that is an alias of another is the symbol."""
    table = GeneTable({"a": "A", "b": "B"}, {"a": ("B", "OLD"), "b": ("OLD2", "BOTH"), "c": ("BOTH",)})
    found = {n: locate(n, table) for n in ("B", "OLD", "OLD2", "BOTH")}
    assert found == {"B": ("b", "symbol"), "OLD": ("a", "alias"), "OLD2": ("b", "alias"), "BOTH": (None, "ambiguous")}


def test_mouse_symbols_match_in_any_case(shared_data: Path) -> None:
    """Exact first, then whatever the case: data with human-like capitals."""
    table = read_gene_table(shared_data / "genes" / "genes_mus_musculus.csv.gz")
    for name in ("Actb", "ACTB"):
        assert locate(name, table)[0] == "ENSMUSG00000029580"
    assert locate("MT-ND1", table) == ("ENSMUSG00000064341", "symbol_in_other_case")


NAMES = ["ACTB", "MATR3", "nothing", "gapdh", f"{human(1)}"]


@pytest.mark.parametrize(
    ("values", "outcomes", "ids"),
    [
        ({}, ["symbol", "ambiguous", "unmapped", "symbol_in_other_case", "id"], [human(1), human(8), human(1)]),
        (
            {"ambiguous": "keep"},
            ["symbol", "ambiguous_kept", "unmapped", "symbol_in_other_case", "id"],
            [human(1), "MATR3", human(8), human(1)],
        ),
        (
            {"unmapped": "keep"},
            ["symbol", "ambiguous", "unmapped_kept", "symbol_in_other_case", "id"],
            [human(1), "nothing", human(8), human(1)],
        ),
        (
            {"duplicates": "drop"},
            ["symbol", "ambiguous", "unmapped", "symbol_in_other_case", "duplicate"],
            [human(1), human(8)],
        ),
    ],
)
def test_rules_say_what_is_dropped(table: GeneTable, values: Any, outcomes: list[str], ids: list[str]) -> None:
    """Ambiguous and unmapped names are dropped or kept, duplicates added up or dropped."""
    found = named(NAMES, table, **values)
    assert found.outcome.tolist() == outcomes
    assert found.gene_ids[found.kept].tolist() == ids
    assert found.names_as_found.tolist() == NAMES
    assert set(outcomes) <= set(KEPT) | set(DROPPED)
    assert found.n_merged == (0 if values.get("duplicates") == "drop" else 1)


def test_symbols_come_from_the_table(table: GeneTable) -> None:
    """So that gene sets are found in data that have ids alone, or old symbols."""
    found = named([human(1), human(7), "MATR3"], table)
    assert found.gene_symbols.tolist() == ["ACTB", "MT-XX", "MATR3"]
    assert found.member("mt").tolist() == [False, True, False]
    assert not named([human(7)]).member("mt").any()


def test_auto_takes_the_column_that_maps_best(table: GeneTable) -> None:
    """Ensembl ids where a column has them, else the names that the table knows most of."""
    var = {"gene_name": ["ACTB", "GAPDH", "HLA-A"], "n": [1, 2, 3]}
    assert named(["0", "1", "2"], table, var=var).taken_from == "gene_name"
    assert named(["x", "y", "z"], table, var=var | {"gene_ids": [human(i) for i in (1, 8, 5)]}).taken_from == "gene_ids"
    assert named(["0", "1", "2"], var=var).taken_from == "index"
    assert named(["ACTB", "x", "y"], table, var=var, ids="index").outcome.tolist() == ["symbol", "unmapped", "unmapped"]


def test_a_file_of_which_no_gene_is_in_the_table_is_refused(table: GeneTable) -> None:
    """With what became of its names."""
    with pytest.raises(CellmillError, match="none of 3 columns is a gene that stays: 1 ambiguous, 2 unmapped"):
        named(["a", "b", "MATR3"], table)


def test_without_a_table_names_stay(table: GeneTable) -> None:
    """As they are found; what becomes of duplicates is still asked."""
    found = named(["ACTB", "x", "ACTB"])
    assert (found.gene_ids.tolist(), found.outcomes) == (["ACTB", "x", "ACTB"], None)
    assert named(["ACTB", "x", "ACTB"], duplicates="drop").outcome.tolist() == ["as_found", "as_found", "duplicate"]


# What is left out


def test_other_features_are_left_out() -> None:
    """What says to be something else than gene expression; a missing type says nothing."""
    types = {"feature_types": ["Gene Expression", "Antibody Capture", None]}
    assert named(["A", "CD3", "B"], var=types).outcome.tolist() == ["as_found", "other_feature_types", "as_found"]
    assert named(["A", "CD3", "B"], var=types, leave_out=[]).outcomes is None
    assert named(["A", "B"], var={"feature_type": ["protein_coding", "lncRNA"]}).outcomes is None
    with pytest.raises(CellmillError, match="none of 2 columns is a gene that stays: 2 other_feature_types"):
        named(["A", "B"], var={"feature_types": ["Peaks", "Peaks"]})


def test_spike_ins_are_left_out() -> None:
    """By name, or by the column of CELLxGENE."""
    assert named(["ERCC-00002", "ERCC1", "ERCC_00130"]).outcome.tolist() == ["spike_ins", "as_found", "spike_ins"]
    assert named(["A", "S"], var={"feature_biotype": ["gene", "spike-in"]}).outcome.tolist() == [
        "as_found",
        "spike_ins",
    ]


@pytest.mark.parametrize(
    ("organism", "kept"),
    [(HUMAN, ["MALAT1", "ACTB", human(1)]), (MOUSE, ["Malat1", "ENSMUSG00000000001"])],
)
def test_genes_of_another_genome_are_left_out(organism: str, kept: list[str]) -> None:
    """By prefix and by Ensembl id; the prefix of the own genome comes off."""
    names = ["GRCh38_MALAT1", "hg19_ACTB", "mm10___Malat1", f"GRCh38_{human(1)}", "GRCm39_ENSMUSG00000000001.2"]
    found = named(names, organism=organism)
    assert found.gene_ids[found.kept].tolist() == kept
    assert set(found.outcome[~found.kept]) == {"other_genomes"}
    assert found.names_as_found.tolist() == names
    assert named(names, organism="other").outcomes is None
    assert named(names, leave_out=["spike_ins"]).gene_ids.tolist() == [
        *names[:4],
        "GRCm39_ENSMUSG00000000001.2",
    ]


def test_a_file_of_another_organism_is_taken_as_it_is() -> None:
    """The organism may not have been said; other genomes are left out only beside the own one."""
    found = named(["ENSMUSG00000000001.4", "ENSMUSG00000000002"])
    assert (found.gene_ids.tolist(), found.outcomes) == (["ENSMUSG00000000001", "ENSMUSG00000000002"], None)
    assert named([human(1), "ENSSASG00005000004"]).outcome.tolist() == ["as_found", "other_genomes"]


def test_a_column_of_genomes_is_believed(shared_data: Path) -> None:
    """Both genomes of a real 10x file side by side, as scanpy would concatenate them."""
    with h5py.File(shared_data / "tenx" / "v1_multiple_genomes.h5") as file:
        groups = {name: file[name]["gene_names"].asstr()[:] for name in ("hg19_chr21", "another_genome")}
    var = {"genome": np.repeat(list(groups), [len(v) for v in groups.values()])}
    found = named([str(n) for names in groups.values() for n in names], var=var)
    assert found.outcome.tolist() == ["as_found"] * 343 + ["other_genomes"] * 343


def test_names_of_what_is_left_out_may_be_missing() -> None:
    """They are no genes; those that are need names."""
    var = {"gene_ids": [human(1), None], "feature_types": ["Gene Expression", "Antibody Capture"]}
    assert named(["A", "CD3"], var=var).gene_ids.tolist() == [human(1), "CD3"]


# Real files


FILES = [
    ("derived/pbmc4k_soupx_2170.h5ad", HUMAN, "index", 0.61),
    ("h5ad/breast_scllm_100.h5ad", HUMAN, "index", 0.97),
    ("h5ad/merfish_mouse_1000.h5ad", MOUSE, "ensembl_id", 0.99),
    ("h5ad/scicar_mouse_versioned_554.h5ad", MOUSE, "index", 0.98),
    ("h5ad/dentategyrus_mouse_100.h5ad", MOUSE, "index", 0.93),
    ("derived/panglao/SRA578634_SRS2302659.h5ad", MOUSE, "index", 0.98),
    ("derived/panglao/SRA617020_SRS2566664.h5ad", HUMAN, "index", 0.99),
    ("h5ad/heart_cxg_schema_ercc_320.h5ad", HUMAN, "index", 0.98),
]


@pytest.mark.parametrize(("file", "organism", "column", "least"), FILES)
def test_real_names_are_mapped(shared_data: Path, file: str, organism: str, column: str, least: float) -> None:
    """At least as many as when this was written; printed, to be looked at with ``pytest -s``."""
    table = read_gene_table(shared_data / "genes" / f"genes_{organism}.csv.gz")
    with CountsFile(shared_data / file, "X") as raw:
        var = raw.var
    found = name_genes(var, rules=rules(organism), table=table)
    counted = {o: int(n) for o, n in pd.Series(found.outcome).value_counts().items()}
    print(f"\n{file}: {found.kept.mean():.1%} of {len(var):,} names mapped, {counted}")
    assert found.taken_from == column
    assert found.kept.mean() >= least
    assert set(found.gene_ids[found.kept]) <= set(table.symbols)
    assert (found.outcome == "spike_ins").sum() == ("heart" in file)


# Through the stages


def stages(folder: Path, raws: dict[str, Path], table: Path | str, **genes: Any) -> Made:
    extra = {k: genes.pop(k) for k in ("quality", "organism") if k in genes}
    return make(folder, raws, genes={"table": str(table)} | genes, **extra)


def lost(made: Made, part: str) -> dict[str, dict[str, int]]:
    return CountsPart(made.file(part, "h5ad")).facts.get("genes_dropped", {})


def raw_counts(made: Made, part: str, raw: Path) -> int:
    """Counts of the kept cells of the raw part, over all of its columns."""
    kept = np.array(read_cells(made.file(part, "cells.parquet"))[0]["outcome"].to_pylist()) == "kept"
    where = read_quality(made.file(part, "quality.parquet"))[1]["counts"]
    with CountsFile(raw, where) as file:
        return sum(int(b.counts[kept[b.start : b.stop]].sum(dtype=np.int64)) for b in file.blocks())


def assert_conserved(made: Made, raws: dict[str, Path]) -> None:
    for part, raw in raws.items():
        with CountsPart(made.file(part, "h5ad")) as file:
            there = sum(int(counts.sum(dtype=np.int64)) for _, _, counts in file.blocks())
        assert raw_counts(made, part, raw) == there + sum(r["counts"] for r in lost(made, part).values())


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("space", ["union", "intersection", "list"])
@pytest.mark.parametrize("duplicates", ["sum", "drop"])
def test_no_count_is_lost_unsaid(tmp_path: Path, table_file: Path, space: str, duplicates: str) -> None:
    """Raw = processed + dropped by reason, in every part, whatever the rules."""
    names = ["ACTB", "MATR3", "ERCC-00002", "gapdh", human(1), "nothing", "HLA-A"]
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", random_counts(30, 7), genes=names),
        "q": write_raw(
            tmp_path / "q.h5ad",
            random_counts(20, 3, seed=1),
            genes=["GAPDH", "C1ORF112", "x"],
            cells=[f"d{i}" for i in range(20)],
        ),
    }
    if space == "list":
        space = str(tmp_path / "list.txt")
        Path(space).write_text("gene\nGAPDH\nMT-XX\nunheard\n")
    made = stages(tmp_path / "made", raws, table_file, space=space, duplicates=duplicates)
    assert_conserved(made, raws)
    reasons = set(lost(made, "p"))
    assert {"ambiguous", "unmapped", "spike_ins"} <= reasons
    assert ("duplicate" in reasons) == (duplicates == "drop")
    assert ("outside_space" in reasons) == (space != "union")


@pytest.mark.parametrize(
    ("file", "organism"),
    [
        ("derived/pbmc4k_soupx_2170.h5ad", HUMAN),
        ("h5ad/merfish_mouse_1000.h5ad", MOUSE),
        ("h5ad/scicar_mouse_versioned_554.h5ad", MOUSE),
        ("h5ad/dentategyrus_mouse_100.h5ad", MOUSE),
        ("h5ad/heart_cxg_schema_ercc_320.h5ad", HUMAN),
    ],
)
def test_real_genes_are_those_of_the_table(shared_data: Path, tmp_path: Path, file: str, organism: str) -> None:
    """Every processed gene is in the table, and counts are conserved; the share of the counts is printed."""
    path = shared_data / "genes" / f"genes_{organism}.csv.gz"
    raws = {"0": shared_data / file}
    made = stages(tmp_path, raws, path, organism=organism)
    assert_conserved(made, raws)
    with CountsPart(made.file("0", "h5ad")) as part:
        assert set(part.var.index) <= set(read_gene_table(path).symbols)
    total, dropped = raw_counts(made, "0", raws["0"]), sum(r["counts"] for r in lost(made, "0").values())
    print(f"\n{file}: {1 - dropped / total:.2%} of the counts of the kept cells are in the gene space")
    assert dropped < 0.15 * total


def test_metrics_do_not_depend_on_the_table(tmp_path: Path, table_file: Path) -> None:
    """A cell is judged by all that was measured of its genome, whatever the table knows; spike-ins are not."""
    names = ["ACTB", "MATR3", "ERCC-00002", "gapdh", "HLA-A", "nothing"]
    raws = {"0": write_raw(tmp_path / "x.h5ad", random_counts(30, 6), genes=names)}
    with_table, without = (stages(tmp_path / t, raws, f) for t, f in (("a", table_file), ("b", "none")))
    one, two = (
        read_quality(m.file("0", "quality.parquet"))[0].select(METRICS).to_pandas() for m in (with_table, without)
    )
    pd.testing.assert_frame_equal(one, two)
    expected = random_counts(30, 6)[:, [0, 1, 3, 4, 5]].sum(axis=1).A1
    assert one["total_counts"].tolist() == expected.tolist()


def test_the_type_of_counts_is_that_of_the_genes(tmp_path: Path) -> None:
    """An antibody with many counts needs no wider type, since it is not there."""
    counts = np.ones((5, 3), np.float32)
    counts[:, 2] = 5000
    types = {"feature_types": ["Gene Expression", "Gene Expression", "Antibody Capture"]}
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts, var=types)})
    with CountsPart(made.file("0", "h5ad")) as part:
        assert part.dtype == np.uint8
    assert lost(made, "0") == {"other_feature_types": {"columns": 1, "counts": 25000}}


def test_ids_without_symbols_have_gene_sets(shared_data: Path, tmp_path: Path) -> None:
    """The same percentages by the table's symbols as by the file's own."""
    table = shared_data / "genes" / "genes_homo_sapiens.csv.gz"
    whole = anndata.read_h5ad(shared_data / "derived" / "placenta_ensembl_220.h5ad")
    expected = make(tmp_path / "own", {"0": shared_data / "derived" / "placenta_ensembl_220.h5ad"})
    del whole.var["feature_name"]
    whole.write_h5ad(tmp_path / "bare.h5ad")
    raws = {"0": tmp_path / "bare.h5ad"}
    bare, mapped = (stages(tmp_path / n, raws, t) for n, t in (("bare", "none"), ("mapped", table)))
    metrics = ["pct_counts_mt", "pct_counts_ribo", "pct_counts_hb"]
    one, two, three = (
        read_quality(m.file("0", "quality.parquet"))[0].select(metrics).to_pandas() for m in (expected, mapped, bare)
    )
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(one, three)
    assert one["pct_counts_ribo"].mean() > 1


# Gene spaces


def two_parts(folder: Path) -> dict[str, Path]:
    return {
        "p": write_raw(folder / "p.h5ad", random_counts(9, 3).toarray() + 1, genes=["A", "B", "C"]),
        "q": write_raw(
            folder / "q.h5ad", random_counts(9, 2).toarray() + 1, genes=["C", "D"], cells=[f"d{i}" for i in range(9)]
        ),
    }


@pytest.mark.parametrize(
    ("space", "genes"), [("union", ["A", "B", "C", "D"]), ("intersection", ["C"]), ("list", ["C", "D", "X"])]
)
def test_every_part_has_the_genes_of_the_space(tmp_path: Path, space: str, genes: list[str]) -> None:
    """Of any part, of every part, or of a list, in the order of their ids; a gene of no part is 0 everywhere."""
    raws = two_parts(tmp_path)
    if space == "list":
        (tmp_path / "list.tsv").write_text("gene_id\tlength\nX\t1\nD\t2\nC\t3\n")
    made = make(tmp_path / "m", raws, genes={"space": space if space != "list" else str(tmp_path / "list.tsv")})
    assert_conserved(made, raws)
    for part, raw in raws.items():
        found, expected = anndata.read_h5ad(made.file(part, "h5ad")), anndata.read_h5ad(raw)
        assert found.var_names.tolist() == genes
        for gene in genes:
            column = expected[found.obs_names, gene].X if gene in expected.var_names else 0
            assert (found[:, gene].X.toarray() == column).all()


def test_an_empty_gene_space_is_refused(tmp_path: Path) -> None:
    """With the ways out."""
    raws = two_parts(tmp_path)
    (tmp_path / "list.txt").write_text("X\nY\n")
    (tmp_path / "empty.txt").write_text("gene\n")
    with pytest.raises(CellmillError, match="none of its 2 genes is in any part: the list begins with X, the parts"):
        make(tmp_path / "m", raws, genes={"space": str(tmp_path / "list.txt")})
    with pytest.raises(CellmillError, match="names no gene"):
        make(tmp_path / "m", raws, genes={"space": str(tmp_path / "empty.txt")})
    raws["r"] = write_raw(tmp_path / "r.h5ad", np.ones((2, 1), np.float32), genes=["Z"], cells=["e", "f"])
    with pytest.raises(CellmillError, match="no gene is in every one of the 3 parts"):
        make(tmp_path / "m", raws, genes={"space": "intersection"})


def test_published_lists_are_read(shared_data: Path) -> None:
    """With and without a head."""
    assert read_gene_list(shared_data / "genes" / "scimilarity_gene_order.tsv")[:2] == ["A1BG", "A1BG-AS1"]
    found = read_gene_list(shared_data / "vocab" / "scfoundation_gene_index_19264.tsv")
    assert (found[0], len(found)) == ("A1BG", 19264)


# What is told


def test_every_name_of_every_part_stands_in_the_mapping(tmp_path: Path, table_file: Path) -> None:
    """Once for each outcome, with the number of parts; the facts and the manifest count them."""
    raws = {
        "p": write_raw(tmp_path / "p.h5ad", random_counts(9, 4), genes=["ACTB", "MATR3", "ERCC-00002", "x"]),
        "q": write_raw(
            tmp_path / "q.h5ad", random_counts(9, 3), genes=["ACTB", human(1), "x"], cells=[f"d{i}" for i in range(9)]
        ),
    }
    made = stages(tmp_path / "m", raws, table_file)
    rows, facts = read_mapping(made.folder / "mapping.parquet")
    assert rows.astype(object).where(rows.notna(), None).to_numpy().tolist() == [
        ["ACTB", human(1), "ACTB", "symbol", 2],
        [human(1), human(1), "ACTB", "id", 1],
        ["ERCC-00002", None, None, "spike_ins", 1],
        ["MATR3", None, None, "ambiguous", 1],
        ["x", None, None, "unmapped", 2],
    ]
    outcomes = {"ambiguous": 1, "id": 1, "spike_ins": 1, "symbol": 1, "unmapped": 1}
    assert facts["names"] == 5 and facts["outcomes"] == outcomes
    said = gene_names(read_genes(made.genes)[1], made.ledger)["gene_names"]
    assert (said["table"], said["names"]) == ("table.csv.gz", outcomes)
    dropped = {
        r: lost(made, "p").get(r, {}).get("counts", 0) + lost(made, "q").get(r, {}).get("counts", 0)
        for r in ("ambiguous", "spike_ins", "unmapped")
    }
    assert said["counts_dropped"] == dropped
    assert [row[0] for row in name_rows(said)] == ["id", "symbol", "ambiguous", "unmapped", "spike_ins"]


def test_names_that_stay_as_found_say_nothing(tmp_path: Path) -> None:
    """In a dataset without a table, of which no column is left out."""
    made = make(tmp_path / "m", two_parts(tmp_path))
    assert set(naming_facts(made.folder / "space.parquet")) == {"sets"}
    assert gene_names(read_genes(made.genes)[1], made.ledger) == {}
    assert lost(made, "p") == {}
    assert read_mapping(made.folder / "mapping.parquet")[0]["outcome"].tolist() == ["as_found"] * 4


def test_mapping_does_not_depend_on_parts_or_their_order(shared_data: Path, tmp_path: Path) -> None:
    """One part, or the same cells in three: the same genes, and the same names but for the number of parts."""
    raw = shared_data / "derived" / "pbmc68k_recovered_counts_700.h5ad"
    table = shared_data / "genes" / "genes_homo_sapiens.csv.gz"
    one = stages(tmp_path / "one", {"0": raw}, table)
    raws = split_raw(raw, tmp_path / "raws", three_parts(700))
    three = stages(tmp_path / "three", raws, table)
    back = stages(tmp_path / "back", dict(reversed(raws.items())), table)
    assert sha256_of(three.folder / "mapping.parquet") == sha256_of(back.folder / "mapping.parquet")
    assert sha256_of(one.genes) == sha256_of(three.genes) == sha256_of(back.genes)
    assert read_space(one.folder / "space.parquet").equals(read_space(three.folder / "space.parquet"))
    few, many = (read_mapping(m.folder / "mapping.parquet")[0] for m in (one, three))
    assert few.drop(columns="n_parts").equals(many.drop(columns="n_parts"))
    assert set(many["n_parts"]) == {3}


def test_part_genes_keep_what_became_of_each_column(tmp_path: Path, table_file: Path) -> None:
    """As written, so read."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(9, 3), genes=["ACTB", "MATR3", "ERCC-00002"])
    made = stages(tmp_path / "m", {"0": raw}, table_file)
    found = read_part_genes(made.file("0", "genes.parquet"))
    assert found.names_as_found.tolist() == ["ACTB", "MATR3", "ERCC-00002"]
    assert found.outcome.tolist() == ["symbol", "ambiguous", "spike_ins"]
    assert (found.kept.tolist(), found.measured.tolist()) == ([True, False, False], [True, True, False])


def test_part_genes_of_version_1_are_refused(repo: Path) -> None:
    """Written by cellmill before gene tables; it is made anew."""
    with pytest.raises(CellmillError, match=r"found 'part_genes 1', this cellmill reads .*Run snakemake again"):
        read_part_genes(repo / "tests" / "contracts" / "archives" / "part_genes_1.parquet")


# Configuration


def problems(folder: Path, **dataset: Any) -> str:
    import yaml

    (folder / "config" / "datasets").mkdir(parents=True)
    (folder / "x.h5ad").touch()
    source = {"kind": "files", "files": {"0": "x.h5ad"}}
    values = {"title": "t", "source": source, "exports": [], "tokenizers": [], "embedders": []} | dataset
    (folder / "config" / "datasets" / "d.yaml").write_text(yaml.safe_dump(values))
    try:
        load_project({"datasets": ["d"]}, root=folder)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ({"table": "auto"}, ""),
        ({"table": "genes/genes_mus_musculus.csv.gz", "space": "intersection"}, ""),
        ({"table": "genes/genes_mus_musculs.csv.gz"}, "Did you mean 'genes/genes_mus_musculus.csv.gz'?"),
        ({"table": "atuo"}, "genes.table: no file 'atuo'.*Did you mean 'auto'?"),
        ({"space": "unions"}, "genes.space: no file 'unions'.*Did you mean 'union'?"),
        ({"unmapped": "dorp"}, "genes.unmapped"),
    ],
)
def test_files_of_genes_are_checked_before_anything_runs(tmp_path: Path, genes: dict[str, str], said: str) -> None:
    """Names of the ledger, or paths."""
    import re

    found = problems(tmp_path, genes=genes)
    assert re.search(said.replace("?", r"\?"), found) if said else found == ""


def test_auto_needs_an_organism_that_the_ledger_knows(tmp_path: Path) -> None:
    """Else a table must be named."""
    assert "auto knows no table of organism 'other'" in problems(tmp_path, genes={"table": "auto"}, organism="other")


def test_auto_is_the_table_of_the_organism() -> None:
    """And none is asked for where none is named."""
    assert gene_table("auto", "mus_musculus") == ["resources/genes/genes_mus_musculus.csv.gz"]
    assert gene_table("none", "mus_musculus") == gene_list("union") == gene_list("intersection") == []
    assert gene_table("mine.csv", "other") == ["mine.csv"]
