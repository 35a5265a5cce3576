"""Where the time went: what Snakemake measured of every job of a dataset, as a table and a picture."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cellmill.files import replacing
from cellmill.operations.jobs import measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {
    "rule": "rule",
    "job": "job",
    "s": "seconds",
    "cpu_time": "cpu_seconds",
    "max_rss": "peak_mb",
    "mem_mb": "asked_mb",
    "io_in": "read_mb",
    "io_out": "written_mb",
    "cells_per_s": "cells_per_s",
    "tokens_per_s": "tokens_per_s",
    "tflop_per_s": "tflop_per_s",
    "peak_share": "peak_share",
}
"""Snakemake's name, and ours; the last four are of jobs that run a model (`cellmill.embedders.rates`)."""


def write_times(folder: Path, dataset: str, *, table: str | PathLike[str], figure: str | PathLike[str]) -> int:
    """Write what the jobs of a dataset took, a row each (TSV), and a picture by rule (SVG); return the number of jobs.

    These differ from run to run: they lie beside the results, and nothing is made from them.
    """
    found = [_row(said) for said in measured(folder, dataset)]
    if not found:
        return 0
    with replacing(table) as aside:
        lines = ["\t".join(COLUMNS.values()), *("\t".join(_text(v) for v in row.values()) for row in found)]
        aside.write_text("\n".join(lines) + "\n")
    _draw(found, figure)
    return len(found)


def _row(said: dict[str, Any]) -> dict[str, Any]:
    values = {**said, "mem_mb": said.get("resources", {}).get("mem_mb")}
    return {ours: values.get(name) for name, ours in COLUMNS.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}" if value >= 1 else f"{value:.4g}"
    return str(value)


def _draw(found: list[dict[str, Any]], path: str | PathLike[str]) -> None:
    from cellmill.report import drawing

    rules: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        rules[row["rule"]].append(row)
    seconds = {rule: sum(row["seconds"] for row in rows) for rule, rows in rules.items()}
    order = sorted(rules, key=lambda rule: seconds[rule])
    models = _models(found)
    heights = [1.2 + 0.26 * len(order), *([1.2 + 0.26 * len(models)] if models else [])]
    with drawing.style():
        figure = drawing.new_figure(8.5, sum(heights))
        axes = figure.subplots(len(heights), 2, sharey="row", squeeze=False, height_ratios=heights)
        left, right = axes[0]
        left.barh(order, [seconds[rule] for rule in order], color=drawing.KEPT_COLOR)
        left.set(title="Seconds, all jobs of a rule", xlabel="seconds")
        left.bar_label(left.containers[0], labels=[f" {len(rules[rule])}" for rule in order], color=drawing.GREY)
        peak = [max((row["peak_mb"] or 0) for row in rules[rule]) for rule in order]
        asked = [max((row["asked_mb"] or 0) for row in rules[rule]) for rule in order]
        right.barh(order, asked, color=drawing.PALE, label="asked for")
        right.barh(order, peak, color=drawing.DROPPED_COLOR, height=0.45, label="used")
        right.set(title="Memory, the largest job", xlabel="MB")
        right.legend(loc="lower right")
        if models:
            _draw_rates(models, *axes[1])
        drawing.save(figure, path, "svg")


def _models(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each embedder and each rule that runs its model, the rates of its middle part."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        if row["cells_per_s"] is not None:
            rows[f"{row['rule']} {row['job'].partition('.')[0]}"].append(row)
    names = ("cells_per_s", "tflop_per_s", "peak_share")
    return {model: {n: median(row[n] or 0.0 for row in mine) for n in names} for model, mine in rows.items()}


def _draw_rates(models: dict[str, dict[str, float]], left: Axes, right: Axes) -> None:
    from cellmill.report import drawing

    order = sorted(models, key=lambda model: models[model]["cells_per_s"])
    said = [models[model] for model in order]
    bars = left.barh(order, [m["cells_per_s"] for m in said], color=drawing.KEPT_COLOR)
    left.set(title="Models, the middle part", xlabel="cells per second")
    left.bar_label(bars, labels=[f" {m['cells_per_s']:,.4g}" for m in said], color=drawing.GREY)
    bars = right.barh(order, [100 * m["peak_share"] for m in said], color=drawing.DROPPED_COLOR)
    right.set(title="Share of the device's matrix peak", xlabel="%")
    right.bar_label(bars, labels=[f" {m['tflop_per_s']:.3g} TFLOP/s" for m in said], color=drawing.GREY)
