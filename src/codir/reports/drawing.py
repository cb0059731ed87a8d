"""Figures of matplotlib that need no screen, and files of them that are the same each time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from codir.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches; raises `ConfigError` if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('The pictures need matplotlib: pip install "codir[plots]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: no window, no global state
    return figure


def rendered(figure: Figure, dpi: int = 150) -> dict[str, bytes]:
    """Returns the figure as PNG and SVG, by format; the same figure gives the same bytes."""
    import matplotlib

    files = {}
    with matplotlib.rc_context({"svg.hashsalt": "codir"}):
        for form in FORMATS:
            file = io.BytesIO()
            figure.savefig(file, format=form, dpi=dpi, metadata={"Date": None} if form == "svg" else None)
            files[form] = file.getvalue()
    return files


def plain(text: str) -> str:
    """Returns text on one line in which matplotlib reads no mathematics."""
    return " ".join(text.split()).replace("$", r"\$")
