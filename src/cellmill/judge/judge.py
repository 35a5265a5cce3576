"""The step that judges an embedder: numbers on a sample of the cells, and a linear probe for each label column."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from os import PathLike

from cellmill.contracts import judged as contract
from cellmill.judge.metrics import scores
from cellmill.judge.probe import probe
from cellmill.judge.spec import JudgeRules
from cellmill.report.sample import draw

File = str | PathLike[str]
TRAINED_ON = "train"


def judge_embedder(
    processed: Sequence[File], *, embedding: Sequence[File], embedder: str, rules: JudgeRules, out: File
) -> None:
    """Write how well the vectors of an embedder tell labels apart and mix batches.

    The same cells for every embedder, whatever the parts and their order.

    Raises:
        CellmillError: a part with more or fewer vectors than cells.
    """
    from threadpoolctl import threadpool_limits

    splits = [None, *([] if rules.tested_on is None else [TRAINED_ON, rules.tested_on])]
    drawn = draw(processed, embedding, columns=rules.columns, cells=rules.cells, splits=splits)
    whole = drawn.samples[None]
    with threadpool_limits(1):
        found = list(scores(whole, labels=rules.labels, batch=rules.batch))
        probes = {}
        for label in rules.labels if rules.tested_on is not None else ():
            read, probes[label] = probe(drawn.samples[TRAINED_ON], drawn.samples[rules.tested_on], label)
            found += read
    facts = {
        "embedder": embedder,
        "rules": rules.model_dump(mode="json"),
        "dimensions": int(whole.vectors.shape[1]),
        "cells": {"kept": drawn.kept, "looked_at": len(whole.vectors)},
        "probes": probes,
        "written_by": {p: version(p) for p in ("numpy", "scikit-learn", "scipy")},
    }
    contract.write(out, found, facts)
