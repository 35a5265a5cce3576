"""Pickles of strangers: plain values come in, nothing else does."""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellmill.errors import CellmillError
from cellmill.tokenizers.dictionaries import read_dictionary


class Runs:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def dump(folder: Path, value: Any, protocol: int = 2) -> Path:
    (folder / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    return folder / "x.pkl"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(tmp_path: Path, protocol: int) -> None:
    """Strings and numbers, in every protocol."""
    value = {"a": 1, "b": 2.5, "c": "x", "": True}
    assert read_dictionary(dump(tmp_path, value, protocol)) == value


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_of_numpy_become_plain(tmp_path: Path, protocol: int) -> None:
    """As published medians are; older protocols ask for more than the allow-list has."""
    found = read_dictionary(dump(tmp_path, {"a": np.float64(0.1), "b": np.int64(7), "c": np.float32(0.5)}, protocol))
    assert found == {"a": 0.1, "b": 7, "c": 0.5}
    assert [type(v) for v in found.values()] == [float, int, float]


HARMFUL = {
    "os.system": (os.system, "touch {}"),
    "builtins.eval": (eval, "open({!r}, 'w')"),
    "builtins.exec": (exec, "open({!r}, 'w')"),
    "functools.partial": (functools.partial, os.system, "touch {}"),
    "builtins.open": (open, "{}", "w"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("place", ["whole", "key", "value"])
def test_calls_are_refused_and_not_made(tmp_path: Path, name: str, protocol: int, place: str) -> None:
    """Whatever they would have done has not been done."""
    touched = tmp_path / "touched"
    function, *arguments = HARMFUL[name]
    call = Runs(function, *(a.format(str(touched)) if isinstance(a, str) else a for a in arguments))
    value = {"whole": call, "key": {call: 1}, "value": {"a": call}}[place]
    with pytest.raises(
        CellmillError, match=r"x\.pkl: refused: it asks for (posix|nt|builtins|__builtin__|functools|_io|io)\."
    ):
        read_dictionary(dump(tmp_path, value, protocol))
    assert not touched.exists()


def test_attributes_are_not_walked(tmp_path: Path) -> None:
    """A dotted name must not lead from an allowed module to another."""
    program = b"\x80\x04\x8c\x05numpy\x8c\x0eos.system.here\x93."
    (tmp_path / "x.pkl").write_bytes(program.replace(b"\x0eos.system.here", b"\x09os.system"))
    with pytest.raises(CellmillError, match=r"refused: it asks for numpy\.os\.system"):
        read_dictionary(tmp_path / "x.pkl")


REFUSED: dict[str, Any] = {
    "an array": {"a": np.arange(3)},
    "an array of objects": {"a": np.array([1, "x"], object)},
    "an object in a scalar of numpy": {"a": Runs(np._core.multiarray.scalar, np.dtype("O"), {"b": 1})},
    "a list": {"a": [1]},
    "a list of lists": {"a": [[1]]},
    "a tuple": {"a": (1,)},
    "a dictionary": {"a": {"b": 1}},
    "nothing": {"a": None},
    "bytes": {"a": b"x"},
    "a complex number": {"a": 1j},
    "a complex number of numpy": {"a": np.complex128(1j)},
    "a date of numpy": {"a": np.datetime64("2020-01-01")},
    "a number as key": {1: "a"},
    "bytes as key": {b"a": 1},
    "a table": {"a": pd.Series([1])},
    "no dictionary": ["a"],
    "another dictionary": OrderedDict(a=1),
    "a set": {"a"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused(tmp_path: Path, name: str) -> None:
    """By an error of ours."""
    with pytest.raises(CellmillError, match=r"x\.pkl: .*[Cc]heck its source"):
        read_dictionary(dump(tmp_path, REFUSED[name]))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05", pickle.dumps({"a": 1})[:-3]])
def test_what_is_no_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    """Truncated, empty, or something else."""
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(CellmillError, match=r"x\.pkl: refused"):
        read_dictionary(tmp_path / "x.pkl")


@pytest.mark.parametrize("corpus", ["gc30M", "gc95M"])
@pytest.mark.parametrize("name", ["token_dictionary", "gene_median_dictionary"])
def test_published_dictionaries_equal_their_twins_in_json(shared_data: Path, name: str, corpus: str) -> None:
    """Every key and value."""
    folder = shared_data / "geneformer"
    assert read_dictionary(folder / f"{name}_{corpus}.pkl") == json.loads(
        (folder / f"{name}_{corpus}.json").read_text()
    )


@pytest.mark.parametrize("corpus", ["gc30M", "gc95M"])
@pytest.mark.parametrize(
    ("name", "twin"), [("ensembl_mapping_dict", "ensembl_mapping"), ("gene_name_id_dict", "gene_name_id")]
)
def test_published_dictionaries_equal_their_twins_in_tsv(shared_data: Path, name: str, twin: str, corpus: str) -> None:
    """Every key and value."""
    folder = shared_data / "geneformer"
    table = pd.read_csv(folder / f"{twin}_{corpus}.tsv", sep="\t", dtype=str, keep_default_na=False, quoting=3)
    assert read_dictionary(folder / f"{name}_{corpus}.pkl") == dict(
        zip(table.iloc[:, 0], table.iloc[:, 1], strict=True)
    )
