"""Every tokenizer against a slow and plain one on random cells, and against the formulas of its source."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellmill.contracts.tokens import TokensPart
from cellmill.contracts.vocabulary import Vocabulary
from cellmill.errors import CellmillError
from cellmill.keys import hash_strings
from cellmill.tokenizers import Binned, Log, Rank, ScGpt, Sentence, TahoeX1, Tokenizer
from cellmill.tokenizers.encoder import Encoded, Rows
from cellmill.tokenizers.order import DIGITS, falling_order
from cellmill.tokenizers.tokenize import build_vocabulary, tokenize_part

from ..unit.stages import Made, make, random_counts, split_raw, three_parts, write_raw
from .slow_tokenizers import (
    slow_binned,
    slow_genes,
    slow_log,
    slow_quantile_bin,
    slow_sentence,
    slow_tahoe_x1,
)

CLS = 1
DTYPES = ["uint8", "uint16", "uint32", "int32", "int64", "float32", "float64"]


def flat(token_ids: list[int], *, cls: bool = True) -> Vocabulary:
    """A vocabulary whose tokens are numbered from 2, behind <pad> and <cls>."""
    names = {"<pad>": 0, "<cls>": CLS} | {f"g{t}": t for t in sorted({t for t in token_ids if t >= 0})}
    return Vocabulary(names, np.array(token_ids, np.int32), np.full(len(token_ids), np.nan), (CLS,) if cls else (), ())


def encode(spec: Tokenizer, vocabulary: Vocabulary, counts: Any, *, ids: list[str] | None = None) -> Encoded:
    """A block of cells as the step hands it over."""
    block = sp.csr_matrix(counts)
    names = [f"cell{i}" for i in range(block.shape[0])] if ids is None else ids
    totals = np.maximum(1, np.asarray(block.sum(axis=1)).ravel()).astype(np.float64)
    return spec.encoder(vocabulary).encode(block, Rows(totals, hash_strings(names, seed=0, purpose="tokens")))


def lists(encoded: Encoded) -> list[list[Any]]:
    return [column.to_pylist() for column in encoded.columns]


@st.composite
def cells(draw: Any) -> tuple[np.ndarray, list[int]]:
    """Counts (cells, genes) and tokens; columns may share a token or have none, and counts may be alike or huge."""
    genes, n = draw(st.integers(1, 14)), draw(st.integers(0, 6))
    token_ids = draw(
        st.lists(st.integers(-1, 9).map(lambda t: t + 2 if t >= 0 else -1), min_size=genes, max_size=genes)
    )
    count = st.one_of(st.just(0), st.integers(1, 4), st.integers(1, 70_000))
    counts = draw(st.lists(st.lists(count, min_size=genes, max_size=genes), min_size=n, max_size=n))
    return np.array(counts, np.uint32).reshape(n, genes), token_ids


many = settings(max_examples=200, deadline=None, derandomize=True)


# The order of values


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-300, 1e300), max_size=80), st.integers(0, 40), st.integers(0, 2**32 - 1))
@example([1.0, math.nextafter(1.0, 2), 1.0, math.nextafter(1.0, 0)], 40, 0)
def test_the_order_is_that_of_a_stable_sort(values: list[float], near: int, seed: int) -> None:
    """With ties, and neighbours that differ in the last bits only."""
    rng = np.random.default_rng(seed)
    more = [np.float64(v).view(np.uint64) + np.uint64(rng.integers(0, 3)) for v in rng.permutation(values)[:near]]
    row = np.array([*values, *(np.uint64(b).view(np.float64) for b in more)], np.float64)
    assert order_of(row).tolist() == np.argsort(-row, kind="stable").tolist()


@pytest.mark.parametrize("rising", [True, False])
def test_many_values_that_nearly_agree_are_still_in_order(rising: bool) -> None:
    """One far value makes all others agree in their leading bits: then a merge sort does it."""
    near = 1.0 + np.arange(5_000) * 2.0**-52
    row = np.r_[1e200, near if rising else near[::-1], 1e-200]
    assert order_of(row).tolist() == np.argsort(-row, kind="stable").tolist()


def order_of(row: np.ndarray) -> np.ndarray:
    order, spare = np.empty(len(row) + 1, np.uint32), np.empty(len(row) + 1, np.uint32)
    falling_order(row, len(row), order, spare, np.empty(DIGITS, np.int32), np.empty(DIGITS, np.int32))
    return order[: len(row)].astype(np.int64)


# tahoe_x1


@many
@given(cells(), st.booleans())
def test_tahoe_x1_equals_the_slow_one(case: tuple[np.ndarray, list[int]], cls: bool) -> None:
    """Genes, expressions and what is counted."""
    counts, token_ids = case
    encoded = encode(TahoeX1(cls=cls), flat(token_ids, cls=cls), counts)
    slow = [slow_tahoe_x1(c.tolist(), token_ids, cls=CLS if cls else None) for c in counts]
    assert lists(encoded) == [[g for g, _ in slow], [x for _, x in slow]]
    with_token = counts[:, np.array(token_ids) >= 0]
    assert encoded.values_with_token == (with_token > 0).sum()
    assert encoded.counts_with_token == with_token.sum()
    assert encoded.expressed.tolist() == [len(slow_genes(c.tolist(), token_ids)) for c in counts]


def test_a_shuffled_cell_has_the_same_genes_in_an_order_of_its_own() -> None:
    """It depends on the cell's id and the seed, not on its block; every gene is last now and then."""
    counts = np.tile(np.arange(1, 9, dtype=np.uint16), (4_000, 1))
    ids = [f"c{i}" for i in range(4_000)]
    spec, vocabulary = TahoeX1(shuffle=True), flat(list(range(2, 10)))
    genes, expressions = lists(encode(spec, vocabulary, counts, ids=ids))
    assert all(
        g[0] == CLS and x == [-2.0, *(float(t - 1) for t in g[1:])] for g, x in zip(genes, expressions, strict=True)
    )
    assert all(sorted(g[1:]) == list(range(2, 10)) for g in genes)
    last = np.bincount([g[-1] for g in genes], minlength=10)[2:]
    assert (np.abs(last - 500) < 100).all()  # 500 expected, standard deviation 21
    alone = lists(encode(spec, vocabulary, counts[7:8], ids=["c7"]))
    assert alone == [[genes[7]], [expressions[7]]]


