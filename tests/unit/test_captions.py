"""Captions from columns and templates."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports.captions import columns_of, parse, render

CELLS = pa.table(
    {
        "cell_id": pa.array(["a", "b", "c", "d"], pa.large_string()),
        "cell_type": ["T cell", "B cell", "NK cell", "T cell"],
        "tissue": ["lung", None, "  ", "lung"],
        "sex": ["female", "male", None, "male"],
        "age": [41.0, float("nan"), 7.5, None],
        "passage": pa.array([1, 2, None, 4], pa.int64()),
        "control": [True, False, None, True],
        "note": ["x{y}[z]", "", "ü", "n"],
    }
)


def rendered(caption: str, missing: Any = "error", fill: str = "unknown") -> list[str]:
    return render(CELLS, caption, missing=missing, fill=fill, where="heart").to_pylist()


def test_a_name_is_a_column() -> None:
    """Whatever type it has."""
    assert rendered("cell_type") == ["T cell", "B cell", "NK cell", "T cell"]
    assert rendered("passage", "fill") == ["1", "2", "unknown", "4"]
    assert rendered("control", "fill") == ["true", "false", "unknown", "true"]


def test_a_template_weaves_columns_into_text() -> None:
    """Values are taken as they are, braces and brackets in them too."""
    expected = ["A T cell x{y}[z].", "A B cell ?.", "A NK cell ü.", "A T cell n."]
    assert rendered("A {cell_type} {note}.", "fill", "?") == expected


def test_clauses_in_brackets_are_dropped_where_a_value_is_missing() -> None:
    """NaN and text of white space are missing, too; each clause by itself."""
    text = "{cell_type}[ from {tissue}][ of a {sex} donor of {age}]"
    assert rendered(text, "drop") == [
        "T cell from lung of a female donor of 41",
        "B cell",
        "NK cell",
        "T cell from lung",
    ]


def test_missing_values_are_filled_by_a_word() -> None:
    """In brackets or not."""
    text = "{cell_type}[ from {tissue}], {sex}"
    assert rendered(text, "fill", "somewhere")[1:3] == [
        "B cell from somewhere, male",
        "NK cell from somewhere, somewhere",
    ]


@pytest.mark.parametrize(
    ("caption", "missing", "cell", "column"),
    [
        ("tissue", "error", "b", "tissue"),
        ("{cell_type}[ from {tissue}]", "error", "b", "tissue"),
        ("{sex}[ from {tissue}]", "drop", "c", "sex"),
        ("{age}", "error", "b", "age"),
    ],
)
def test_a_missing_value_that_no_rule_covers_is_an_error(caption: str, missing: str, cell: str, column: str) -> None:
    """With the first cell and the column."""
    with pytest.raises(CellmillError, match=f"heart: cell '{cell}' has no caption: column '{column}' has no value"):
        rendered(caption, missing)


def test_an_empty_caption_is_an_error() -> None:
    """Where all clauses are dropped."""
    with pytest.raises(CellmillError, match=r"the caption '\[\{tissue\}\]' of cell 'b' is empty"):
        rendered("[{tissue}]", "drop")


def test_doubled_characters_stand_for_themselves() -> None:
    """As in Python's format strings."""
    assert rendered("{{{cell_type}}} [[{sex}]]", "fill")[0] == "{T cell} [female]"


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("{cell_type", "at character 1: '{' without its partner"),
        ("{cell_type} }", "at character 13: '}' without its partner"),
        ("{a}[ of {b}", "opens a bracket that it does not close"),
        ("{a} of b]", "at character 9: '\\]' without its partner"),
        ("{a}[ of [{b}]]", "'\\[' without its partner"),
        ("{a}[ of b]", "a clause in brackets needs a column"),
        ("{} cell", "the braces name no column"),
    ],
)
def test_a_broken_template_is_told(caption: str, said: str) -> None:
    """What is wrong, and where."""
    with pytest.raises(ValueError, match=said):
        parse(caption)


def test_columns_are_named_once_each() -> None:
    """Over all captions, in their order."""
    assert columns_of(["{b}[ {a}]", "b", "{c} {b}"]) == ["b", "a", "c"]
