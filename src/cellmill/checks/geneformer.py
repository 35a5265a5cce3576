"""Cells of a Geneformer export."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cellmill.checks.compare import Rows
from cellmill.checks.problems import Problems, UnreadableError
from cellmill.contracts.vocabulary import read_tokens
from cellmill.errors import CellmillError
from cellmill.exports.geneformer import LENGTHS, LIST_BEGINS, STATE, appended
from cellmill.exports.rows import Header
from cellmill.tokenizers.dictionaries import read_dictionary


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """The Arrow streams that ``state.json`` names."""
    state = folder / split / STATE
    if not state.is_file():
        return
    try:
        names = [file["filename"] for file in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{split}/{STATE}", f"not readable ({error})") from error
    for path in (folder / split / name for name in names):
        name, first = f"{split}/{path.name}", 0
        try:
            with pa.OSFile(str(path)) as stream, pa.ipc.open_stream(stream) as batches:
                for batch in batches:
                    batch.validate(full=True)
                    yield Rows(name, first, pa.Table.from_batches([batch]))
                    first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def also(folder: Path, split: str, said: dict[str, Any], header: Header | None, problems: Problems) -> set[str]:
    """``lengths.pkl`` against the cells, byte by byte as it is written: nothing of it is unpickled."""
    name, cell = f"{split}/{LENGTHS}", 0
    try:
        with (folder / split / LENGTHS).open("rb") as file:
            same = file.read(len(LIST_BEGINS)) == LIST_BEGINS
            for rows in read(folder, split, said):
                wanted = appended(rows.table["length"].to_numpy())
                found = file.read(len(wanted))
                if not same or found != wanted:
                    text = f"is not the list of the lengths of the cells, from cell {cell} or one behind it on"
                    problems.add("lengths", name, text)
                    return set()
                cell += len(rows.table)
            if file.read() != pickle.STOP:
                problems.add("lengths", name, f"does not end behind the {cell:,} lengths of the cells")
    except OSError as error:
        problems.add("files that cannot be read", name, str(error))
    return set()


def whole(folder: Path, said: dict[str, Any], header: Header | None, problems: Problems) -> None:
    """The splits of ``dataset_dict.json``, and the token dictionary, read through an allow-list."""
    try:
        found = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError("dataset_dict.json", f"not readable ({error})") from error
    wanted = sorted(split for split, cells in said["splits"].items() if cells)
    if sorted(found) != wanted:
        problems.add("splits", "dataset_dict.json", f"names {found}, expected {wanted}")
    pickled = "token_dictionary.pkl"
    if pickled in said["files"]:
        try:
            tokens, ids = read_dictionary(folder / pickled), read_tokens(folder / "vocabulary.json")
        except CellmillError as error:
            raise UnreadableError(pickled, error.found) from error
        for token in sorted(tokens.keys() | ids.keys()):
            if tokens.get(token) != ids.get(token):
                what = f"token '{token}' is {tokens.get(token)}, {ids.get(token)} in vocabulary.json"
                problems.add("tokens of another number", pickled, what)


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Tokens, their number, and the obs columns."""
    ids = batch[f"tokens:{said['spec']['tokenizer']}"]
    columns = {"cell_id": batch["cell_id"], "input_ids": ids, "length": pc.list_value_length(ids)}
    return pa.table(columns | {c: batch[c] for c in said["facts"]["columns"] if c not in columns})
