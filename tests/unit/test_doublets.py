"""Doublets: which cells are judged, and that nothing but the cells of a batch matters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from pydantic import ValidationError

from cellmill.contracts.doublets import DoubletScores, read_doublets
from cellmill.contracts.ledger import read_ledger
from cellmill.contracts.quality import read_cells
from cellmill.errors import CellmillError
from cellmill.quality.doublets import scrublet
from cellmill.quality.ledger import account
from cellmill.quality.spec import Doublets, Quality
from cellmill.report.doublets import draw_doublets

from .cells_and_doublets import planted
from .stages import NO_MADS, Made, make, split_raw, three_parts, write_raw

BATCHES = ["lane1", "lane2", "small"]


def lanes(folder: Path, *, seed: int = 0) -> Path:
    """Two lanes of 340 and 230 cells, and one of 30, in no order; ids that say nothing."""
    rng = np.random.default_rng(seed)
    made = planted(560, 40, genes=300, seed=seed)
    lane = rng.permutation(np.repeat(BATCHES, [340, 230, 30]))
    names = [f"c{i:04d}" for i in rng.permutation(600)]
    return write_raw(folder / "whole.h5ad", made.counts, cells=names, obs={"lane": lane, "planted": made.doublet})


def looked_for(folder: Path, raws: dict[str, Path], **doublets: Any) -> Made:
    quality = {**NO_MADS, "doublets": {"n_components": 20, **doublets}}
    return make(folder, raws, quality=quality, columns={"batch": "lane", "keep": ["planted"]})


def scores(made: Made) -> pd.DataFrame:
    """Rows of all shares, by cell id."""
    files = sorted((made.folder / "doublets").glob("*.parquet"))
    table = pd.concat([read_doublets(path)[0].to_pandas() for path in files])
    return table.set_index("cell_id")[["batch", "doublet_score", "predicted_doublet"]].sort_index()


def batches(made: Made) -> dict[str, dict[str, Any]]:
    return DoubletScores(sorted((made.folder / "doublets").glob("*.parquet"))).batches


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lanes(tmp_path_factory.mktemp("lanes"))


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Made:
    return looked_for(tmp_path_factory.mktemp("dropped"), {"0": raw}, rule="drop")


# --- what a score depends on


def test_scores_do_not_depend_on_parts_or_their_order(tmp_path: Path, raw: Path, dropped: Made) -> None:
    """Lanes spread over three files, of which each lacks genes that none of its cells has: the same to the last bit."""
    parts = split_raw(raw, tmp_path / "parts", three_parts(600))
    for path in parts.values():
        part = anndata.read_h5ad(path)
        there = np.flatnonzero(np.asarray(part.X.sum(axis=0)).ravel())
        part[:, np.random.default_rng(len(there)).permutation(there)].copy().write_h5ad(path)
    apart = looked_for(tmp_path / "made", parts, rule="drop")
    assert len(list((apart.folder / "doublets").glob("*.parquet"))) == 3
    pd.testing.assert_frame_equal(scores(apart), scores(dropped), check_exact=True)
    assert batches(apart) == batches(dropped)
    assert account(apart.ledger) == account(dropped.ledger)


def test_every_batch_is_scored_in_exactly_one_share(tmp_path: Path, raw: Path) -> None:
    """The facts of the files name each batch once, and no cell stands in two files."""
    made = looked_for(tmp_path, split_raw(raw, tmp_path / "parts", three_parts(600)))
    files = sorted((made.folder / "doublets").glob("*.parquet"))
    named = [name for path in files for name in read_doublets(path)[1]["batches"]]
    assert sorted(named) == sorted(BATCHES)
    assert scores(made).index.is_unique


def test_a_batch_is_scored_as_if_it_were_alone(tmp_path: Path, raw: Path, dropped: Made) -> None:
    """Cells of other batches do not matter, nor how many are gathered at once."""
    whole = anndata.read_h5ad(raw)
    whole[(whole.obs["lane"] == "lane1").to_numpy()].copy().write_h5ad(tmp_path / "one.h5ad")
    alone = looked_for(tmp_path / "made", {"0": tmp_path / "one.h5ad"}, max_batch_cells=340)
    together = scores(dropped)
    pd.testing.assert_frame_equal(scores(alone), together[together["batch"] == "lane1"], check_exact=True)


def test_scores_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """One and two threads for BLAS and numba give the same bytes."""
    made = planted(400, 20, genes=300, seed=4)
    sp.save_npz(tmp_path / "counts.npz", made.counts)
    code = (
        "import sys, scipy.sparse as sp; from cellmill.quality.doublets import scrublet; "
        "from cellmill.quality.spec import Doublets; found = scrublet(sp.load_npz(sys.argv[1]), Doublets()); "
        "print(found.scores.tobytes().hex(), found.facts)"
    )
    said = []
    for threads in ("1", "2"):
        pools = {f"{pool}_NUM_THREADS": threads for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        src = str(Path(__file__).resolve().parents[2] / "src")
        command = [sys.executable, "-c", code, str(tmp_path / "counts.npz")]
        environment = {"PYTHONPATH": src, "PATH": "", **pools}
        said.append(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    assert said[0] == said[1] and len(said[0]) > 400 * 16


def test_another_seed_simulates_other_doublets() -> None:
    """The same seed gives the same scores, another one others."""
    made = planted(300, 20, genes=200)
    first, again, other = (scrublet(made.counts, Doublets(seed=seed)).scores for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# --- which cells are judged, and what becomes of them


def test_doublets_come_after_the_thresholds_and_before_twins(tmp_path: Path) -> None:
    """Cells that fall by counts are not judged; of twins that are both doublets none is left to be a twin."""
    made = planted(300, 30, genes=200, seed=3)
    counts = made.counts.toarray()
    counts[:20] = 0
    counts[:20, 0] = 3  # too few counts
    found = scrublet(sp.csr_matrix(counts[20:]), Doublets())
    twin = int(np.argmax(found.scores)) + 20
    counts = np.concatenate([counts, counts[twin : twin + 1]])
    raw = write_raw(tmp_path / "x.h5ad", sp.csr_matrix(counts))
    quality = {
        **NO_MADS,
        "min_counts": 50,
        "doublets": {"rule": "drop", "threshold": 0.1},
        "duplicates": {"rule": "drop"},
    }
    result = make(tmp_path / "made", {"0": raw}, quality=quality)
    outcome = read_cells(result.file("0", "cells.parquet"))[0].to_pandas().set_index("cell_id")["outcome"]
    assert (outcome.iloc[:20] == "min_counts").all()
    assert outcome[f"c{twin}"] == outcome[f"c{len(counts) - 1}"] == "doublet"
    assert "duplicate content" not in set(outcome)
    assert not scores(result).index.intersection([f"c{i}" for i in range(20)]).size


def test_what_is_dropped_is_in_the_ledger(dropped: Made) -> None:
    """As the reason `doublet`: the predicted cells, and none else; the facts say the same."""
    predicted = scores(dropped).query("predicted_doublet").index
    cells = read_cells(dropped.file("0", "cells.parquet"))[0].to_pandas()
    assert 0 < len(predicted) and set(cells.query("outcome == 'doublet'")["cell_id"]) == set(predicted)
    assert account(dropped.ledger)["dropped"]["doublet"] == len(predicted)
    said = read_ledger(dropped.ledger)[1]["doublets"]
    assert said == {
        "rule": "drop",
        "batches": {"judged": 2, "too few cells": 1},
        "scored": 570,
        "predicted": len(predicted),
    }


def test_what_is_reported_stays(tmp_path: Path, raw: Path, dropped: Made) -> None:
    """Every cell with its score and prediction in obs; those of the small batch without a score."""
    made = looked_for(tmp_path, {"0": raw}, rule="report")
    pd.testing.assert_frame_equal(scores(made), scores(dropped), check_exact=True)
    obs = anndata.read_h5ad(made.file("0", "h5ad")).obs
    assert len(obs) == 600 and "doublet" not in account(made.ledger)["dropped"]
    expected = scores(made).reindex(obs.index)
    np.testing.assert_array_equal(obs["doublet_score"], expected["doublet_score"])
    assert obs["predicted_doublet"].tolist() == (expected["predicted_doublet"] == True).tolist()  # noqa: E712
    assert obs.loc[obs["lane"] == "small", "doublet_score"].isna().all()
    assert obs["predicted_doublet"].dtype == bool


def test_planted_doublets_are_what_is_dropped(dropped: Made) -> None:
    """In the two lanes that are judged: most of those planted, and nearly no others."""
    raw = anndata.read_h5ad(dropped.folder.parent / dropped.dataset.source.files["0"]).obs
    table = scores(dropped).join(raw["planted"])
    assert table.loc[table["planted"], "predicted_doublet"].mean() > 0.5
    assert table.loc[~table["planted"], "predicted_doublet"].mean() < 0.03


def test_columns_of_one_gene_are_added_up_and_what_is_no_gene_is_left_out(tmp_path: Path, raw: Path) -> None:
    """A gene in two columns, and an antibody beside the genes, give the scores of the plain file."""
    whole = anndata.read_h5ad(raw)
    counts = whole.X.toarray()
    half = np.floor(counts[:, 5] / 2)
    more = np.column_stack([counts, half, np.full(len(counts), 500.0)])
    more[:, 5] -= half
    names = [*whole.var_names, whole.var_names[5] + ".7", "ADT-CD3"]
    types = ["Gene Expression"] * (len(names) - 1) + ["Antibody Capture"]
    odd = tmp_path / "odd.h5ad"
    obs = {c: whole.obs[c].to_numpy() for c in whole.obs}
    write_raw(odd, sp.csr_matrix(more), cells=list(whole.obs_names), genes=names, obs=obs, var={"feature_types": types})
    plain = looked_for(tmp_path / "plain", {"0": raw})
    pd.testing.assert_frame_equal(scores(looked_for(tmp_path / "made", {"0": odd})), scores(plain), check_exact=True)


@pytest.mark.parametrize("layout", [sp.csc_matrix, np.asarray], ids=["csc", "dense"])
def test_every_layout_gives_the_same_scores(tmp_path: Path, raw: Path, dropped: Made, layout: Any) -> None:
    """CSC and dense files, of which the lanes' rows are scattered."""
    whole = anndata.read_h5ad(raw)
    whole.X = layout(whole.X.toarray())
    whole.write_h5ad(tmp_path / "x.h5ad")
    made = looked_for(tmp_path / "made", {"0": tmp_path / "x.h5ad"})
    pd.testing.assert_frame_equal(scores(made), scores(dropped), check_exact=True)


