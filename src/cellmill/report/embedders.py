"""The embedders of a dataset side by side: a table and a figure of their scores."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

from cellmill.contracts import judged
from cellmill.files import replacing
from cellmill.report.drawing import GREY, LABEL_COLORS, PALE, new_figure, save, shown, style

File = str | PathLike[str]

TITLES = {
    "silhouette_label": "silhouette of labels",
    "clisi": "cLISI",
    "graph_connectivity": "graph connectivity",
    "kmeans_nmi": "NMI with k-means",
    "kmeans_ari": "ARI with k-means",
    "probe_accuracy": "probe: accuracy",
    "probe_balanced_accuracy": "probe: balanced accuracy",
    "probe_macro_f1": "probe: macro F1",
    "silhouette_batch": "silhouette of batches",
    "ilisi": "iLISI",
    "kbet": "kBET",
}
"""What people call each metric, in the order of the tables."""


class Measure(NamedTuple):
    """A metric, by the columns that it is measured by: a column of the table."""

    metric: str
    label: str | None
    batch: str | None

    @property
    def name(self) -> str:
        """As in the TSV: ``silhouette_batch.cell_type.donor``."""
        return ".".join(x for x in self if x is not None)

    @property
    def by(self) -> str:
        return " × ".join(x for x in (self.label, self.batch) if x is not None)


@dataclass(frozen=True)
class Comparison:
    """Every embedder and every measure of a dataset."""

    embedders: list[str]
    dimensions: dict[str, int]
    measures: list[Measure]
    scores: dict[tuple[str, Measure], judged.Score]
    probes: dict[str, dict[str, Any]]
    """By embedder and label: cells, classes, and those that the training cells lack."""
    cells: dict[str, int]
    """How many the dataset has (``kept``), and how many were ``looked_at``: the same for every embedder."""

    def best(self, measure: Measure) -> set[str]:
        """The embedders with the highest value; none where there is nothing to choose from."""
        values = {e: v for e in self.embedders if (v := self.scores[e, measure].value) is not None}
        return {e for e, v in values.items() if v == max(values.values())} if len(values) > 1 else set()


def compared(files: Sequence[File]) -> Comparison:
    """What was found of each embedder, in the order of the files."""
    dimensions, probes, cells = {}, {}, {}
    scores: dict[tuple[str, Measure], judged.Score] = {}
    for path in files:
        found, facts = judged.read(path)
        name = facts["embedder"]
        dimensions[name], probes[name], cells = facts["dimensions"], facts["probes"], facts["cells"]
        scores |= {(name, Measure(s.metric, s.label, s.batch)): s for s in found}
    order = list(TITLES)
    measures = sorted({m for _, m in scores}, key=lambda m: (m.label is None, m.label or "", order.index(m.metric)))
    return Comparison(list(dimensions), dimensions, measures, scores, probes, cells)


def compare_embedders(files: Sequence[File], *, table: File, figure: File) -> None:
    """Write the table (TSV, a row per embedder) and the figure (SVG, a line per measure)."""
    found = compared(files)
    with replacing(table) as aside, open(aside, "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, delimiter="\t", lineterminator="\n")
        rows.writerow(["embedder", "dimensions", *(m.name for m in found.measures)])
        for name in found.embedders:
            values = [found.scores[name, m].value for m in found.measures]
            rows.writerow([name, found.dimensions[name], *("" if v is None else f"{v:.4f}" for v in values)])
    with style():
        save(_figure(found), figure, "svg")


def _figure(found: Comparison) -> Any:
    """A line per measure, and on it a dot per embedder; the best of a line has a ring."""
    from matplotlib.lines import Line2D

    figure = new_figure(10, 1.2 + 0.3 * len(found.measures))
    ax = figure.subplots()
    colors = {name: LABEL_COLORS[i % len(LABEL_COLORS)] for i, name in enumerate(found.embedders)}
    least = 0.0
    for row, measure in enumerate(found.measures):
        values = {e: v for e in found.embedders if (v := found.scores[e, measure].value) is not None}
        ax.axhline(row, color=PALE, linewidth=0.6, zorder=0)
        if not values:
            ax.annotate("not measured", (0.0, row), (6, 0), textcoords="offset points", va="center", color=GREY)
        for name, value in sorted(values.items(), key=lambda item: item[1]):  # the best lies on top
            ax.plot(value, row, "o", color=colors[name], markersize=7, clip_on=False)
        for name in found.best(measure):
            ax.plot(values[name], row, "o", color="none", markeredgecolor=colors[name], markersize=12, clip_on=False)
        least = min([least, *values.values()])
    titles = [f"{TITLES[m.metric]}  ({shown(m.by, 40)})" for m in found.measures]
    ax.set_yticks(range(len(titles)), titles)
    ax.set_ylim(len(titles) - 0.5, -0.5)
    ax.set_xlim(least, 1)
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("the higher the better")
    handles = [Line2D([], [], marker="o", linestyle="", color=colors[e], label=shown(e)) for e in found.embedders]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, fontsize=9, handletextpad=0.1)
    return figure
