"""How models look as points: their colours and shapes, which are named, and where the names stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from codir.reports.colours import named, series, symbol
from codir.reports.contents import Report, ReportedModel
from codir.reports.escaping import shortened
from codir.reports.headline import main_student
from codir.reports.numbers import known, spread
from codir.reports.pareto import pareto

NAME = 36  # characters of a name beside its point
NAMED = 12  # up to so many models all are named
TEACHER = "star"
Looks = dict[str, tuple[str, str]]  # colour and symbol by group


def page_looks(report: Report) -> Looks:
    """Returns colour and symbol of all groups of a page: one model has one colour in all figures.

    The main student is the first; students that only have curves (of an unfinished run) come last.
    """
    first = [main for panel in report.panels[:1] if (main := main_student(panel)) is not None]
    looks = group_looks([*first, *(model for panel in report.panels for model in panel.models)])
    for name in dict.fromkeys(curve.model for curve in report.curves):
        if name not in looks:
            number = sum(colour != named("s0") for colour, _ in looks.values())
            looks[name] = (series(number), symbol(number))
    return looks


def group_looks(models: Sequence[ReportedModel]) -> Looks:
    """Returns colour and symbol of each group, in the order of their first models.

    The teacher as it came is grey; teachers are stars, whatever their group (`symbol_of`).
    """
    looks: Looks = {}
    number = 0
    for model in models:
        if model.group in looks:
            continue
        if model.role == "teacher" and model.engine == "torch":
            looks[model.group] = (named("s0"), TEACHER)
        else:
            looks[model.group] = (series(number), symbol(number))
            number += 1
    return looks


def symbol_of(model: ReportedModel, looks: Looks) -> str:
    """Returns the marker's shape of one model."""
    return TEACHER if model.role == "teacher" else looks[model.group][1]


def models_to_name(models: Sequence[ReportedModel]) -> list[ReportedModel]:
    """Returns those whose names stand beside their points: all where they are few, else the line's and torch's."""
    if len(models) <= NAMED:
        return list(models)
    front = pareto(models)
    chosen = [model for model in models if model in front or model.engine == "torch"]
    return chosen if len(chosen) <= NAMED else front[:NAMED]


def score_ends(models: Sequence[ReportedModel]) -> tuple[float, float]:
    """Returns the lowest and the highest score in points, spreads included."""
    values = [
        100 * ((model.score or 0.0) + sign * (spread(model) or 0.0)) for model in models for sign in (-1, 1)
    ]
    return min(values), max(values)


def label_places(models: Sequence[ReportedModel], logarithmic: bool) -> dict[int, str]:
    """Returns where each name covers the fewest points, names and lines, on a plane of 900 x 380 pixels.

    Args:
        models: with score and time.
        logarithmic: whether the axis of time is.

    Returns:
        Plotly's `textposition` by the `id` of each model that is named (`models_to_name`).
    """
    scale = math.log10 if logarithmic else float
    xs = [scale(model.milliseconds or 1.0) for model in models]
    left = min(xs) if logarithmic else 0.0
    wide = (max(xs) - left) * (1.28 if logarithmic else 1.16) or 1.0
    low, high = score_ends(models)
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
    for model, (_, y) in zip(models, spots, strict=True):
        if known(model.low) and known(model.high) and model.low > 0:
            low_x, high_x = (900 * (scale(value) - left) / wide for value in (model.low, model.high))
            taken.append((low_x, y - 3, high_x, y + 3))
    chosen = {id(model) for model in models_to_name(models)}
    for model, (x, y) in sorted(zip(models, spots, strict=True), key=lambda item: item[1]):
        if id(model) not in chosen:
            continue
        width = 7.0 * len(shortened(model.name, NAME))
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
