"""`cellmill vocab`: what it prints, how it ends, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellmill.cli import main
from cellmill.vocabularies import load_tokens


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a list of genes and a vocabulary over it."""
    monkeypatch.chdir(tmp_path)
    Path("genes.txt").write_text("TP53\nACTB\n")
    assert vocab("build", "genes.txt", "-o", "a.json") == 0
    return tmp_path


def vocab(*words: str) -> int:
    return main(["vocab", *words])


def test_build_says_what_it_made(here: Path, capsys: pytest.CaptureFixture[str]):
    """Each source with its numbers, then the vocabulary."""
    capsys.readouterr()
    assert vocab("build", "genes.txt", "-o", "b.json", "--pad-to-multiple-of", "4", "--special", "<pad> <mask>") == 0
    said = capsys.readouterr()
    assert (
        said.out == ("genes.txt: 2 names, 0 ensembl ids, 2 new\nb.json: 4 tokens, 2 special, 2 genes\n")
        and said.err == ""
    )
    assert load_tokens("b.json") == {"<pad>": 0, "<mask>": 1, "ACTB": 2, "TP53": 3}
    assert json.loads(Path("b.json.provenance.json").read_text())["made_by"] == "cellmill vocab build"


def test_extend_puts_new_genes_at_the_end(here: Path):
    """In place, where told to; a second time nothing changes."""
    Path("more.txt").write_text("A1BG\nTP53\n")
    for _ in range(2):
        assert vocab("extend", "a.json", "more.txt", "-o", "a.json", "--force") == 0
        assert load_tokens("a.json") == {"<pad>": 0, "<cls>": 1, "<eoc>": 2, "ACTB": 3, "TP53": 4, "A1BG": 5}


@pytest.mark.parametrize(("option", "place"), [((), 6), (("--reuse-junk",), 5)])
def test_extend_leaves_junk_alone_unless_told(here: Path, option: tuple[str, ...], place: int):
    """An id that was junk goes to a new gene only by --reuse-junk."""
    vocab("build", "genes.txt", "-o", "b.json", "--pad-to-multiple-of", "6")
    Path("more.txt").write_text("A1BG\n")
    assert vocab("extend", "b.json", "more.txt", "-o", "c.json", *option) == 0
    assert load_tokens("c.json")["A1BG"] == place and load_tokens("c.json")["TP53"] == 4


def test_merge_reports_conflicts(here: Path, capsys: pytest.CaptureFixture[str]):
    """Tokens with another id in a later vocabulary."""
    Path("b.json").write_text('{"TP53": 0, "A1BG": 1}')
    assert vocab("merge", "a.json", "b.json", "-o", "c.json") == 0
    out = capsys.readouterr().out
    assert "b.json: 2 tokens, 1 new, 1 conflicts\nc.json: 6 tokens, 3 special, 3 genes\n" in out
    assert load_tokens("c.json")["A1BG"] == 5


def test_convert_writes_the_format_of_the_name(here: Path):
    """A list of tokens; its line numbers are the ids."""
    assert vocab("convert", "a.json", "-o", "a.txt") == 0
    assert Path("a.txt").read_text() == "<pad>\n<cls>\n<eoc>\nACTB\nTP53\n"


def test_diff_ends_as_diff_does(here: Path, capsys: pytest.CaptureFixture[str]):
    """0: the same, 1: different, 2: trouble."""
    vocab("convert", "a.json", "-o", "same.txt")
    Path("b.json").write_text('{"<pad>": 0, "<eoc>": 1, "X": 2, "ACTB": 3, "Y": 4, "Z": 5}')
    capsys.readouterr()
    assert vocab("diff", "a.json", "same.txt") == 0
    assert capsys.readouterr().out == "0 added, 0 removed, 0 moved, 0 renamed\n"
    assert vocab("diff", "a.json", "b.json") == 1
    assert capsys.readouterr().out.splitlines() == [
        "added                  2  X",
        "added                  5  Z",
        "removed                1  <cls>",
        "moved             2 -> 1  <eoc>",
        "renamed                4  TP53 -> Y",
        "2 added, 1 removed, 1 moved, 1 renamed",
    ]
    assert vocab("diff", "a.json", "nowhere.json") == 2
    assert "nowhere.json: not readable" in capsys.readouterr().err


def test_diff_names_every_change_in_json_and_the_first_in_the_table(here: Path, capsys: pytest.CaptureFixture[str]):
    """Twenty lines of a kind, then their number."""
    Path("many.json").write_text(json.dumps({f"g{i}": i for i in range(40)}))
    Path("one.json").write_text('{"g0": 0}')
    assert vocab("diff", "one.json", "many.json") == 1
    assert "… 19 more (--json names all)" in capsys.readouterr().out
    assert vocab("diff", "one.json", "many.json", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["added"]) == 39


def test_check_goes_on_after_a_problem(here: Path, capsys: pytest.CaptureFixture[str]):
    """Exit 1 with a sentence for each; what is meant can be said."""
    Path("b.json").write_text('{"ENSG00000000003.1": 0, "Actb": 1, "ACTB": 2}')
    capsys.readouterr()
    assert vocab("check", "b.json", "a.json") == 1
    said = capsys.readouterr()
    assert said.out == "a.json: 5 tokens, 3 special, 2 genes; no problems.\n"
    assert "1 Ensembl ids have a version" in said.err and "(Actb and ACTB)" in said.err
    assert vocab("check", "b.json", "--versions", "keep", "--case", "keep") == 0
    assert vocab("check", "a.json", "--special", "<pad> <mask>") == 1
    assert "a.json: There is no <mask>." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "genes.txt", "-o", "a.json"), "a.json: is there already. Name another file, or replace it"),
        (("build", "nowhere.txt", "-o", "b.json"), "nowhere.txt: not readable"),
        (("build", "genes.txt", "-o", "b.yaml"), "b.yaml: its name says no format"),
        (("build", "genes.txt", "-o", "b.json", "--special", "pad"), "--special: String should match pattern"),
        (("build", "genes.txt", "-o", "b.json", "--pad-to-multiple-of", "0"), "--pad-to-multiple-of: Input should be"),
        (("build", "genes.txt", "-o", "b.json", "--min-cells", "3"), "genes.txt: does not say how many cells"),
        (("extend", "genes.txt", "genes.txt", "-o", "genes.txt"), "genes.txt: is there already"),
        (("build", "twice.txt", "-o", "b.json"), "1 of 2 names stand there twice: A. Set duplicates to first"),
        (("merge", "a.json", "a.txt", "-o", "b.json"), "a.txt: not readable"),
        (("convert", "a.json", "-o", "b"), "b: its name says no format"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
):
    """Exit 1, on stderr; every file stays as it was."""
    Path("twice.txt").write_text("A\nA\n")
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    assert vocab(*words) == 1
    assert said in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [("grow",), ("build", "genes.txt"), ("build", "-o", "x.json"), ("build", "genes.txt", "-o", "x", "--case", "up")],
)
def test_wrong_usage_says_how_it_is_used(here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]):
    """As every command line does."""
    with pytest.raises(SystemExit, match="2"):
        vocab(*words)
    assert "usage: cellmill vocab" in capsys.readouterr().err
