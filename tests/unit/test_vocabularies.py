"""Vocabularies: ids never move, nothing is a surprise, and published files are read as they are."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.contracts import flat_vocabulary as files
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.vocabularies import BuildRules, NameRules, load_tokens
from cellmill.vocabularies.check import JUNK, is_name, kinds, name_problems, problems
from cellmill.vocabularies.diff import diff
from cellmill.vocabularies.genes import read_genes
from cellmill.vocabularies.grow import grown
from cellmill.vocabularies.make import convert, make_vocabulary, merge_vocabularies
from cellmill.vocabularies.names import Names

from .stages import random_counts, write_raw

TAHOE = "tahoe_vevo_v2_vocab.reconstructed.json"


def write(path: Path, tokens: dict[str, Any]) -> Path:
    path.write_text(json.dumps(tokens))
    return path


def genes(path: Path, *names: str) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def make(folder: Path, *sources: Path, extends: Path | None = None, name: str = "made.json", **rules: Any) -> Path:
    make_vocabulary(sources, out=folder / name, rules=BuildRules(**rules), made_by="a test", extends=extends)
    return folder / name


def provenance(path: Path) -> dict[str, Any]:
    return json.loads(files.provenance_of(path).read_text())


# Growing

TOKENS = st.text("abcXY", min_size=1, max_size=3)
VOCABULARIES = st.builds(
    lambda genes, junk, seed: _shuffled([*dict.fromkeys(genes), *(f"<junk{i}>" for i in range(junk))], seed),
    st.lists(TOKENS, max_size=12),
    st.integers(0, 5),
    st.integers(0, 99),
)


def _shuffled(tokens: list[str], seed: int) -> dict[str, int]:
    random.Random(seed).shuffle(tokens)
    return {token: i for i, token in enumerate(tokens)}


@given(VOCABULARIES, st.lists(TOKENS, max_size=20), st.integers(1, 8), st.booleans())
def test_growing_moves_no_id(tokens: dict[str, int], new: list[str], multiple: int, reuse_junk: bool):
    """Of any vocabulary, by any names: every token keeps its id, but junk where its ids may be reused."""
    made = grown(tokens, new, pad_to_multiple_of=multiple, reuse_junk=reuse_junk)
    kept = {t for t in tokens if not (reuse_junk and JUNK.fullmatch(t))}
    assert {t: made[t] for t in kept} == {t: tokens[t] for t in kept}
    assert set(made.values()) == set(range(len(made))) and len(made) % multiple == 0
    assert set(new) <= set(made) and list(made.values()) == sorted(made.values())
    assert {t for t in made if not JUNK.fullmatch(t)} == {t for t in tokens if not JUNK.fullmatch(t)} | set(new)


@given(VOCABULARIES, st.lists(TOKENS, max_size=20), st.integers(1, 8), st.booleans())
def test_growing_again_changes_nothing(tokens: dict[str, int], new: list[str], multiple: int, reuse_junk: bool):
    """The same names a second time."""
    once = grown(tokens, new, pad_to_multiple_of=multiple, reuse_junk=reuse_junk)
    assert grown(once, new, pad_to_multiple_of=multiple, reuse_junk=reuse_junk) == once


@given(VOCABULARIES, st.lists(TOKENS, max_size=9))
def test_reused_junk_gives_its_ids_lowest_first(tokens: dict[str, int], new: list[str]):
    """Then the end; without new names all junk stays."""
    added = [t for t in dict.fromkeys(new) if t not in tokens]
    junk = sorted(i for t, i in tokens.items() if JUNK.fullmatch(t))
    expected = [*junk, *range(len(tokens), len(tokens) + len(added))][: len(added)]
    made = grown(tokens, new, reuse_junk=True)
    assert [made[t] for t in added] == expected


def test_an_added_gene_does_not_renumber_the_others(tmp_path: Path):
    """Built anew, as Tahoe-x1 does it, 'aa' moves b and c; extended, it comes last."""
    old = make(tmp_path, genes(tmp_path / "a.txt", "c", "b", "a"))
    more = genes(tmp_path / "b.txt", "aa", "a", "b", "c")
    special = {"<pad>": 0, "<cls>": 1, "<eoc>": 2}
    assert load_tokens(old) == {**special, "a": 3, "b": 4, "c": 5}
    assert load_tokens(make(tmp_path, more, name="new.json")) == {**special, "a": 3, "aa": 4, "b": 5, "c": 6}
    assert load_tokens(make(tmp_path, more, extends=old, name="x.json")) == {**special, "a": 3, "b": 4, "c": 5, "aa": 6}


# Building


def test_tahoes_genes_give_tahoes_vocabulary(shared_data: Path, tmp_path: Path):
    """62,710 genes in any order: the very tokens and ids, in the style of its files."""
    published = json.loads((shared_data / "vocab" / TAHOE).read_text())
    names = [t for t in published if not t.startswith("<")]
    random.Random(0).shuffle(names)
    made = make(tmp_path, genes(tmp_path / "genes.txt", *names), pad_to_multiple_of=64)
    assert made.read_text() == json.dumps(published, indent=2)
    assert provenance(made)["counts"]["junk"] == 7


def test_the_order_of_sources_does_not_matter(tmp_path: Path):
    """By name; as found it does."""
    a, b = genes(tmp_path / "a.txt", "z", "x"), genes(tmp_path / "b.txt", "y", "x")
    both = [make(tmp_path, *s, name=f"{i}.json").read_bytes() for i, s in enumerate([(a, b), (b, a)])]
    assert both[0] == both[1]
    found = load_tokens(make(tmp_path, a, b, order="as_found", special=[], name="found.json"))
    assert list(found) == ["z", "x", "y"]


def test_special_tokens_come_first_and_once(tmp_path: Path):
    """Those asked for, in the order given; of an extended vocabulary, new ones come after its genes."""
    old = make(tmp_path, genes(tmp_path / "a.txt", "g"), special=["<mask>", "<pad>"])
    assert load_tokens(old) == {"<mask>": 0, "<pad>": 1, "g": 2}
    more = make(tmp_path, tmp_path / "a.txt", extends=old, special=["<pad>", "<eos>"], name="b.json")
    assert load_tokens(more) == {"<mask>": 0, "<pad>": 1, "g": 2, "<eos>": 3}


def _genes_file(path: Path, cells: dict[str, int]) -> Path:
    import pyarrow as pa

    from cellmill.contracts.genes import write_genes

    write_genes(path, pa.table({"gene_id": list(cells), "n_cells": list(cells.values())}), {})
    return path


def test_genes_of_few_cells_stay_out(tmp_path: Path):
    """Cells are added up over sources, and what stayed out is counted; genes of an old vocabulary stay in."""
    a = _genes_file(tmp_path / "a.parquet", {"x": 3, "y": 4, "z": 0})
    b = _genes_file(tmp_path / "b.parquet", {"x": 2, "w": 4})
    made = make(tmp_path, a, b, min_cells=5, special=[])
    assert load_tokens(made) == {"x": 0} and provenance(made)["counts"]["below_min_cells"] == 3
    extended = make(tmp_path, b, min_cells=99, extends=made, name="b.json")
    assert load_tokens(extended) == {"x": 0}
    with pytest.raises(CellmillError, match=r"g\.txt: does not say how many cells have a gene \(min_cells: 1\)"):
        make(tmp_path, genes(tmp_path / "g.txt", "x"), min_cells=1, name="c.json")
    assert not (tmp_path / "c.json").exists()


def test_a_source_twice_is_an_error(tmp_path: Path):
    """Its cells would be counted twice."""
    a = _genes_file(tmp_path / "a.parquet", {"x": 3})
    with pytest.raises(CellmillError, match=r"a\.parquet: stands there twice\. Name every source once"):
        make(tmp_path, a, a, min_cells=5)


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [("ENSG00000000003", "TP53", True), ("ENSG00000000003", "ENSG00000000005", False), ("TP53", "ACTB", False)],
)
def test_two_kinds_of_names_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, second: str, warned: bool
):
    """Ensembl ids and symbols, in two sources or in a vocabulary and a source."""
    a, b = genes(tmp_path / "a.txt", first), genes(tmp_path / "b.txt", second)
    make(tmp_path, a, b)
    assert ("the same gene may have two tokens" in caplog.text) == warned
    caplog.clear()
    make(tmp_path, b, extends=make(tmp_path, a, name="old.json"), name="new.json")
    assert ("new.json: Ensembl ids and symbols come together" in caplog.text) == warned


# Names

VERSIONS = ["ENSG00000000003.15", "ENSG00000000005.6"]


def added(names: list[list[str]], known: tuple[str, ...] = (), **rules: str) -> tuple[list[str], dict[str, int]]:
    gathered = Names(NameRules(**rules), known)
    for source in names:
        gathered.add(source, where="here")
    return list(gathered.new), {k: n for k, n in gathered.clashes.items() if n}


@pytest.mark.parametrize(
    ("names", "known", "said"),
    [
        ([VERSIONS], (), r"2 of 2 names have a version.*: ENSG00000000003\.15, .*Set versions to strip or keep"),
        ([["ENSG00000000003"]], ("ENSG00000000003.1",), r"ENSG00000000003 \(ENSG00000000003\.1\)"),
        ([["Actb"], ["ACTB"]], (), r"1 of 1 names are there in another case: ACTB \(Actb\)"),
        ([["actb"]], ("ACTB",), r"actb \(ACTB\)"),
        ([["a", "b", "a"]], (), r"1 of 3 names stand there twice: a\. Set duplicates to first"),
    ],
)
def test_names_that_are_not_plainly_one_gene_are_errors(names: list[list[str]], known: tuple[str, ...], said: str):
    """Unless a rule says what becomes of them: where, how many, the first, and the rules."""
    with pytest.raises(CellmillError, match=f"here: .*{said}"):
        added(names, known)


def test_the_rules_for_versions():
    """Stripped, one token; kept, a token each; the same in two sources is no clash."""
    sources = [[VERSIONS[0]], ["ENSG00000000003.16"], ["ENSG00000000003"]]
    assert added(sources, versions="strip") == (["ENSG00000000003"], {"versions": 2})
    assert added(sources, versions="keep") == ([s[0] for s in sources], {"versions": 3})
    assert added([[VERSIONS[0]]] * 2, versions="keep") == ([VERSIONS[0]], {"versions": 1})
    assert added([["ENSG00000000003"]], ("ENSG00000000003.1",), versions="strip") == ([], {"versions": 1})
    assert added([["ENSG00000228572.7_PAR_Y", "ENSG00000228572.7"]], versions="strip")[0] == [
        "ENSG00000228572_PAR_Y",
        "ENSG00000228572",
    ]


def test_dots_of_symbols_are_no_versions():
    """RP11-1.2 is a name."""
    assert added([["RP11-553N16.6", "AC022154.7"]]) == (["RP11-553N16.6", "AC022154.7"], {})


def test_two_versions_in_one_source_are_duplicates():
    """Stripped, they are one name that stands there twice."""
    with pytest.raises(CellmillError, match=r"stand there twice: ENSG00000000003\.16"):
        added([[VERSIONS[0], "ENSG00000000003.16"]], versions="strip")
    found = added([[VERSIONS[0], "ENSG00000000003.16"]], versions="strip", duplicates="first")
    assert found == (["ENSG00000000003"], {"versions": 2, "duplicates": 1})


def test_the_rules_for_case():
    """The first spelling for all, or a token each."""
    assert added([["Actb"], ["ACTB", "x"]], case="first") == (["Actb", "x"], {"case": 1})
    assert added([["Actb"], ["ACTB", "x"]], case="keep") == (["Actb", "ACTB", "x"], {"case": 1})
    assert added([["actb"]], ("Actb", "ACTB", "actb")) == ([], {})


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.sampled_from(["a", "A", "b", "ENSG00000000001", "ENSG00000000001.2", "ENSG00000000001.3"]))),
    st.sampled_from(["strip", "keep"]),
    st.sampled_from(["first", "keep"]),
)
def test_no_rule_gives_two_tokens_of_one_name(sources: list[list[str]], versions: str, case: str):
    """Under any rules that are no errors, tokens are as different as the rules promise."""
    names, _ = added(sources, versions=versions, case=case, duplicates="first")
    assert len(set(names)) == len(names)
    assert case == "keep" or len({n.casefold() for n in names}) == len(names)
    assert versions == "keep" or not any("." in n for n in names)


# Sources


def test_every_source_gives_the_same_names(tmp_path: Path):
    """A folder of results, its files, h5ad files by ids or symbols, tables and lists."""
    ids = ["ENSG00000000005", "ENSG00000000003.1"]
    var = {"gene_ids": ids}
    by_symbol = write_raw(tmp_path / "a.h5ad", random_counts(3, 2), genes=["B", "A"], var=var)
    by_id = write_raw(tmp_path / "b.h5ad", random_counts(3, 2), genes=ids)
    table = pd.DataFrame({"symbol": ["B", "A"], **var})
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "t.parquet", index=False)
    folder = tmp_path / "results" / "x"
    (folder / "genes").mkdir(parents=True)
    _genes_file(folder / "genes" / "genes.parquet", {ids[0]: 1, ids[1]: 2})
    listed = genes(tmp_path / "l.txt", *ids)
    for path in (by_symbol, by_id, tmp_path / "t.parquet", folder, listed):
        assert read_genes(path).names == ids, path
    assert read_genes(tmp_path / "t.tsv", column="gene_ids").names == ids
    assert read_genes(by_symbol, column="index").names == read_genes(tmp_path / "t.tsv").names == ["B", "A"]
    assert read_genes(folder).cells == [1, 2] and read_genes(listed).cells is None


def test_a_folder_without_statistics_gives_its_gene_space(tmp_path: Path):
    """And says so where min_cells asks for more."""
    import pyarrow as pa

    from cellmill.contracts.genes import write_space

    space = tmp_path / "x" / "genes" / "space.parquet"
    write_space(space, pa.table({"gene_id": ["a"], "gene_symbol": ["A"]}), {})
    found = read_genes(tmp_path / "x")
    assert (found.path, found.names, found.cells) == (space, ["a"], None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", "a\n<pad>\n", r"1 of 2 names are no genes \('<pad>'\)"),
        ("x.txt", "", r"is empty"),
        ("x.txt", "a\x00b\n", r"1 of 1 names are no genes \('a\\x00b'\)"),
        ("x.json", '{"a": 0}', r"is a vocabulary by its name.*vocab extend, or merge"),
        ("x.parquet", "no", r"not readable as Parquet"),
        ("x.h5ad", "no", r"x\.h5ad: "),
        ("x", None, r"neither .*genes\.parquet nor space\.parquet"),
        ("nowhere.txt", None, r"not readable"),
    ],
)
def test_what_is_no_source_of_genes_is_refused(tmp_path: Path, name: str, content: str | None, said: str):
    """With what it is, and what to do."""
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    elif not path.suffix:
        path.mkdir()
    with pytest.raises(CellmillError, match=said):
        read_genes(path)


def test_an_unknown_column_names_those_there(tmp_path: Path):
    """Of var tables and other tables."""
    path = write_raw(tmp_path / "a.h5ad", sp.csr_matrix(np.eye(2)), var={"symbols": ["A", "B"]})
    with pytest.raises(CellmillError, match=r"no var column 'symbol' .*Did you mean 'symbols'"):
        read_genes(path, column="symbol")
    pd.DataFrame({"name": ["A"]}).to_parquet(tmp_path / "t.parquet", index=False)
    with pytest.raises(CellmillError, match=r"no column of Ensembl ids\. Name one with --column\. There: name\."):
        read_genes(tmp_path / "t.parquet")


# Files

VOCABULARY_FILES = {
    "vocab/mosaicfm_default_census_vocab.json": (69984, 0, 0, 698),
    "vocab/scfoundation_gene_index_19264.tsv": (19264, 0, 0, 0),
    "vocab/scgpt_default_census_vocab.json": (60694, 0, 0, 698),
    "vocab/scgpt_default_gene_vocab.json": (48292, 0, 0, 0),
    "vocab/scgpt_vocab.json": (60697, 3, 0, 698),
    f"vocab/{TAHOE}": (62720, 3, 7, 0),
    "geneformer/token_dictionary_gc30M.json": (25426, 2, 0, 0),
    "geneformer/token_dictionary_gc30M.pkl": (25426, 2, 0, 0),
    "geneformer/token_dictionary_gc95M.json": (20275, 4, 0, 0),
    "geneformer/token_dictionary_gc95M.pkl": (20275, 4, 0, 0),
    "geneformer/token_median_gc30M.tsv": (25426, 2, 0, 0),
    "geneformer/token_median_gc95M.tsv": (20275, 4, 0, 0),
}
"""Tokens, special ones, junk, and Ensembl ids with a version."""


def test_every_published_vocabulary_has_a_row(shared_data: Path):
    """A new file of the shared test data is an error here."""
    found = {p.relative_to(shared_data).as_posix() for p in (shared_data / "vocab").iterdir()}
    found |= {f"geneformer/{p.name}" for p in (shared_data / "geneformer").glob("token_*")}
    assert found == set(VOCABULARY_FILES)


@pytest.mark.parametrize("name", VOCABULARY_FILES)
def test_published_vocabularies_are_read(shared_data: Path, name: str):
    """Every token and id; what is not plain in them is told."""
    tokens, special, junk, versioned = VOCABULARY_FILES[name]
    read = load_tokens(shared_data / name)
    counts = {"tokens": tokens, "special": special, "genes": tokens - special - junk, "junk": junk}
    assert kinds(read) == counts
    if name.endswith(".json"):
        assert read == json.loads((shared_data / name).read_text())
    assert [p for p in name_problems(read) if p.startswith(f"{versioned} Ensembl ids have a version")] == (
        name_problems(read)[:1] if versioned else []
    )


@pytest.mark.parametrize("corpus", ["gc30M", "gc95M"])
def test_geneformers_twins_are_one_vocabulary(shared_data: Path, corpus: str):
    """Pickle, JSON and table."""
    folder = shared_data / "geneformer"
    names = (f"token_dictionary_{corpus}.pkl", f"token_dictionary_{corpus}.json", f"token_median_{corpus}.tsv")
    first, *others = (load_tokens(folder / name) for name in names)
    assert others == [first, first]


def test_scgpts_doubled_gene_is_found(shared_data: Path):
    """One gene of the published vocabulary has two tokens, with and without a version."""
    said = name_problems(load_tokens(shared_data / "vocab" / "scgpt_vocab.json"))
    assert said[1] == "1 genes have several tokens, by their versions (ENSG00000283886 and ENSG00000283886.3)."
    assert name_problems(load_tokens(shared_data / "vocab" / "scgpt_vocab.json"), versions="keep") == []


@pytest.mark.parametrize("suffix", files.WRITABLE)
@pytest.mark.parametrize("name", ["vocab/scgpt_vocab.json", "geneformer/token_dictionary_gc95M.pkl"])
def test_every_format_gives_back_the_vocabulary(shared_data: Path, tmp_path: Path, name: str, suffix: str):
    """By rising id, whatever the order in the file was."""
    out = tmp_path / f"x{suffix}"
    convert(shared_data / name, out=out, made_by="a test")
    assert files.read(out) == load_tokens(shared_data / name)
    assert list(files.read(out).values()) == list(range(len(files.read(out))))


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".pkl"])
@pytest.mark.parametrize("name", ["gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict"])
def test_geneformers_other_dictionaries_are_stored(shared_data: Path, tmp_path: Path, name: str, suffix: str):
    """Medians and names, every key and value, in the order of the pickle."""
    path = shared_data / "geneformer" / f"{name}_gc30M.pkl"
    convert(path, out=tmp_path / f"x{suffix}", made_by="a test")
    assert list(files.read(tmp_path / f"x{suffix}").items()) == list(files.read(path).items())
    with pytest.raises(CellmillError, match=r"is no vocabulary: 2.,...|4.,... tokens have no whole number as id"):
        load_tokens(tmp_path / f"x{suffix}")


def test_other_libraries_read_what_is_written(tmp_path: Path):
    """transformers a list of tokens, and pickle.load a pickle; a tokenizer.json is read here."""
    tokenizers = pytest.importorskip("tokenizers")
    tokens = {"<pad>": 0, "TP53": 1, "ACTB": 2}
    for name in ("x.txt", "x.pkl"):
        convert(write(tmp_path / "x.json", tokens), out=tmp_path / name, made_by="a test")
    assert pickle.loads((tmp_path / "x.pkl").read_bytes()) == tokens
    model = tokenizers.models.WordPiece.read_file(str(tmp_path / "x.txt"))
    assert model == tokens
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokens, unk_token="<pad>"))
    tokenizer.add_special_tokens(["<pad>", "<mask>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokens(tmp_path / "tokenizer.json") == {**tokens, "<mask>": 3}


class Runs:
    """Pickles as a call of something."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["whole", "value", "key"])
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path: Path, place: str):
    """As a vocabulary, as one to extend, to merge, to convert; nothing is written."""
    harm = Runs(tmp_path / "touched")
    value = {"whole": harm, "value": {"a": harm}, "key": {harm: 0}}[place]
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value))
    good, out = write(tmp_path / "good.json", {"a": 0}), tmp_path / "out.json"
    rules: dict[str, Any] = {"rules": BuildRules(), "out": out, "made_by": "a test"}
    for use in (
        lambda: load_tokens(path),
        lambda: convert(path, out=out, made_by="a test"),
        lambda: merge_vocabularies([good, path], **rules),
        lambda: make_vocabulary([genes(tmp_path / "g.txt", "a")], extends=path, **rules),
    ):
        with pytest.raises(CellmillError, match=r"x\.pkl: refused: it asks for (posix|nt)\.system"):
            use()
    assert not (tmp_path / "touched").exists() and not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", '{"a": 0, "b": 1, "a": 2}', r"1 tokens stand there twice: a\."),
        (
            "x.json",
            '{"a": 0, "b": 0}',
            r"2 tokens share an id \(a \(0\), b \(0\)\)\. 1 ids of 0 to 1 are missing \(1\)",
        ),
        ("x.json", '{"a": 0, "b": 2}', r"1 ids of 0 to 1 are missing \(1\)"),
        ("x.json", '{"a": -1, "b": 0}', r"1 ids of 0 to 1 are missing"),
        ("x.json", '{"a": "0"}', r"1 tokens have no whole number as id \('a': '0'\)"),
        ("x.json", '{"a": 0.0}', r"no whole number"),
        ("x.json", '{"a": true}', r"no whole number"),
        ("x.json", '{"a": [0]}', r"no whole number"),
        (
            "x.json",
            '{" a": 0, "": 1, "\\ud800": 2, "a\\nb": 3}',
            r"4 tokens are empty, not printable or have spaces around them \(' a', '', '\\ud800', …\)",
        ),
        ("x.json", "{}", r"It has no token"),
        ("x.json", "[1]", r"found a list, expected \{token: id\}"),
        ("x.json", '{"a": 0', r"not readable"),
        ("x.json", "[" * 100_000, r"not readable"),
        ("x.json", b"\xff\xfe{}", r"not readable"),
        ("x.json", '{"model": {"type": "Unigram", "vocab": [["a", 0.1]]}}', r"its model 'Unigram' has no vocabulary"),
        (
            "x.json",
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]}',
            r"added_tokens and vocab have two ids of a",
        ),
        ("x.json", '{"model": {"vocab": {"a": 0}}, "added_tokens": [1]}', r"not readable"),
        ("x.txt", "a\nb\na\n", r"1 tokens stand there twice: a"),
        ("x.txt", "a\n\nb\n", r"1 tokens are empty"),
        ("x.tsv", "gene\tindex\na\t0\na\t1\n", r"1 tokens stand there twice"),
        ("x.tsv", "gene\tname\na\tb\n", r"no column of ids after the first"),
        ("x.tsv", "gene\tindex\na\n", r"a row of 1 columns: a"),
        ("x.csv", "gene,index\na,b\n", r"not readable"),
        ("x.parquet", "no", r"not readable as Parquet"),
        ("x.pkl", "no", r"refused"),
        ("x.yaml", "a: 0", r"is no dictionary by its name \('\.yaml'\)\. Known: \.json, "),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, name: str, content: str | bytes, said: str):
    """By an error of ours that names the file and what is wrong with it."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CellmillError, match=rf"{path.name}: .*{said}"):
        load_tokens(path)


@given(st.dictionaries(st.text(min_size=1).filter(is_name), st.integers(-2, 9), min_size=1))
def test_problems_are_exactly_those_of_no_bijection(values: dict[str, int]):
    """No problem means: ids are 0 to n - 1, each once."""
    assert (problems(values) == []) == (sorted(values.values()) == list(range(len(values))))


@given(st.lists(st.text(min_size=1).filter(is_name), min_size=1, unique=True))
def test_any_tokens_survive_every_format(tmp_path_factory: pytest.TempPathFactory, names: list[str]):
    """Whatever characters they have."""
    tokens = {name: i for i, name in enumerate(names)}
    folder = tmp_path_factory.mktemp("any")
    for suffix in files.WRITABLE:
        files.write(folder / f"x{suffix}", tokens, {}, force=False)
        assert load_tokens(folder / f"x{suffix}") == tokens


# Provenance


def test_the_provenance_says_what_it_was_made_from(tmp_path: Path):
    """Command, version, inputs with hashes, rules and counts; the same again gives the same bytes."""
    old = make(tmp_path, genes(tmp_path / "a.txt", "A", "B"), pad_to_multiple_of=8)
    made = make(tmp_path, genes(tmp_path / "b.txt", "B", "C"), extends=old, name="b.json")
    said = provenance(made)
    first, second = said["inputs"]
    assert said["contract"] == "flat_vocabulary 1" and said["made_by"] == "a test"
    assert said["sha256"] == sha256_of(made) and first["sha256"] == sha256_of(old)
    assert second["sha256"] == sha256_of(tmp_path / "b.txt")
    assert (first["tokens"], second["names"], second["new"]) == (8, 2, 1)
    assert said["rules"] == BuildRules().model_dump()
    counts = {"tokens": 9, "special": 3, "genes": 3, "junk": 3, "below_min_cells": 0}
    assert said["counts"] == counts | {"by_case": 0, "by_versions": 0, "by_duplicates": 0}
    again = tmp_path / "again"
    again.mkdir()
    make(again, tmp_path / "b.txt", extends=old, name="b.json")
    for name in ("b.json", "b.json.provenance.json"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_vocabulary_that_was_changed_since_is_refused(tmp_path: Path):
    """Its hash is not that of its provenance; without one it is taken as it is."""
    made = make(tmp_path, genes(tmp_path / "a.txt", "A"))
    made.write_text(made.read_text().replace('"A"', '"B"'))
    with pytest.raises(CellmillError, match=r"made\.json: was changed after it was written"):
        load_tokens(made)
    files.provenance_of(made).unlink()
    assert "B" in load_tokens(made)


@pytest.mark.parametrize("there", ["made.json", "made.json.provenance.json"])
def test_nothing_is_overwritten_unless_told(tmp_path: Path, there: str):
    """Neither a vocabulary nor a provenance; a vocabulary can be extended in its place."""
    source = genes(tmp_path / "a.txt", "A")
    (tmp_path / there).write_text("mine")
    with pytest.raises(CellmillError, match=rf"{there}: is there already\. .*--force"):
        make(tmp_path, source)
    assert (tmp_path / there).read_text() == "mine"
    rules: dict[str, Any] = {"out": tmp_path / "made.json", "rules": BuildRules(), "made_by": "a test", "force": True}
    make_vocabulary([source], **rules)
    make_vocabulary([genes(tmp_path / "b.txt", "0")], extends=tmp_path / "made.json", **rules)
    assert list(load_tokens(tmp_path / "made.json")) == ["<pad>", "<cls>", "<eoc>", "A", "0"]


def test_a_name_without_a_format_is_refused_before_any_work(tmp_path: Path):
    """The sources are not even looked at."""
    with pytest.raises(CellmillError, match=r"made\.yaml: its name says no format\. End it in one of \.json, "):
        make(tmp_path, tmp_path / "nowhere", name="made.yaml")


# Merging and comparing


def test_the_first_of_merged_vocabularies_keeps_its_ids(tmp_path: Path):
    """Others are appended by their ids, junk left out; other ids are conflicts, and counted."""
    a = write(tmp_path / "a.json", {"<pad>": 0, "x": 1, "<junk0>": 2})
    b = write(tmp_path / "b.json", {"z": 0, "<cls>": 1, "y": 2, "x": 3, "<junk0>": 4})
    merge_vocabularies([a, b], out=tmp_path / "c.json", rules=BuildRules(), made_by="a test")
    assert load_tokens(tmp_path / "c.json") == {"<pad>": 0, "x": 1, "<junk0>": 2, "z": 3, "<cls>": 4, "y": 5}
    assert provenance(tmp_path / "c.json")["inputs"][1] | {"sha256": ""} == {
        "path": b.as_posix(),
        "sha256": "",
        "tokens": 5,
        "new": 3,
        "conflicts": 1,
    }


def test_real_vocabularies_merge(shared_data: Path, tmp_path: Path):
    """scGPT's and its newer list by symbols; Tahoe's ids stay, Geneformer's genes come after them."""
    folder = shared_data / "vocab"
    with pytest.raises(CellmillError, match="have a version, or another than a name that is there"):
        merge_vocabularies(
            [folder / TAHOE, folder / "scgpt_vocab.json"],
            out=tmp_path / "x.json",
            rules=BuildRules(),
            made_by="a test",
        )
    paths = [folder / TAHOE, shared_data / "geneformer" / "token_dictionary_gc95M.pkl"]
    merge_vocabularies(paths, out=tmp_path / "x.json", rules=BuildRules(pad_to_multiple_of=64), made_by="a test")
    tahoe, geneformer, merged = (load_tokens(p) for p in (*paths, tmp_path / "x.json"))
    assert {t: merged[t] for t in tahoe} == tahoe
    assert set(geneformer) <= set(merged) and len(merged) % 64 == 0
    changes = diff(tahoe, merged)
    assert not changes["removed"] and not changes["moved"] and not changes["renamed"]


def test_every_change_is_told_once():
    """Added, removed, moved, renamed."""
    old = {"<pad>": 0, "a": 1, "b": 2, "c": 3, "d": 4}
    new = {"<pad>": 0, "b": 1, "B": 2, "c": 3, "e": 5, "f": 4}
    assert diff(old, new) == {
        "added": [{"token": "B", "id": 2}, {"token": "e", "id": 5}],
        "removed": [{"token": "a", "id": 1}],
        "moved": [{"token": "b", "id": 2, "new_id": 1}],
        "renamed": [{"token": "d", "new_token": "f", "id": 4}],
    }


@given(VOCABULARIES, VOCABULARIES)
def test_a_diff_leads_from_one_vocabulary_to_the_other(old: dict[str, int], new: dict[str, int]):
    """Applied to the old one, it gives the new one."""
    changes = diff(old, new)
    made = dict(old)
    for change in changes["removed"] + changes["renamed"]:
        del made[change["token"]]
    made |= {c["token"]: c["new_id"] for c in changes["moved"]}
    made |= {c["new_token"]: c["id"] for c in changes["renamed"]}
    made |= {c["token"]: c["id"] for c in changes["added"]}
    assert made == new and (old == new) == (not any(changes.values()))
