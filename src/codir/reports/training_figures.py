"""What happened while training: loss terms, the contrast, agreement with the teacher, the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codir.reports.colours import SERIES, series
from codir.reports.contents import Curve
from codir.reports.escaping import for_plotly, shortened
from codir.reports.figures import Figure, axis, floats, log_ticks
from codir.reports.numbers import known, milliseconds, points, share
from codir.reports.point_names import Looks

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LOG_FROM = 20.0
_TITLES = {
    "loss": ("Loss terms", "loss"),
    "accuracy": ("Contrastive accuracy", "%"),
    "cosine": ("Contrast: mean cosine of positives and negatives", "cosine"),
    "temperature": ("Contrast: learned temperature", "tau"),
    "agreement": ("Agreement with the teacher", "%"),
    "score": ("Score on the validation split", "points"),
}


# drawn as points: times 100
PERCENT = frozenset({"accuracy", "agreement", "score"})


def training_figures(curves: Sequence[Curve], main: str = "", looks: Looks | None = None) -> list[Figure]:
    """Returns one figure for each kind of curve that there is; in a study one for each kind and task.

    One colour is one student, the same as elsewhere on the page; where lines are told apart by their loss terms, the
    terms have colours that no student has. The main student's lines are solid, those of the students it is compared
    with dashed. Without a main student (in a study) all are equal.

    Args:
        curves: the curves.
        main: name of the main student.
        looks: of the whole page (`page_looks`); by default of these students alone.
    """
    colours = curve_colours(curves, main, looks)
    kinds = [*_TITLES, *dict.fromkeys(curve.kind for curve in curves if curve.kind not in _TITLES)]
    figures = []
    for kind in kinds:
        members = [curve for curve in curves if curve.kind == kind and len(curve.steps)]
        names = dict.fromkeys(curve.name for curve in members) if kind != "loss" and not main else [""]
        for name in names:
            chosen = [curve for curve in members if curve.name == name or not name]
            if chosen:
                part = f"{len(figures)}"
                figures.append(
                    _figure(kind, chosen, main, colours, f"training-{part}", name if len(names) > 1 else "")
                )
    return figures


def curve_colours(curves: Sequence[Curve], main: str, looks: Looks | None) -> dict[str, str]:
    """Returns the colour of each student that has a curve."""
    models = sorted(dict.fromkeys(curve.model for curve in curves), key=lambda model: model != main)
    return {
        model: looks[model][0] if looks is not None and model in looks else series(place)
        for place, model in enumerate(models)
    }


def term_colours(students: dict[str, str]) -> list[str]:
    """Returns the colours that no student has."""
    every = [series(number) for number in range(SERIES)]
    return [colour for colour in every if colour not in students.values()] or every


def _figure(
    kind: str, curves: list[Curve], main: str, colours: dict[str, str], name: str, part: str
) -> Figure:
    title, unit = _TITLES.get(kind, (shortened(kind, 40), ""))
    models = list(dict.fromkeys(curve.model for curve in curves))
    models.sort(key=lambda model: model != main)  # the main student is solid
    terms = list(dict.fromkeys(curve.name for curve in sorted(curves, key=lambda curve: curve.model != main)))
    by_term = kind == "loss" or len(terms) > 1
    scale = 100.0 if kind in PERCENT else 1.0
    free = term_colours(colours)
    data: list[dict[str, Any]] = []
    for curve in sorted(curves, key=lambda curve: (models.index(curve.model), terms.index(curve.name))):
        place = models.index(curve.model)
        label = _short_term(curve.name) if by_term else curve.model
        if by_term and len(models) > 1:
            label = f"{label}, {shortened(curve.model, 24)}"
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(curve.steps) <= 12 else "lines",
                "name": for_plotly(label, 48),
                "x": floats(curve.steps),
                "y": floats([scale * value for value in curve.values]),
                "line": {
                    "color": free[terms.index(curve.name) % len(free)] if by_term else colours[curve.model],
                    "width": 2.2 if place == 0 and main else 1.6,
                    "dash": _DASHES[(place if main or by_term else place // SERIES) % len(_DASHES)],
                },
                "marker": {"size": 5},
                "opacity": 1.0 if place == 0 or not main else 0.85,
                "hovertemplate": "%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>",
            }
        )
    values = [scale * value for curve in curves for value in curve.values if known(value)]
    logarithmic = (
        kind == "loss" and bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_FROM
    )
    y = axis(unit + (" (log scale)" if logarithmic else ""), nticks=6)
    if logarithmic:
        y |= {"type": "log", **log_ticks(min(values), max(values))}
    rows = len(data)
    return Figure(
        name=name,
        title=title + (f": {shortened(part, 60)}" if part else ""),
        takeaway=_takeaway(kind, curves, main),
        data=data,
        layout={
            "xaxis": axis("optimiser step", nticks=6),
            "yaxis": y,
            "showlegend": True,
            "legend": {"orientation": "h", "y": -0.24, "x": 0, "yanchor": "top", "xanchor": "left"},
            "margin": {"l": 48, "r": 12, "t": 8, "b": 40},
        },
        height=330 + 20 * ((rows + 1) // 2),
        narrow_height=300 + 20 * rows,
        wide=False,
    )


def _short_term(name: str) -> str:
    return shortened(name.removesuffix(" loss") or name, 24)


def _takeaway(kind: str, curves: list[Curve], main: str) -> str:
    words = points if kind == "score" else share if kind in PERCENT else milliseconds
    if not main and kind == "score" and len(curves) > 1:
        highest = max(curves, key=lambda curve: max(filter(known, curve.values), default=float("-inf")))
        best = max(filter(known, highest.values), default=None)
        return f"Highest of {len(curves)}: {shortened(highest.model, 40)} with {points(best)}."
    curve = next((curve for curve in curves if curve.model == main), curves[0])
    finite = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if known(value)]
    if not finite:
        return f"{len(curves)} curves without a finite value."
    (_, first), (last_step, last) = finite[0], finite[-1]
    text = f"{shortened(curve.name, 40)} of {shortened(curve.model, 40)}"
    if kind == "score":
        step, best = max(finite, key=lambda item: item[1])
        return f"{text}: best {points(best)} at step {step}, {points(last)} at the end (step {last_step})."
    return f"{text}: from {words(first)} to {words(last)} at step {last_step}."
