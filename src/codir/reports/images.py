"""The page's figures as pictures for papers and slides: PNG and SVG, on white, by matplotlib.

A figure is drawn from the same plotly traces as on the page, of which a few kinds are known here: lines, markers with
names and whiskers, heat maps with texts in them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from codir.errors import ConfigError, RunError
from codir.files import write_bytes
from codir.reports.figures import COLOURS, VIRIDIS, Figure
from codir.reports.page import all_figures
from codir.reports.values import Report

_MARKERS = {
    **{"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X", "star": "*"},
    **{"triangle-down": "v", "pentagon": "p", "hexagon": "h", "cross-thin": "+"},
}
_DASHES: dict[str, Any] = {
    **{"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))},
    "longdashdot": (0, (8, 3, 1, 3)),
}
# where a name stands beside its point: points to go, and how it is aligned
_ACROSS = {"left": (-7, "right"), "center": (0, "center"), "right": (7, "left")}
_ABOVE = {"top": (6, "bottom"), "middle": (0, "center"), "bottom": (-6, "top")}


def write_images(report: Report, folder: Path) -> list[Path]:
    """Writes every figure of the page into `folder`, as `NAME.png` and `NAME.svg`, and returns the files.

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise ConfigError('The pictures need matplotlib: pip install "codir[plots]"') from error
    written = []
    for figure in all_figures(report)[2]:
        drawing = Drawing(figsize=(7.2 if figure.wide else 5.6, 0.0095 * figure.height), layout="constrained")
        FigureCanvasAgg(drawing)  # not pyplot: no window, no global state
        _draw(figure, drawing.subplots())
        for form in ("png", "svg"):
            path, file = folder / f"{figure.name}.{form}", io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": "codir"}):  # the same figure gives the same bytes
                drawing.savefig(file, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
            try:
                write_bytes(path, file.getvalue())
            except OSError as error:
                why = error.strerror or error
                raise RunError(f"Cannot write the picture {path}: {why}. Choose another --images.") from error
            written.append(path)
    return written


def _draw(figure: Figure, axes: Any) -> None:
    squares = figure.data[0] if figure.data[0]["type"] == "heatmap" else None
    for trace in figure.data:
        if trace is squares:
            from matplotlib.colors import LinearSegmentedColormap

            scale = LinearSegmentedColormap.from_list("codir", VIRIDIS)
            look = {"vmin": trace["zmin"], "vmax": trace["zmax"], "edgecolors": "white"}
            axes.pcolormesh(np.asarray(trace["z"]), cmap=scale, **look)
        elif trace["mode"] == "text" and squares is not None:
            places = zip(trace["x"], trace["y"], trace["text"], trace["textfont"]["color"], strict=True)
            for x, y, text, ink in places:
                place = list(squares["x"]).index(x) + 0.5, list(squares["y"]).index(y) + 0.5
                axes.text(*place, _words(text), ha="center", va="center", fontsize=7, color=ink)
        elif "lines" in trace["mode"]:
            look = trace["line"]
            steps = {"drawstyle": "steps-post"} if look.get("shape") == "hv" else {}
            steps |= {"label": _label(trace), "linestyle": _DASHES[look.get("dash", "solid")]}
            axes.plot(trace["x"], trace["y"], color=_colour(look["color"]), lw=look["width"], **steps)
        else:
            _draw_markers(axes, trace)
    for shape in figure.layout.get("shapes", ()):
        dash = _DASHES[shape["line"]["dash"]]
        axes.axvline(shape["x0"], color=_colour(shape["line"]["color"]), linestyle=dash, lw=1)
    for which, drawn in (("x", axes.xaxis), ("y", axes.yaxis)):
        settings = figure.layout[f"{which}axis"]
        drawn.set_label_text(_plain(settings["title"]["text"]))
        ends, names = settings.get("range"), settings.get("ticktext")
        if settings.get("type") == "log":
            axes.set(**{f"{which}scale": "log"})
            drawn.set_ticks([], minor=True)
            ends = [10**end for end in ends] if ends else None
        if squares is not None:
            names = names or squares[which]
            drawn.set_ticks(np.arange(len(names)) + 0.5, [_plain(each) for each in names])
        elif names:
            drawn.set_ticks(settings["tickvals"], [_plain(each) for each in names])
        if ends:
            axes.set(**{f"{which}lim": ends})
        if settings.get("autorange") == "reversed":
            drawn.set_inverted(True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_plain(figure.title)[:100], fontsize=9)
    if figure.layout.get("showlegend"):
        axes.legend(fontsize=7.5, frameon=False)


def _draw_markers(axes: Any, trace: dict[str, Any]) -> None:
    """Draws points with whiskers and names: those of one look in one go, else each by itself."""
    x, y, marker, label = trace["x"], trace["y"], trace["marker"], _label(trace)
    rim = marker.get("line", {}).get("color", marker["color"])
    given = [marker["color"], marker.get("symbol", "circle"), marker["size"], rim]
    rows = list(range(len(x)))
    for chosen in [[row] for row in rows] if any(isinstance(each, list) for each in given) else [rows]:
        colour, shape, size, edge = (each[chosen[0]] if isinstance(each, list) else each for each in given)
        look = {"color": _colour(colour), "markeredgecolor": _colour(edge), "marker": _MARKERS[shape]}
        look |= {
            "alpha": marker.get("opacity", 1),
            "markersize": 0.6 * size,
            "linestyle": "none",
            "capsize": 2,
        }
        for key, wanted in (("error_x", "xerr"), ("error_y", "yerr")):
            if key in trace:
                sides = trace[key].get("arrayminus", trace[key]["array"]), trace[key]["array"]
                look[wanted] = [[side[row] for row in chosen] for side in sides]
        places = [x[row] for row in chosen], [y[row] for row in chosen]
        axes.errorbar(*places, label=label if 0 in chosen else None, **look)
    for row, text in enumerate(trace["text"] if trace["mode"] == "markers+text" else ()):
        if text:
            vertical, side = trace["textposition"][row].split()
            (across, ha), (above, va) = _ACROSS[side], _ABOVE[vertical]
            beside = {"textcoords": "offset points", "fontsize": 8, "ha": ha, "va": va}
            axes.annotate(_plain(text), (x[row], y[row]), (across, above), **beside)


def _label(trace: dict[str, Any]) -> str | None:
    return _plain(trace.get("name", ""))[:60] if trace.get("showlegend", True) else None


def _colour(name: str) -> str:
    return COLOURS[name.removeprefix("var(--").removesuffix(")")][0] if name.startswith("var") else name


def _words(text: Any) -> str:
    plainer = re.sub(r"</?b>", "", str(text).replace("<br>", "\n"))
    return plainer.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _plain(text: Any) -> str:
    """Returns text on one line in which matplotlib reads no mathematics."""
    return " ".join(_words(text).split()).replace("$", r"\$")
