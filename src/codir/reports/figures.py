"""A figure of the page: plotly traces with named colours, a sentence that says what it shows, a form for phones.

Styles and figures name colours (`var(--accent)`), so that one switch changes both to dark. Every text colour has a
contrast of at least 4.5 to 1 against `paper` and `card`, every line or marker at least 3 to 1 (WCAG 2.2, AA).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codir.reports.text import for_script

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
COLOURS = {  # in light, in dark
    "paper": ("#ffffff", "#12161c"),
    "card": ("#f6f7f9", "#1b2129"),
    "text": ("#1b1f24", "#e8ebef"),
    "soft": ("#57606a", "#a7b0bb"),
    "rule": ("#dfe3e8", "#303843"),
    "edge": ("#868e98", "#76808c"),
    "accent": ("#0b5cad", "#6cb2f7"),
    "accent-soft": ("#e3eefa", "#182c42"),
    "on-accent": ("#ffffff", "#0d1117"),
    "good": ("#116329", "#6fd08c"),
    "bad": ("#a40e26", "#ff8f8f"),
    "warn": ("#7a4b00", "#f0c060"),
    "warn-soft": ("#fff4d6", "#33270f"),
    "mark": ("#ffe58a", "#7a5c00"),
    "on-mark": ("#1b1f24", "#ffffff"),
    "s0": ("#5b636d", "#aab3bd"),
    "s1": ("#0b5cad", "#6cb2f7"),
    "s2": ("#c2410c", "#ff9a62"),
    "s3": ("#0f7a55", "#4fc99a"),
    "s4": ("#9b3f9b", "#dc96dc"),
    "s5": ("#8a6a00", "#d9b948"),
    "s6": ("#0e7c8c", "#56c5d4"),
    "s7": ("#b3245c", "#f78fb3"),
    "s8": ("#5a4fcf", "#a9a0ff"),
}
SERIES = 8
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "pentagon", "hexagon"]
# Viridis (Smith and van der Walt, 2015): even steps from dark to light, for every colour vision.
VIRIDIS = [
    *("#440154", "#482878", "#3e4a89", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"),
]
SCALE = [[number / (len(VIRIDIS) - 1), colour] for number, colour in enumerate(VIRIDIS)]
_PRINTED = 14  # up to so many rows or columns the values stand in the squares
Trace = dict[str, Any]


def named(name: str) -> str:
    """Returns the style sheet's reference to a colour."""
    return f"var(--{name})"


def series(number: int) -> str:
    """Returns the colour of the series `number`; after eight they come again, with other symbols or dashes."""
    return named(f"s{number % SERIES + 1}")


@dataclass(frozen=True)
class Figure:
    """One figure; its name is its id on the page."""

    name: str
    title: str
    takeaway: str  # what it shows, in one sentence; also its text for those who cannot see it
    data: Sequence[Trace]
    layout: dict[str, Any]
    # keys of the layout that differ on a narrow screen, where names beside points go, too
    narrow: dict[str, Any] = field(default_factory=dict)
    height: int = 420
    narrow_height: int = 0  # on a narrow screen, where it is another one
    wide: bool = True  # it takes the page's whole width; others stand side by side where there is room
    # what its buttons hide: (name, colour or shape) by group; a trace's `meta` says where it belongs
    switches: Sequence[Sequence[tuple[str, str]]] = ()

    @property
    def low(self) -> int:
        """The height on a narrow screen."""
        return self.narrow_height or self.height

    def json(self) -> str:
        """Returns traces and layout as JSON for a script element, checked by plotly, arrays in base64."""
        import plotly.graph_objects as go

        drawn = go.Figure(list(self.data), {**_BASE, **self.layout, "height": self.height})
        small = go.Figure(layout={**self.narrow, "height": self.low, "template": "none"})
        value = {**json.loads(drawn.to_json() or ""), "narrow": json.loads(small.to_json() or "")["layout"]}
        for layout in (value["layout"], value["narrow"]):
            del layout["template"]
        return for_script(value)


def legend(y: float = -0.16, **more: Any) -> dict[str, Any]:
    """Returns the settings of a legend below the figure."""
    font = {"color": named("text"), "size": 13}
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": y, "yanchor": "top"}
    return {**place, "bgcolor": "rgba(0,0,0,0)", "font": font, "itemsizing": "constant", **more}


