"""The documents and the code agree: paths, links, the tree, contracts, words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from cellmill.contracts import doublets, ledger, quality, splits, subset, tokens, versions
from cellmill.keys import hash_strings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [p.relative_to(ROOT).as_posix() for f in (".", "config", "docs") for p in sorted((ROOT / f).glob("*.md"))]
CONTRACTS = sorted(c.name for c in vars(versions).values() if isinstance(c, versions.Contract))
MADE_BY_RUNS = {"results", "logs", "benchmarks", ".venv", ".snakemake"}
PLACEHOLDER = re.compile(r"<[^>]+>|\{[^}]+\}|…")
TERMS = [
    *("part", "block", "shard", "split", "token", "vocabulary", "embedding", "contract", "manifest", "ledger", "spec"),
    *("gene space", "cell sentence", "caption", "anchor, positive, negative", "library size", "MAD", "variable genes"),
    *("mirror", "scratch", "reduce", "gene set", "subset", "stratum", "junk token", "provenance"),
]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """What is no fenced block."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    """A section of the second level, without its heading."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def anchors(name: str) -> set[str]:
    """What a link may name after '#', as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(read(name)), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


def table(text: str) -> list[list[str]]:
    """Rows of the first Markdown table, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def exists(path: str) -> bool:
    """Whether a path of the repository, with placeholders for anything, names a file."""
    pattern = PLACEHOLDER.sub("*", path).rstrip("/")
    return any(ROOT.glob(pattern))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str):
    """Relative links name files that are there, and headings that these have."""
    for target in re.findall(r"\]\(([^)]+)\)", prose(read(name))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_is_named_exists(name: str):
    """What stands in backticks and begins with a folder or file of the repository is there."""
    top = {p.name for p in ROOT.iterdir()} - MADE_BY_RUNS
    named = re.findall(r"`([^`\s]+)`", prose(read(name)))
    paths = [n for n in named if n.split("/")[0] in top and ("/" in n or "." in n)]
    assert [path for path in paths if not exists(path)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_path_of_one_machine(name: str):
    """Nothing that only one computer has."""
    assert re.findall(r"(?<![\w.*>}-])/(?:work|tmp|root|home)\b\S*", read(name)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_one_sentence_per_line(name: str):
    """No sentence begins within a line; tables aside, and what is generated from docstrings."""
    written = prose(read(name)).split("<!-- generated")[0]
    lines = re.sub(r"`[^`]*`", "X", written).splitlines()
    assert [line for line in lines if not line.startswith("|") and re.search(r"[a-z)X]\. [A-Z]", line)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_and_test_that_is_named_exists(name: str):
    """`make x` is a target of the Makefile, its variables are used there, and paths after `pytest` are files."""
    makefile, text = read("Makefile"), read(name)
    commands = [line for block in blocks(text, "bash") for line in block.splitlines()]
    commands += re.findall(r"`([^`\n]+)`", prose(text))
    for command in commands:
        if words := re.match(r"make((?: [a-z]+)*)((?: [A-Z_]+=\S.*)?)$", command):
            for target in words[1].split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
            for variable in re.findall(r"([A-Z_]+)=", words[2]):
                assert f"$({variable})" in makefile, command
        if command.startswith("pytest "):
            assert all(exists(p.split("::")[0]) for p in command.split() if p.startswith("tests/")), command


def _tree() -> dict[str, str]:
    """Every path of README's tree and its phrase."""
    found, folders = {}, [""]
    for line in blocks(section(read("README.md"), "The tree"), "text")[0].splitlines():
        indent, name, phrase = re.match(r"( *)(\S+) +(.+)", line).groups()
        depth = len(indent) // 2
        folders = [*folders[: depth + 1], folders[depth] + name]
        found[folders[-1]] = phrase
    return found


def test_every_file_of_the_tree_exists():
    """README's tree names no file that is not there."""
    assert [path for path in _tree() if not (ROOT / path).exists()] == []


def test_every_folder_stands_in_the_tree():
    """README's tree has every top-level folder that git knows, and every folder of the library and the workflow."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [Path(line).parts for line in listed.stdout.splitlines()]
    folders = {f"{parts[0]}/" for parts in paths if len(parts) > 1} - {"src/"}
    for parent in ("src/cellmill", "workflow", "tests", "profiles"):
        depth = parent.count("/") + 1
        inside = (parts for parts in paths if parts[:depth] == Path(parent).parts and len(parts) > depth + 1)
        folders |= {f"{parent}/{parts[depth]}/" for parts in inside}
    assert sorted(folders - set(_tree())) == []


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_contract_has_a_section(contract: str):
    """docs/formats.md says what each contract promises, in MUST and MAY."""
    assert "MUST" in section(read("docs/formats.md"), contract)


def test_the_formats_name_no_older_version():
    """Where docs/formats.md shows a contract with its version, it is today's."""
    today = {str(c) for c in vars(versions).values() if isinstance(c, versions.Contract)}
    shown = set(re.findall(r'"contract": "(\w+ \d+)"', read("docs/formats.md")))
    assert shown and shown <= today


TOKEN_COLUMNS = ("input_ids", "genes", "expressions", "cell_sentence_1")


@pytest.mark.parametrize(
    ("contract", "schema"),
    [
        ("subset", subset.SUBSET_SCHEMA),
        ("quality", quality.QUALITY_SCHEMA),
        ("labels", quality.LABELS_SCHEMA),
        ("splits", splits.SPLITS_SCHEMA),
        ("doublets", doublets.DOUBLETS_SCHEMA),
        ("duplicates", splits.DUPLICATES_SCHEMA),
        ("ledger", ledger.LEDGER_SCHEMA),
        ("cells", quality.CELLS_SCHEMA),
        ("tokens", tokens.schema([pa.field(c, pa.null()) for c in TOKEN_COLUMNS])),
    ],
)
def test_the_formats_name_every_column(contract: str, schema: pa.Schema):
    """Every column of a schema stands in its section."""
    text = section(read("docs/formats.md"), contract)
    assert [c for c in schema.names if f"`{c}`" not in text] == []


def test_the_hash_can_be_written_from_its_description():
    """The Python of docs/formats.md runs, and gives the keys that the library gives."""
    (code,) = blocks(read("docs/formats.md"), "python")
    described: dict = {}
    exec(code, described)
    for text in ("", "AAAGCCTGGCTAAC-1", "Zelle ä"):
        for seed, purpose in ((0, "split"), (7, "order")):
            expected = int(hash_strings([text], seed=seed, purpose=purpose)[0])
            assert described["key"](text, seed=seed, purpose=purpose) == expected


def test_the_layout_names_rules_and_contracts_that_exist():
    """docs/layout.md: who writes a file is a rule, and its contract is one of ours; every contract is there."""
    rules = set()
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        rules |= set(re.findall(r"^(?:rule|checkpoint|use rule \w+ as) (\w+)\b", path.read_text(), flags=re.MULTILINE))
    rows = table(section(read("docs/layout.md"), "The results"))
    assert {writer.strip("`") for _, writer, _, _ in rows} == rules - {"all", "retrieve_resource"} | {
        "the end of a run"
    }
    assert {contract for *_, contract in rows} - {""} == set(CONTRACTS)


@pytest.mark.parametrize("term", TERMS)
def test_the_glossary_has_the_word(term: str):
    """Words of the house are defined."""
    assert re.search(rf"^- \*\*{term}\*\*: ", read("docs/glossary.md"), flags=re.MULTILINE)


def test_the_glossary_is_sorted():
    """Words stand by the alphabet."""
    words = [w.lower() for w in re.findall(r"^- \*\*(.+?)\*\*", read("docs/glossary.md"), flags=re.MULTILINE)]
    assert words == sorted(words)