# --- batches that cannot be judged


def test_a_small_batch_is_not_judged_and_says_so(dropped: Made) -> None:
    """30 cells, 100 are asked for: counted, and all of them stay."""
    assert batches(dropped)["small"] == {"cells": 30, "outcome": "too few cells"}
    cells = read_cells(dropped.file("0", "cells.parquet"))[0].to_pandas()
    assert (cells.loc[cells["batch"] == "small", "outcome"] == "kept").all()


def test_a_batch_without_a_threshold_keeps_its_cells(tmp_path: Path) -> None:
    """Four simulated doublets make no two modes: there are scores, but none is predicted."""
    raw = write_raw(tmp_path / "x.h5ad", planted(7, 1, genes=200).counts)
    doublets = {"rule": "drop", "sim_ratio": 0.5, "n_components": 1, "min_batch_cells": 5}
    made = make(tmp_path / "made", {"0": raw}, quality={**NO_MADS, "doublets": doublets})
    said = batches(made)["(all)"]
    assert said["outcome"] == "no threshold" and said["threshold"] is None and sum(said["simulated"]) == 4
    assert account(made.ledger)["kept"] == len(scores(made)) == 8
    assert not scores(made)["predicted_doublet"].any()
    draw_doublets([made.folder / "doublets" / "0.parquet"], out=tmp_path / "x.svg")
    assert "no threshold: none is predicted" in (tmp_path / "x.svg").read_text()


