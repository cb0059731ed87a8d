"""Figures of scores: against latency with the Pareto line, as dots of all seeds, as paired differences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from codir.reports import text as words
from codir.reports.figures import SYMBOLS, Figure, Trace, axis, dots, legend, line, margin, named, series, whiskers
from codir.reports.text import clean, for_hover, for_plotly, known, plural, points, shortened, together
from codir.reports.values import Difference, Model, Panel, Report, leaders

NAMED = 12  # up to so many models all are named
TEACHER = "star"
_NAME, _ROW = 36, 30  # characters of a name beside its point, and at a row
_LOG_FROM = 5.0  # from this ratio of the slowest to the fastest model the axis is logarithmic
_PLACES = ("top right", "bottom right", "bottom left", "top left")  # free of the whiskers to both sides
Looks = dict[str, tuple[str, str]]  # colour and symbol by group


def page_looks(report: Report) -> Looks:
    """Returns colour and symbol of all groups of a page: one model has one colour in all figures.

    The main student is the first; students that only have curves (of an unfinished run) come last. The teacher as it
    came is grey; teachers are stars, whatever their group.
    """
    models = [model for panel in report.panels for model in panel.models]
    first = [student for panel in report.panels[:1] if (student := panel.student) is not None]
    grey = {model.group for model in models if model.role == "teacher" and model.engine == "torch"}
    groups = [*(model.group for model in (*first, *models)), *(curve.model for curve in report.curves)]
    coloured = [group for group in dict.fromkeys(groups) if group not in grey]
    looks = {group: (series(n), SYMBOLS[n % len(SYMBOLS)]) for n, group in enumerate(coloured)}
    return {group: looks.get(group, (named("s0"), TEACHER)) for group in dict.fromkeys(groups)}


def measured_models(panel: Panel) -> dict[str, list[Model]]:
    """Returns the models that have a score and a time, by the conditions they were measured in, most models first."""
    found = [m for m in panel.models if known(m.score) and known(m.milliseconds) and m.milliseconds > 0]
    order = Counter(model.measured for model in found).most_common()
    return {measured: [model for model in found if model.measured == measured] for measured, _ in order}


def pareto(models: Sequence[Model]) -> list[Model]:
    """Returns the models that no other equals in speed and score and beats in one of them, fastest first."""
    front: list[Model] = []
    for model in sorted(models, key=lambda m: (m.milliseconds or 0.0, -m.points)):
        if not front or model.points > front[-1].points:
            front.append(model)
    return front


def latency_figures(panel: Panel, key: str, looks: Looks) -> list[Figure]:
    """Returns one figure for each set of conditions; only times measured in the same way are drawn together."""
    return [
        _latency(models, measured, panel, looks, f"{key}-latency-{number}")
        for number, (measured, models) in enumerate(measured_models(panel).items())
        if len(models) > 1 or number == 0
    ]


def _latency(models: list[Model], measured: str, panel: Panel, looks: Looks, name: str) -> Figure:
    metric, front = for_plotly(panel.metric), pareto(models)
    spans = [model.milliseconds or 1.0 for model in models]
    data: list[Trace] = []
    if len(front) > 1:
        look = {"shape": "hv", "color": named("edge"), "width": 1.5, "dash": "dot"}
        x, y = [model.milliseconds for model in front], [model.points for model in front]
        data.append(line(x, y, look, name="not beaten (Pareto)"))
    # of many models only those on the line and those in PyTorch are named; neighbours on different sides
    chosen = models if len(models) <= NAMED else [m for m in models if m in front or m.engine == "torch"]
    chosen = sorted(chosen, key=lambda m: (m.milliseconds or 0.0, m.points))[:NAMED]
    places = {id(model): _PLACES[number % len(_PLACES)] for number, model in enumerate(chosen)}
    for group, (colour, symbol) in looks.items():
        # students first: the legend shows the first one's shape
        members = sorted((m for m in models if m.group == group), key=lambda model: model.role == "teacher")
        if members:
            data.append(_group(members, colour, symbol, places, metric))
    if max(spans) / min(spans) > _LOG_FROM:
        low, high = math.log10(min(spans)), math.log10(max(spans))
        ends = [low - 0.12 * (high - low), high + 0.16 * (high - low)]
        x_axis = axis("milliseconds per sequence", spans, range=ends)
    else:
        slowest = max(*(model.high or 0.0 for model in models), *spans)
        x_axis = axis("milliseconds per sequence", range=[0, slowest * 1.16])
    heights = [model.points + sign * 100 * (model.spread or 0.0) for model in models for sign in (-1, 1)]
    air = max(0.14 * (max(heights) - min(heights)), 0.4)
    y_axis = axis(f"{metric}, points", range=[min(heights) - air, max(heights) + air], nticks=7)
    rows, all_named = len({model.group for model in models}) + (len(front) > 1), len(places) == len(models)
    below = 20 * (rows // 4 + 2)
    return Figure(
        name=name,
        title="Score against latency" + (f": {clean(panel.shown)}" if panel.task else ""),
        takeaway=_latency_takeaway(models, front, panel, measured),
        data=data,
        layout={
            "xaxis": x_axis,
            "yaxis": y_axis,
            "showlegend": not all_named,
            "legend": legend(-0.18, maxheight=below),
        },
        narrow={"showlegend": True, "legend": legend(-0.22, maxheight=20 * rows + 20), "margin": margin(48)},
        height=440 if all_named else 420 + below,
        narrow_height=340 + 20 * rows,
    )


def _marker(models: Sequence[Model], colours: Any, symbol: str) -> dict[str, Any]:
    teachers = [model.role == "teacher" for model in models]
    # with sizes in a list plotly takes the points for bubbles, half transparent, unless it is told
    look = {
        "opacity": 1,
        "line": {"width": 1, "color": named("paper")},
        "size": [15 if flag else 12 for flag in teachers],
    }
    return {"color": colours, "symbol": [TEACHER if flag else symbol for flag in teachers], **look}


def _group(members: list[Model], colour: str, symbol: str, places: dict[int, str], metric: str) -> Trace:
    x, y = [model.milliseconds or 0.0 for model in members], [model.points for model in members]
    trace = dots(x, y, _marker(members, colour, symbol), cliponaxis=False, name=for_plotly(members[0].group, 28))
    trace |= {
        "mode": "markers+text",
        "text": [for_plotly(model.name, _NAME) if id(model) in places else "" for model in members],
        "textposition": [places.get(id(model), _PLACES[0]) for model in members],
        "textfont": {"size": 12, "color": named("text")},
        "hovertext": [_hover(model, metric) for model in members],
        "hoverinfo": "text",
    }
    if any(known(model.spread) for model in members):
        trace["error_y"] = whiskers([100 * (model.spread or 0.0) for model in members], colour)
    if any(known(model.low) and known(model.high) for model in members):
        highs = [max(0.0, (model.high or 0.0) - time) for model, time in zip(members, x, strict=True)]
        lows = [max(0.0, time - (model.low or time)) for model, time in zip(members, x, strict=True)]
        trace["error_x"] = whiskers(highs, colour, lows)
    return trace


def _hover(model: Model, metric: str) -> str:
    lines = [f"<b>{for_hover(model.name, 80)}</b>", f"{metric} {points(model.score)}"]
    if known(model.spread):
        of = f"{len(model.scores)} seeds" if len(model.scores) > 1 else f"{model.examples} examples"
        lines[-1] += f" ± {points(model.spread)} ({of})"
    if known(model.milliseconds):
        time = f"{words.milliseconds(model.milliseconds)} ms"
        if known(model.low) and known(model.high):
            time += f" ({words.milliseconds(model.low)} to {words.milliseconds(model.high)})"
        lines.append(time + (f", {words.times(model.speedup)}" if known(model.speedup) else ""))
    lines += [f"{words.share(model.kept)} of the teacher kept"] if known(model.kept) else []
    return "<br>".join([*lines, for_plotly(model.engine)])


def _latency_takeaway(models: list[Model], front: list[Model], panel: Panel, measured: str) -> str:
    fastest, best, first = front[0], front[-1], leaders(models)
    if len(first) == 1 and fastest is best:
        text = f"Highest score and least time of the {len(models)} measured: {_name(best)} ({points(best.score)})."
    else:
        text = "Highest score: " if len(first) == 1 else "None is ahead, the highest score have "
        text += f"{together([_name(model) for model in first])} ({points(best.score)})."
        tied = sum(model.milliseconds == fastest.milliseconds for model in models)
        of = f", the highest of {tied} that take one time" if tied > 1 else ""
        time = words.milliseconds(fastest.milliseconds)
        text += f" Fastest: {_name(fastest)}{of} ({time} ms, {points(fastest.score)})."
        if 1 < len(front) < len(models):
            text += f" The dotted line joins the {len(front)} of {len(models)} models that no other beats in both."
    if len(models) > 1:
        second = max((model for model in models if model is not best), key=lambda model: model.points)
        lead, wide = best.points - second.points, 100 * math.hypot(best.error or 0.0, second.error or 0.0)
        single = not best.scores and not second.scores  # of seeds the paired differences say it
        if single and points(best.score) != points(second.score) and not 0 < wide <= lead:
            # the two are of the same examples, so that the whiskers are a careful bound, no test
            noise = "that of one run each: no test says whether it is more than noise"
            worth = "within the whiskers" if wide else noise
            text += f" The lead of {lead:.1f} points over {_name(second)} is {worth}."
        text += _whisker_words(models)
    return f"{text} Measured: {clean(measured).rstrip('.')}." if measured else text


def _whisker_words(models: Sequence[Model]) -> str:
    many = sorted({m.examples or 0 for m in models if not m.scores and known(m.error)})
    counts = " or ".join(f"{number:,}" for number in many)
    return f" Upright whiskers: one standard error of an accuracy on {counts} examples." if many else ""


def _name(model: Model) -> str:
    return shortened(model.name, 40) or "a model without a name"


def _rows(name: str, title: str, takeaway: str, data: list[Trace], names: list[str], **layout: Any) -> Figure:
    """Returns a figure with a name at each row, the first above."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.4, -0.6]}
    layout = {"yaxis": axis(**ticks, showgrid=True), "margin": margin(8, 16, 30), **layout}
    return Figure(name, title, takeaway, data, layout, {"yaxis": {"tickfont": {"size": 11}}}, 96 + 30 * len(names))


