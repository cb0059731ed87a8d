"""The main figures of a report as pictures for papers and slides: PNG and SVG, on white, by matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codir.errors import RunError
from codir.reports.colours import LIGHT
from codir.reports.contents import BlockSimilarity, Curve, PairedDifference, Panel, Report, ReportedModel
from codir.reports.escaping import shortened
from codir.reports.figures import log_ticks
from codir.reports.headline import main_student
from codir.reports.heatmap_figures import VIRIDIS, colour_at, ink_on, similarity_range
from codir.reports.latency_figure import LOG_FROM
from codir.reports.numbers import known, spread
from codir.reports.pareto import measured_models, pareto
from codir.reports.point_names import TEACHER, Looks, label_places, page_looks, symbol_of
from codir.reports.training_figures import PERCENT, curve_colours, term_colours
from codir.runs.drawing import new_figure, plain, rendered
from codir.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "x": "X",
    "triangle-down": "v",
    "pentagon": "p",
    "star": "*",
    "hexagon": "h",
}
_ACROSS = {"left": -8, "center": 0, "right": 8}  # printer's points from the marker to the name
_UP = {"top": 6, "middle": 0, "bottom": -6}
_NAME = 40


def write_images(report: Report, folder: str | Path) -> list[Path]:
    """Writes every picture there is into `folder`, as `NAME.png` and `NAME.svg`.

    Returns:
        The files, in the order they were drawn.

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    written = []
    for name, drawn in draw_images(report).items():
        for form, content in drawn.items():
            path = Path(folder) / f"{name}.{form}"
            try:
                write_bytes(path, content)
            except OSError as error:
                raise RunError(
                    f"Cannot write the picture {path}: {error.strerror or error}. Choose another --images."
                ) from error
            written.append(path)
    return written