def test_a_batch_that_scrublet_fails_on_keeps_its_cells_and_says_why(tmp_path: Path) -> None:
    """Twelve genes have no thirty components."""
    made = planted(150, 10, genes=12)
    raw = write_raw(tmp_path / "x.h5ad", made.counts)
    result = make(tmp_path / "made", {"0": raw}, quality={**NO_MADS, "doublets": {"rule": "drop"}})
    said = batches(result)["(all)"]
    assert said["outcome"] == "failed" and "n_components=30" in said["why"]
    assert account(result.ledger)["kept"] == account(result.ledger)["raw"]


def test_cells_that_scrublet_leaves_out_have_no_score(tmp_path: Path) -> None:
    """Cells with fewer than three genes: no row in the file, no score in obs, not predicted."""
    counts = planted(200, 10, genes=200).counts.toarray()
    counts[:7] = 0
    counts[:7, 3] = 60
    raw = write_raw(tmp_path / "x.h5ad", sp.csr_matrix(counts))
    made = make(tmp_path / "made", {"0": raw}, quality={**NO_MADS, "duplicates": {"rule": "keep"}, "doublets": {}})
    said = batches(made)["(all)"]
    assert (said["cells"], said["scored"]) == (210, 203)
    obs = anndata.read_h5ad(made.file("0", "h5ad")).obs
    assert obs["doublet_score"].isna().sum() == 7 and not obs["predicted_doublet"].iloc[:7].any()


