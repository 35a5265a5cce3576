"""The UMAP of the report: the same cells by label, by batch and by split."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellmill.report.drawing import GREY, LABEL_COLORS, PALE, SPLIT_COLORS, new_figure, shown
from cellmill.report.sample import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

File = str | PathLike[str]

UMAP_CELLS = 20_000
"""At most so many cells in the UMAP."""
UMAP_NEIGHBORS = 15
UMAP_EPOCHS = 200
COMPILED = ("smooth_knn_dist", "compute_membership_strengths", "_nb_optimize_layout_euclidean_single_epoch")
NAMES_SHOWN = len(LABEL_COLORS)
PANELS_PER_ROW = 2


def draw_umap(
    processed: Sequence[File],
    embedding: Sequence[File],
    *,
    label: str | None,
    batch: str | None,
    splits: Sequence[str],
) -> Figure:
    """The UMAP, or words on why there is none.

    Memory: the obs table of one part, and twice ``UMAP_CELLS`` vectors.
    """
    if not embedding:
        return _words("There is no UMAP: this dataset has no embedding.\nList one under 'embedders:' in its file.")
    columns = list(dict.fromkeys(column for column in (label, batch) if column is not None))
    drawn = draw(processed, embedding, columns=[*columns, "split"], cells=UMAP_CELLS)
    sample = drawn.samples[None]
    n = len(sample.vectors)
    if n < 3:
        return _words(f"There is no UMAP of {n} cell{'' if n == 1 else 's'}.")
    layout = layout_of(sample.vectors)
    panels = [(f"by {shown(c)}", groups_of(sample.columns[c], drawn.names[c])) for c in columns]
    panels.append(("by split", _splits(sample.columns["split"], splits)))
    width = min(PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // width)
    figure = new_figure(6.6 * width, 5.2 * rows)
    axes = figure.subplots(rows, width, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    size = float(np.clip(9_000 / n, 1.5, 26))
    for ax, (title, groups) in zip(axes, panels, strict=False):
        _points(ax, layout, groups, size)
        ax.set_title(title)
    of = "" if n == drawn.kept else f" of {drawn.kept:,}, chosen by a hash of their ids"
    figure.supxlabel(f"UMAP of {n:,} cells{of}, from '{Path(embedding[0]).parent.name}'", fontsize=9, color=GREY)
    return figure


def _words(text: str) -> Figure:
    figure = new_figure(10, 2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=GREY, linespacing=1.6)
    return figure


def layout_of(vectors: np.ndarray) -> np.ndarray:
    """UMAP coordinates (cells, 2) of vectors (cells, dimensions); one thread, so that they are always the same.

    Exact neighbours by scikit-learn: umap-learn's own search compiles for 40 s before it finds the first.
    """
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ImportWarning)  # umap without tensorflow
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")  # we transform no further cells
        from umap import UMAP

        _keep_compiled()
        n_neighbors = min(UMAP_NEIGHBORS, len(vectors) - 1)
        with threadpool_limits(1):
            search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(vectors)
            distances, neighbors = search.kneighbors(vectors)
            model = UMAP(
                n_neighbors=n_neighbors,
                n_epochs=UMAP_EPOCHS,
                init=_start(vectors),
                precomputed_knn=(neighbors.astype(np.int32), distances.astype(np.float32)),
                random_state=0,
                n_jobs=1,
            )
            layout: np.ndarray = model.fit_transform(vectors)
    return layout


def compiled_functions() -> dict[str, Any]:
    """The functions of umap-learn that a layout needs compiled, by name; without those that its version has not."""
    from umap import layouts, umap_

    found = {**vars(umap_), **vars(layouts)}
    return {name: found[name] for name in COMPILED if name in found}


def _keep_compiled() -> None:
    """umap-learn compiles its functions anew in each process, for 10 s: numba shall keep them, as it keeps ours."""
    for function in compiled_functions().values():
        with suppress(RuntimeError):  # no folder can be written: compiled they are all the same
            function.enable_caching()


def _start(vectors: np.ndarray) -> np.ndarray:
    """Where the layout begins: the two leading principal components, a little shaken so that no cells coincide."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centered.T @ centered)
    leading = directions[:, ::-1][:, :2]
    leading = leading * np.where(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])] < 0, -1.0, 1.0)
    start = np.zeros((len(vectors), 2))
    start[:, : leading.shape[1]] = centered @ leading
    start *= 10 / max(float(np.abs(start).max()), 1e-12)
    shaken: np.ndarray = (start + np.random.default_rng(0).normal(scale=1e-4, size=start.shape)).astype(np.float32)
    return shaken


class _Group(NamedTuple):
    """Points of one colour."""

    name: str
    rows: np.ndarray
    color: str
    number: int | None = None


def groups_of(values: np.ndarray, names: list[str]) -> list[_Group]:
    """The most frequent values in colours of their own and with numbers; the rest, and cells without one, in grey.

    Args:
        values: strings, object (n,); None where a cell has none.
        names: all of them, the most frequent first.
    """
    missing = np.array([value is None for value in values], bool)
    leading, rest = names[:NAMES_SHOWN], names[NAMES_SHOWN:]
    groups = []
    if rest:
        others = ~missing & ~np.isin(values.astype(str), leading)
        groups.append(_Group(f"other ({len(rest)})", np.flatnonzero(others), GREY))
    if missing.any():
        groups.append(_Group("none", np.flatnonzero(missing), PALE))
    for number, name in enumerate(leading, 1):
        rows = np.flatnonzero(~missing & (values == name))
        groups.append(_Group(f"{number}  {shown(name)}", rows, LABEL_COLORS[number - 1], number))
    return groups


def _splits(values: np.ndarray, splits: Sequence[str]) -> list[_Group]:
    colors = [SPLIT_COLORS[i % len(SPLIT_COLORS)] for i in range(len(splits))]
    return [_Group(s, np.flatnonzero(values == s), c) for s, c in zip(splits, colors, strict=True)]


def _points(ax: Axes, layout: np.ndarray, groups: list[_Group], size: float) -> None:
    """All points in one go, in hash order, so that no group hides another."""
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    colors = np.tile(np.array(to_rgb(PALE)), (len(layout), 1))
    for group in groups:
        colors[group.rows] = to_rgb(group.color)
    ax.scatter(layout[:, 0], layout[:, 1], s=size, c=colors, linewidths=0)
    ax.set_aspect("equal", "datalim")
    ax.set_axis_off()
    numbers: list[np.ndarray] = []
    apart = 0.045 * float(np.ptp(layout, axis=0).max())
    for group in groups:
        if group.number is not None and len(group.rows):
            numbers.append(_middle(layout[group.rows], numbers, apart))
            x, y = numbers[-1]
            effects = [withStroke(linewidth=2.5, foreground="white")]
            ax.text(x, y, str(group.number), ha="center", va="center", weight="bold", path_effects=effects)
    grey_last = sorted(groups, key=lambda g: g.color in (GREY, PALE))
    handles = [Line2D([], [], marker="o", linestyle="", color=g.color, label=g.name) for g in grey_last]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, handletextpad=0.1, labelspacing=0.45
    )


def _middle(points: np.ndarray, taken: list[np.ndarray], apart: float) -> np.ndarray:
    """The cell nearest the medians that is ``apart`` from all taken places, where there is one."""
    order = np.argsort(np.abs(points - np.median(points, axis=0)).sum(axis=1), kind="stable")
    for row in order:
        if all(np.hypot(*(points[row] - place)) >= apart for place in taken):
            break
    else:
        row = order[0]
    place: np.ndarray = points[row]
    return place
