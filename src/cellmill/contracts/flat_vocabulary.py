"""A vocabulary that stands by itself, ``{token: id}``, in its own and others' formats, and its provenance beside it.

One dictionary in, one out: the suffix of the name says how it is written (``WRITABLE``, ``READABLE``).
"""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill import __version__
from cellmill.contracts.versions import FLAT_VOCABULARY
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing, sha256_of, write_json

WRITABLE = (".json", ".parquet", ".txt", ".pkl")
READABLE = (*WRITABLE, ".tsv", ".csv")
_ID_COLUMNS = ("id", "token_id", "index")
_AGAIN = "Make it again, or get it again from its source."

Dictionary = dict[str, Any]
"""Strings to whole numbers (a vocabulary), numbers (medians) or strings (other names of genes)."""


def read(path: str | PathLike[str]) -> Dictionary:
    """The dictionary of a file, as it stands there; what its values mean, the caller checks.

    ``.json``: flat, or a ``tokenizer.json`` of Hugging Face; ``.txt``: a token per line, ids from 0;
    ``.pkl``: through the allow-list; ``.tsv``, ``.csv``: the first column, and that of ids; ``.parquet``: our own.

    Raises:
        CellmillError: not readable, another format, a token that stands there twice, or bytes that are not those of
            its provenance.
    """
    path = Path(path)
    readers = {".json": _json, ".pkl": _pickle, ".parquet": _parquet, ".txt": _lines, ".tsv": _table, ".csv": _table}
    if path.suffix not in readers:
        raise CellmillError(path, f"is no dictionary by its name ('{path.suffix}').", f"Known: {', '.join(READABLE)}.")
    try:
        values = readers[path.suffix](path)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        raise CellmillError(path, f"not readable ({error}).", _AGAIN) from error
    _verify_provenance(path)
    return values


def write(path: str | PathLike[str], values: Mapping[str, Any], facts: Mapping[str, Any], *, force: bool) -> None:
    """Write the dictionary in the order given, then its provenance: ``facts``, who wrote it, and its sha256.

    JSON has an indent of 2 and no line break at its end, as scGPT and Tahoe-x1 write it.
    """
    path, beside = Path(path), provenance_of(path)
    refuse_existing(path, force=force)
    beside.unlink(missing_ok=True)
    if path.suffix == ".parquet":
        _write_parquet(path, values)
    else:
        with replacing(path) as aside:
            aside.write_bytes(_encoded(path, values))
    said = {"contract": str(FLAT_VOCABULARY), "written_by": f"cellmill {__version__}", "sha256": sha256_of(path)}
    write_json(beside, {**facts, **said})


def refuse_existing(path: str | PathLike[str], *, force: bool) -> None:
    """Refuse, before any work, a name that cannot be written."""
    if Path(path).suffix not in WRITABLE:
        raise CellmillError(path, "its name says no format.", f"End it in one of {', '.join(WRITABLE)}.")
    there = [p for p in (Path(path), provenance_of(path)) if p.exists()]
    if there and not force:
        raise CellmillError(there[0], "is there already.", "Name another file, or replace it with --force.")


def provenance_of(path: str | PathLike[str]) -> Path:
    """The name of the provenance of a file: the whole name, so that twins in two formats each have their own."""
    return Path(f"{path}.provenance.json")


def _verify_provenance(path: Path) -> None:
    """Refuse a file that is not the one that its provenance speaks of; without one, it is taken as it is."""
    beside = provenance_of(path)
    if not beside.exists():
        return
    facts = read_json(beside)
    FLAT_VOCABULARY.verify(beside, facts.get("contract"))
    if facts.get("sha256") != sha256_of(path):
        fix = f"Make it again; or delete {beside.name}, if the change is meant."
        raise CellmillError(path, "was changed after it was written: its sha256 is not that of its provenance.", fix)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> Dictionary:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [token for token, n in Counter(token for token, _ in pairs).items() if n > 1]
        raise CellmillError(path, f"{len(twice)} tokens stand there twice: {', '.join(twice[:5])}.", _AGAIN)
    return found


def _json(path: Path) -> Dictionary:
    value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _unique(path, pairs))
    if not isinstance(value, dict):
        raise ValueError(f"found a {type(value).__name__}, expected {{token: id}}")
    model = value.get("model")
    if not isinstance(model, dict):
        return value
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        raise ValueError(f"its model '{model.get('type')}' has no vocabulary of the form {{token: id}}")
    added = {token["content"]: token["id"] for token in value.get("added_tokens", ())}
    moved = [token for token, number in added.items() if vocabulary.get(token, number) != number]
    if moved:
        raise ValueError(f"added_tokens and vocab have two ids of {', '.join(moved[:5])}")
    return {**vocabulary, **added}


def _pickle(path: Path) -> Dictionary:
    from cellmill.tokenizers.dictionaries import read_dictionary

    return read_dictionary(path)


def _lines(path: Path) -> Dictionary:
    text = path.read_text(encoding="utf-8")
    return _unique(path, [(line.rstrip("\r"), i) for i, line in enumerate(text.removesuffix("\n").split("\n"))])


def _table(path: Path) -> Dictionary:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        head = next(rows, [])
        column = next((head.index(c) for c in _ID_COLUMNS if c in head), 0)
        if column == 0:
            raise ValueError(f"no column of ids after the first: {', '.join(_ID_COLUMNS)}; found: {', '.join(head)}")
        short = [row for row in rows if row and len(row) <= column]
        if short:
            raise ValueError(f"a row of {len(short[0])} columns: {', '.join(short[0])}")
        stream.seek(0)
        return _unique(path, [(row[0], int(row[column])) for row in list(rows)[1:] if row])


def _parquet(path: Path) -> Dictionary:
    from cellmill.contracts import parquet

    table, _ = parquet.read(path, FLAT_VOCABULARY)
    return _unique(path, list(zip(*(column.to_pylist() for column in table.columns), strict=True)))


def _write_parquet(path: Path, values: Mapping[str, Any]) -> None:
    import pyarrow as pa

    from cellmill.contracts import parquet

    names = ("token", "id") if all(type(v) is int for v in values.values()) else ("key", "value")
    table = pa.table({names[0]: pa.array(values.keys(), pa.string()), names[1]: pa.array(values.values())})
    parquet.write(path, table, FLAT_VOCABULARY)


def _encoded(path: Path, values: Mapping[str, Any]) -> bytes:
    if path.suffix == ".json":
        return json.dumps(values, indent=2, allow_nan=False).encode()
    if path.suffix == ".pkl":
        return pickle.dumps(dict(values), protocol=4)
    return "".join(f"{token}\n" for token in values).encode()
