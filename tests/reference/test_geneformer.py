"""Tokens against the published tokenizer's own output, and against a slow encoder on random cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.contracts.counts import CountsPart
from cellmill.contracts.tokens import TokensPart
from cellmill.contracts.vocabulary import Vocabulary, read_tokens
from cellmill.errors import CellmillError
from cellmill.files import read_json
from cellmill.tokenizers import GeneformerV1, GeneformerV2, Rank, Tokenizer
from cellmill.tokenizers.encoder import Rows
from cellmill.tokenizers.rank_value import RankValueEncoder
from cellmill.tokenizers.tokenize import build_vocabulary, tokenize_part

from ..unit.stages import Made, make, random_counts, split_raw, three_parts, write_raw
from .slow_rank_value import slow_rank_value

SPECS: dict[str, tuple[Tokenizer, str]] = {
    "V1": (GeneformerV1(library_size="n_counts"), "gc30M"),
    "V2": (GeneformerV2(library_size="n_counts"), "gc95M"),
}
RAWS = {"placenta_ensembl_220": "placenta_ensembl_220", "pbmc68k_recovered_700": "pbmc68k_recovered_counts_700"}


def dictionaries(shared_data: Path, corpus: str) -> dict[str, str]:
    names = {"tokens": "token_dictionary", "medians": "gene_median_dictionary", "mapping": "ensembl_mapping_dict"}
    return {role: str(shared_data / "geneformer" / f"{name}_{corpus}.pkl") for role, name in names.items()}


def rows_of(totals: Any) -> Rows:
    """Library sizes, and keys that no rank depends on."""
    return Rows(np.asarray(totals, np.float64), np.zeros(len(totals), np.uint64))


def tokenize(made: Made, spec: Tokenizer, files: dict[str, str], *, name: str = "tokens") -> dict[str, Path]:
    """Both steps over all parts; the token files."""
    vocabulary, gene_tokens = made.folder / f"{name}.json", made.folder / f"{name}.genes.parquet"
    build_vocabulary(made.genes, files=files, spec=spec, out=vocabulary, out_genes=gene_tokens)
    out = {p: made.file(p, f"{name}.parquet") for p in made.parts}
    for part, path in out.items():
        processed = made.file(part, "h5ad")
        tokenize_part(processed, vocabulary=vocabulary, gene_tokens=gene_tokens, spec=spec, out=path)
    return out


def rows(paths: dict[str, Path]) -> dict[str, list[int]]:
    """Tokens by cell id."""
    tables = [pq.read_table(p) for p in paths.values()]
    return {r["cell_id"]: r["input_ids"] for t in tables for r in t.to_pylist()}


@pytest.fixture(
    scope="module", params=["placenta_ensembl_220.V1", "placenta_ensembl_220.V2", "pbmc68k_recovered_700.V2"]
)
def golden(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Path, Tokenizer, dict[str, str], pa.Table]:
    """A real file, a tokenizer, its dictionaries, and what the published tokenizer made of it."""
    raw, version = request.param.split(".")
    spec, corpus = SPECS[version]
    expected = pq.read_table(shared_data / f"geneformer/golden/{request.param}.parquet")
    return shared_data / f"derived/{RAWS[raw]}.h5ad", spec, dictionaries(shared_data, corpus), expected


def test_tokens_equal_the_published_ones(
    tmp_path: Path, golden: tuple[Path, Tokenizer, dict[str, str], pa.Table]
) -> None:
    """Token for token in every cell, near-ties included."""
    raw, spec, files, expected = golden
    made = make(tmp_path, {"0": raw}, columns={"keep": ["n_counts"]})
    found = pq.read_table(tokenize(made, spec, files)["0"])
    assert found["cell_id"].to_pylist() == expected["cell_id"].to_pylist()
    assert found["input_ids"].to_pylist() == expected["input_ids"].to_pylist()


def test_tokens_in_three_parts_equal_the_published_ones(
    tmp_path: Path, golden: tuple[Path, Tokenizer, dict[str, str], pa.Table]
) -> None:
    """The order of parts and cells changes nothing."""
    raw, spec, files, expected = golden
    raws = split_raw(raw, tmp_path / "raws", three_parts(expected.num_rows))
    made = make(tmp_path, raws, columns={"keep": ["n_counts"]})
    wanted = dict(zip(expected["cell_id"].to_pylist(), expected["input_ids"].to_pylist(), strict=True))
    assert rows(tokenize(made, spec, files)) == wanted


def test_the_published_vocabulary_is_kept_whole(
    tmp_path: Path, golden: tuple[Path, Tokenizer, dict[str, str], pa.Table], shared_data: Path
) -> None:
    """Every token with its published id, in the order of ids, though the dataset has fewer genes."""
    raw, spec, files, _ = golden
    made = make(tmp_path, {"0": raw}, columns={"keep": ["n_counts"]})
    tokenize(made, spec, files)
    corpus = "gc30M" if isinstance(spec, GeneformerV1) else "gc95M"
    assert read_tokens(made.folder / "tokens.json") == read_json(
        shared_data / f"geneformer/token_dictionary_{corpus}.json"
    )
    assert list(read_tokens(made.folder / "tokens.json").values()) == list(
        range(len(read_tokens(made.folder / "tokens.json")))
    )


def test_genes_that_no_vocabulary_knows_are_an_error(shared_data: Path, tmp_path: Path) -> None:
    """With the first of them, and what to check."""
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", random_counts(20, 3), genes=["x", "y", "z"])})
    with pytest.raises(CellmillError, match=r"none of 3 genes has a token of 'geneformer_v1' \(the first: x, y, z\)"):
        tokenize(made, GeneformerV1(), dictionaries(shared_data, "gc30M"))


# Rank, learned from the training cells


def test_rank_knows_the_genes_of_the_training_cells(tmp_path: Path) -> None:
    """<pad> 0, <mask> 1, then every gene seen in training; a gene seen only elsewhere has no token."""
    counts = random_counts(100, 30).toarray()
    split = {"fractions": {"train": 0.5, "test": 0.5}}
    made = make(tmp_path / "a", {"0": write_raw(tmp_path / "x.h5ad", counts)}, split=split)
    with CountsPart(made.file("0", "h5ad")) as part:
        training = [int(cell[1:]) for cell in part.obs.index[part.obs["split"] == "train"]]
    counts[training, 4] = 0
    counts[np.setdiff1d(np.arange(100), training)[0], 4] = 3
    made = make(tmp_path / "b", {"0": write_raw(tmp_path / "x.h5ad", counts)}, split=split)
    tokenize(made, Rank(), {})
    genes = [f"ENSG{i:011d}" for i in np.flatnonzero(counts[training].sum(axis=0))]
    assert len(genes) < (counts.sum(axis=0) > 0).sum()
    expected = {"<pad>": 0, "<mask>": 1, **{g: i + 2 for i, g in enumerate(genes)}}
    assert read_tokens(made.folder / "tokens.json") == expected


def test_rank_does_not_depend_on_parts(tmp_path: Path) -> None:
    """The same vocabulary and the same tokens."""
    raw = write_raw(tmp_path / "x.h5ad", random_counts(200, 50))
    one = make(tmp_path / "one", {"0": raw})
    three = make(tmp_path / "three", split_raw(raw, tmp_path / "raws", three_parts(200)))
    assert rows(tokenize(one, Rank(), {})) == rows(tokenize(three, Rank(), {}))
    assert (one.folder / "tokens.json").read_bytes() == (three.folder / "tokens.json").read_bytes()


def test_cells_that_are_cut_and_empty_are_counted(tmp_path: Path) -> None:
    """In the facts of the file."""
    counts = random_counts(50, 30).toarray()
    made = make(tmp_path, {"0": write_raw(tmp_path / "x.h5ad", counts)})
    (path,) = tokenize(made, Rank(max_len_tokens=8), {}).values()
    with TokensPart(path) as tokens:
        lengths = (counts > 0).sum(axis=1)
        assert tokens.facts["cells_cut"] == (lengths > 8).sum()
        assert tokens.facts["values"] == tokens.facts["values_with_token"] == lengths.sum()
        assert tokens.facts["tokens"] == np.minimum(lengths, 8).sum()


def test_a_library_size_of_zero_is_an_error(tmp_path: Path) -> None:
    """With the cell and the column."""
    sizes = np.ones(20)
    sizes[7] = 0
    raw = write_raw(tmp_path / "x.h5ad", random_counts(20, 30) + sp.csr_matrix(np.eye(20, 30)), obs={"n": sizes})
    made = make(tmp_path, {"0": raw}, columns={"keep": ["n"]})
    with pytest.raises(CellmillError, match=r"the library size of cell 'c7' is 0\.0 \(column 'n'\)"):
        tokenize(made, Rank(library_size="n"), {})


def test_a_part_without_cells_has_no_tokens(tmp_path: Path) -> None:
    """Its file is there all the same."""
    counts = random_counts(30, 10).toarray()
    counts[:4] = 0
    raw = write_raw(tmp_path / "x.h5ad", counts)
    made = make(tmp_path, split_raw(raw, tmp_path / "raws", {"p": np.arange(4), "q": np.arange(4, 30)}))
    with TokensPart(tokenize(made, Rank(), {})["p"]) as tokens:
        assert tokens.n_cells == 0


# The encoder, against a slow one


@st.composite
def encodings(draw: Any) -> dict[str, Any]:
    """Cells, totals and a vocabulary; columns may share a token or have none."""
    genes, cells = draw(st.integers(1, 12)), draw(st.integers(0, 6))
    n_tokens = draw(st.integers(1, 8))
    token_ids = draw(st.lists(st.integers(-1, n_tokens - 1), min_size=genes, max_size=genes))
    # Few values, so that there are ties; medians as the published ones are, one per token.
    of_token = draw(st.lists(st.sampled_from([0.5, 1.0, 1.3, 2.0, 7.7]), min_size=n_tokens, max_size=n_tokens))
    count = st.one_of(st.just(0), st.integers(1, 4), st.integers(1, 70_000))
    counts = draw(st.lists(st.lists(count, min_size=genes, max_size=genes), min_size=cells, max_size=cells))
    special = draw(st.booleans())
    return {
        "counts": np.array(counts, np.uint32).reshape(cells, genes),
        "totals": np.array(draw(st.lists(st.integers(1, 10**6), min_size=cells, max_size=cells)), np.float64),
        "token_ids": token_ids,
        "medians": [of_token[t] if t >= 0 else float("nan") for t in token_ids],
        "n_tokens": n_tokens,
        "prefix": (n_tokens,) if special else (),
        "suffix": (n_tokens + 1,) if special else (),
        "max_len_tokens": draw(st.integers(2, 14)),
    }


@settings(max_examples=400, deadline=None, derandomize=True)
@given(encodings())
def test_the_encoder_equals_the_slow_one(case: dict[str, Any]) -> None:
    """Collapsing columns, special tokens, truncation, ties, empty cells and no cells at all."""
    tokens = {f"t{i}": i for i in range(case["n_tokens"] + 2)}
    vocabulary = Vocabulary(
        tokens, np.array(case["token_ids"], np.int32), np.array(case["medians"]), case["prefix"], case["suffix"]
    )
    encoder = RankValueEncoder(vocabulary, max_len_tokens=case["max_len_tokens"])
    found = encoder.encode(sp.csr_matrix(case["counts"]), rows_of(case["totals"])).columns[0].to_pylist()
    shared = {k: case[k] for k in ("token_ids", "medians", "prefix", "suffix", "max_len_tokens")}
    assert found == [
        slow_rank_value(c.tolist(), t, **shared) for c, t in zip(case["counts"], case["totals"], strict=True)
    ]


def test_a_vocabulary_of_many_tokens_is_encoded_as_a_small_one() -> None:
    """Ids of more than 15 bits, which the encoder keeps in another type; some columns share a token."""
    counts = random_counts(30, 60, seed=3)
    token_ids = np.r_[np.arange(50), np.arange(10)].astype(np.int32)
    medians = np.r_[np.linspace(0.5, 3, 50), np.linspace(0.5, 3, 50)[:10]]
    found = []
    for first in (0, 70_000):
        tokens = {f"t{i}": first + i for i in range(50)}
        vocabulary = Vocabulary(tokens, token_ids + np.int32(first), medians, (), ())
        encoder = RankValueEncoder(vocabulary, max_len_tokens=30)
        encoded = encoder.encode(counts, rows_of(counts.sum(axis=1).A1)).columns[0].to_pylist()
        found.append([[token - first for token in cell] for cell in encoded])
    assert found[0] == found[1]


def test_a_stored_zero_is_no_count() -> None:
    """As if it were not there, also where columns share a token."""
    counts = random_counts(30, 60, seed=4).astype(np.uint16)
    stored = sp.csr_matrix(np.arange(1, 1801, dtype=np.uint16).reshape(30, 60))
    stored.data[:] = counts.toarray()[stored.nonzero()]
    assert (stored.data == 0).any()
    vocabulary = Vocabulary({f"t{i}": i for i in range(50)}, np.arange(60, dtype=np.int32) % 50, np.ones(60), (), ())
    encoder, totals = RankValueEncoder(vocabulary, max_len_tokens=30), rows_of(counts.sum(axis=1).A1)
    with_zeros, without = (encoder.encode(c, totals) for c in (stored, counts))
    assert with_zeros.columns[0].equals(without.columns[0])
    assert with_zeros.values_with_token == without.values_with_token == (counts.toarray() > 0).sum()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64", "int32", "int64", "float32", "float64"])
def test_the_type_of_counts_changes_no_token(dtype: str) -> None:
    """The smallest type that holds them is as good as any."""
    counts = random_counts(40, 60, seed=2)
    vocabulary = Vocabulary(
        {f"t{i}": i for i in range(60)}, np.arange(60, dtype=np.int32), np.linspace(0.5, 3, 60), (), ()
    )
    encoded = [
        RankValueEncoder(vocabulary, max_len_tokens=30).encode(counts.astype(t), rows_of(counts.sum(axis=1).A1))
        for t in (dtype, "uint32")
    ]
    assert encoded[0].columns[0].equals(encoded[1].columns[0])
    assert encoded[0].counts_with_token == encoded[1].counts_with_token == counts.sum()
