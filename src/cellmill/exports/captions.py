"""Captions of cells: an obs column, or a template over several such as ``"{cell_type}[ from {tissue}]"``.

Names in braces are obs columns; a clause in brackets may be dropped where a value of it is missing.
``{{``, ``}}``, ``[[`` and ``]]`` stand for the characters themselves.
Text without braces is the name of one column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import pyarrow as pa

Missing = Literal["error", "drop", "fill"]
_PIECE = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{([^{}]*)\}|[\[\]{}]|[^\[\]{}]+")
_DOUBLED = {"{{": "{", "}}": "}", "[[": "[", "]]": "]"}


@dataclass(frozen=True)
class Clause:
    """Literals and columns by turns: ``literals`` has one more than ``columns``."""

    literals: tuple[str, ...]
    columns: tuple[str, ...]
    droppable: bool


def parse(text: str) -> tuple[Clause, ...]:
    """The clauses of a template, or of a column's name.

    Raises:
        ValueError: with what is wrong with the template, and where.
    """
    if "{" not in text:
        return (Clause(("", ""), (text,), droppable=False),)
    clauses, literals, columns = list[Clause](), [""], list[str]()
    inside = False
    for piece in _PIECE.finditer(text):
        at, found = f"in the caption '{text}', at character {piece.start() + 1}", piece[0]
        if piece[1] is not None:
            if not piece[1].strip():
                raise ValueError(f"{at}: the braces name no column")
            columns.append(piece[1].strip())
            literals.append("")
        elif found in ("[", "]"):
            if inside == (found == "["):
                raise ValueError(f"{at}: '{found}' without its partner; '{found * 2}' stands for '{found}' itself")
            if inside and not columns:
                raise ValueError(f"{at}: a clause in brackets needs a column in braces")
            clauses.append(Clause(tuple(literals), tuple(columns), droppable=inside))
            literals, columns, inside = [""], [], not inside
        elif found in ("{", "}"):
            raise ValueError(f"{at}: '{found}' without its partner; '{found * 2}' stands for '{found}' itself")
        else:
            literals[-1] += _DOUBLED.get(found, found)
    if inside:
        raise ValueError(f"the caption '{text}' opens a bracket that it does not close")
    clauses.append(Clause(tuple(literals), tuple(columns), droppable=False))
    return tuple(c for c in clauses if c.columns or c.literals != ("",))


def columns_of(captions: Sequence[str]) -> list[str]:
    """The obs columns that captions name, each once."""
    return list(dict.fromkeys(c for text in captions for clause in parse(text) for c in clause.columns))


def render(batch: pa.RecordBatch | pa.Table, caption: str, *, missing: Missing, fill: str, where: object) -> pa.Array:
    """The caption of every cell (n,), as text without missing values.

    Missing is what has no value, NaN, and text of nothing but white space.

    Args:
        missing: ``error``; ``drop``: the clause in brackets that it stands in; ``fill``: ``fill`` stands for it.

    Raises:
        CellmillError: with the cell and the column, where a value is missing that the rule does not cover.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: list[pa.Array] = []
    for clause in parse(caption):
        values = []
        for name in clause.columns:
            text = _text(batch[name])
            if text.null_count and missing == "fill":
                text = pc.fill_null(text, fill)
            if text.null_count and not (clause.droppable and missing == "drop"):
                first = batch["cell_id"].filter(text.is_null())[0]
                raise CellmillError(
                    where,
                    f"cell '{first}' has no caption: column '{name}' has no value.",
                    "Set 'missing: fill', or 'missing: drop' with the clause in brackets, or another column.",
                )
            values.append(text)
        woven = [part for pair in zip(clause.literals, values, strict=False) for part in pair] + [clause.literals[-1]]
        joined = pc.binary_join_element_wise(*woven, "", null_handling="emit_null")
        if isinstance(joined, pa.Scalar):  # a clause of text alone
            joined = pa.repeat(joined, batch.num_rows)
        pieces.append(pc.fill_null(joined.cast(pa.string()), ""))
    whole = pc.binary_join_element_wise(*pieces, "")
    empty = pc.equal(pc.utf8_trim_whitespace(whole), "")
    if pc.any(empty).as_py():
        raise CellmillError(
            where,
            f"the caption '{caption}' of cell '{batch['cell_id'].filter(empty)[0]}' is empty.",
            "All its clauses were dropped: leave one column outside brackets, or set 'missing: fill'.",
        )
    return whole


def _text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), pa.scalar(None, pa.string()), text)
