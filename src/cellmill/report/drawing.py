"""How figures look and how they are written: without dates, programs and the settings of this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

from cellmill.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
INK, GREY, PALE = "#222222", "#767676", "#c8c8c8"
KEPT_COLOR, DROPPED_COLOR = "#0072b2", "#d55e00"
SPLIT_COLORS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#332288", "#882255", "#999933")
# Twenty colours cannot all stay apart for everyone: the UMAP numbers its labels, too.
LABEL_COLORS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#332288", "#882255", "#117733"),
    *("#999933", "#44aa99", "#cc6677", "#aa4499", "#661100", "#88ccee", "#ddcc77", "#6699cc", "#4b0092", "#1a1a1a"),
)
RC: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a label may have a '$'
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "cellmill",
}


@contextmanager
def style() -> Iterator[None]:
    """Our settings alone: neither the user's matplotlibrc nor an earlier figure shows."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script our font does not have
        matplotlib.rcdefaults()
        for name, value in RC.items():
            matplotlib.rcParams[name] = value
        yield


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | PathLike[str], format_: str) -> None:
    """Write a figure without the date, the program's name and its version."""
    unsaid = ("Software",) if format_ == "png" else ("Date", "Creator", "Format", "Type")
    with replacing(path) as aside:
        figure.savefig(aside, format=format_, dpi=150, metadata=dict.fromkeys(unsaid))


def shown(text: object, longest: int = 30) -> str:
    """A name as it fits into a figure: printable, and cut where it is long."""
    name = "".join(c if c.isprintable() else " " for c in str(text)).strip()
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"
