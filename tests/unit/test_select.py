"""Exact order statistics from a scratch file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellmill.quality import select as selection
from cellmill.quality.select import Spill, group_sizes, medians, select, sortable, unsortable


def spilled(folder: Path, codes: np.ndarray, values: np.ndarray) -> Spill:
    """Some groups, in three pieces."""
    spill = Spill(folder, "x", np.uint64)
    for rows in np.array_split(np.arange(len(codes)), 3):
        spill.append(codes[rows], sortable(values[rows]))
    return spill


def test_keys_are_in_the_order_of_their_values() -> None:
    """Negative, tiny, huge; and they lead back."""
    values = np.array([-np.inf, -1e300, -2.5, -1e-320, 0.0, 1e-320, 1.0, np.nextafter(1, 2), 1e300, np.inf])
    keys = sortable(values)
    assert (np.diff(keys.astype(object)) > 0).all()
    assert (unsortable(keys) == values).all()
    assert sortable(np.array([-0.0])) == sortable(np.array([0.0]))


VALUES = {
    "normal": lambda rng, n: rng.normal(7, 1, n),
    "tied": lambda rng, n: rng.poisson(3, n),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0, rng.random(n)),
    "all alike": lambda rng, n: np.full(n, 2.5),
    "wide": lambda rng, n: np.exp(rng.normal(0, 200, n)) * rng.choice([-1, 1], n),
}


@pytest.mark.parametrize("few", [True, False], ids=["in passes", "at once"])
@pytest.mark.parametrize("kind", VALUES)
def test_medians_are_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, few: bool) -> None:
    """Exactly, for groups of any size, with a memory of sixteen values or of all."""
    if few:
        monkeypatch.setattr(selection, "CANDIDATES", 16)
        monkeypatch.setattr(selection, "BINS", 64)
        monkeypatch.setattr(selection, "CHUNK", 100)
    rng = np.random.default_rng(0)
    codes = rng.choice(6, 3_000, p=[0.7, 0.2, 0.09, 0.01, 0.0, 0.0])
    codes[0] = 4
    values = VALUES[kind](rng, 3_000).astype(float)
    n, found = medians(spilled(tmp_path, codes, values), 6)
    assert n.tolist() == np.bincount(codes, minlength=6).tolist()
    for group in range(5):
        assert found[group] == np.median(values[codes == group])
    assert np.isnan(found[5])


def test_any_rank_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranks of a group at once."""
    monkeypatch.setattr(selection, "CANDIDATES", 8)
    monkeypatch.setattr(selection, "BINS", 512)
    rng = np.random.default_rng(1)
    codes, values = rng.integers(0, 2, 500), rng.normal(size=500)
    spill = spilled(tmp_path, codes, values)
    for group in (0, 1):
        expected = np.sort(values[codes == group])
        ranks = np.arange(len(expected))
        keys = select(spill, np.full(len(ranks), group), ranks, group_sizes(spill, 2))
        assert (unsortable(keys) == expected).all()


def test_a_spill_leaves_nothing(tmp_path: Path) -> None:
    """Its files go when it is closed."""
    spilled(tmp_path, np.zeros(3, int), np.ones(3)).close()
    assert list(tmp_path.iterdir()) == []