def margin(left: int = 52, right: int = 8, top: int = 8, bottom: int = 48) -> dict[str, int]:
    """Returns the room around a plot, in pixels."""
    return {"l": left, "r": right, "t": top, "b": bottom}


_FONT = {"family": FONT, "size": 13, "color": named("text")}
_BASE: dict[str, Any] = {
    "template": "none",
    "autosize": True,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": _FONT,
    "hoverlabel": {
        **{"bgcolor": named("card"), "bordercolor": named("edge"), "font": _FONT},
        **{"align": "left", "namelength": -1},
    },
    "hovermode": "closest",
    "dragmode": "zoom",
    "margin": margin(60, 16, 12, 48),
    "showlegend": False,
    "legend": legend(),
}


def axis(title: str = "", log: Sequence[float] = (), **settings: Any) -> dict[str, Any]:
    """Returns an axis with a quiet grid and no zero line, unless `settings` say otherwise.

    With `log`, the values along it, it is logarithmic and the ticks 1, 2, 5, 10, ... are written out.
    """
    if log:
        low, high = min(log), max(log)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1,)):
            ticks = [digit * 10.0**power for power in powers for digit in digits]
            ticks = [tick for tick in ticks if low / 2 <= tick <= high * 2]
            if len(ticks) <= 12:
                break
        title += " (log scale)"
        settings = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks], **settings}
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": named("soft")}},
        "gridcolor": named("rule"),
        "linecolor": named("edge"),
        "tickfont": {"size": 12, "color": named("soft")},
        **{"zeroline": False, "showline": False, "ticks": "", "automargin": True, **settings},
    }


def dots(x: Any, y: Any, marker: dict[str, Any], **more: Any) -> Trace:
    """Returns a trace of markers; hovering says `hovertext`."""
    hover = {"hoverinfo": "text"} if "hovertext" in more else {}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker, **hover, **more}


def line(x: Any, y: Any, look: dict[str, Any], **more: Any) -> Trace:
    """Returns a trace that is a line, of which hovering says nothing unless `more` does."""
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": look, "hoverinfo": "skip", **more}


def whiskers(array: Sequence[float], colour: str, low: Sequence[float] | None = None) -> dict[str, Any]:
    """Returns error bars, as long to both sides unless `low` says how long to the left."""
    sides = {} if low is None else {"symmetric": False, "arrayminus": list(low)}
    return {"type": "data", "array": list(array), "color": colour, "thickness": 1.2, "width": 3, **sides}


def squares(
    values: np.ndarray, ends: tuple[float, float], x: Sequence[Any], y: Sequence[Any], texts: Any, **more: Any
) -> list[Trace]:
    """Returns a heat map of [rows, columns] values from `ends[0]` to `ends[1]`, and a trace with the texts in it.

    Each text has the ink that can be read on its square; of large maps none are written.
    """
    low, high = ends
    look = {"colorscale": SCALE, "showscale": False, "xgap": 2, "ygap": 2, "zmin": low, "zmax": high}
    traces: list[Trace] = [{"type": "heatmap", "z": floats(values), "x": x, "y": y, **look, **more}]
    if max(len(x), len(y)) <= _PRINTED:
        cells = [(row, column) for row in range(len(y)) for column in range(len(x)) if texts[row][column]]
        inks = [ink_on(colour_at(float((values[cell] - low) / (high - low)))) for cell in cells]
        across, down = [x[column] for _, column in cells], [y[row] for row, _ in cells]
        printed = {"mode": "text", "text": [texts[row][column] for row, column in cells], "hoverinfo": "skip"}
        traces.append({"type": "scatter", "x": across, "y": down, "textfont": {"color": inks}, **printed})
    return traces


def colour_at(part: float) -> str:
    """Returns the scale's colour at `part`, 0..1, mixed as plotly does."""
    channels = np.array([_channels(colour) for colour in VIRIDIS])
    mixed = [np.interp(part, np.linspace(0, 1, len(VIRIDIS)), channel) for channel in channels.T]
    return "#" + "".join(f"{round(float(value)):02x}" for value in mixed)


def ink_on(colour: str) -> str:
    """Returns black or white, whichever is read better on `#rrggbb` (WCAG's luminance): at least 4.5 to 1."""
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return "#000000" if 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] > 0.179 else "#ffffff"


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def floats(values: Any) -> np.ndarray:
    """Returns values as float32, which plotly embeds in base64 (four bytes a number)."""
    return np.asarray(values, dtype=np.float32)
