"""The four figures of the report. The same inputs give the same bytes, whatever the parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellmill.contracts import genes as gene_files
from cellmill.contracts import parquet
from cellmill.contracts import quality as quality_files
from cellmill.contracts.versions import CELLS, QUALITY
from cellmill.errors import CellmillError
from cellmill.quality.ledger import account
from cellmill.quality.names import METRICS, bounded_metric, in_order, metric_title
from cellmill.quality.thresholds import KEPT
from cellmill.report.drawing import (
    DROPPED_COLOR,
    GREY,
    INK,
    KEPT_COLOR,
    PALE,
    SPLIT_COLORS,
    new_figure,
    save,
    shown,
    style,
)
from cellmill.report.umap import draw_umap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

File = str | PathLike[str]

GENES_NAMED = 10
BINS = 60


@dataclass(frozen=True)
class DrawnFrom:
    """What the figures are drawn from: a file per part where there are several, in the same order everywhere."""

    quality: Sequence[File]
    cells: Sequence[File]
    processed: Sequence[File]
    embedding: Sequence[File]
    """Vectors of each part, for the UMAP; empty: there is no embedding."""
    thresholds: File
    genes: File
    ledger: File


@dataclass(frozen=True)
class Figures:
    """Where the figures go."""

    quality: File
    cells: File
    genes: File
    umap: File


def draw_report(made: DrawnFrom, *, label: str | None, batch: str | None, splits: Sequence[str], out: Figures) -> None:
    """Draw the four figures of a dataset.

    Args:
        label, batch: obs columns that colour the UMAP beside the splits; None: there is none.
        splits: names of the splits, in the order of the config.

    Raises:
        CellmillError: files of a part that do not belong together.

    Memory: the obs table of one part, and the vectors of the UMAP.
    Time: about 5 s, and 10 s more where numba has not kept what it compiled of umap-learn.
    """
    ledger = account(made.ledger)
    with style():
        save(_quality(made, ledger["dropped"]), out.quality, "svg")
        save(_cells(ledger, splits), out.cells, "svg")
        save(_genes(*gene_files.read_genes(made.genes)), out.genes, "svg")
        umap = draw_umap(made.processed, made.embedding, label=label, batch=batch, splits=splits)
        save(umap, out.umap, "png")


# --- quality


class _Bound(NamedTuple):
    """The fixed bounds and thresholds of one metric."""

    lines: list[float]
    fixed: list[float]
    ticks: list[float]
    note: str


def _quality(made: DrawnFrom, dropped: dict[str, int]) -> Figure:
    thresholds = quality_files.read_thresholds(made.thresholds)
    bounds = _bounds(thresholds, dropped)
    histograms = _histograms(made.quality, made.cells, bounds)
    rows = -(-len(bounds) // 2)
    figure = new_figure(10, 0.6 + 2.9 * rows)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax in axes[len(bounds) :]:
        ax.remove()
    for ax, (metric, bound) in zip(axes, bounds.items(), strict=False):
        _histogram(ax, metric, bound, histograms[metric])
    _quality_legend(figure, bounds, any(dropped.values()))
    return figure


def _bounds(thresholds: dict[str, Any], dropped: dict[str, int]) -> dict[str, _Bound]:
    """The metrics to draw with what to draw on them: those that have a threshold, or counts and genes."""
    fixed = {k: v for k, v in thresholds["fixed"].items() if v is not None and not (k.startswith("min_") and v <= 1)}
    names = set(thresholds["dataset"])
    for bound in fixed:
        if not names.intersection(_drawn_on(bound)):
            names.add(_drawn_on(bound)[0])
    names = names or {"log1p_total_counts", "log1p_n_genes_by_counts"}
    batches = list(thresholds["batches"].values()) if len(thresholds["batches"]) > 1 else []
    found = {}
    for metric in in_order(names):
        said = thresholds["dataset"].get(metric, {"applied": False, "why": "none is set"})
        ticks = {v for b in batches if metric in b["bounds"] for v in _limits(b["bounds"][metric])}
        mine = [b for b in fixed if metric in _drawn_on(b)]
        at = [float(np.log1p(fixed[b])) if metric.startswith("log1p_") else float(fixed[b]) for b in mine]
        found[metric] = _Bound(_limits(said), at, sorted(ticks), _note(metric, said, mine, bool(ticks), dropped))
    return found


def _drawn_on(bound: str) -> tuple[str, ...]:
    """The metrics that a fixed bound is drawn on."""
    metric = bounded_metric(bound)
    return (f"log1p_{metric}", metric) if f"log1p_{metric}" in METRICS else (metric,)


def _limits(bound: dict[str, Any]) -> list[float]:
    return [bound[k] for k in ("lower", "upper") if bound["applied"] and bound[k] is not None]


def _note(metric: str, said: dict[str, Any], fixed: list[str], per_batch: bool, dropped: dict[str, int]) -> str:
    """One line under the title: how many fell here, or why none could."""
    sides = {f"low {metric}": "below", f"high {metric}": "above", **{b: f"by {b}" for b in fixed}}
    counts = [f"{dropped[reason]:,} dropped {side}" for reason, side in sides.items() if dropped.get(reason)]
    if counts:
        return ", ".join(counts)
    if said["applied"] or fixed or per_batch:
        return "none dropped"
    return f"no threshold: {said['why']}"


def _columns(quality: Sequence[File], cells: Sequence[File], metrics: list[str]) -> Iterator[tuple[Any, np.ndarray]]:
    """The asked-for metrics of each part as an Arrow table, and which of its cells are kept (cells,)."""
    for quality_path, cells_path in zip(quality, cells, strict=True):
        file, _ = parquet.open_file(quality_path, QUALITY)
        with file:
            table = file.read(columns=metrics)
        file, _ = parquet.open_file(cells_path, CELLS)
        with file:
            kept = file.read(columns=["outcome"])["outcome"].to_numpy() == KEPT
        if table.num_rows != len(kept):
            found = f"{len(kept)} cells, but {quality_path} has {table.num_rows}."
            raise CellmillError(cells_path, found, "Delete it and run snakemake again.")
        yield table, kept


def _histograms(
    quality: Sequence[File], cells: Sequence[File], bounds: dict[str, _Bound]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per metric: edges (bins + 1,), and kept and dropped cells (2, bins). Two passes, a part at a time."""
    metrics = list(bounds)
    extremes = {
        m: [v for v in (*b.lines, *b.fixed) if v >= 0 and (v <= 100 or "pct" not in m)] for m, b in bounds.items()
    }
    for table, _ in _columns(quality, cells, metrics):
        for metric in metrics:
            values = table[metric].to_numpy()
            values = values[~np.isnan(values)]
            if len(values):
                extremes[metric] += [float(values.min()), float(values.max())]
    edges = {}
    for metric, found in extremes.items():
        low, high = min(found, default=0.0), max(found, default=0.0)
        edges[metric] = np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, BINS + 1)
    heights = {m: np.zeros((2, BINS), np.int64) for m in metrics}
    for table, kept in _columns(quality, cells, metrics):
        for metric in metrics:
            values = table[metric].to_numpy()
            there = ~np.isnan(values)
            for row, mine in enumerate((kept & there, ~kept & there)):
                heights[metric][row] += np.histogram(values[mine], edges[metric])[0]
    return {m: (edges[m], heights[m]) for m in metrics}


