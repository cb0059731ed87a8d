"""Score against latency: every model with its spread, and the line of those that no other model beats in both."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from codir.report.colours import named, series, symbol
from codir.report.contents import Panel, ReportedModel
from codir.report.escaping import clean, for_hover, for_plotly, shortened
from codir.report.figures import Figure, axis, log_ticks
from codir.report.numbers import deviation, known, milliseconds, points, share, times

LOG_FROM = 5.0  # from this ratio of the slowest to the fastest model the axis is logarithmic
_NAME = 36
_LABELLED = 14  # up to this many models the names stand beside the points


def measured_models(panel: Panel) -> dict[str, list[ReportedModel]]:
    """Returns the models that have a score and a time, by the conditions they were measured in, most models first."""
    found = [m for m in panel.models if known(m.score) and known(m.milliseconds) and m.milliseconds > 0]
    order = Counter(model.measured for model in found)
    return {
        measured: [model for model in found if model.measured == measured]
        for measured, _ in order.most_common()
    }


def pareto(models: Sequence[ReportedModel]) -> list[ReportedModel]:
    """Returns the models that no other equals in speed and score and beats in one of them, fastest first."""
    front: list[ReportedModel] = []
    for model in sorted(models, key=lambda m: (m.milliseconds or 0.0, -(m.score or 0.0))):
        if not front or (model.score or 0.0) > (front[-1].score or 0.0):
            front.append(model)
    return front


def group_colours(models: Sequence[ReportedModel]) -> dict[str, tuple[str, str]]:
    """Returns colour and symbol of each group, in the order of their first models; the teacher is a grey star."""
    looks: dict[str, tuple[str, str]] = {}
    number = 0
    for model in models:
        if model.group in looks:
            continue
        if model.role == "teacher" and model.engine == "torch":
            looks[model.group] = (named("s0"), "star")
        else:
            looks[model.group] = (series(number), symbol(number))
            number += 1
    return looks


def latency_figures(panel: Panel, key: str) -> list[Figure]:
    """Returns one figure for each set of conditions; only times measured in the same way are drawn together.

    Args:
        panel: the models.
        key: part of the figures' ids.
    """
    looks = group_colours(panel.models)
    groups = measured_models(panel)
    return [
        _figure(models, measured, panel, looks, f"{key}-latency-{number}")
        for number, (measured, models) in enumerate(groups.items())
        if len(models) > 1 or number == 0
    ]


def _figure(
    models: list[ReportedModel],
    measured: str,
    panel: Panel,
    looks: dict[str, tuple[str, str]],
    name: str,
) -> Figure:
    metric = for_plotly(panel.metric)
    front = pareto(models)
    times_of = [model.milliseconds or 1.0 for model in models]
    logarithmic = max(times_of) / min(times_of) > LOG_FROM
    data: list[dict[str, Any]] = []
    if len(front) > 1:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [model.milliseconds for model in front],
                "y": [100 * (model.score or 0.0) for model in front],
                "line": {"shape": "hv", "color": named("edge"), "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
                "name": "not beaten (Pareto)",
            }
        )
    places = label_places(models, logarithmic)
    labelled = len(models) <= _LABELLED
    for group, (colour, shape) in looks.items():
        members = [model for model in models if model.group == group]
        if members:
            data.append(_points(members, group, colour, shape, places if labelled else None, metric))
    ends = _ends(models)
    x = axis("milliseconds per sequence" + (" (log scale)" if logarithmic else ""))
    if logarithmic:
        low, high = math.log10(min(times_of)), math.log10(max(times_of))
        x |= {"type": "log", "range": [low - 0.12 * (high - low), high + 0.16 * (high - low)]}
        x |= log_ticks(min(times_of), max(times_of))
    else:
        x |= {"range": [0, max(*(model.high or 0.0 for model in models), *times_of) * 1.16]}
    margin = max(0.14 * (ends[1] - ends[0]), 0.4)
    y = axis(f"{metric}, points", range=[ends[0] - margin, ends[1] + margin], nticks=7)
    entries = len({model.group for model in models}) + (len(front) > 1)
    return Figure(
        name=name,
        title="Score against latency" + (f": {clean(panel.task)}" if panel.task else ""),
        takeaway=_takeaway(models, front, measured),
        data=data,
        layout={
            "xaxis": x,
            "yaxis": y,
            "showlegend": not labelled,
            "legend": _below(-0.18, entries // 4 + 1),
        },
        narrow={
            "showlegend": True,
            "legend": _below(-0.22, entries),
            "margin": {"l": 48, "r": 8, "t": 8, "b": 48},
        },
        height=440 if labelled else 440 + 20 * (entries // 4 + 1),
        narrow_height=340 + 20 * entries,
    )


def _below(y: float, rows: int) -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": y,
        "yanchor": "top",
        "maxheight": 20 * rows + 20,
    }


def _points(
    members: list[ReportedModel],
    group: str,
    colour: str,
    shape: str,
    places: dict[int, str] | None,
    metric: str,
) -> dict[str, Any]:
    spreads = [deviation(model.scores) for model in members]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers" if places is None else "markers+text",
        "name": for_plotly(group, 28),
        "x": [model.milliseconds for model in members],
        "y": [100 * (model.score or 0.0) for model in members],
        "marker": {
            "color": colour,
            "symbol": shape,
            "size": 15 if shape == "star" else 12,
            "line": {"width": 1, "color": named("paper")},
        },
        "cliponaxis": False,
        "hovertext": [_hover(model, metric) for model in members],
        "hoverinfo": "text",
    }
    if places is not None:
        trace |= {
            "text": [for_plotly(model.name, _NAME) for model in members],
            "textposition": [places[id(model)] for model in members],
            "textfont": {"size": 12, "color": named("text")},
        }
    if any(known(spread) for spread in spreads):
        trace["error_y"] = {
            "type": "data",
            "array": [100 * (spread or 0.0) for spread in spreads],
            "color": colour,
            "thickness": 1.2,
            "width": 3,
        }
    if any(known(model.low) and known(model.high) for model in members):
        middles = [model.milliseconds or 0.0 for model in members]
        lows = [
            model.low if known(model.low) else middle for model, middle in zip(members, middles, strict=True)
        ]
        highs = [
            model.high if known(model.high) else middle
            for model, middle in zip(members, middles, strict=True)
        ]
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - middle) for high, middle in zip(highs, middles, strict=True)],
            "arrayminus": [max(0.0, middle - low) for low, middle in zip(lows, middles, strict=True)],
            "color": colour,
            "thickness": 1.2,
            "width": 3,
        }
    return trace


def _hover(model: ReportedModel, metric: str) -> str:
    spread = deviation(model.scores)
    lines = [f"<b>{for_hover(model.name, 80)}</b>"]
    lines.append(
        f"{metric} {points(model.score)}"
        + (f" ± {points(spread)} ({len(model.scores)} seeds)" if spread is not None else "")
    )
    time = f"{milliseconds(model.milliseconds)} ms"
    if known(model.low) and known(model.high):
        time += f" ({milliseconds(model.low)} to {milliseconds(model.high)})"
    lines.append(time + (f", {times(model.speedup)}" if known(model.speedup) else ""))
    if known(model.kept):
        lines.append(f"{share(model.kept)} of the teacher kept")
    lines.append(for_plotly(model.engine))
    return "<br>".join(lines)


def _ends(models: Sequence[ReportedModel]) -> tuple[float, float]:
    values = [
        100 * ((model.score or 0.0) + sign * (deviation(model.scores) or 0.0))
        for model in models
        for sign in (-1, 1)
    ]
    return min(values), max(values)


def label_places(models: Sequence[ReportedModel], logarithmic: bool) -> dict[int, str]:
    """Returns where each name covers the fewest points, names and lines, on a plane of 900 x 380 pixels.

    Args:
        models: with score and time.
        logarithmic: whether the axis of time is.

    Returns:
        Plotly's `textposition` by the model's `id`.
    """
    scale = math.log10 if logarithmic else float
    xs = [scale(model.milliseconds or 1.0) for model in models]
    left = min(xs) if logarithmic else 0.0
    wide = (max(xs) - left) * (1.28 if logarithmic else 1.16) or 1.0
    low, high = _ends(models)
    tall = (high - low) * 1.28 or 1.0
    spots = [
        (900 * (x - left) / wide, 380 * (100 * (model.score or 0.0) - low) / tall)
        for x, model in zip(xs, models, strict=True)
    ]
    taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in spots]
    at = {id(model): spot for model, spot in zip(models, spots, strict=True)}
    front = [at[id(model)] for model in pareto(models)]
    for (x, y), (next_x, next_y) in pairwise(front):
        taken += [(x, y - 2, next_x, y + 2), (next_x - 2, y, next_x + 2, next_y)]
    places: dict[int, str] = {}
    for model, (x, y) in sorted(zip(models, spots, strict=True), key=lambda item: item[1]):
        width = 7.0 * len(shortened(model.name, _NAME))
        boxes = {
            "top center": (x - width / 2, y + 9, x + width / 2, y + 26),
            "bottom center": (x - width / 2, y - 26, x + width / 2, y - 9),
            "middle right": (x + 10, y - 8, x + 10 + width, y + 8),
            "middle left": (x - 10 - width, y - 8, x - 10, y + 8),
            "top right": (x + 6, y + 8, x + 6 + width, y + 24),
            "bottom right": (x + 6, y - 24, x + 6 + width, y - 8),
            "top left": (x - 6 - width, y + 8, x - 6, y + 24),
            "bottom left": (x - 6 - width, y - 24, x - 6, y - 8),
        }
        best = min(boxes, key=lambda place: _covered(boxes[place], taken))
        places[id(model)] = best
        taken.append(boxes[best])
    return places


def _covered(box: tuple[float, float, float, float], taken: list[tuple[float, float, float, float]]) -> float:
    covered = 3000.0 * ((box[0] < -20) + (box[2] > 930))
    for other in taken:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0:
            covered += width * height
    return covered


def _takeaway(models: list[ReportedModel], front: list[ReportedModel], measured: str) -> str:
    fastest, best = front[0], front[-1]
    if len(models) == 1:
        text = (
            f"{_name(best)}: {points(best.score)} points in {milliseconds(best.milliseconds)} ms a sequence."
        )
    elif fastest is best:
        text = f"Best and fastest of {len(models)}: {_name(best)}."
    else:
        text = (
            f"Highest score: {_name(best)} ({points(best.score)}). Fastest: {_name(fastest)} "
            f"({milliseconds(fastest.milliseconds)} ms, {points(fastest.score)})."
        )
        if len(front) < len(models):
            text += f" The dotted line joins the {len(front)} of {len(models)} models that no other beats in both."
    return text + (f" Measured: {clean(measured).rstrip('.')}." if measured else "")


def _name(model: ReportedModel) -> str:
    return shortened(model.name, 40) or "a model without a name"