def test_a_count_that_float32_does_not_hold_is_refused() -> None:
    """As it would silently become another."""
    with pytest.raises(CellmillError, match="the count 16,777,217 is not exact in float32"):
        encode(TahoeX1(), flat([2, 3]), np.array([[1, (1 << 24) + 1]], np.uint32))
    assert lists(encode(TahoeX1(), flat([2]), np.array([[1 << 24]], np.uint32)))[1] == [[-2.0, 16777216.0]]


# scgpt


@many
@given(cells(), st.integers(3, 60))
def test_the_bins_of_scgpt_are_those_of_the_slow_one(case: tuple[np.ndarray, list[int]], bins: int) -> None:
    """Every gene is in one of the bins that scGPT draws from; where it does not draw, in that one."""
    counts, token_ids = case
    genes, expressions = lists(encode(ScGpt(bins=bins), flat(token_ids), counts))
    for cell, found, values in zip(counts.tolist(), genes, expressions, strict=True):
        slow = slow_genes(cell, token_ids)
        assert found == [CLS, *(g for g, _ in slow)] and values[0] == -2
        together = [c for _, c in slow]
        assert all(v in slow_quantile_bin(c, together, bins) for v, (_, c) in zip(values[1:], slow, strict=True))


@pytest.mark.parametrize("n", [2, 3, 6, 30, 51, 200, 1_500])
def test_the_bins_are_those_of_numpy_s_quantiles(n: int) -> None:
    """scGPT's own formula, where its rounding does not matter (no edge between the first and last falls on a count)."""
    assert math.gcd(n - 1, 49) == 1
    row = np.random.default_rng(n).negative_binomial(1, 0.05, (1, n)).astype(np.uint32) + 1
    edges = np.quantile(row[0], np.linspace(0, 1, 50))
    left, right = np.digitize(row[0], edges), np.digitize(row[0], edges, right=True)
    (values,) = lists(encode(ScGpt(max_len_tokens=2_000), flat(list(range(2, n + 2))), row))[1]
    assert (np.array(values[1:]) <= left).all()
    assert (np.array(values[1:]) >= np.minimum(left, right + 1)).all()