def score_figure(panel: Panel, key: str, looks: Looks) -> Figure | None:
    """Returns the models' scores as dots: large the mean, small and faint the seeds; None if no score is known."""
    models = [model for model in panel.models if known(model.score)]
    if not models:
        return None
    metric, colours = for_plotly(panel.metric), [looks[model.group][0] for model in models]
    seeds = [(100 * s, row) for row, model in enumerate(models) for s in model.scores if known(s)]
    faint = {"color": [colours[row] for _, row in seeds], "size": 7, "opacity": 0.35}
    hover = "one seed: %{x:.1f}<extra></extra>"
    one = dots([x for x, _ in seeds], [y for _, y in seeds], faint, name="one seed", hovertemplate=hover)
    strong = _marker(models, colours, "circle")
    mean = dots([model.points for model in models], list(range(len(models))), strong, name="mean")
    mean["error_x"] = whiskers([100 * (model.spread or 0.0) for model in models], named("edge"))
    mean |= {"hovertext": [_hover(model, metric) for model in models], "hoverinfo": "text"}
    values = [*(model.points for model in models), *(x for x, _ in seeds)]
    shapes = [_upright(m.points, "s0", "dot") for m in models if m.role == "teacher"][:1]
    notes: list[dict[str, Any]] = []
    if known(panel.constant):
        values.append(100 * panel.constant)
        shapes.append(_upright(values[-1], "bad", "dash"))
        note = {"x": values[-1], "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        said = f"one answer for all: {points(panel.constant)}"
        notes.append({**note, "text": said, "font": {"size": 12, "color": named("bad")}})
    return _rows(
        f"{key}-scores",
        f"Scores: {clean(panel.shown)}" if panel.task else "Scores",
        _scores_takeaway(panel),
        [one, mean],
        [for_plotly(model.name, _ROW) for model in models],
        xaxis=axis(f"{metric}, points", range=_with_air(values)),
        shapes=shapes,
        annotations=notes,
    )


def _scores_takeaway(panel: Panel) -> str:
    students, teacher = [model for model in panel.trained if known(model.score)], panel.teacher
    if not students:
        return f"Only the teacher has a score: {points(teacher.score if teacher else None)}."
    first = leaders(students)
    several = any(len(model.scores) > 1 for model in students)
    what, best = "mean" if several else "score", points(first[0].score)
    text = f"The highest {what} of a student is {_name(first[0])}'s with {best}"
    if len(first) > 1:
        text = f"No student is ahead: {together([_name(each) for each in first[:4]])} have the same {what}, {best}"
    if teacher is not None and known(teacher.score):
        text += f", the teacher has {points(teacher.score)}"
    if several:
        return f"{text}; large dots are means with one standard deviation, faint dots single seeds."
    return f"{text}.{_whisker_words(students)}"


def forest_figure(differences: Sequence[Difference], task: str, key: str) -> Figure | None:
    """Returns the differences of one task with their intervals against zero; None if there are none.

    A filled dot is a difference that survives the correction for many comparisons, a hollow one does not.
    """
    rows = [item for item in differences if item.task == task and known(item.mean)]
    if not rows:
        return None
    data: list[Trace] = []
    for shown, title in ((True, "shown beyond noise"), (False, "not shown")):
        members = [(place, item) for place, item in enumerate(rows) if item.shown is shown]
        colours = [named("edge" if not shown else "s1" if item.mean > 0 else "s2") for _, item in members]
        hover = []
        for (place, item), colour in zip(members, colours, strict=True):
            if known(item.low) and known(item.high):
                look = {"color": colour, "width": 2.5 if shown else 1.5}
                data.append(line([100 * item.low, 100 * item.high], [place, place], look, showlegend=False))
            mean, low, high = (points(value, "+.1f") for value in (item.mean, item.low, item.high))
            ends = f"{mean} points ({low} to {high})"
            hover.append(f"<b>{for_hover(item.name, 80)}</b><br>{ends}<br>{title}")
        rim = {"width": 2, "color": colours}
        marker = {"color": colours if shown else named("paper"), "line": rim, "size": 11}
        means, places = [100 * item.mean for _, item in members], [place for place, _ in members]
        data.append(dots(means, places, marker, name=title, hovertext=hover))
    ends = [100 * value for item in rows for value in (item.mean, item.low, item.high, 0.0) if known(value)]
    filled = [f"{shortened(item.name, 40)} {points(item.mean, '+.1f')}" for item in rows if item.shown]
    takeaway = f"{len(filled) or 'None'} of {plural(len(rows), 'difference')} shown beyond noise"
    takeaway += f" (filled): {'; '.join(filled[:4])}{' and others' if len(filled) > 4 else ''}." if filled else "."
    return _rows(
        f"{key}-forest",
        f"Paired differences: {clean(task)}",
        takeaway,
        data,
        [for_plotly(item.name, _ROW) for item in rows],
        xaxis=axis("points, with 95 % intervals", range=_with_air(ends)),
        shapes=[_upright(0.0, "text", "solid")],
    )


def _with_air(values: Sequence[float]) -> list[float]:
    air = 0.08 * (max(values) - min(values)) or 1.0
    return [min(values) - air, max(values) + air]


def _upright(x: float, colour: str, dash: str) -> dict[str, Any]:
    place = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "layer": "between"}
    return {**place, "line": {"color": named(colour), "width": 1.2, "dash": dash}}