def test_a_batch_too_large_for_memory_is_refused(tmp_path: Path, raw: Path) -> None:
    """Names the batch, both numbers, and the ways out."""
    said = re.escape(
        "batch 'lane1' has 340 cells, and quality.doublets.max_batch_cells is 300: all cells of a batch are in memory "
        "at once. Name the column of the lane or library in columns.batch, or raise max_batch_cells."
    )
    with pytest.raises(CellmillError, match=said):
        looked_for(tmp_path, {"0": raw}, max_batch_cells=300)
    assert not list(tmp_path.rglob("doublets/*"))


def test_a_missing_scikit_image_says_what_to_install(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read; a threshold of one's own needs none."""
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(CellmillError, match=r"needs scikit-image.*pip install scikit-image"):
        looked_for(tmp_path / "a", {"0": raw})
    made = looked_for(tmp_path / "b", {"0": raw}, threshold=0.2)
    assert batches(made)["lane1"]["threshold"] == 0.2
    table = scores(made)
    assert table["predicted_doublet"].tolist() == (table["doublet_score"] > 0.2).tolist()


@pytest.mark.parametrize(
    ("doublets", "said"),
    [
        ({"n_components": 100}, "min_batch_cells 100 must be above n_components 100"),
        ({"max_batch_cells": 50}, "max_batch_cells 50 is below min_batch_cells 100"),
        ({"expected_rate": 1.5}, "less than 1"),
        ({"threshold": 0}, "greater than 0"),
    ],
)
def test_rules_that_cannot_work_are_refused(doublets: dict[str, Any], said: str) -> None:
    """Before the first job."""
    with pytest.raises(ValidationError, match=said):
        Quality.model_validate({"doublets": doublets})


# --- the figure


def test_the_figure_is_the_same_bytes_in_parts_and_in_one(tmp_path: Path, raw: Path, dropped: Made) -> None:
    """And shows each batch that has scores with its numbers."""
    apart = looked_for(tmp_path / "made", split_raw(raw, tmp_path / "parts", three_parts(600)))
    drawn = []
    for made in (dropped, apart):
        out = tmp_path / f"{len(drawn)}.svg"
        draw_doublets(sorted((made.folder / "doublets").glob("*.parquet")), out=out)
        drawn.append(out.read_text())
    assert drawn[0] == drawn[1]
    for name in ("lane1", "lane2"):
        facts = batches(dropped)[name]
        assert name in drawn[0] and f"{facts['predicted']:,} of {facts['scored']:,} predicted" in drawn[0]
    assert "small" not in drawn[0]


def test_a_figure_without_scores_says_so(tmp_path: Path, raw: Path) -> None:
    """Every batch too small."""
    made = looked_for(tmp_path, {"0": raw}, min_batch_cells=500)
    draw_doublets(sorted((made.folder / "doublets").glob("*.parquet")), out=tmp_path / "x.svg")
    assert "No batch was scored." in (tmp_path / "x.svg").read_text()
    assert json.loads(json.dumps(batches(made)))["lane1"]["outcome"] == "too few cells"