def test_equal_counts_are_spread_over_the_bins_that_they_fill() -> None:
    """Uniformly; and the bins 1 to 50 are all in use."""
    row = np.ones((1, 5_000), np.uint8)
    (values,) = lists(encode(ScGpt(max_len_tokens=6_000), flat(list(range(2, 5_002))), row))[1]
    number = np.bincount(values[1:], minlength=51)
    assert number[0] == 0 and (np.abs(number[1:] - 100) < 60).all()  # 100 expected, standard deviation 10


@many
@given(cells(), st.sampled_from(["raw", "log"]), st.booleans(), st.booleans())
def test_raw_and_log_values_are_those_of_their_formula(
    case: tuple[np.ndarray, list[int]], values: Any, zero_genes: bool, cls: bool
) -> None:
    """Counts, or log1p of counts per 10,000; genes without a count only where they are asked for."""
    counts, token_ids = case
    spec = ScGpt(values=values, zero_genes=zero_genes, cls=cls, cls_value=0)
    genes, expressions = lists(encode(spec, flat(token_ids, cls=cls), counts))
    order = list(dict.fromkeys(t for t in token_ids if t >= 0))
    for cell, found, xs in zip(counts.tolist(), genes, expressions, strict=True):
        slow = dict(slow_genes(cell, token_ids))
        expected = {t: slow.get(t, 0) for t in order} if zero_genes else slow
        per_count = 1e4 / max(1, sum(cell))
        value = {t: c if values == "raw" else float(np.float32(np.log1p(c * per_count))) for t, c in expected.items()}
        assert (found, xs) == ([CLS] * cls + list(expected), [0.0] * cls + list(value.values()))


def test_a_long_cell_keeps_cls_and_a_choice_of_its_genes() -> None:
    """Each gene as often as any other, in the order of the gene space; with the bin it has in the whole cell."""
    n = 3_000
    counts = np.tile(np.arange(1, 21, dtype=np.uint16), (n, 1))
    vocabulary, ids = flat(list(range(2, 22))), [f"c{i}" for i in range(n)]
    whole = lists(encode(ScGpt(), vocabulary, counts, ids=ids))
    encoded = encode(ScGpt(max_len_tokens=6), vocabulary, counts, ids=ids)
    genes, values = lists(encoded)
    assert all(g[0] == CLS and len(g) == 6 and g[1:] == sorted(g[1:]) for g in genes)
    for i in range(n):
        kept, every = (set(zip(g[i], v[i], strict=True)) for g, v in ((genes, values), whole))
        assert kept <= every
    number = np.bincount([t for g in genes for t in g[1:]], minlength=22)[2:]
    assert (np.abs(number - 750) < 120).all()  # 750 expected, standard deviation 24
    assert encoded.cut.all() and not encode(ScGpt(max_len_tokens=21), vocabulary, counts).cut.any()


# binned, log


@many
@given(cells(), st.lists(st.integers(1, 6_000), min_size=1, max_size=9, unique=True))
def test_binned_and_log_equal_the_slow_ones(case: tuple[np.ndarray, list[int]], edges: list[int]) -> None:
    """A token per variable gene in every cell, also in one without counts."""
    counts, token_ids = case
    places = np.cumsum(np.array(token_ids) >= 0) - 1
    places[np.array(token_ids) < 0] = -1
    vocabulary = Vocabulary(
        {f"g{p}": int(p) for p in places if p >= 0}, places.astype(np.int32), np.full(len(places), np.nan), (), ()
    )
    for spec, slow in (
        (Binned(), lambda c: slow_binned(c, places.tolist(), [0, 1, 5, 10, 50, 100, 500, 1000, 5000])),
        (Binned(edges=[0, *sorted(edges)]), lambda c: slow_binned(c, places.tolist(), [0, *sorted(edges)])),
        (Log(), lambda c: slow_log(c, places.tolist())),
    ):
        encoded = encode(spec, vocabulary, counts)
        assert lists(encoded) == [[slow(c) for c in counts.tolist()]]
        assert encoded.expressed.tolist() == (counts[:, places >= 0] > 0).sum(axis=1).tolist()


