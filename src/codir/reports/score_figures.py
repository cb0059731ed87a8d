"""Scores without times (dots, one for each seed) and the paired differences of a study (a forest plot)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codir.reports.colours import named
from codir.reports.contents import PairedDifference, Panel, ReportedModel
from codir.reports.escaping import clean, for_hover, for_plotly, shortened
from codir.reports.figures import Figure, axis
from codir.reports.headline import leaders, together, trained
from codir.reports.numbers import known, plural, points, signed_points, spread
from codir.reports.point_names import Looks, group_looks

_NAME = 30


def score_figure(panel: Panel, key: str, looks: Looks | None = None) -> Figure | None:
    """Returns the models' scores as dots: large the mean, small and faint the seeds; None if no score is known."""
    models = [model for model in panel.models if known(model.score)]
    if not models:
        return None
    looks = looks or group_looks(panel.models)
    colours = [looks[model.group][0] for model in models]
    rows = list(range(len(models)))
    names = _unique([for_plotly(model.name, _NAME) for model in models])
    seeds = [(100 * s, row) for row, model in enumerate(models) for s in model.scores if known(s)]
    teacher = [model.role == "teacher" for model in models]
    spreads = [spread(model) for model in models]
    metric = for_plotly(panel.metric)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [x for x, _ in seeds],
            "y": [y for _, y in seeds],
            "marker": {"color": [colours[row] for _, row in seeds], "size": 7, "opacity": 0.35},
            "hovertemplate": "one seed: %{x:.1f}<extra></extra>",
            "name": "one seed",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": [100 * (model.score or 0.0) for model in models],
            "y": rows,
            "error_x": {
                "type": "data",
                "array": [100 * (spread or 0.0) for spread in spreads],
                "color": named("edge"),
                "thickness": 1.5,
                "width": 4,
            },
            "marker": {
                "color": colours,
                "symbol": ["star" if flag else "circle" for flag in teacher],
                "size": [15 if flag else 12 for flag in teacher],
                "opacity": 1,
                "line": {"width": 1, "color": named("paper")},
            },
            "hovertext": [
                f"<b>{for_hover(model.name, 80)}</b><br>{metric} {points(model.score)}"
                + (f" ± {points(wide)}, {_of_what(model)}" if wide is not None else "")
                for model, wide in zip(models, spreads, strict=True)
            ],
            "hoverinfo": "text",
            "name": "mean",
        },
    ]
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for model in models:
        if model.role == "teacher":
            shapes.append(_upright(100 * (model.score or 0.0), named("s0"), "dot"))
            break
    values = [100 * (model.score or 0.0) for model in models] + [x for x, _ in seeds]
    if known(panel.constant):
        shapes.append(_upright(100 * panel.constant, named("bad"), "dash"))
        notes.append(
            {
                "x": 100 * panel.constant,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "text": f"one answer for all: {points(panel.constant)}",
                "showarrow": False,
                "font": {"size": 12, "color": named("bad")},
            }
        )
        values.append(100 * panel.constant)
    low, high = min(values), max(values)
    air = 0.08 * (high - low) or 1.0
    height = 96 + 30 * len(models)
    return Figure(
        name=f"{key}-scores",
        title=f"Scores: {clean(panel.shown)}" if panel.task else "Scores",
        takeaway=_scores_takeaway(panel),
        data=data,
        layout={
            "xaxis": axis(f"{metric}, points", range=[low - air, high + air]),
            "yaxis": axis(tickvals=rows, ticktext=names, range=[len(models) - 0.4, -0.6], showgrid=True),
            "shapes": shapes,
            "annotations": notes,
            "margin": {"l": 8, "r": 16, "t": 30, "b": 48},
        },
        narrow={"yaxis": {"tickfont": {"size": 11}}},
        height=height,
        narrow_height=height,
    )


