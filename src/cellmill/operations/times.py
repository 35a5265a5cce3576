"""Where the time went: what Snakemake measured of every job of a dataset, as a table and a picture."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.files import replacing
from cellmill.operations.jobs import measured

COLUMNS = {
    "rule": "rule",
    "job": "job",
    "s": "seconds",
    "cpu_time": "cpu_seconds",
    "max_rss": "peak_mb",
    "mem_mb": "asked_mb",
    "io_in": "read_mb",
    "io_out": "written_mb",
}
"""Snakemake's name, and ours."""


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
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _draw(found: list[dict[str, Any]], path: str | PathLike[str]) -> None:
    from cellmill.report import drawing

    rules: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        rules[row["rule"]].append(row)
    seconds = {rule: sum(row["seconds"] for row in rows) for rule, rows in rules.items()}
    order = sorted(rules, key=lambda rule: seconds[rule])
    with drawing.style():
        figure = drawing.new_figure(8.5, 1.2 + 0.26 * len(order))
        left, right = figure.subplots(1, 2, sharey=True)
        left.barh(order, [seconds[rule] for rule in order], color=drawing.KEPT_COLOR)
        left.set(title="Seconds, all jobs of a rule", xlabel="seconds")
        left.bar_label(left.containers[0], labels=[f" {len(rules[rule])}" for rule in order], color=drawing.GREY)
        peak = [max((row["peak_mb"] or 0) for row in rules[rule]) for rule in order]
        asked = [max((row["asked_mb"] or 0) for row in rules[rule]) for rule in order]
        right.barh(order, asked, color=drawing.PALE, label="asked for")
        right.barh(order, peak, color=drawing.DROPPED_COLOR, height=0.45, label="used")
        right.set(title="Memory, the largest job", xlabel="MB")
        right.legend(loc="lower right")
        drawing.save(figure, path, "svg")
