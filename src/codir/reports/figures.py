"""A figure of the page: plotly traces with named colours, a takeaway in a sentence, and another dress for phones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codir.errors import ConfigError
from codir.reports.colours import named
from codir.reports.escaping import safe_json

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: its id on the page.
        title: a few words above it.
        takeaway: what it shows, in one sentence; also its text for those who cannot see it.
        data: plotly traces; colours are `var(--name)` of `colours.py`.
        layout: plotly layout.
        narrow: keys of the layout that differ on a narrow screen; `mode` (of all traces that have `text` beside their
            markers) is changed to markers there.
        height, narrow_height: in CSS pixels.
        wide: takes the page's whole width; others stand side by side where there is room.
    """

    name: str
    title: str
    takeaway: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    narrow: dict[str, Any] = field(default_factory=dict)
    height: int = 420
    narrow_height: int = 380
    wide: bool = True

    def json(self) -> str:
        """Returns traces and layout as JSON that can stand in a script element, checked by plotly, arrays in base64.

        Raises:
            ConfigError: plotly is not installed.
        """
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise ConfigError('The report needs plotly: pip install "codir[report]"') from error
        drawn = go.Figure(
            data=list(self.data), layout={**base_layout(), **self.layout, "height": self.height}
        )
        small = go.Figure(layout={**self.narrow, "height": self.narrow_height, "template": "none"})
        value = {**json.loads(drawn.to_json() or ""), "narrow": json.loads(small.to_json() or "")["layout"]}
        for layout in (value["layout"], value["narrow"]):
            del layout["template"]
        return safe_json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def base_layout() -> dict[str, Any]:
    """Returns what all figures share: no paper, quiet grid, closest point on hovering."""
    return {
        "template": "none",
        "autosize": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": named("text")},
        "hoverlabel": {
            "bgcolor": named("card"),
            "bordercolor": named("edge"),
            "font": {"color": named("text"), "family": FONT, "size": 13},
            "align": "left",
            "namelength": -1,
        },
        "hovermode": "closest",
        "dragmode": "zoom",
        "margin": {"l": 60, "r": 16, "t": 12, "b": 48},
        "showlegend": False,
        "legend": legend(),
    }


def legend() -> dict[str, Any]:
    """Returns a legend below the figure."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": -0.16,
        "yanchor": "top",
        "bgcolor": "rgba(0,0,0,0)",
        "font": {"color": named("text"), "size": 13},
        "itemsizing": "constant",
    }


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """Returns an axis with a quiet grid and no zero line, unless `settings` say otherwise."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": named("soft")}},
        "gridcolor": named("rule"),
        "linecolor": named("edge"),
        "tickfont": {"size": 12, "color": named("soft")},
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        **settings,
    }


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Returns the ticks 1, 2, 5, 10, ... of a logarithmic axis from `low` to `high`, written out."""
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
    ]
    ticks = [tick for tick in ticks if low / 2 <= tick <= high * 2]
    if len(ticks) > 12:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def floats(values: Any) -> np.ndarray:
    """Returns `values` as float32, which plotly embeds in base64 (four bytes a number)."""
    return np.asarray(values, dtype=np.float32)
