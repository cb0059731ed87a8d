"""The page's figures as pictures for papers and slides: PNG and SVG, on white, by matplotlib.

A figure is drawn from the same plotly traces as on the page, of which a few kinds are known here: lines, markers with
names and whiskers, heat maps with texts in them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from codir.errors import RunError
from codir.files import write_bytes
from codir.reports.drawing import new_figure, plain, rendered
from codir.reports.figures import COLOURS, VIRIDIS, Figure
from codir.reports.page import all_figures
from codir.reports.values import Report

_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "x": "X",
    "star": "*",
}
_MARKERS |= {"triangle-down": "v", "pentagon": "p", "hexagon": "h", "cross-thin": "+"}
_DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}


def write_images(report: Report, folder: Path) -> list[Path]:
    """Writes every figure of the page into `folder`, as `NAME.png` and `NAME.svg`, and returns the files.

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    written = []
    for figure in all_figures(report)[2]:
        for form, content in rendered(_drawn(figure), dpi=200).items():
            path = folder / f"{figure.name}.{form}"
            try:
                write_bytes(path, content)
            except OSError as error:
                why = error.strerror or error
                raise RunError(f"Cannot write the picture {path}: {why}. Choose another --images.") from error
            written.append(path)
    return written


def _drawn(figure: Figure) -> Any:
    drawn = new_figure(7.2 if figure.wide else 5.6, 0.0095 * figure.height)
    axes = drawn.subplots()
    for trace in figure.data:
        if trace["type"] == "heatmap":
            low, high = trace["zmin"], trace["zmax"]
            axes.pcolormesh(np.asarray(trace["z"]), cmap=_viridis(), vmin=low, vmax=high, edgecolors="white")
            for which in "xy":
                names = figure.layout[f"{which}axis"].get("ticktext", trace[which])
                ticks = np.arange(len(names)) + 0.5
                getattr(axes, f"set_{which}ticks")(ticks, [plain(_words(each)) for each in names])
        else:
            _draw(axes, trace, squares=figure.data[0])
    for shape in figure.layout.get("shapes", ()):
        axes.axvline(
            shape["x0"], color=_colour(shape["line"]["color"]), linestyle=_DASHES[shape["line"]["dash"]], lw=1
        )
    for which in "xy":
        settings = figure.layout[f"{which}axis"]
        getattr(axes, f"set_{which}label")(plain(_words(settings["title"]["text"])))
        ends = settings.get("range")
        if settings.get("type") == "log":
            getattr(axes, f"set_{which}scale")("log")
            getattr(axes, f"set_{which}ticks")([], minor=True)
            ends = [10**end for end in ends] if ends else None
        if "tickvals" in settings and figure.data[0]["type"] != "heatmap":
            names = [plain(_words(each)) for each in settings["ticktext"]]
            getattr(axes, f"set_{which}ticks")(settings["tickvals"], names)
        if ends:
            getattr(axes, f"set_{which}lim")(ends)
        if settings.get("autorange") == "reversed":
            axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(plain(figure.title)[:100], fontsize=9)
    if figure.layout.get("showlegend"):
        axes.legend(fontsize=7.5, frameon=False)
    return drawn


def _draw(axes: Any, trace: dict[str, Any], squares: dict[str, Any]) -> None:
    x, y, mode = trace["x"], trace["y"], trace["mode"]
    if mode == "text":  # in the squares of a heat map
        for left, down, text, ink in zip(x, y, trace["text"], trace["textfont"]["color"], strict=True):
            place = list(squares["x"]).index(left) + 0.5, list(squares["y"]).index(down) + 0.5
            axes.text(*place, _words(text), ha="center", va="center", fontsize=7, color=ink)
        return
    name = plain(_words(trace.get("name", "")))[:60] if trace.get("showlegend", True) else None
    if "lines" in mode:
        look = trace["line"]
        steps = {"drawstyle": "steps-post"} if look.get("shape") == "hv" else {}
        axes.plot(
            x,
            y,
            color=_colour(look["color"]),
            lw=look["width"],
            linestyle=_DASHES[look.get("dash", "solid")],
            label=name,
            **steps,
        )
        return
    marker, rim = trace["marker"], trace["marker"].get("line", {})
    given = (
        marker["color"],
        marker.get("symbol", "circle"),
        marker["size"],
        rim.get("color", marker["color"]),
    )
    looks = [tuple(_one(each, number) for each in given) for number in range(len(x))]
    for look in dict.fromkeys(looks):
        chosen = [number for number, each in enumerate(looks) if each == look]
        colour, shape, size, edge = look
        bars = {}
        for key, wanted in (("error_x", "xerr"), ("error_y", "yerr")):
            if key in trace:
                sides = trace[key].get("arrayminus", trace[key]["array"]), trace[key]["array"]
                bars[wanted] = [[side[number] for number in chosen] for side in sides]
        drawn = {
            "color": _colour(colour),
            "markeredgecolor": _colour(edge),
            "alpha": marker.get("opacity", 1),
        }
        drawn |= {"marker": _MARKERS[shape], "markersize": 0.6 * size, "linestyle": "none", "capsize": 2}
        places = [[values[number] for number in chosen] for values in (x, y)]
        axes.errorbar(*places, **bars, **drawn, label=name if look == looks[0] else None)
    for number, text in enumerate(trace["text"] if mode == "markers+text" else ()):
        if text:
            vertical, _, side = trace["textposition"][number].partition(" ")
            across, ha = {"left": (-7, "right"), "center": (0, "center"), "right": (7, "left")}[side]
            above, va = {"top": (6, "bottom"), "middle": (0, "center"), "bottom": (-6, "top")}[vertical]
            beside = {"textcoords": "offset points", "fontsize": 8, "ha": ha, "va": va}
            axes.annotate(plain(_words(text)), (x[number], y[number]), (across, above), **beside)


def _one(value: Any, number: int) -> Any:
    return value[number] if isinstance(value, list) else value


def _colour(name: str) -> str:
    return COLOURS[name.removeprefix("var(--").removesuffix(")")][0] if name.startswith("var") else name


def _words(text: Any) -> str:
    plainer = re.sub(r"</?b>", "", str(text).replace("<br>", "\n"))
    return plainer.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _viridis() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("codir", VIRIDIS)