def test_the_edges_of_log_are_where_its_whole_part_changes() -> None:
    """Around each of them, up to the largest count."""
    counts = sorted({c + d for k in range(23) for c in [int(math.expm1(k))] for d in range(-2, 3) if 0 <= c + d})
    row = np.array([[c for c in [*counts, 2**32 - 1] if c < 2**32]], np.uint32)
    places = np.arange(row.shape[1], dtype=np.int32)
    vocabulary = Vocabulary({str(p): int(p) for p in places}, places, places * np.nan, (), ())
    assert lists(encode(Log(), vocabulary, row)) == [[[math.floor(math.log1p(c)) for c in row[0].tolist()]]]


# sentence


@many
@given(cells(), st.lists(st.integers(1, 16), min_size=1, max_size=3))
def test_sentences_equal_the_slow_ones(case: tuple[np.ndarray, list[int]], lengths: list[int]) -> None:
    """One column per length; a cell without counts is an empty sentence."""
    counts, token_ids = case
    named = [max(0, t) for t in token_ids]  # every gene has a name
    names = [f"N{i}" for i in range(max(named) + 1)]
    vocabulary = Vocabulary({n: i for i, n in enumerate(names)}, np.array(named, np.int32), np.array([]), (), ())
    encoded = encode(Sentence(lengths=lengths), vocabulary, counts)
    assert lists(encoded) == [[slow_sentence(c, named, names, n) for c in counts.tolist()] for n in lengths]


# all


