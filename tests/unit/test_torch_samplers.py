"""Plans of an epoch: no cell is lost or doubled, whatever the sizes, samplers and ranks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.errors import CellmillError
from cellmill.torch.obs import ObsColumn
from cellmill.torch.samplers import Balanced, Grouped, Permuted, Sequential, Shuffled, Weighted, WithControls, level


@dataclass
class Cells:
    """Cells of which only the number and some columns are known."""

    n_cells: int
    block_rows: int = 64
    columns: dict[str, ObsColumn] = field(default_factory=dict)

    def obs(self, column: str) -> ObsColumn:
        return self.columns[column]


def text(name: str, values: list[str | None]) -> ObsColumn:
    names = sorted({v for v in values if v is not None})
    codes = [-1 if v is None else names.index(v) for v in values]
    return ObsColumn(name, np.array(codes, np.int8), np.array(names, object))


def batches(sampler, cells: Cells, *, epoch: int = 0, batch_size: int = 8, ranks: int = 1, drop_last: bool = False):
    plan = sampler.plan(cells, epoch=epoch, batch_size=batch_size, ranks=ranks)
    plan = level(plan, ranks=ranks, batch_size=batch_size, drop_last=drop_last)
    return [plan.rows(i).tolist() for i in range(plan.n_batches)], plan


SIZES = st.tuples(
    st.integers(1, 3_000), st.integers(1, 70), st.integers(1, 300), st.integers(1, 2_000), st.integers(1, 4)
)


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, ranks=st.integers(1, 5), lanes=st.integers(1, 5), epoch=st.integers(0, 3), last=st.booleans())
def test_every_cell_is_in_one_batch_of_one_rank(sizes, ranks: int, lanes: int, epoch: int, last: bool):
    """Shuffled, permuted and in order; every rank has as many batches, none larger than asked for."""
    n, batch_size, block, buffer, seed = sizes
    shuffled = Shuffled(seed=seed, buffer_rows=buffer, block_rows=block, lanes=lanes)
    for sampler in (shuffled, Permuted(seed=seed), Sequential()):
        cells = Cells(n)
        if n < ranks or (batch_size == 1 and n % ranks) or (last and n // batch_size < ranks):
            continue
        try:
            found, plan = batches(sampler, cells, epoch=epoch, batch_size=batch_size, ranks=ranks, drop_last=last)
        except CellmillError as error:
            assert "one cell" in str(error)
            continue
        assert len(found) % ranks == 0
        seen = [cell for batch in found for cell in batch]
        assert len(seen) == len(set(seen)) and set(seen) <= set(range(n))
        assert len(seen) + sum(plan.left_out.values()) == n
        assert {len(b) for b in found} == {batch_size} if last else max(map(len, found)) <= batch_size
        if last:
            assert sum(plan.left_out.values()) < batch_size * ranks
        else:
            assert not plan.left_out


@pytest.mark.parametrize("sampler", [Shuffled, Permuted])
def test_an_order_is_known_by_seed_and_epoch(sampler: type):
    """The same again for the same, another for another."""
    cells = Cells(1_000)
    first = batches(sampler(seed=3), cells, epoch=2)[0]
    assert batches(sampler(seed=3), cells, epoch=2)[0] == first
    assert batches(sampler(seed=4), cells, epoch=2)[0] != first
    assert batches(sampler(seed=3), cells, epoch=3)[0] != first


def test_an_order_is_pinned():
    """A state that was saved names a place in this order: if it changes, old states lead elsewhere."""
    sampler = Shuffled(seed=1, buffer_rows=64, block_rows=4, lanes=2)
    found = batches(sampler, Cells(70), batch_size=2)[0]
    assert [found[0], found[16], found[-1]] == [[66, 56], [2, 11], [54, 26]]
    assert batches(Permuted(seed=1), Cells(7), epoch=2, batch_size=7)[0] == [[1, 4, 3, 6, 2, 0, 5]]


@pytest.mark.parametrize("n", [2, 5, 40])
def test_permuted_cells_stand_anywhere_beside_any(n: int):
    """Over epochs, every place has every cell as often, and every cell every follower (chi-squared below 5 sigma)."""
    epochs = 4_000
    orders = np.array([batches(Permuted(seed=n), Cells(n), epoch=e, batch_size=n)[0][0] for e in range(epochs)])
    at = np.bincount((np.arange(n) * n + orders).ravel(), minlength=n * n)
    follows = np.bincount((orders[:, :-1] * n + orders[:, 1:]).ravel(), minlength=n * n)
    for found in (at, follows[~np.eye(n, dtype=bool).ravel()]):
        squares, freedom = ((found - found.mean()) ** 2 / found.mean()).sum(), len(found)
        assert squares < freedom + 5 * np.sqrt(2 * freedom)


def test_permuted_cells_of_a_large_store_are_mixed():
    """A window of the order has as many cells from each part of the store as if drawn; and nothing is held for them."""
    plan = Permuted().plan(Cells(1 << 40), epoch=0, batch_size=1 << 26)
    found = plan.order(1 << 39, (1 << 39) + 100_000)
    assert len(np.unique(found)) == 100_000
    parts = np.bincount(found >> 34, minlength=64)
    assert ((parts - parts.mean()) ** 2 / parts.mean()).sum() < 64 + 5 * np.sqrt(128)
    assert abs(np.corrcoef(found[:-1].astype(float), found[1:].astype(float))[0, 1]) < 0.02


def test_a_shuffle_mixes():
    """Neighbours in the file are rarely neighbours in a batch, and every lane is of many blocks."""
    found, _ = batches(Shuffled(), Cells(50_000), batch_size=64)
    near = [abs(a - b) < 64 for batch in found for a, b in pairwise(batch)]
    assert np.mean(near) < 0.05
    places = np.concatenate(found)
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.05


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_have_lanes_of_their_own(workers: int):
    """Bundles of 16 batches in turn: in whole groups, no fill of 4,096 cells is needed by two workers."""
    found, _ = batches(Shuffled(block_rows=4_096), Cells(65_536), batch_size=64)
    of_blocks: dict[int, set[int]] = {w: set() for w in range(workers)}
    for number, batch in enumerate(found):
        of_blocks[number // 16 % workers] |= {cell // 4_096 for cell in batch}
    assert sum(map(len, of_blocks.values())) == 16


def test_ranks_have_fills_of_their_own():
    """Two ranks: no block is decoded by both."""
    found, _ = batches(Shuffled(block_rows=4_096), Cells(65_536), batch_size=64, ranks=2)
    mine = [{cell // 4_096 for batch in found[rank::2] for cell in batch} for rank in (0, 1)]
    assert not mine[0] & mine[1] and len(mine[0]) == 8


def test_uneven_ends_are_halved_and_nothing_is_padded():
    """70 cells in batches of 16 for four ranks: the five batches become eight."""
    found, _ = batches(Sequential(), Cells(70), batch_size=16, ranks=4)
    assert [len(b) for b in found] == [16, 8, 8, 8, 8, 8, 8, 6]
    assert [c for b in found for c in b] == list(range(70))
    found, plan = batches(Sequential(), Cells(70), batch_size=16, ranks=4, drop_last=True)
    assert [len(b) for b in found] == [16] * 4
    assert plan.left_out == {"in batches that were dropped": 6}


def test_too_few_cells_for_all_ranks_are_refused():
    """Rather than a rank that waits for ever."""
    with pytest.raises(CellmillError, match="cannot be shared by 4 ranks"):
        batches(Sequential(), Cells(3), ranks=4)
    with pytest.raises(CellmillError, match="no full batch of 8 for each of 4 ranks"):
        batches(Sequential(), Cells(31), ranks=4, drop_last=True)


def test_weights_are_how_often_cells_come():
    """A weight of 0 never, the others as their share says; the same draws for any cut into batches."""
    weights = np.array([0.0, 1, 2, 0, 5, 0])
    cells = Cells(6)
    found, _ = batches(Weighted(weights, n_draws=40_000), cells, batch_size=100)
    share = np.bincount(np.concatenate(found), minlength=6) / 40_000
    np.testing.assert_allclose(share, weights / 8, atol=0.015)
    other, _ = batches(Weighted(weights, n_draws=40_000), cells, batch_size=77)
    assert list(chain(*other)) == list(chain(*found))
    cells.columns["w"] = ObsColumn("w", weights)
    assert batches(Weighted("w", n_draws=40_000), cells, batch_size=100)[0] == found
    assert batches(Weighted(weights, n_draws=40_000), cells, epoch=1, batch_size=100)[0] != found


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1]])
def test_weights_that_are_none_are_refused(weights: list[float]):
    """Too few, negative, all 0, not a number."""
    with pytest.raises(CellmillError, match="weights"):
        batches(Weighted(weights), Cells(3))


def test_classes_come_alike():
    """Each class as often, each cell of a class as often; cells without a class are counted."""
    labels = ["a"] * 900 + ["b"] * 90 + ["c"] * 9 + [None]
    cells = Cells(1_000, columns={"label": text("label", labels)})
    found, plan = batches(Balanced("label", n_draws=60_000), cells, batch_size=64)
    share = Counter(labels[i] for batch in found for i in batch)
    assert set(share) == {"a", "b", "c"} and all(abs(n / 60_000 - 1 / 3) < 0.02 for n in share.values())
    rare = Counter(i for batch in found for i in batch if labels[i] == "c")
    assert len(rare) == 9 and min(rare.values()) > 0.8 * max(rare.values())
    assert plan.left_out == {"without label": 1}


@settings(max_examples=50, deadline=None)
@given(groups=st.lists(st.sampled_from(["x", "y", "z", None]), min_size=12, max_size=300), ranks=st.integers(1, 3))
def test_a_batch_is_of_one_group(groups: list[str | None], ranks: int):
    """Every cell with a group comes once, batches are of one group, ranks have as many."""
    cells = Cells(len(groups), columns={"donor": text("donor", groups)})
    known = [i for i, g in enumerate(groups) if g is not None]
    if len(known) < 2 * ranks:
        return
    found, plan = batches(Grouped("donor"), cells, ranks=ranks)
    assert sorted(i for batch in found for i in batch) == known
    assert all(len({groups[i] for i in batch}) == 1 and len(batch) <= 8 for batch in found)
    assert len(found) % ranks == 0
    assert sum(plan.left_out.values()) == len(groups) - len(known)


def test_perturbed_cells_come_with_controls_of_their_group():
    """One drug and one donor in a batch, as many controls of that donor; every perturbed cell once."""
    rng = np.random.default_rng(0)
    drugs = rng.choice(["DMSO", "a", "b", "c"], 500).tolist()
    donors = rng.choice(["x", "y"], 500).tolist()
    cells = Cells(500, columns={"drug": text("drug", drugs), "donor": text("donor", donors)})
    found, _ = batches(WithControls("drug", "DMSO", within="donor"), cells, batch_size=16)
    seen = []
    for batch in found:
        half = len(batch) // 2
        assert {drugs[i] for i in batch[half:]} == {"DMSO"}
        assert len({donors[i] for i in batch}) == 1 and len({drugs[i] for i in batch[:half]}) == 1
        seen += batch[:half]
    assert sorted(seen) == [i for i, drug in enumerate(drugs) if drug != "DMSO"]
    fixed, _ = batches(WithControls("drug", "DMSO", within="donor", n_controls=3), cells, batch_size=16)
    assert all([drugs[i] for i in batch].count("DMSO") == 3 for batch in fixed)


def test_groups_without_controls_are_refused_or_counted():
    """Never trained without controls in silence."""
    drugs, donors = ["DMSO", "a", "a", "b"], ["x", "x", "y", "y"]
    cells = Cells(4, columns={"drug": text("drug", drugs), "donor": text("donor", donors)})
    with pytest.raises(CellmillError, match="1 groups have perturbed cells and no 'DMSO': y"):
        batches(WithControls("drug", "DMSO", within="donor"), cells)
    found, plan = batches(WithControls("drug", "DMSO", within="donor", without_controls="leave_out"), cells)
    assert found == [[1, 0]] and plan.left_out == {"in a group without controls": 2}
    with pytest.raises(CellmillError, match=r"no value 'dmso'\. There: DMSO, a, b"):
        batches(WithControls("drug", "dmso"), cells)
