"""Score against latency: every model with its spread, and the line of those that no other model beats in both."""

from __future__ import annotations

import math
from typing import Any

from codir.reports.colours import named
from codir.reports.contents import Panel, ReportedModel
from codir.reports.escaping import clean, for_hover, for_plotly, shortened
from codir.reports.figures import Figure, axis, log_ticks
from codir.reports.headline import leaders, together
from codir.reports.numbers import deviation, known, milliseconds, points, share, spread, times
from codir.reports.pareto import measured_models, pareto
from codir.reports.point_names import NAME, TEACHER, Looks, group_looks, label_places, score_ends, symbol_of

LOG_FROM = 5.0  # from this ratio of the slowest to the fastest model the axis is logarithmic


def latency_figures(panel: Panel, key: str, looks: Looks | None = None) -> list[Figure]:
    """Returns one figure for each set of conditions; only times measured in the same way are drawn together.

    Args:
        panel: the models.
        key: part of the figures' ids.
        looks: of the whole page (`page_looks`); by default of this panel alone.
    """
    looks = looks or group_looks(panel.models)
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
    looks: Looks,
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
    all_named = len(places) == len(models)
    for group, (colour, _) in looks.items():
        # students first: the legend shows the first one's shape
        members = sorted(
            (model for model in models if model.group == group), key=lambda model: model.role == "teacher"
        )
        if members:
            shapes = [symbol_of(model, looks) for model in members]
            data.append(_points(members, group, colour, shapes, places, metric))
    ends = score_ends(models)
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
        title="Score against latency" + (f": {clean(panel.shown)}" if panel.task else ""),
        takeaway=_takeaway(models, front, panel, measured) + _without_score(panel, measured),
        data=data,
        layout={
            "xaxis": x,
            "yaxis": y,
            "showlegend": not all_named,
            "legend": _below(-0.18, entries // 4 + 1),
        },
        narrow={
            "showlegend": True,
            "legend": _below(-0.22, entries),
            "margin": {"l": 48, "r": 8, "t": 8, "b": 48},
        },
        height=440 if all_named else 440 + 20 * (entries // 4 + 1),
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
    shapes: list[str],
    places: dict[int, str],
    metric: str,
) -> dict[str, Any]:
    spreads = [spread(model) for model in members]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "name": for_plotly(group, 28),
        "x": [model.milliseconds for model in members],
        "y": [100 * (model.score or 0.0) for model in members],
        "marker": {
            "color": colour,
            "symbol": shapes,
            "size": [15 if shape == TEACHER else 12 for shape in shapes],
            "opacity": 1,  # with sizes in a list plotly takes the points for bubbles, half transparent
            "line": {"width": 1, "color": named("paper")},
        },
        "cliponaxis": False,
        "hovertext": [_hover(model, metric) for model in members],
        "hoverinfo": "text",
        "text": [for_plotly(model.name, NAME) if id(model) in places else "" for model in members],
        "textposition": [places.get(id(model), "top center") for model in members],
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
    seeds = deviation(model.scores)
    lines = [f"<b>{for_hover(model.name, 80)}</b>"]
    lines.append(
        f"{metric} {points(model.score)}"
        + (f" ± {points(seeds)} ({len(model.scores)} seeds)" if seeds is not None else "")
        + (f" ± {points(model.error)} ({model.examples} examples)" if seeds is None and model.error else "")
    )
    time = f"{milliseconds(model.milliseconds)} ms"
    if known(model.low) and known(model.high):
        time += f" ({milliseconds(model.low)} to {milliseconds(model.high)})"
    lines.append(time + (f", {times(model.speedup)}" if known(model.speedup) else ""))
    if known(model.kept):
        lines.append(f"{share(model.kept)} of the teacher kept")
    lines.append(for_plotly(model.engine))
    return "<br>".join(lines)


def _takeaway(models: list[ReportedModel], front: list[ReportedModel], panel: Panel, measured: str) -> str:
    fastest, best = front[0], front[-1]
    first = [_name(model) for model in leaders(models)]
    if len(models) == 1:
        text = (
            f"{_name(best)}: {points(best.score)} points in {milliseconds(best.milliseconds)} ms a sequence."
        )
    elif (students := _of_one_time(models)) is not None:
        ahead = leaders(students)
        top, several = ahead[0], together([_name(model) for model in ahead])
        text = (
            f"All {len(students)} students take {milliseconds(top.milliseconds)} ms: they have one shape. "
            + (
                f"The highest of them is {several} ({points(top.score)})"
                if len(ahead) == 1
                else f"None is ahead: {several} have the same score ({points(top.score)})"
            )
        )
        text += f"; {_name(best)} has {points(best.score)}." if best.role == "teacher" else "."
    elif len(first) > 1:
        text = f"None is ahead: {together(first)} have the same score ({points(best.score)}). "
        text += (
            f"Fastest: {_name(fastest)} ({milliseconds(fastest.milliseconds)} ms, {points(fastest.score)})."
        )
    elif fastest is best:
        text = f"Highest score and least time of the {len(models)} measured: {_name(best)} ({points(best.score)})."
    else:
        text = (
            f"Highest score: {_name(best)} ({points(best.score)}). Fastest: {_name(fastest)} "
            f"({milliseconds(fastest.milliseconds)} ms, {points(fastest.score)})."
        )
        if len(front) < len(models):
            text += f" The dotted line joins the {len(front)} of {len(models)} models that no other beats in both."
    if len(models) > 1:
        text += _how_sure(best, models, panel) + _whiskers(models)
    return text + (f" Measured: {clean(measured).rstrip('.')}." if measured else "")


def _of_one_time(models: list[ReportedModel]) -> list[ReportedModel] | None:
    """Returns the students if there are several and all have the same time."""
    students = [model for model in models if model.role != "teacher"]
    times = {model.milliseconds for model in students}
    return students if len(students) > 1 and len(times) == 1 else None


def _how_sure(best: ReportedModel, models: list[ReportedModel], panel: Panel) -> str:
    """Says what the lead of the best model over the next one is worth, where anything is known of that."""
    second = max((model for model in models if model is not best), key=lambda model: model.score or 0.0)
    lead = (best.score or 0.0) - (second.score or 0.0)
    if points(best.score) == points(second.score):
        return ""  # said already
    test = next((each for each in panel.tests if each.names == {best.name, second.name}), None)
    over = f"The lead of {points(lead)} points over {_name(second)}"
    if test is not None:
        what = "is more than chance on these examples explains" if test.significant else "is within noise"
        return f" {over} {what} ({clean(test.words)})."
    if len(best.scores) > 1 or len(second.scores) > 1:
        return ""  # the paired differences say it
    errors = [spread(model) for model in (best, second)]
    if all(known(error) for error in errors):
        # the two are of the same examples, so this is a careful bound, no test
        wide = math.hypot(*(error for error in errors if known(error)))
        return f" {over} is within the whiskers." if lead < wide else ""
    return f" {over} is that of one run each: no test says whether it is more than noise."


def _whiskers(models: list[ReportedModel]) -> str:
    """Explains the upright whiskers of single runs."""
    many = {model.examples for model in models if not model.scores and known(model.error)}
    if not many:
        return ""
    counts = " or ".join(f"{number:,}" for number in sorted(number or 0 for number in many))
    return f" Upright whiskers: one standard error of an accuracy on {counts} examples."


def _without_score(panel: Panel, measured: str) -> str:
    """Says how many models have a time, but no score to draw them at (an export that nobody has judged)."""
    timed = [model for model in panel.models if known(model.milliseconds) and model.measured == measured]
    many = sum(not known(model.score) for model in timed)
    if not many:
        return ""
    return f" {many} more {'has' if many == 1 else 'have'} a time but no score: they are in the table only."


def _name(model: ReportedModel) -> str:
    return shortened(model.name, 40) or "a model without a name"
