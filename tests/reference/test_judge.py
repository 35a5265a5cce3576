"""What embedders score, against scib-metrics and scikit-learn on the same arrays."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellmill.judge import metrics
from cellmill.judge.lisi import lisi
from cellmill.judge.probe import probe
from cellmill.report.sample import Sample

CELLS = 240
SCIB = """
import json, sys
import numpy as np, scib_metrics as scib
from sklearn.neighbors import NearestNeighbors
a = np.load(sys.argv[1])
x, label, batch = a["x"], a["label"], a["batch"]
distances, rows = NearestNeighbors(n_neighbors=90, algorithm="brute").fit(x.astype(np.float64)).kneighbors()
distances, rows = np.c_[np.zeros(len(x)), distances][:, :90], np.c_[np.arange(len(x)), rows][:, :90]
near = scib.nearest_neighbors.NeighborsResults(indices=rows, distances=distances)
print(json.dumps({
    "silhouette_label": float(scib.silhouette_label(x, label)),
    "silhouette_batch": float(scib.silhouette_batch(x, label, batch)),
    "clisi": float(scib.clisi_knn(near, label)),
    "ilisi": float(scib.ilisi_knn(near, batch)),
    "kbet": float(scib.kbet(near.subset_neighbors(50), batch)[0]),
    "graph_connectivity": float(scib.graph_connectivity(near.subset_neighbors(15), label)),
}))
"""
"""In a process of its own: jax warns of every fork that a later test makes."""


def cells(*, apart: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Three labels ``apart``, and three batches of which one is a little aside."""
    rng = np.random.default_rng(seed)
    label, batch = np.arange(CELLS) % 3, rng.choice(3, CELLS, p=[0.5, 0.3, 0.2])
    x = rng.normal(size=(CELLS, 8)) + apart * np.eye(3, 8)[label] + 0.7 * np.eye(1, 8, 5)[0] * (batch == 1)[:, None]
    return {"x": x.astype(np.float32), "label": label.astype(str), "batch": batch.astype(str)}


def sample(made: dict[str, np.ndarray]) -> Sample:
    return Sample(made["x"], {name: made[name].astype(object) for name in ("label", "batch")})


@pytest.mark.slow
def test_scores_are_those_of_scib_metrics(tmp_path: Path) -> None:
    """On the same neighbours, to single precision."""
    if find_spec("scib_metrics") is None:
        pytest.skip("scib-metrics is not installed")
    made = cells(apart=2.5)
    np.savez(tmp_path / "cells.npz", **made)
    done = subprocess.run([sys.executable, "-c", SCIB, tmp_path / "cells.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout.splitlines()[-1])
    found = {s.metric: s.value for s in metrics.scores(sample(made), labels=["label"], batch="batch")}
    assert expected.keys() == found.keys() - {"kmeans_nmi", "kmeans_ari"}
    assert found == pytest.approx(found | expected, abs=2e-5)
    assert all(0.05 < value < 0.995 for value in expected.values()), expected  # neither all nor nothing


def slow_lisi(distances: np.ndarray, rows: np.ndarray, codes: np.ndarray, perplexity: float) -> list[float]:
    """Weights of the wanted perplexity by bisection of the logarithm of their width, in logarithms throughout."""
    from scipy.optimize import brentq
    from scipy.special import logsumexp

    found = []
    for i in range(len(rows)):
        others = rows[i] != i
        d, c = distances[i, others], codes[rows[i, others]]

        def shares(log_precision: float, d: np.ndarray = d) -> np.ndarray:
            logs = -d * np.exp(log_precision)
            return np.exp(logs - logsumexp(logs))

        def excess(log_precision: float, shares: Any = shares) -> float:
            p = shares(log_precision)
            return float(-(p * np.log(np.maximum(p, 1e-300))).sum() - np.log(perplexity))

        p = shares(brentq(excess, -12, 12))
        found.append(1 / sum(p[c == code].sum() ** 2 for code in set(c)))
    return found


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_lisi_is_exact_for_distances_of_any_size(scale: float) -> None:
    """Where exp(-distance) is 0 in double precision, too."""
    made = sample(cells(apart=1.0))
    some = metrics.Cells(made.vectors * scale, made.columns["label"].astype(str))
    distances, rows = some.neighbors
    assert lisi(distances, rows, some.codes) == pytest.approx(slow_lisi(distances, rows, some.codes, 30), rel=1e-4)


def test_a_probe_is_scikit_learns() -> None:
    """Its accuracy, balanced accuracy and macro F1; of an easy and a hard label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    train, test = cells(apart=1.5), cells(apart=1.5, seed=1)
    for label in ("label", "batch"):
        mean, spread = train["x"].astype(float).mean(axis=0), train["x"].astype(float).std(axis=0)
        model = LogisticRegression(max_iter=1000).fit((train["x"] - mean) / spread, train[label])
        guess, truth = model.predict((test["x"] - mean) / spread), test[label]
        found, facts = probe(sample(train), sample(test), label)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [accuracy_score(truth, guess), balanced_accuracy_score(truth, guess)]
            expected.append(f1_score(truth, guess, average="macro", zero_division=0))
        assert [s.value for s in found] == pytest.approx(expected) and facts["converged"]
        assert facts["test_cells"] == CELLS and facts["unseen_cells"] == 0
