"""The figure of the doublet scores."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cellmill.contracts.doublets import DoubletScores, read_doublets
from cellmill.report.drawing import DROPPED_COLOR, GREY, INK, KEPT_COLOR, new_figure, save, shown, style

BATCHES_DRAWN = 12


def draw_doublets(doublets: Sequence[str | PathLike[str]], *, out: str | PathLike[str]) -> None:
    """Scores of cells and of simulated doublets, a histogram per batch: of those with the most predicted doublets.

    Memory: the scores of the cells of one file.
    """
    batches = {name: b for name, b in DoubletScores(doublets).batches.items() if b.get("scored")}
    first = sorted(batches, key=lambda n: (-batches[n]["predicted"] / batches[n]["scored"], n))[:BATCHES_DRAWN]
    heights: dict[str, np.ndarray] = {}
    for path in doublets:
        table, facts = read_doublets(path, columns=["batch", "doublet_score"])
        for name in set(first).intersection(facts["batches"]):
            scores = table.filter(pc.equal(table["batch"], name))["doublet_score"].to_numpy()
            heights[name] = np.histogram(scores, len(batches[name]["simulated"]), (0, 1))[0]
    columns = min(3, max(1, len(first)))
    rows = -(-len(first) // columns) or 1
    with style():
        figure = new_figure(10, 0.6 + 2.4 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(first) :]:
            ax.set_axis_off()
        for ax, name in zip(axes, first, strict=False):
            _histogram(ax, name, batches[name], heights[name])
        if not first:
            axes[0].text(0.5, 0.5, "No batch was scored.", transform=axes[0].transAxes, ha="center", color=GREY)
        else:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=9)
        if len(batches) > len(first):
            figure.supxlabel(
                f"{len(first)} of {len(batches):,} batches: those with the most predicted doublets",
                fontsize=9,
                color=GREY,
            )
        save(figure, out, "svg")


def _histogram(ax: Any, name: str, batch: dict[str, Any], cells: np.ndarray) -> None:
    simulated = np.array(batch["simulated"])
    edges = np.linspace(0, 1, len(simulated) + 1)
    ax.stairs(cells / cells.sum(), edges, fill=True, color=KEPT_COLOR, alpha=0.6, label="cells")
    ax.stairs(simulated / simulated.sum(), edges, color=INK, label="simulated doublets")
    said = "no threshold: none is predicted"
    if batch["threshold"] is not None:
        ax.axvline(batch["threshold"], color=DROPPED_COLOR, linestyle="--", linewidth=1)
        share = 100 * batch["predicted"] / batch["scored"]
        said = f"{batch['predicted']:,} of {batch['scored']:,} predicted ({share:.1f} %)"
    ax.set_title(shown(name, 28))
    ax.annotate(said, (1, 1), (0, -4), xycoords="axes fraction", textcoords="offset points", ha="right", va="top")
    there = np.flatnonzero(cells + simulated)
    ax.set_xlim(0, edges[there.max() + 1])
    ax.set_xlabel("doublet score")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
