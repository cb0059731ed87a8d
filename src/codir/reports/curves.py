"""What happened while training: loss terms, the contrast, agreement with the teacher, the score, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codir.reports.figures import SERIES, Figure, Trace, axis, floats, legend, line, margin, series
from codir.reports.scores import Looks
from codir.reports.text import for_plotly, known, milliseconds, points, share, shortened
from codir.reports.values import Curve

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_LOG_FROM = 20.0
_TITLES = {
    "loss": ("Loss terms", "loss"),
    "accuracy": ("Contrastive accuracy", "%"),
    "cosine": ("Contrast: mean cosine of positives and negatives", "cosine"),
    "agreement": ("Agreement with the teacher", "%"),
    "score": ("Score on the validation split", "points"),
}
_PERCENT = frozenset({"accuracy", "agreement", "score"})  # drawn times 100


def curves_of(log: Sequence[Mapping[str, Any]], model: str, metric: str | None) -> list[Curve]:
    """Returns the curves of one student from its log; those without a finite value are left out.

    The metric is drawn at the evaluations; where the results do not name it, it is the first that these name.
    """
    terms = sorted({key.removeprefix("loss_") for entry in log for key in entry if key.startswith("loss_")})
    if metric is None:
        other = {"loss", "agreement", "runtime", "samples_per_second", "steps_per_second"}
        named = (key.removeprefix("eval_") for entry in log for key in entry if key.startswith("eval_"))
        metric = next((name for name in named if name not in other), None)
    wanted = [("loss", "all terms, weighted", "loss")] if len(terms) > 1 else []
    wanted += [(f"loss_{term}", f"{term} loss", "loss") for term in terms]
    wanted.append(("eval_loss", "validation loss", "loss"))
    for term in terms:
        wanted.append((f"{term}_accuracy", f"{term} accuracy", "accuracy"))
        wanted += [(f"{term}_{part}", f"{term} {part}s", "cosine") for part in ("positive", "negative")]
        wanted.append((f"{term}_agreement", "on training batches", "agreement"))
    wanted.append(("eval_agreement", "on validation data", "agreement"))
    wanted += [(f"eval_{metric}", metric, "score")] if metric else []
    found = []
    for key, name, kind in wanted:
        has = [entry for entry in log if isinstance(entry.get(key), int | float) and known(entry[key])]
        if pairs := [(int(entry["step"]), float(entry[key])) for entry in has if "step" in entry]:
            found.append(Curve(name.replace("_", " "), model, kind, *zip(*pairs, strict=True)))
    return found


def training_figures(curves: Sequence[Curve], main: str, looks: Looks) -> list[Figure]:
    """Returns one figure for each kind of curve that there is; in a study one for each task.

    One colour is one student, the same as elsewhere on the page; where lines are told apart by their loss terms, the
    terms have colours that no student has. The main student's lines are solid, those of the students it is compared
    with dashed. Without a main student (in a study) all are equal.
    """
    figures: list[Figure] = []
    for kind in dict.fromkeys([*_TITLES, *(curve.kind for curve in curves)]):
        members = [curve for curve in curves if curve.kind == kind and len(curve.steps)]
        names = dict.fromkeys(curve.name for curve in members) if kind != "loss" and not main else [""]
        for name in names:
            if chosen := [curve for curve in members if not name or curve.name == name]:
                part = f": {shortened(name, 60)}" if len(names) > 1 else ""
                figures.append(_figure(kind, chosen, main, looks, f"training-{len(figures)}", part))
    return figures


def _figure(kind: str, curves: list[Curve], main: str, looks: Looks, name: str, part: str) -> Figure:
    title, unit = _TITLES.get(kind, (shortened(kind, 40), ""))
    curves = sorted(curves, key=lambda curve: curve.model != main)  # the main student comes first
    models = list(dict.fromkeys(curve.model for curve in curves))
    terms = list(dict.fromkeys(curve.name for curve in curves))
    by_term, scale = kind == "loss" or len(terms) > 1, 100.0 if kind in _PERCENT else 1.0
    every = [series(number) for number in range(SERIES)]
    free = [colour for colour in every if colour not in {looks[model][0] for model in models}] or every
    data: list[Trace] = []
    for curve in curves:
        place, label = models.index(curve.model), curve.model
        if by_term:
            label = shortened(curve.name.removesuffix(" loss") or curve.name, 24)
            label += f", {shortened(curve.model, 24)}" if len(models) > 1 else ""
        dash = _DASHES[(place if main or by_term else place // SERIES) % len(_DASHES)]
        colour = free[terms.index(curve.name) % len(free)] if by_term else looks[curve.model][0]
        look = {"color": colour, "width": 2.2 if place == 0 and main else 1.6, "dash": dash}
        y = floats([scale * value for value in curve.values])
        more = {"hovertemplate": "%{fullData.name}<br>step %{x}: %{y:.4g}<extra></extra>", "hoverinfo": None}
        more |= {"mode": "lines+markers", "marker": {"size": 5}} if len(curve.steps) <= 12 else {}
        data.append(line(floats(curve.steps), y, look, name=for_plotly(label, 48), **more))
    values = [scale * value for curve in curves for value in curve.values if known(value)]
    logarithmic = kind == "loss" and values and min(values) > 0 and max(values) / min(values) > _LOG_FROM
    y_axis = axis(unit, values if logarithmic else (), nticks=6)
    layout = {"xaxis": axis("optimiser step", nticks=6), "yaxis": y_axis, "margin": margin(48, 12, 8, 40)}
    return Figure(
        name=name,
        title=title + part,
        takeaway=_takeaway(kind, curves, main),
        data=data,
        layout={**layout, "showlegend": True, "legend": legend(-0.24)},
        height=330 + 20 * ((len(data) + 1) // 2),
        narrow_height=300 + 20 * len(data),
        wide=False,
    )


def _takeaway(kind: str, curves: list[Curve], main: str) -> str:
    if not main and kind == "score" and len(curves) > 1:
        tops = {curve.model: max(filter(known, curve.values), default=-1.0) for curve in curves}
        best = max(tops, key=lambda model: tops[model])
        return f"Highest of {len(curves)}: {shortened(best, 40)} with {points(tops[best])}."
    curve = curves[0]
    finite = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if known(value)]
    if not finite:
        return f"{len(curves)} curves without a finite value."
    (_, first), (step, last) = finite[0], finite[-1]
    text = f"{shortened(curve.name, 40)} of {shortened(curve.model, 40)}"
    if kind == "score":
        at, best = max(finite, key=lambda item: item[1])
        return f"{text}: best {points(best)} at step {at}, {points(last)} at the end (step {step})."
    words = share if kind in _PERCENT else milliseconds
    return f"{text}: from {words(first)} to {words(last)} at step {step}."