def forest_figure(differences: Sequence[PairedDifference], task: str, key: str) -> Figure | None:
    """Returns the differences of one task with their intervals against zero; None if there are none.

    A filled dot is a difference that survives the correction for many comparisons, a hollow one does not.
    """
    rows = [item for item in differences if item.task == task and known(item.mean)]
    if not rows:
        return None
    data: list[dict[str, Any]] = []
    for shown, title in ((True, "shown beyond noise"), (False, "not shown")):
        members = [(place, item) for place, item in enumerate(rows) if item.shown is shown]
        colours = [_verdict_colour(item) for _, item in members]
        for place, item in members:
            if known(item.low) and known(item.high):
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "x": [100 * item.low, 100 * item.high],
                        "y": [place, place],
                        "line": {"color": _verdict_colour(item), "width": 2.5 if shown else 1.5},
                        "hoverinfo": "skip",
                        "showlegend": False,
                    }
                )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [100 * item.mean for _, item in members],
                "y": [place for place, _ in members],
                "marker": {
                    "size": 11,
                    "color": colours if shown else named("paper"),
                    "line": {"width": 2, "color": colours},
                },
                "hovertext": [_difference_words(item) for _, item in members],
                "hoverinfo": "text",
            }
        )
    ends = [100 * value for item in rows for value in (item.mean, item.low, item.high) if known(value)] + [
        0.0
    ]
    air = 0.06 * (max(ends) - min(ends)) or 1.0
    height = 92 + 30 * len(rows)
    shown_rows = [item for item in rows if item.shown]
    words = (
        f"{len(shown_rows)} of {plural(len(rows), 'difference')} {'is' if len(shown_rows) == 1 else 'are'} shown "
        "beyond noise (filled): "
        + "; ".join(f"{shortened(item.name, 40)} {signed_points(item.mean)}" for item in shown_rows[:4])
        + (" and others." if len(shown_rows) > 4 else ".")
        if shown_rows
        else "The one difference is not shown beyond noise: no filled dot."
        if len(rows) == 1
        else f"None of the {len(rows)} differences is shown beyond noise: no filled dot."
    )
    return Figure(
        name=f"{key}-forest",
        title=f"Paired differences: {clean(task)}",
        takeaway=words,
        data=data,
        layout={
            "xaxis": axis("points, with 95 % intervals", range=[min(ends) - air, max(ends) + air]),
            "yaxis": axis(
                tickvals=list(range(len(rows))),
                ticktext=_unique([for_plotly(item.name, _NAME) for item in rows]),
                range=[len(rows) - 0.4, -0.6],
                showgrid=True,
            ),
            "shapes": [_upright(0.0, named("text"), "solid")],
            "margin": {"l": 8, "r": 16, "t": 12, "b": 48},
        },
        narrow={"yaxis": {"tickfont": {"size": 11}}},
        height=height,
        narrow_height=height,
    )


def _verdict_colour(item: PairedDifference) -> str:
    if not item.shown:
        return named("edge")
    return named("s1") if item.mean > 0 else named("s2")


def _difference_words(item: PairedDifference) -> str:
    text = f"<b>{for_hover(item.name, 80)}</b><br>{signed_points(item.mean)} points"
    if known(item.low) and known(item.high):
        text += f" ({signed_points(item.low)} to {signed_points(item.high)})"
    return text + ("<br>shown beyond noise" if item.shown else "<br>not shown beyond noise")


def _upright(x: float, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "layer": "between",
        "line": {"color": colour, "width": 1.2, "dash": dash},
    }


def _of_what(model: ReportedModel) -> str:
    return f"{len(model.scores)} seeds" if len(model.scores) > 1 else f"{model.examples} examples"


def _unique(names: list[str]) -> list[str]:
    """Keeps two long names that were cut to the same text apart."""
    seen: dict[str, int] = {}
    kept = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        kept.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return kept


def _scores_takeaway(panel: Panel) -> str:
    students = [model for model in trained(panel) if known(model.score)]
    teacher = next((m for m in panel.models if m.role == "teacher" and known(m.score)), None)
    if not students:
        return f"Only the teacher has a score: {points(teacher.score if teacher else None)}."
    first = leaders(students)
    several = any(len(model.scores) > 1 for model in students)
    what = "mean" if several else "score"
    if len(first) > 1:
        names = together([shortened(each.name, 40) for each in first[:4]])
        text = f"No student is ahead: {names} have the same {what}, {points(first[0].score)}"
    else:
        text = f"The highest {what} of a student is {shortened(first[0].name, 40)}'s with {points(first[0].score)}"
    if teacher is not None:
        text += f", the teacher has {points(teacher.score)}"
    if several:
        text += "; large dots are means with one standard deviation, faint dots single seeds"
    elif errors := [model for model in students if known(model.error)]:
        text += f"; whiskers are one standard error of an accuracy on {errors[0].examples:,} examples"
    return text + "."
