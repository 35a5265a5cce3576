"""``geneformer``: folders that ``datasets.load_from_disk`` opens, as Geneformer's own trainer and EmbExtractor do."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Name, PositiveInt, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.config import Dataset
    from cellmill.exports.given import Given

GROUP_ROWS = 1_000
"""Rows of a record batch, as `datasets` writes them."""
RANKED = ("rank", "geneformer_v1", "geneformer_v2")
"""Kinds of tokenizers whose ids are genes by falling value: what Geneformer's models read."""
WRITTEN = ("input_ids", "length", "cell_id")
LENGTHS, STATE, _INFO = "lengths.pkl", "state.json", "dataset_info.json"
LIST_BEGINS = pickle.PROTO + b"\x02" + pickle.EMPTY_LIST
"""How the pickle of a list begins."""


class GeneformerTokens(Spec, ExportSpec):
    """Ranked genes per cell as Geneformer has them: `input_ids`, `length`, `cell_id` and the obs columns asked for."""

    kind: Literal["tokens"] = "tokens"
    tokenizer: Name = "rank"
    """Whose tokens; one that ranks genes: of the kind `geneformer_v1`, `geneformer_v2` or `rank`."""
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each Arrow file."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return (self.tokenizer,)

    def problems(self, dataset: Dataset) -> list[str]:
        names = dataset.kept_columns if self.columns is None else self.columns
        return [f"it writes '{c}' itself; rename your column." for c in names if c in WRITTEN]


def write(given: Given, spec: GeneformerTokens) -> dict[str, Any]:
    """Write a saved ``datasets.Dataset`` per split, ``dataset_dict.json`` over them and the token dictionary.

    The dictionary is written as ``vocabulary.json`` and, for Geneformer, as ``token_dictionary.pkl``.

    Raises:
        CellmillError: where a column is not there or cells are missing.

    Memory: one batch.
    Source: what ``Dataset.save_to_disk`` of datasets 5.2 writes.
    Lists stand in the features as ``Sequence``, which versions of `datasets` before 4 know, too.
    """
    from cellmill.contracts.vocabulary import write_tokens
    from cellmill.exports.rows import in_groups

    out, cells = given.out, given.header.cells
    kinds = given.obs_columns(spec.columns, reserved=WRITTEN, export="geneformer")
    columns = {"input_ids": "list<int32>", "length": "int64", "cell_id": "string"} | kinds
    splits: dict[str, Any] = {}
    for split, batches in given.by_split():
        groups = in_groups(batches, group_rows=GROUP_ROWS, file_rows=spec.cells_per_file)
        n_files = -(-cells[split] // spec.cells_per_file)
        (out / split).mkdir()
        shown = ((number, _shown(batch, columns, f"tokens:{spec.tokenizer}")) for number, batch in groups)
        splits[split] = {"cells": cells[split], **_write_split(out / split, shown, n_files)}
        _describe(out / split, columns)
    (out / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    if given.vocabulary is not None:
        write_tokens(out / "vocabulary.json", given.vocabulary)
        by_id = dict(sorted(given.vocabulary.items(), key=itemgetter(1)))
        (out / "token_dictionary.pkl").write_bytes(pickle.dumps(by_id, protocol=4))
    return {"tokenizer": spec.tokenizer, "columns": columns, "splits": splits}


def _shown(cells: pa.RecordBatch, columns: dict[str, str], tokens: str) -> pa.RecordBatch:
    """The columns as they are written, in memory of their own, so that what lies in gaps is always the same."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = cells[tokens].cast(pa.list_(pa.int32()))
    found = {"input_ids": ids, "length": pc.list_value_length(ids).cast(pa.int64())}
    found |= {name: cells[name] for name in columns if name not in found}
    schema = pa.schema([(name, ids.type if name == "input_ids" else kind) for name, kind in columns.items()])
    whole = pa.table(found).cast(schema).take(list(range(cells.num_rows)))
    (batch,) = whole.combine_chunks().to_batches()
    return batch


def _write_split(folder: Path, batches: Iterator[tuple[int, pa.RecordBatch]], n_files: int) -> dict[str, Any]:
    """Write ``data-NNNNN-of-NNNNN.arrow`` (Arrow streams) and ``lengths.pkl``; tokens and cells of each file."""
    import pyarrow as pa

    files, tokens = [], 0
    with open(folder / LENGTHS, "wb") as lengths:
        lengths.write(LIST_BEGINS)
        for number, mine in groupby(batches, key=itemgetter(0)):
            name, cells = f"data-{number:05d}-of-{n_files:05d}.arrow", 0
            with ExitStack() as stack:
                writer = None
                for _, batch in mine:
                    if writer is None:
                        sink = stack.enter_context(pa.OSFile(str(folder / name), "wb"))
                        writer = stack.enter_context(pa.ipc.new_stream(sink, batch.schema))
                    writer.write_batch(batch)
                    of_cells = batch["length"].to_numpy()
                    lengths.write(appended(of_cells))
                    tokens += int(of_cells.sum())
                    cells += batch.num_rows
            files.append({"file": f"{folder.name}/{name}", "cells": cells})
        lengths.write(pickle.STOP)
    return {"tokens": tokens, "files": files}


def appended(numbers: np.ndarray) -> bytes:
    """Opcodes that append whole numbers below 2**31 to the list of a pickle."""
    import numpy as np

    items = np.empty(len(numbers), [("opcode", "S1"), ("number", "<i4")])
    items["opcode"], items["number"] = pickle.BININT, numbers
    return pickle.MARK + items.tobytes() + pickle.APPENDS


def _describe(folder: Path, columns: dict[str, str]) -> None:
    """``state.json`` and ``dataset_info.json``; by the fingerprint, which is of the data, `datasets` knows caches."""
    from cellmill.files import sha256_of

    names = sorted(path.name for path in folder.glob("*.arrow"))
    fingerprint = hashlib.sha256("".join(sha256_of(folder / name) for name in names).encode()).hexdigest()[:16]
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": folder.name,
    }
    (folder / STATE).write_text(json.dumps(state, indent=2))
    features: dict[str, Any] = {
        name: {"dtype": kind, "_type": "Value"}
        if kind != "list<int32>"
        else {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"}
        for name, kind in columns.items()
    }
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / _INFO).write_text(json.dumps(info, indent=2))