def _histogram(ax: Axes, metric: str, bound: _Bound, histogram: tuple[np.ndarray, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator

    edges, (kept, dropped) = histogram
    ax.set_title(shown(metric_title(metric), 50), pad=18)
    ax.annotate(
        bound.note, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=9
    )
    ax.set_ylabel("cells")
    if not (kept.sum() or dropped.sum()):
        ax.set_axis_off()
        ax.text(0.5, 0.5, "No cell has this metric.", transform=ax.transAxes, ha="center", color=GREY)
        return
    ax.stairs(kept, edges, fill=True, color=KEPT_COLOR, linewidth=0)
    ax.stairs(kept + dropped, edges, baseline=kept, fill=True, color=DROPPED_COLOR, linewidth=0)
    margin = 0.02 * (edges[-1] - edges[0])
    ax.set_xlim(edges[0] - margin, edges[-1] + margin)
    ax.set_ylim(0, 1.05 * max(1, (kept + dropped).max()))
    for at in bound.lines:
        if edges[0] <= at <= edges[-1]:
            ax.axvline(at, color=INK, linewidth=1.2)
    for at in bound.fixed:
        ax.axvline(at, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    ticks = [t for t in bound.ticks if edges[0] <= t <= edges[-1]]
    ax.plot(ticks, [0.97] * len(ticks), "|", transform=ax.get_xaxis_transform(), color=GREY, markersize=9, alpha=0.7)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    if metric.startswith("log1p_"):
        ticks_at = _log_ticks(float(np.expm1(edges[0])), float(np.expm1(edges[-1])), whole=True)
        ax.set_xticks(np.log1p(ticks_at), [f"{t:,.0f}" for t in ticks_at])


def _log_ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Round numbers between ``low`` and ``high`` for a logarithmic axis: three to eight, if there are as many."""
    inside: list[float] = []
    for steps in ((10,), (10, 30), (10, 20, 50), (10, 15, 20, 30, 40, 50, 70), range(10, 100, 2), range(10, 100)):
        numbers = {float(f"{step}e{power}") for power in range(-9, 12) for step in steps}
        inside = sorted(n for n in numbers if low <= n <= high and not (whole and n % 1))
        if len(inside) >= 3:
            break
    return inside[:: max(1, -(-len(inside) // 8))]


def _quality_legend(figure: Figure, bounds: dict[str, _Bound], any_dropped: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [Patch(color=KEPT_COLOR, label="kept")]
    if any_dropped:
        entries.append(Patch(color=DROPPED_COLOR, label="dropped, for whichever reason"))
    if any(b.lines for b in bounds.values()):
        entries.append(Line2D([], [], color=INK, linewidth=1.2, label="threshold of the dataset"))
    if any(b.fixed for b in bounds.values()):
        entries.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (2, 2)), label="fixed bound"))
    if any(b.ticks for b in bounds.values()):
        entries.append(Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="", label="threshold of a batch"))
    figure.legend(handles=entries, loc="outside upper left", ncols=len(entries), handlelength=1.5, fontsize=9)


# --- where the cells went


def _cells(ledger: dict[str, Any], splits: Sequence[str]) -> Figure:
    """A waterfall: each bar begins where the one above it ends."""
    raw, kept = ledger["raw"], ledger["kept"]
    bars: list[tuple[str, int, int, str]] = [("raw", 0, raw, PALE)]
    left = raw
    for reason, cells in sorted(ledger["dropped"].items(), key=lambda item: (-item[1], item[0])):
        left -= cells
        bars.append((reason, left, cells, DROPPED_COLOR))
    bars.append(("kept", 0, kept, KEPT_COLOR))
    start = 0
    for number, split in enumerate(splits):
        cells = ledger["splits"].get(split, 0)
        bars.append((split, start, cells, SPLIT_COLORS[number % len(SPLIT_COLORS)]))
        start += cells
    figure = new_figure(10, 0.5 + 0.42 * len(bars))
    ax = figure.subplots()
    for row, (_, begin, cells, color) in enumerate(bars):
        ax.barh(row, cells, left=begin, color=color, height=0.72)
        minus = "−" if color == DROPPED_COLOR else ""
        whole, name = (raw, "raw") if row <= len(ledger["dropped"]) + 1 else (kept, "kept")
        text = f"{minus}{cells:,}" + ("" if row == 0 or not whole else f" · {_percent(cells, whole)} of {name}")
        ax.annotate(text, (raw, row), (12, 0), textcoords="offset points", va="center", annotation_clip=False)
        if row and begin + cells < raw:  # a thin line leads to the number
            ax.plot([begin + cells, raw], [row, row], color=PALE, linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(bars)), [shown(name, 40) for name, *_ in bars])
    ax.tick_params(left=False, bottom=False, labelbottom=False)
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.set_xlim(0, max(raw, 1))
    end_of_dropped = len(ledger["dropped"]) + 0.5
    for edge in (0.5, end_of_dropped, end_of_dropped + 1):
        ax.axhline(edge, color=PALE, linewidth=0.6, xmin=-0.45, xmax=1.2, clip_on=False)
    ax.margins(0)
    return figure


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f} %" if share >= 0.1 or part == 0 else "< 0.1 %"


# --- genes


VARIABILITY = {
    "seurat": "normalised dispersion",
    "cell_ranger": "normalised dispersion of log1p",
    "seurat_v3": "variance over the variance expected",
    "dispersion": "variance over mean of the counts",
}
"""What the variability of a gene is, by flavor."""


def _genes(genes: pd.DataFrame, facts: dict[str, Any]) -> Figure:
    dispersion, mean = genes["variability"].to_numpy(), genes["mean"].to_numpy()
    drawn = np.isfinite(dispersion) & (mean > 0)
    variable = drawn & genes["variable"].to_numpy()
    figure = new_figure(10, 5.2)
    ax = figure.subplots()
    ax.set_xscale("log")
    groups = (
        (drawn & ~variable, GREY, f"other genes ({drawn.sum() - variable.sum():,})"),
        (variable, KEPT_COLOR, f"variable genes ({variable.sum():,})"),
    )
    for mine, color, name in groups:
        if mine.any():  # points as pixels: sixty thousand of them as SVG would be a heavy page
            ax.scatter(
                mean[mine], dispersion[mine], s=9, color=color, alpha=0.6, linewidths=0, label=name, rasterized=True
            )
    if drawn.any():
        ticks = _log_ticks(float(mean[drawn].min()), float(mean[drawn].max()), whole=False)
        ax.set_xticks(ticks, [f"{t:,.10g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("mean count per 10,000, over the training cells")
    ax.set_ylabel(VARIABILITY[facts["flavor"]])
    if drawn.any():
        ax.legend(loc="upper left", fontsize=9, handletextpad=0.2)
    else:
        ax.text(0.5, 0.5, "No gene varies.", transform=ax.transAxes, ha="center", color=GREY)
    silent = len(genes) - int(drawn.sum())
    ax.set_title(f"{len(genes):,} genes over {facts['train_cells']:,} training cells")
    if silent:
        note = f"not shown: {silent:,} genes without a value"
        ax.annotate(note, (1, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="right", color=GREY)
    top = [i for i in gene_files.variable_columns(genes, GENES_NAMED) if drawn[i]]
    symbols = genes["gene_symbol"].where(genes["gene_symbol"].notna(), genes["gene_id"])
    _name_points(figure, ax, [(float(mean[i]), float(dispersion[i]), shown(symbols.iloc[i], 20)) for i in top])
    return figure


def _name_points(figure: Figure, ax: Axes, points: list[tuple[float, float, str]]) -> None:
    """Write names beside points, each at the first place around it where it covers no other name."""
    from matplotlib.transforms import Bbox

    if not points:
        return
    figure.draw_without_rendering()
    frame, scale = ax.get_window_extent(), figure.dpi / 72
    spots = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in ax.transData.transform([(p[0], p[1]) for p in points])]
    legend = ax.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    places = [(s * d, v) for d in (6, 16, 30, 46) for v in (0, 9, -9, 18, -18, 27, -27) for s in (1, -1)]
    for spot, (x, y, name) in zip(spots, points, strict=True):
        width, height = 6.3 * len(name) * scale, 11 * scale
        others = [s for s in spots if s is not spot]
        for dx, dy in places:
            left = (spot.x0 + spot.x1) / 2 + dx * scale - (width if dx < 0 else 0)
            box = Bbox.from_bounds(left, (spot.y0 + spot.y1) / 2 + dy * scale - height / 2, width, height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and box.count_overlaps([*taken, *others]) == 0:
                break
        else:
            dx, dy = places[0]
            box = Bbox.from_bounds(spot.x1, spot.y0, width, height)
        taken.append(box)
        far = abs(dx) > 6 or dy
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2} if far else None
        ax.annotate(
            name,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right",
            va="center",
            fontsize=9,
            arrowprops=line,
        )
