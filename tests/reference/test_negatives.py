"""Negatives against a slow and plain reference, over random captions, labels and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.errors import CellmillError
from cellmill.exports.negatives import ELIGIBLE, Negatives, Wanted, make_pools, without_refinements

from . import slow_negatives as slow

COLUMN = st.integers(0, 2**32 - 1)


@st.composite
def splits(draw: Any) -> dict[str, Any]:
    """Cells with up to three attributes, from even to one value that nearly all have; batches and vectors."""
    n = draw(st.integers(4, 60))
    rng = np.random.default_rng(draw(COLUMN))
    attributes = []
    for _ in range(draw(st.integers(1, 3))):
        kinds = draw(st.sampled_from([2, 3, 8, n]))
        weight = np.full(kinds, 1.0)
        weight[0] = draw(st.sampled_from([1, 1, 10, 60]))
        attributes.append(rng.choice(kinds, n, p=weight / weight.sum()).astype(np.int32))
    if draw(st.booleans()):  # one that another follows from
        attributes.append((attributes[0] // 2).astype(np.int32))
    return {
        "ids": [f"c{i}" for i in rng.permutation(n)],
        "attributes": attributes,
        "batch": rng.integers(0, draw(st.integers(1, 3)), n).astype(np.int32),
        "vectors": rng.integers(-3, 4, (n, 2)).astype(np.float32),
        "seed": draw(st.integers(0, 5)),
    }


def make(made: dict[str, Any], wanted: Wanted) -> Negatives:
    ids = pa.array(made["ids"], pa.large_string())
    more = {k: made[k] for k in ("batch", "vectors", "seed")}
    return Negatives(made["attributes"], wanted, ids=ids, where="x", **more)


def fewest(made: dict[str, Any], keep: Any = lambda i, j: True) -> int:
    n = len(made["ids"])
    return min(sum(keep(i, j) for j in slow.eligible(i, made["attributes"])) for i in range(n))


@settings(max_examples=60, deadline=None)
@given(splits(), st.data())
def test_negatives_equal_the_slow_reference(made: dict[str, Any], data: st.DataObject) -> None:
    """Draw for draw; or an error, exactly where there are too few."""
    kinds = {k: data.draw(st.integers(0, 2), label=k) for k in ("anywhere", "in_batch", "out_of_batch", "hard")}
    kinds["anywhere"] += not any(kinds.values())
    wanted = Wanted(**kinds, candidates=data.draw(st.sampled_from([1, 3, 100])))
    batch = made["batch"]
    enough = (
        fewest(made) >= wanted.all
        and fewest(made, lambda i, j: batch[i] == batch[j]) >= wanted.in_batch
        and fewest(made, lambda i, j: batch[i] != batch[j]) >= wanted.out_of_batch
    )
    if not enough:
        with pytest.raises(CellmillError, match=r"has only \d+ of \d+ cells"):
            make(made, wanted)
        return
    found = make(made, wanted).of(0, pa.array(made["ids"], pa.large_string()))
    assert found.shape == (len(made["ids"]), wanted.all)
    more = {k: made[k].tolist() for k in ("batch", "vectors")}
    attributes = [a.tolist() for a in made["attributes"]]
    for i, row in enumerate(found.tolist()):
        assert len(set(row)) == wanted.all and set(row) <= set(slow.eligible(i, attributes))
        assert sum(batch[r] == batch[i] for r in row) >= wanted.in_batch
        assert sum(batch[r] != batch[i] for r in row) >= wanted.out_of_batch
        said = {**kinds, "candidates": wanted.candidates, "seed": made["seed"]}
        assert row == slow.negatives(made["ids"], attributes, i, **said, **more)


@settings(max_examples=60, deadline=None)
@given(splits())
def test_pools_are_never_poor(made: dict[str, Any]) -> None:
    """The eligible are counted exactly; at least an eighth of each pool is eligible, and none of them is lost."""
    pools = make_pools(made["attributes"], scope=made["batch"])
    for i in range(len(made["ids"])):
        good = [j for j in slow.eligible(i, made["attributes"]) if made["batch"][j] == made["batch"][i]]
        mine = pools.pool[i]
        rows = pools.rows[pools.start[mine] : pools.start[mine] + pools.size[mine]]
        assert pools.eligible[i] == len(good) and set(good) <= set(rows.tolist())
        assert len(good) * ELIGIBLE >= len(rows)


@settings(max_examples=60, deadline=None)
@given(splits())
def test_refinements_change_nothing(made: dict[str, Any]) -> None:
    """The same cells are eligible without what follows from another attribute."""
    kept = without_refinements(made["attributes"])
    assert 0 < len(kept) <= len(made["attributes"])
    for i in range(len(made["ids"])):
        assert slow.eligible(i, kept) == slow.eligible(i, made["attributes"])


@pytest.mark.parametrize("block", [1, 7, 1_000])
def test_blocks_of_anchors_change_nothing(block: int) -> None:
    """An anchor's draws depend on its id, and on the split."""
    rng = np.random.default_rng(0)
    n = 200
    made = {"ids": [f"c{i}" for i in range(n)], "attributes": [rng.integers(0, 5, n).astype(np.int32)], "seed": 1}
    made |= {"batch": rng.integers(0, 3, n).astype(np.int32), "vectors": rng.random((n, 4), np.float32)}
    negatives, ids = make(made, Wanted(1, 1, 1, 1, candidates=9)), pa.array(made["ids"], pa.large_string())
    blocks = [negatives.of(start, ids[start : start + block]) for start in range(0, n, block)]
    assert np.array_equal(np.concatenate(blocks), negatives.of(0, ids))