GENES = 60
SPECS: dict[str, Tokenizer] = {
    "rank": Rank(max_len_tokens=12),
    "tahoe_x1": TahoeX1(vocabulary="v.json", shuffle=True),
    "scgpt": ScGpt(vocabulary="v.json", max_len_tokens=12),
    "scgpt, log": ScGpt(vocabulary="v.json", values="log", zero_genes=True),
    "binned": Binned(n_genes=20),
    "log": Log(),
    "sentence": Sentence(lengths=[5, 50]),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The same 2,500 cells in one part and in three, some of them with one gene only."""
    folder = tmp_path_factory.mktemp("made")
    counts = random_counts(2_500, GENES, seed=3).tolil()
    counts[:40] = 0
    counts[:40, 0] = 1
    raw = write_raw(folder / "x.h5ad", counts.tocsr())
    options: dict[str, Any] = {"quality": {"mads": {}}}
    return {
        "one": make(folder / "one", {"0": raw}, **options),
        "three": make(folder / "three", split_raw(raw, folder / "raws", three_parts(2_500)), **options),
    }


def tokenize(made: Made, spec: Tokenizer, name: str, *, threads: int = 1) -> dict[str, Path]:
    """Both steps over all parts; the vocabulary has every second gene."""
    vocabulary, gene_tokens = made.folder / f"{name}.json", made.folder / f"{name}.genes.parquet"
    source = made.folder / "source.json"
    known = [f"ENSG{i:011d}" for i in range(1, GENES, 2)]
    source.write_text(json.dumps({"<pad>": 0, "<cls>": CLS} | {g: i + 2 for i, g in enumerate(known)}))
    build_vocabulary(
        made.genes, files=dict.fromkeys(spec.needs(), str(source)), spec=spec, out=vocabulary, out_genes=gene_tokens
    )
    out = {p: made.file(p, f"{name}.{threads}.parquet") for p in made.parts}
    for part, path in out.items():
        tokenize_part(
            made.file(part, "h5ad"),
            vocabulary=vocabulary,
            gene_tokens=gene_tokens,
            spec=spec,
            out=path,
            threads=threads,
        )
    return out


def table(path: Path) -> pa.Table:
    with TokensPart(path) as tokens:
        return tokens.rows(0, tokens.n_cells)


@pytest.mark.parametrize("name", SPECS)
def test_tokens_do_not_depend_on_parts_and_threads(made: dict[str, Made], name: str) -> None:
    """The same rows by cell id, and the same bytes with three threads."""
    one = tokenize(made["one"], SPECS[name], name)["0"]
    three = tokenize(made["three"], SPECS[name], name)
    by_id = {r["cell_id"]: r for p in three.values() for r in table(p).to_pylist()}
    rows = table(one).to_pylist()
    assert len(rows) == 2_500 and by_id == {r["cell_id"]: r for r in rows}
    assert tokenize(made["one"], SPECS[name], name, threads=3)["0"].read_bytes() == one.read_bytes()


@pytest.mark.parametrize("name", SPECS)
def test_the_facts_are_those_of_the_rows(made: dict[str, Made], name: str) -> None:
    """What is counted beside the tokens can be counted from them."""
    path = tokenize(made["one"], SPECS[name], name)["0"]
    with TokensPart(path) as tokens:
        facts = tokens.facts
        rows = tokens.rows(0, tokens.n_cells).to_pylist()
        assert list(tokens.fields) == list(SPECS[name].columns) and set(tokens.fields) == set(facts["dtypes"])
    last = list(SPECS[name].columns)[-1]
    lengths = [len(r[last].split() if isinstance(r[last], str) else r[last]) for r in rows]
    assert facts["cells"] == len(rows) and facts["tokens"] == sum(lengths)
    assert facts["tokens_per_cell"]["cells"] == np.bincount(np.array(lengths) // 32).tolist()
    assert sum(facts["cells_left_out"].values()) == sum(r["left_out"] for r in rows)
    assert 0 < facts["values_with_token"] <= facts["values"] and 0 < facts["counts_with_token"] <= facts["counts"]
    assert facts["spec"]["kind"] == facts["tokenizer"] and len(facts["vocabulary"]) == 64


def test_rows_of_a_token_file_are_read_by_number(made: dict[str, Made]) -> None:
    """Also across row groups, and none at all."""
    path = tokenize(made["one"], SPECS["rank"], "rank")["0"]
    whole = table(path)
    with TokensPart(path) as tokens:
        for start, stop in ((0, 1), (1_000, 1_030), (1_024, 2_048), (2_400, 2_500), (5, 5)):
            assert tokens.rows(start, stop).equals(whole.slice(start, stop - start))
        assert tokens.rows(3, 9, ["input_ids"]).column_names == ["input_ids"]


@pytest.mark.parametrize("spec", [TahoeX1(vocabulary="v.json"), ScGpt(vocabulary="v.json", empty="drop")])
def test_cells_without_a_gene_keep_their_row_and_are_marked(made: dict[str, Made], spec: Tokenizer) -> None:
    """Alignment holds; the facts say how many there are, by split."""
    path = tokenize(made["one"], spec, f"drop.{spec.kind}")["0"]
    rows = table(path).to_pylist()
    assert [r["left_out"] for r in rows] == [r["genes"] == [CLS] for r in rows]
    with TokensPart(path) as tokens:
        assert sum(r["left_out"] for r in rows) == tokens.facts["cells_empty"] >= 40
        assert set(tokens.facts["cells_left_out"]) <= {"train", "val", "test"}


def test_min_length_counts_cls(made: dict[str, Made]) -> None:
    """As in Tahoe-x1's MDS writer: a cell of five tokens is four genes."""
    spec = TahoeX1(vocabulary="v.json", min_length=5)
    rows = table(tokenize(made["one"], spec, "min_length")["0"]).to_pylist()
    assert [r["left_out"] for r in rows] == [len(r["genes"]) < 5 for r in rows]


def test_empty_cells_are_refused_by_name(made: dict[str, Made]) -> None:
    """Where the option says so, and nothing is written."""
    spec = ScGpt(vocabulary="v.json", empty="refuse")
    with pytest.raises(CellmillError, match="cell 'c0' has 0 genes with a token of 'scgpt'"):
        tokenize(made["one"], spec, "refused")
    assert not made["one"].file("0", "refused.1.parquet").exists()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in SPECS if n != "rank"])
