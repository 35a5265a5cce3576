"""The ledger of outside files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cellmill.errors import CellmillError
from cellmill.sources.ledger import COLUMNS, Ledger, retrieve_resource
from cellmill.tokenizers import GeneformerV1, GeneformerV2, ScGpt, TahoeX1

ROW = ["a/b.pkl", "1", "https://example.org/b.pkl", "0" * 64, "3", "MIT", "-"]


def write(path: Path, *rows: list[str], header: tuple[str, ...] = COLUMNS) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in [list(header), *rows]))
    return path


def changed(**values: str) -> list[str]:
    return [values.get(column, old) for column, old in zip(COLUMNS, ROW, strict=True)]


def test_an_entry_is_found_by_name_and_by_address(tmp_path: Path) -> None:
    """Both look-ups give the same entry; what is unknown is None."""
    ledger = Ledger(write(tmp_path / "ledger.tsv", ROW))
    entry = ledger.entry("a/b.pkl")
    assert entry == ledger.by_address("https://example.org/b.pkl")
    assert (entry.bytes, entry.note) == (3, None)


def test_an_unknown_address_is_no_error(tmp_path: Path) -> None:
    """Users may retrieve what the ledger does not know."""
    assert Ledger(write(tmp_path / "ledger.tsv", ROW)).by_address("https://example.org/other") is None


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    """The error names what is there."""
    with pytest.raises(CellmillError, match=r"Did you mean 'a/b\.pkl'\?"):
        Ledger(write(tmp_path / "ledger.tsv", ROW)).entry("a/c.pkl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(sha256="abc"), "line 3: 'abc' is no sha256"),
        (changed(sha256="G" * 64), "is no sha256"),
        (changed(bytes="3.5"), "line 3: '3.5' is no number of bytes"),
        (changed(address="ftp://example.org/b"), "line 3: the address is 'ftp://example.org/b'"),
        (changed(name="../b"), r"line 3: the name is '\.\./b'"),
        (changed(name="-"), "line 3: the name is 'None'"),
        (ROW, r"line 3: the name 'a/b\.pkl' is there already"),
        (changed(name="c"), "line 3: the address .* is there already"),
        (ROW[:-1], "line 3: 6 columns, expected 7"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, row: list[str], message: str) -> None:
    """Every kind of wrong value is refused where it stands."""
    with pytest.raises(CellmillError, match=message):
        Ledger(write(tmp_path / "ledger.tsv", ROW, row))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """So that an older ledger is not read as if it knew no checksums."""
    with pytest.raises(CellmillError, match="line 1: no column 'sha256'"):
        Ledger(write(tmp_path / "ledger.tsv", header=tuple(c for c in COLUMNS if c != "sha256")))


def test_the_shipped_ledger_has_what_the_tokenizers_need(repo: Path) -> None:
    """Every dictionary and vocabulary of a tokenizer stands there with checksum and size."""
    ledger = Ledger(repo / "resources" / "ledger.tsv")
    for tokenizer in (GeneformerV1(), GeneformerV2(), TahoeX1(), ScGpt()):
        for path in tokenizer.needs().values():
            entry = ledger.entry(path.removeprefix("resources/"))
            assert entry.sha256 and entry.bytes and entry.licence


def test_the_shipped_ledger_agrees_with_the_mirror(repo: Path, shared_data: Path) -> None:
    """The dictionaries and vocabularies of the test data are those of the ledger."""
    ledger = Ledger(repo / "resources" / "ledger.tsv")
    entries = [e for e in map(ledger.entry, ledger.names) if e.name.startswith(("geneformer/", "vocab/"))]
    assert len(entries) == 8
    for entry in entries:
        content = (shared_data / entry.name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_resource_is_retrieved_by_name(tmp_path: Path) -> None:
    """Name in, verified file out; here from a mirror."""
    content = b"dictionary"
    sha256 = hashlib.sha256(content).hexdigest()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "under-another-name").write_bytes(content)
    (mirror / "SHA256SUMS").write_text(f"{sha256}  under-another-name\n")
    ledger = write(tmp_path / "ledger.tsv", changed(sha256=sha256, bytes=str(len(content))))
    out = tmp_path / "resources" / "a" / "b.pkl"
    retrieve_resource("a/b.pkl", out, ledger=ledger, mirror=mirror)
    assert out.read_bytes() == content