def draw_images(report: Report) -> dict[str, dict[str, bytes]]:
    """Draws score against latency (else the scores), differences, curves and similarities, as far as there are any.

    Returns:
        By name (`latency-mrpc`, `scores-mrpc`, `differences-mrpc`, `loss`, `similarity`, ...) the picture by format.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    pictures: dict[str, dict[str, bytes]] = {}

    def add(name: str, draw: Callable[[], Figure]) -> None:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "picture"
        while plain in pictures:
            plain += "-more"
        pictures[plain] = rendered(draw(), dpi=200)

    looks = page_looks(report)
    for panel in report.panels:
        measured = [models for models in measured_models(panel).values() if len(models) > 1]
        for models in measured:
            add(f"latency-{panel.task}", lambda panel=panel, models=models: _latency(panel, models, looks))
        if not measured and sum(known(model.score) for model in panel.models) > 1:
            add(f"scores-{panel.task}", lambda panel=panel: _scores(panel, looks))
    for task in dict.fromkeys(item.task for item in report.differences):
        rows = [item for item in report.differences if item.task == task and known(item.mean)]
        if rows:
            add(f"differences-{task}", lambda rows=rows, task=task: _differences(rows, task))
    main = main_student(report.panels[0]) if report.panels else None
    name = main.name if main else ""
    colours = curve_colours(report.curves, name, looks)
    for kind in dict.fromkeys(curve.kind for curve in report.curves if len(curve.steps)):
        curves = [curve for curve in report.curves if curve.kind == kind and len(curve.steps)]
        add(kind, lambda curves=curves, kind=kind: _curves(curves, kind, name, colours))
    if report.similarities:
        add("similarity", lambda: _similarities(report.similarities))
    return pictures


def _latency(panel: Panel, models: list[ReportedModel], looks: Looks) -> Figure:
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    times = [model.milliseconds or 1.0 for model in models]
    logarithmic = max(times) / min(times) > LOG_FROM
    places = label_places(models, logarithmic)
    front = pareto(models)
    if len(front) > 1:
        axes.step(
            [model.milliseconds or 0.0 for model in front],
            [100 * (model.score or 0.0) for model in front],
            where="post",
            color=LIGHT["edge"],
            linestyle=":",
            linewidth=1.2,
            zorder=1,
        )
    for model in models:
        colour, shape = looks[model.group][0], symbol_of(model, looks)
        x, y = model.milliseconds or 0.0, 100 * (model.score or 0.0)
        wide = spread(model)
        sides = [
            [max(0.0, x - model.low) if known(model.low) else 0.0],
            [max(0.0, model.high - x) if known(model.high) else 0.0],
        ]
        axes.errorbar(
            x,
            y,
            xerr=sides,
            yerr=None if wide is None else 100 * wide,
            color=_plain_colour(colour),
            marker=_MARKERS[shape],
            markersize=11 if shape == TEACHER else 8,
            linewidth=1.1,
            capsize=2.5,
            linestyle="none",
        )
        if id(model) not in places:
            continue
        up, across = places[id(model)].split()
        axes.annotate(
            _plain(model.name),
            (x, y),
            xytext=(_ACROSS[across], _UP[up]),
            textcoords="offset points",
            ha={"left": "right", "center": "center", "right": "left"}[across],
            va={"top": "bottom", "middle": "center", "bottom": "top"}[up],
            fontsize=8,
            color=LIGHT["text"],
        )
    if len(places) < len(models):
        for group in dict.fromkeys(
            model.group for model in sorted(models, key=lambda m: m.role == "teacher")
        ):
            first = min((m for m in models if m.group == group), key=lambda m: m.role == "teacher")
            colour, shape = _plain_colour(looks[group][0]), _MARKERS[symbol_of(first, looks)]
            axes.plot([], [], shape, color=colour, label=_plain(group))
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    if logarithmic:
        axes.set_xscale("log")
        ticks = log_ticks(min(times), max(times))
        axes.set_xticks(ticks["tickvals"], ticks["ticktext"])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(times) / 1.35, max(times) * 1.9)
    else:
        axes.set_xlim(0, max(times) * 1.3)
    axes.margins(y=0.18)
    axes.set_xlabel("milliseconds per sequence")
    axes.set_ylabel(f"{_plain(panel.metric)}, points")
    axes.set_title(f"{_plain(panel.shown)}: {_plain(models[0].measured, 100)}", fontsize=9)
    _quiet(axes)
    return figure


def _scores(panel: Panel, looks: Looks) -> Figure:
    models = [model for model in panel.models if known(model.score)]
    figure = new_figure(6.6, 1.0 + 0.28 * len(models))
    axes = figure.subplots()
    for place, model in enumerate(models):
        colour = _plain_colour(looks[model.group][0])
        values = [100 * score for score in model.scores if known(score)]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.3, markersize=4, linestyle="none")
        wide = spread(model)
        axes.errorbar(
            100 * (model.score or 0.0),
            place,
            xerr=None if wide is None else 100 * wide,
            color=colour,
            marker="*" if model.role == "teacher" else "o",
            markersize=9 if model.role == "teacher" else 6,
            capsize=2.5,
            linewidth=1.2,
        )
    if known(panel.constant):
        axes.axvline(100 * panel.constant, color=LIGHT["bad"], linewidth=1, linestyle="--")
        axes.text(
            100 * panel.constant,
            -0.7,
            "one answer for all",
            color=LIGHT["bad"],
            fontsize=8,
            ha="center",
            va="bottom",
        )
    _rows(axes, [model.name for model in models])
    axes.set_xlabel(f"{_plain(panel.metric)}, points" + (f" ({_plain(panel.shown)})" if panel.task else ""))
    return figure


def _differences(rows: list[PairedDifference], task: str) -> Figure:
    figure = new_figure(6.6, 1.0 + 0.28 * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        colour = LIGHT["edge"] if not row.shown else LIGHT["s1"] if row.mean > 0 else LIGHT["s2"]
        if known(row.low) and known(row.high):
            axes.plot([100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.8)
        axes.plot(
            [100 * row.mean],
            [place],
            "o",
            markersize=6,
            markeredgecolor=colour,
            markeredgewidth=1.5,
            markerfacecolor=colour if row.shown else "white",
        )
    _rows(axes, [row.name for row in rows])
    axes.set_xlabel(f"{_plain(task)}: difference in points, 95 % intervals; filled: shown beyond noise")
    return figure


def _curves(curves: list[Curve], kind: str, main: str, colours: dict[str, str]) -> Figure:
    figure = new_figure(6.6, 3.6)
    axes = figure.subplots()
    models = sorted(dict.fromkeys(curve.model for curve in curves), key=lambda model: model != main)
    terms = list(dict.fromkeys(curve.name for curve in curves))
    by_term = kind == "loss" or len(terms) > 1
    scale = 100.0 if kind in PERCENT else 1.0
    free = term_colours(colours)
    for curve in curves:
        place = models.index(curve.model)
        label = ", ".join(
            part
            for part, wanted in ((curve.name, by_term), (curve.model, len(models) > 1 or not by_term))
            if wanted
        )
        axes.plot(
            list(curve.steps),
            [scale * value if known(value) else math.nan for value in curve.values],
            color=_plain_colour(
                free[terms.index(curve.name) % len(free)] if by_term else colours[curve.model]
            ),
            linestyle=("-", "--", ":", "-.")[place % 4],
            linewidth=1.8 if place == 0 else 1.2,
            label=_plain(label),
        )
    values = [value for curve in curves for value in curve.values if known(value)]
    if kind == "loss" and values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
        ticks = log_ticks(min(values), max(values))
        axes.set_yticks(ticks["tickvals"], ticks["ticktext"])
        axes.set_yticks([], minor=True)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("points" if kind == "score" else _plain(kind) + (", %" if kind in PERCENT else ""))
    axes.legend(fontsize=7.5, frameon=False, ncols=1 + (len(curves) > 6))
    _quiet(axes)
    return figure


def _similarities(items: Any) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    low, high = similarity_range(items)
    colours = LinearSegmentedColormap.from_list("codir", list(VIRIDIS))
    columns = sum(max(2.2, 0.5 * np.asarray(item.values).shape[1]) for item in items)
    rows = max(np.asarray(item.values).shape[0] for item in items)
    figure = new_figure(min(14.0, 1.6 + columns), max(2.2, 1.2 + 0.42 * rows))
    grid = figure.subplots(1, len(items), squeeze=False)[0]
    image = None
    for axes, item in zip(grid, items, strict=True):
        image = _square(axes, item, low, high, colours)
    if image is not None:
        figure.colorbar(image, ax=list(grid), shrink=0.85, label="linear CKA")
    return figure


def _square(axes: Axes, item: BlockSimilarity, low: float, high: float, colours: Any) -> Any:
    values = np.asarray(item.values, dtype=float)
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    if max(values.shape) <= 14:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = ink_on(colour_at((value - low) / (high - low)))
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    axes.set_xticks(range(values.shape[1]), [str(place + 1) for place in range(values.shape[1])])
    axes.set_yticks(range(values.shape[0]), [str(place + 1) for place in range(values.shape[0])])
    axes.set_xlabel(f"block of {_plain(item.teacher)}")
    axes.set_ylabel(f"block of {_plain(item.student)}")
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return image


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    _quiet(axes)
    axes.spines["left"].set_visible(False)


def _quiet(axes: Axes) -> None:
    axes.grid(color=LIGHT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_colour(name: str) -> str:
    return LIGHT[name.removeprefix("var(--").removesuffix(")")]


def _plain(text: str, length: int = _NAME) -> str:
    return plain(shortened(text, length))