def test_the_type_of_counts_changes_no_token(name: str, dtype: str) -> None:
    """Integers and floats of any width, and stored zeros are no counts."""
    counts = random_counts(40, GENES, seed=2)
    ids = list(range(GENES)) if name in ("binned", "log", "sentence") else list(range(2, GENES + 2))
    vocabulary = Vocabulary({f"g{i}": i for i in range(GENES + 2)}, np.array(ids, np.int32), np.array([]), (CLS,), ())
    if name in ("binned", "log"):
        vocabulary = Vocabulary({f"g{i}": i for i in range(GENES)}, np.array(ids, np.int32), np.array([]), (), ())
    other = counts.astype(dtype)
    other.data[::7] = 0
    clean = other.astype(np.uint32)
    clean.eliminate_zeros()
    spec = SPECS[name]
    assert lists(encode(spec, vocabulary, other)) == lists(encode(spec, vocabulary, clean))


# Vocabularies laid over genes


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"<cls>": 0, "a": 1, "b": 1}, r"2 tokens share an id \(a \(1\), b \(1\)\)"),
        ({"<cls>": 0, "a": -1}, r"ids of 0 to 1 are missing \(1\)"),
        ({"<cls>": 0, "a": "1"}, r"no whole number as id \('a': '1'\)"),
        ({"a": 0}, "has no token '<cls>'"),
        ([1], r"found a list, expected \{token: id\}"),
    ],
)
def test_a_wrong_vocabulary_is_refused(tmp_path: Path, held: Any, message: str) -> None:
    """With the token, and what to do."""
    (tmp_path / "v.json").write_text(json.dumps(held))
    genes = pd.DataFrame({"gene_id": ["a", "b"], "gene_symbol": ["A", None]})
    with pytest.raises(CellmillError, match=message):
        TahoeX1().learn(genes, {"vocabulary": str(tmp_path / "v.json")})


def test_genes_are_looked_up_as_the_vocabulary_is_keyed(tmp_path: Path) -> None:
    """Tahoe-x1 by Ensembl id, with or without a version; scGPT by symbol, else by id."""
    held = {"<pad>": 0, "<cls>": 1, "NOSYMBOL": 2, "ENSG00000000003": 3, "TSPAN6": 4}
    (tmp_path / "v.json").write_text(json.dumps(held))
    genes = pd.DataFrame(
        {"gene_id": ["ENSG00000000003.15", "NOSYMBOL", "x"], "gene_symbol": ["TSPAN6", None, "tspan6"]}
    )
    files = {"vocabulary": str(tmp_path / "v.json")}
    assert TahoeX1().learn(genes, files).token_ids.tolist() == [3, 2, -1]
    assert ScGpt().learn(genes, files).token_ids.tolist() == [4, 2, -1]


def test_the_published_vocabularies_are_read(shared_data: Path) -> None:
    """62,720 tokens of Tahoe-x1, <pad> 0, <cls> 1 and genes from 3; 60,697 of scGPT, with <cls>."""
    genes = pd.DataFrame({"gene_id": ["ENSG00000000003"], "gene_symbol": ["TSPAN6"]})
    file = shared_data / "vocab" / "tahoe_vevo_v2_vocab.reconstructed.json"
    tahoe = TahoeX1().learn(genes, {"vocabulary": str(file)})
    assert (len(tahoe.tokens), tahoe.token_ids.tolist(), tahoe.prefix) == (62_720, [3], (1,))
    scgpt = ScGpt().learn(genes, {"vocabulary": str(shared_data / "vocab" / "scgpt_vocab.json")})
    assert len(scgpt.tokens) == 60_697 and scgpt.token_ids[0] == scgpt.tokens["TSPAN6"]
