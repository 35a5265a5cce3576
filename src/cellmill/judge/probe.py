"""A linear probe: what a linear classifier, trained on the vectors of the training cells, gets right of others."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.contracts.judged import Score

if TYPE_CHECKING:
    from cellmill.report.sample import Sample

MOST_STEPS = 1_000
METRICS = ("probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1")


@dataclass(frozen=True)
class _Labelled:
    vectors: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, sample: Sample, label: str) -> _Labelled:
        there = np.array([value is not None for value in sample.columns[label]], bool)
        return cls(sample.vectors[there].astype(np.float64), sample.columns[label][there].astype(str))


def probe(train: Sample, test: Sample, label: str) -> tuple[list[Score], dict[str, Any]]:
    """The scores of a multinomial logistic regression with L2 penalty (C = 1) on standardised vectors, and its facts.

    Measured on the test cells whose class is in the training cells; the others are counted (``unseen``).

    Memory: both samples in float64.
    """
    known, asked = _Labelled.of(train, label), _Labelled.of(test, label)
    classes, number = np.unique(known.labels, return_counts=True)
    seen = np.isin(asked.labels, classes)
    facts: dict[str, Any] = {
        "train_cells": len(known.labels),
        "test_cells": int(seen.sum()),
        "classes": len(classes),
        "unseen_classes": sorted(set(asked.labels[~seen].tolist())),
        "unseen_cells": int((~seen).sum()),
        "converged": True,
    }
    if len(classes) < 2 or not seen.any():
        few = f"the training cells have {len(classes)} {label}"
        few = few if len(classes) < 2 else f"no cell to test on has a {label} of the training cells"
        return [Score(name, label, None, int(seen.sum()), None, few) for name in METRICS], facts
    truth = asked.labels[seen]
    facts["accuracy_of_most_frequent"] = round(float(np.mean(truth == classes[number.argmax()])), 4)
    guess, facts["converged"] = _classified(known, asked.vectors[seen])
    values = zip(METRICS, _measured(truth, guess), strict=True)
    return [Score(name, label, None, len(truth), value) for name, value in values], facts


def _classified(known: _Labelled, vectors: np.ndarray) -> tuple[np.ndarray, bool]:
    """The class of each of ``vectors``, and whether the classifier came to rest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(known.vectors, known.labels)
    rested = not any(issubclass(w.category, ConvergenceWarning) for w in said)
    return np.asarray(model.predict(vectors)), rested


def _measured(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float, float]:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    classes = np.unique(truth)
    recall = recall_score(truth, guess, labels=classes, average="macro", zero_division=0)
    f1 = f1_score(truth, guess, average="macro", zero_division=0)
    return float(accuracy_score(truth, guess)), float(recall), float(f1)
