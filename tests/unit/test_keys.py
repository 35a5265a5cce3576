"""Stable keys, and the splits made of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.keys import assign_splits, hash_strings

MASK = (1 << 64) - 1


def slow_key(text: str, *, seed: int, purpose: str) -> int:
    """FNV-1a over purpose, seed and text, finished as in splitmix64: in whole numbers of Python."""
    h = 0xCBF29CE484222325

    def absorb(h: int, data: bytes) -> int:
        for byte in data:
            h = ((h ^ byte) * 0x100000001B3) & MASK
        return h

    def finish(h: int) -> int:
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & MASK
        return h ^ (h >> 31)

    return finish(absorb(finish(absorb(h, f"{purpose}\0{seed}\0".encode())), text.encode()))


TEXTS = ["", "a", "AAACCTGAGAAACCAT-1", "ü", "日本", "a" * 300, "0:AAACCTGAGAAACCAT-1"]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text()), st.integers(-(2**63), 2**63), st.sampled_from(["split", "order", ""]))
def test_keys_equal_the_slow_reference(texts: list[str], seed: int, purpose: str) -> None:
    """Bit for bit, for any text."""
    found = hash_strings([*texts, *TEXTS], seed=seed, purpose=purpose)
    assert found.dtype == np.uint64
    assert found.tolist() == [slow_key(t, seed=seed, purpose=purpose) for t in [*texts, *TEXTS]]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_slices_have_the_keys_of_the_whole(type_: pa.DataType) -> None:
    """Arrays that begin in the middle of a buffer, of any string type."""
    array, whole = pa.array(TEXTS).cast(type_), hash_strings(TEXTS, seed=3, purpose="x")
    for start in range(len(TEXTS) + 1):
        for stop in range(start, len(TEXTS) + 1):
            assert (hash_strings(array.slice(start, stop - start), seed=3, purpose="x") == whole[start:stop]).all()


def test_no_strings_have_no_keys() -> None:
    """A part without kept cells is a part like any other."""
    assert hash_strings([], seed=0, purpose="x").shape == (0,)


def test_a_missing_value_has_no_key() -> None:
    """Two missing values are not the same thing."""
    with pytest.raises(ValueError, match="missing value"):
        hash_strings(pa.array(["a", None]), seed=0, purpose="x")


def test_seed_and_purpose_make_other_keys() -> None:
    """Two uses of one seed have nothing to do with each other."""
    keys = [hash_strings(TEXTS, seed=s, purpose=p) for s in (0, 1) for p in ("split", "order")]
    assert len(np.unique(np.concatenate(keys))) == 4 * len(TEXTS)


def test_a_key_does_not_depend_on_what_else_is_there() -> None:
    """Order and neighbours change nothing."""
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = hash_strings([TEXTS[i] for i in order], seed=1, purpose="x")
    assert (shuffled == hash_strings(TEXTS, seed=1, purpose="x")[order]).all()


IDS = [f"c{i}" for i in range(20_000)]


@pytest.mark.parametrize(
    "fractions", [{"train": 0.8, "val": 0.1, "test": 0.1}, {"a": 0.05, "train": 0.95}, {"train": 1}]
)
def test_splits_have_their_fractions(fractions: dict[str, float]) -> None:
    """Each within five standard deviations of what was asked for."""
    codes = assign_splits(hash_strings(IDS, seed=0, purpose="split"), fractions)
    for code, share in enumerate(fractions.values()):
        assert abs((codes == code).mean() - share) <= 5 * np.sqrt(share * (1 - share) / len(IDS))
    assert codes.min() >= 0
    assert codes.max() < len(fractions)


def test_a_split_of_nothing_has_no_cell() -> None:
    """A fraction of 0 is none at all, wherever it stands."""
    keys = np.r_[hash_strings(IDS, seed=0, purpose="split"), np.uint64(0), np.uint64(MASK)]
    for fractions in ({"val": 0.0, "train": 0.5, "test": 0.5}, {"train": 0.5, "val": 0.0, "test": 0.5}):
        assert not (assign_splits(keys, fractions) == list(fractions).index("val")).any()
    assert (assign_splits(keys, {"train": 1.0, "val": 0.0}) == 0).all()


def test_every_key_has_a_split_though_fractions_are_inexact() -> None:
    """0.7 + 0.2 + 0.1 is not quite 1; the last split by name takes what is left."""
    codes = assign_splits(np.array([0, MASK], np.uint64), {"train": 0.7, "val": 0.2, "test": 0.1})
    assert codes.tolist() == [2, 1]


def test_the_order_in_which_splits_are_written_says_nothing() -> None:
    """The same cells train, wherever 'train' stands."""
    keys = hash_strings(IDS, seed=0, purpose="split")
    orders = [{"train": 0.7, "val": 0.2, "test": 0.1}, {"test": 0.1, "train": 0.7, "val": 0.2}]
    named = [np.array(list(fractions))[assign_splits(keys, fractions)] for fractions in orders]
    assert (named[0] == named[1]).all()


def test_a_larger_train_only_adds_to_it() -> None:
    """Who trains with 80 % trains with 90 %, too."""
    keys = hash_strings(IDS, seed=0, purpose="split")
    small, large = (assign_splits(keys, {"train": f, "test": 1 - f}) == 0 for f in (0.8, 0.9))
    assert not (small & ~large).any()
