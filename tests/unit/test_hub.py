"""Source ``hub``: files of a repository at one commit, and Parquet of every shape decoded into counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from pydantic import ValidationError

from cellmill.contracts.plan import Plan
from cellmill.errors import CellmillError
from cellmill.patience import Patience
from cellmill.sources import Hub as HubSource
from cellmill.sources.download import Download
from cellmill.sources.parquet_cells import ParquetCells, convert_parquet, read_gene_table
from cellmill.sources.plan import plan_dataset
from cellmill.sources.retrieve import retrieve_file, retrieve_part

from .fake_hub import TOKEN, Hub, Repo
from .release import h5ad, sample

LEDGER = Path(__file__).parents[2] / "resources" / "ledger.tsv"
HURRY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.002, total_wait_s=60, timeout_s=20)
GENES = 40
TABLE = pd.DataFrame(
    {
        "gene_symbol": [f"GENE{i}" for i in range(GENES)],
        "ensembl_id": [f"ENSG{i:011d}" for i in range(GENES)],
        "token_id": np.arange(GENES) + 3,
    }
)
TOKENS = {
    "genes": "genes",
    "values": "expressions",
    "skip": 1,
    "gene_table": "metadata/genes.parquet",
    "gene_name": "ensembl_id",
    "gene_number": "token_id",
    "id": "BARCODE_SUB_LIB_ID",
}


def counts(cells: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 2.0, GENES), (cells, GENES)).astype(np.uint32)


def tokens(values: np.ndarray, *, seed: int = 0, shuffled: bool = True) -> pa.Table:
    """As Tahoe-100M has its cells: gene numbers from 3 on in any order, after a `<cls>` with the value -2."""
    rng = np.random.default_rng(seed)
    genes, expressions = [], []
    for row in values:
        there = np.flatnonzero(row)
        there = rng.permutation(there) if shuffled else there
        genes.append([1, *(there + 3)])
        expressions.append([-2.0, *row[there].astype(float)])
    n = len(values)
    return pa.table(
        {
            "genes": pa.array(genes, pa.list_(pa.int64())),
            "expressions": pa.array(expressions, pa.list_(pa.float32())),
            "drug": pa.array(["DMSO", None, "Dabrafenib"] * n, pa.string()).slice(0, n).dictionary_encode(),
            "BARCODE_SUB_LIB_ID": [f"0{i}_001_{seed}" for i in range(n)],
            "dose": pa.array([None if i % 5 == 0 else i / 2 for i in range(n)]),
            "pass": [i % 2 == 0 for i in range(n)],
            "extra": pa.array([[1.0, 2.0]] * n, pa.list_(pa.float32())),
        }
    )


def parquet(table: pa.Table, path: Path, **values: Any) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **values)
    return path.read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as made:
        monkeypatch.setattr(Download, "patience", property(lambda _: HURRY))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


def filled(hub: Hub, tmp_path: Path, **values: Any) -> Repo:
    """A repository with two h5ad files, two shards of Parquet and a table of genes."""
    repo = hub.repos["own/atlas"] = Repo("own/atlas", values.pop("private", False), **values)
    files = {f"data/s{i}.h5ad": h5ad(sample(f"SRX{i}", 30 + i, genes=GENES), tmp_path) for i in (1, 2)}
    files |= {f"shards/{i}.parquet": parquet(tokens(counts(20, i), seed=i), tmp_path / "x.parquet") for i in (0, 1)}
    files["metadata/genes.parquet"] = parquet(pa.Table.from_pandas(TABLE), tmp_path / "x.parquet")
    repo.commit("first", files | {"README.md": b"# Atlas"})
    return repo


def planned(source: HubSource, tmp_path: Path, mirror: Path | None = None) -> Plan:
    return plan_dataset(source, tmp_path / "plan.tsv", mirror=mirror)


def retrieve(source: HubSource, tmp_path: Path, part: str, **values: Any) -> tuple[anndata.AnnData, dict[str, Any]]:
    out, said = tmp_path / "raw" / f"{part}.h5ad", tmp_path / "raw" / f"{part}.json"
    given = {"ledger": LEDGER, "mirror": None, "plan": tmp_path / "plan.tsv"} | values
    retrieve_part(source.of(part), part, out, said, **given)
    return anndata.read_h5ad(out), json.loads(said.read_text())


# --- the repository


def test_a_plan_is_of_one_commit_with_the_sizes_and_checksums_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Also after the branch went on; cells are known before anything is fetched."""
    repo = filled(hub, tmp_path)
    source = HubSource(repo="own/atlas", part_cells=40)
    first = repo.sha
    plan = planned(source, tmp_path)
    assert [(m.name, m.part, m.cells) for m in plan.members] == [("s1", "0000", 31), ("s2", "0001", 32)]
    for m in plan.members:
        content = repo.files[f"data/{m.name}.h5ad"]
        assert m.address == f"hf://datasets/own/atlas@{first}/data/{m.name}.h5ad"
        assert (m.bytes, m.checksum) == (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
    assert plan.facts["commit"] == first
    repo.commit("second", {"data/s1.h5ad": b"another"})
    found, said = retrieve(source, tmp_path, "0000")
    expected = sample("SRX1", 31, genes=GENES)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert said["members"][0]["origin"] == "network"
    assert planned(HubSource(repo="own/atlas", revision=first), tmp_path / "again").facts["commit"] == first


def test_large_files_are_fetched_once_for_all_their_slices(hub: Hub, tmp_path: Path) -> None:
    """Rows of the file in order, with the checksum that the whole has."""
    filled(hub, tmp_path)
    source = HubSource(repo="own/atlas", files=["data/s2.h5ad"], slice=12)
    plan = planned(source, tmp_path)
    assert [m.rows for m in plan.members] == [(0, 12), (12, 24), (24, 32)]
    hub.asked.clear()
    whole = tmp_path / "whole" / "s2.h5"
    retrieve_file(tmp_path / "plan.tsv", "s2", whole, mirror=None)
    found = [retrieve(source, tmp_path, part, shared=[whole]) for part in plan.parts]
    assert len([a for a in hub.asked if "/resolve/" in a]) == 1
    np.testing.assert_array_equal(
        np.concatenate([data.X.toarray() for data, _ in found]), sample("SRX2", 32, genes=GENES).X.toarray()
    )
    assert {said["members"][0]["sha256"] for _, said in found} == {plan.members[0].checksum.removeprefix("sha256:")}
    with pytest.raises(CellmillError, match="no parts share a file 's3'"):
        retrieve_file(tmp_path / "plan.tsv", "s3", whole, mirror=None)


def test_shards_of_tokens_become_counts(hub: Hub, tmp_path: Path) -> None:
    """Each count in its gene, the `<cls>` in none; ids, obs columns and gene columns as they are."""
    filled(hub, tmp_path)
    source = HubSource(repo="own/atlas", files=["shards/*.parquet"], parquet=ParquetCells(**TOKENS))
    plan = planned(source, tmp_path)
    assert list(plan.parts) == ["0000"] and plan.facts["cells"] == 40
    found, said = retrieve(source, tmp_path, "0000")
    np.testing.assert_array_equal(found.X.toarray(), np.concatenate([counts(20, 0), counts(20, 1)]))
    assert found.var_names.tolist() == TABLE["ensembl_id"].tolist()
    assert found.var["gene_symbol"].tolist() == TABLE["gene_symbol"].tolist()
    assert found.obs_names[21] == "1:01_001_1" and found.obs["drug"].isna().sum() == 14
    assert found.obs["dose"].isna().sum() == 8 and found.obs["pass"].dtype == bool
    assert "extra" not in found.obs and "hold no single values: extra" in said["members"][0]["note"]
    assert not (tmp_path / "raw" / ".download").exists()


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "private"])
def test_a_repository_that_is_not_open_says_what_it_needs(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    """Without a token an error with the way in, with one the files; it is in no message."""
    filled(hub, tmp_path, private=not gated, gated=gated)
    source = HubSource(repo="own/atlas")
    with pytest.raises(CellmillError, match=r"HTTP 401.*HF_TOKEN.*hf auth login"):
        planned(source, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN[:-1] + "x")
    with pytest.raises(CellmillError, match="HTTP 401") as error:
        planned(source, tmp_path)
    assert TOKEN[:12] not in str(error.value) and not (tmp_path / "plan.tsv").exists()
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    assert planned(source, tmp_path).facts["cells"] == 63


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"revision": "v9"}, "own/atlas has no revision 'v9'"),
        ({"files": ["data/*.h5"]}, r"no file of hf://datasets/own/atlas@\w+ is named by 'data/\*.h5'"),
        ({"files": ["shards/*"]}, "is Parquet, and nothing says how it holds cells"),
        ({"repo": "own/other"}, "HTTP 40[14].*Check the address"),
        (
            {"files": ["shards/*"], "parquet": TOKENS | {"gene_table": "metadata/none.csv"}},
            "there is no hf://.*none.csv",
        ),
    ],
    ids=["revision", "pattern", "parquet", "repository", "table"],
)
def test_what_is_not_there_is_refused(hub: Hub, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    """Before anything is written."""
    filled(hub, tmp_path)
    with pytest.raises(CellmillError, match=said):
        planned(HubSource(**{"repo": "own/atlas"} | values), tmp_path)
    assert not (tmp_path / "plan.tsv").exists()


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 and 503 while planning; one that stays away is one sentence."""
    monkeypatch.setattr("cellmill.patience.PATIENCE", HURRY)
    filled(hub, tmp_path)
    answers = [429, 503]

    def busy(handler: Any) -> bool:
        if answers and "/revision/" in handler.path:
            handler.refuse(answers.pop(0), "later", Retry_After="0")
            return True
        return False

    hub.fault = busy
    assert planned(HubSource(repo="own/atlas"), tmp_path).facts["files"] == 2 and not answers
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CellmillError, match=r"gave up after 4 tries.*fill a mirror"):
        planned(HubSource(repo="own/atlas"), tmp_path / "gone")


def test_a_mirror_is_enough(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a commit that is named: planned and retrieved while nothing can be asked."""
    repo = filled(hub, tmp_path)
    sums = []
    for path, content in repo.files.items():
        name = f"datasets/own/atlas@{repo.sha}/{path}"
        to = tmp_path / "mirror" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (tmp_path / "mirror" / "SHA256SUMS").write_text("".join(sums))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    cells = ParquetCells(**TOKENS)
    source = HubSource(repo="own/atlas", revision=repo.sha, files=["**/[0-9].parquet"], parquet=cells)
    plan = planned(source, tmp_path, mirror=tmp_path / "mirror")
    assert [m.cells for m in plan.members] == [20, 20]
    found, said = retrieve(source, tmp_path, "0000", mirror=tmp_path / "mirror")
    assert found.X.sum() == counts(20, 0).sum() + counts(20, 1).sum()
    assert {m["origin"] for m in said["members"]} == {"mirror"}


# --- Parquet


def decoded(table: pa.Table, tmp_path: Path, known: pd.DataFrame | None = None, **spec: Any) -> anndata.AnnData:
    parquet(table, tmp_path / "cells.parquet", row_group_size=700)
    made = ParquetCells(**spec)
    found = None
    if known is not None:
        known.to_csv(tmp_path / "genes.csv", index=False)
        found = read_gene_table(tmp_path / "genes.csv", made)
    convert_parquet(tmp_path / "cells.parquet", tmp_path / "cells.h5ad", made, found)
    return anndata.read_h5ad(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("large", [False, True], ids=["list", "large_list"])
def test_named_genes_in_lists_need_no_table(tmp_path: Path, large: bool) -> None:
    """Genes of any cell, sorted; cells over several blocks, one without a gene."""
    values = counts(1_500)
    values[7] = 0
    kind = pa.large_list if large else pa.list_
    lists = [[f"G{j:02d}" for j in np.flatnonzero(row)] for row in values]
    table = pa.table(
        {
            "g": pa.array(lists, kind(pa.string())),
            "x": pa.array([row[row > 0].tolist() for row in values], kind(pa.int32())),
        }
    )
    found = decoded(table, tmp_path, genes="g", values="x")
    there = np.flatnonzero(values.any(axis=0))
    assert found.var_names.tolist() == [f"G{j:02d}" for j in there] and found.X.dtype == np.uint32
    np.testing.assert_array_equal(found.X.toarray(), values[:, there])
    assert found.obs_names[1_400] == "1400"


def test_a_column_per_gene(tmp_path: Path) -> None:
    """Found by pattern, in the file's order; the rest is obs."""
    values = counts(1_200)
    frame = pd.DataFrame(values.astype(np.float32), columns=[f"ENSG{i:011d}" for i in range(GENES)])
    frame.insert(3, "tissue", ["lung", None] * 600)
    found = decoded(pa.Table.from_pandas(frame), tmp_path, dense=["ENSG*"])
    np.testing.assert_array_equal(found.X.toarray(), values)
    assert list(found.obs.columns) == ["tissue"] and found.obs["tissue"].isna().sum() == 600


def test_rows_of_the_table_are_numbers_where_it_has_none(tmp_path: Path) -> None:
    """From `offset` on; a gene that a cell names twice has the sum."""
    table = pa.table({"g": [[3, 4, 3], [5]], "x": [[1, 2, 5], [7]]})
    spec = {"genes": "g", "values": "x", "gene_table": "genes.csv", "gene_name": "ensembl_id", "offset": 3}
    found = decoded(table, tmp_path, TABLE[["ensembl_id"]].head(3), **spec)
    assert found.X.toarray().tolist() == [[6, 2, 0], [0, 0, 7]]


@pytest.mark.parametrize(
    ("table", "spec", "said"),
    [
        ({"g": [[3, 99]], "x": [[1, 1]]}, {}, "row 0 has the gene 99, which is none of the 40"),
        ({"g": [[3], [3, 4]], "x": [[1], [1]]}, {}, "row 1 has 2 genes and 1 values"),
        ({"g": [[3], [4]], "x": [[1.0], [0.5]]}, {}, "does not hold counts: row 1, gene 'ENSG00000000001' has 0.5"),
        ({"g": [[3], [1, 4]], "x": [[1.0], [-2.0, 1.0]]}, {}, "row 1 has the gene 1"),
        ({"g": [[1, 3], []], "x": [[-2.0, 1.0], []]}, {"skip": 1}, "row 1 has no list, or one of fewer than 1"),
        ({"g": [[3], None], "x": [[1], None]}, {}, "row 1 has no list"),
        ({"g": [[3, None]], "x": [[1, 1]]}, {}, "has an entry without a value"),
        ({"g": [[3]], "y": [[1]]}, {}, "source.parquet.values: no column 'x'"),
        ({"g": [3], "x": [1]}, {}, "column 'g' is int64, not a list per cell"),
        ({"g": [["A"]], "x": [[1]]}, {}, "its genes have numbers, and 'g' holds string"),
        ({"g": [[3]], "x": [[1]]}, {"gene_name": "name"}, "source.parquet.gene_name: no column 'name'"),
        ({"g": [[3]], "x": [[1]]}, {"gene_number": "gene_symbol"}, "'gene_symbol' holds no numbers"),
    ],
)
def test_parquet_that_is_not_as_described_is_refused(
    tmp_path: Path, table: dict[str, Any], spec: dict[str, Any], said: str
) -> None:
    """Where, what, and nothing is left."""
    base = {"genes": "g", "values": "x", "gene_table": "g.csv", "gene_name": "ensembl_id", "gene_number": "token_id"}
    with pytest.raises(CellmillError, match=said):
        decoded(pa.table(table), tmp_path, TABLE, **base | spec)
    assert not (tmp_path / "cells.h5ad").exists()


def test_genes_that_are_numbers_need_a_table(tmp_path: Path) -> None:
    """Nothing is guessed."""
    with pytest.raises(CellmillError, match="'g' holds numbers, and nothing names them"):
        decoded(pa.table({"g": [[1]], "x": [[1]]}), tmp_path, genes="g", values="x")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "either the list columns 'genes' and 'values', or"),
        ({"genes": "g"}, "either the list columns"),
        ({"genes": "g", "values": "x", "dense": ["*"]}, "either the list columns"),
        ({"dense": ["*"], "skip": 1}, "are of list columns"),
        ({"genes": "g", "values": "x", "gene_table": "t.csv"}, "needs 'gene_name'"),
        ({"genes": "g", "values": "x", "offset": 3}, "are of a 'gene_table'"),
    ],
)
def test_parquet_is_described_in_one_way(values: dict[str, Any], said: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValidationError, match=said):
        ParquetCells(**values)
    with pytest.raises(ValidationError, match=r"say how 'x/\*\.parquet' holds its cells"):
        HubSource(repo="own/atlas", files=["x/*.parquet"])


def test_the_dense_way_and_the_lists_agree(tmp_path: Path) -> None:
    """The same cells in both shapes give the same counts."""
    values = counts(300, 5)
    sparse = decoded(tokens(values), tmp_path, TABLE, **TOKENS | {"gene_table": "genes.csv"})
    dense = decoded(pa.table({n: values[:, i] for i, n in enumerate(TABLE["ensembl_id"])}), tmp_path, dense=["ENSG*"])
    assert (sparse.X != dense.X).nnz == 0 and isinstance(sparse.X, sp.csr_matrix)
    assert sparse.var_names.tolist() == dense.var_names.tolist()