@pytest.mark.parametrize("share", [[0.4, 0.3, 0.3], [0.97, 0.02, 0.01]], ids=["even", "one caption nearly alone"])
def test_negatives_are_uniform_over_all_eligible_cells(share: list[float]) -> None:
    """Chi-square over the draws of each caption, with a second attribute: no place and no cell is favoured."""
    rng = np.random.default_rng(0)
    n = 600
    attributes = [rng.choice(3, n, p=share).astype(np.int32), rng.choice(2, n, p=[0.6, 0.4]).astype(np.int32)]
    group = pd.factorize(attributes[0] * 2 + attributes[1])[0]
    ids = pa.array([f"c{i}" for i in range(n)], pa.large_string())
    drawn = [Negatives(attributes, Wanted(2), ids=ids, seed=s, where="x").of(0, ids) for s in range(60)]
    for code in np.unique(group):
        eligible = slow.eligible(int(np.flatnonzero(group == code)[0]), attributes)
        mine = np.concatenate([d[group == code] for d in drawn])
        for chosen in (mine[:, 0], mine[:, 1], mine.ravel()):
            seen = np.bincount(chosen, minlength=n)
            assert seen.sum() == seen[eligible].sum()
            expected = len(chosen) / len(eligible)
            statistic = ((seen[eligible] - expected) ** 2 / expected).sum()
            freedom = len(eligible) - 1
            assert abs(statistic - freedom) < 5.5 * np.sqrt(2 * freedom)


def test_hard_negatives_are_the_nearest_where_all_are_candidates() -> None:
    """As by sorting all distances."""
    rng = np.random.default_rng(0)
    n = 100
    caption, vectors = rng.integers(0, 4, n).astype(np.int32), rng.random((n, 6), np.float32)
    ids = pa.array([f"c{i}" for i in range(n)], pa.large_string())
    wanted = Wanted(0, hard=3, candidates=n)
    found = Negatives([caption], wanted, ids=ids, seed=0, where="x", vectors=vectors).of(0, ids)
    for i in range(n):
        others = slow.eligible(i, [caption])
        near = sorted(others, key=lambda j: np.square(vectors[j] - vectors[i], dtype=np.float64).sum())
        assert sorted(found[i]) == sorted(near[:3])


def test_cost_and_pools_grow_with_the_cells_alone() -> None:
    """One caption that 99.9 % have, and another attribute as uneven: a few pools, not one per caption."""
    n = 40_000
    rng = np.random.default_rng(0)
    odd = rng.permutation(n)
    captions = np.where(odd < 40, odd + 1, 0).astype(np.int32)
    label = np.where((odd >= 20) & (odd < 60), 1, 0).astype(np.int32)
    pools = make_pools([captions, label, np.arange(n, dtype=np.int32)])
    assert len(pools.size) <= 12 and len(pools.rows) < 3 * n
    assert pools.eligible.min() >= 20
