"""Representations in two dimensions: one plane, teacher, student and bank by shape, classes by colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codir.reports.colours import named, series
from codir.reports.contents import Clouds, PointCloud
from codir.reports.escaping import capital, clean, for_hover, for_plotly
from codir.reports.figures import Figure, axis, floats
from codir.reports.numbers import plural, share

_SHAPES = {"teacher": "circle", "student": "triangle-up", "bank": "cross-thin"}
_MORE_SHAPES = ("square", "diamond", "x", "pentagon")
_GL_FROM = 3000  # from so many points WebGL draws them: SVG would be slow
_COLOURED = 8  # classes with a colour of their own; the rarer ones share grey
OTHERS = "other classes"


@dataclass(frozen=True)
class Switches:
    """What can be hidden in a figure of clouds: (name, colour or shape) of each cloud and each class."""

    clouds: Sequence[tuple[str, str]]
    classes: Sequence[tuple[str, str]]


def cloud_figure(clouds: Clouds, number: int) -> tuple[Figure, Switches]:
    """Returns the figure and its switches; a trace's `meta` says [cloud, class] by their places in the switches.

    Points of a cloud without labels, beside clouds that have some, are grey and belong to no class.
    """
    classes = _classes(clouds.clouds)
    colours = [named("s0") if name == OTHERS else series(place) for place, name in enumerate(classes)]
    total = sum(len(cloud.points) for cloud in clouds.clouds)
    kind = "scattergl" if total > _GL_FROM else "scatter"
    data: list[dict[str, Any]] = []
    order = sorted(
        range(len(clouds.clouds)), key=lambda place: "bank" not in clouds.clouds[place].name.lower()
    )  # bank below
    shapes = _shapes(clouds.clouds)
    for place in order:
        cloud = clouds.clouds[place]
        for group, (name, members) in enumerate(_by_class(cloud, classes)):
            if not len(members):
                continue
            colour = series(place) if not classes else colours[group] if group < len(classes) else named("s0")
            data.append(_trace(kind, cloud, members, name, colour, shapes[place], [place, group]))
    first, second = clouds.explained
    switches = Switches(
        clouds=[(clean(cloud.name), shapes[place]) for place, cloud in enumerate(clouds.clouds)],
        classes=[(clean(name), colour) for name, colour in zip(classes, colours, strict=True)],
    )
    figure = Figure(
        name=f"clouds-{number}",
        title=capital(clean(clouds.space)),
        takeaway=(
            (f"{clean(clouds.about)} " if clouds.about else "")
            + f"PCA: the two components hold {share(first)} and {share(second)} of the variance. "
            + capital(
                ", ".join(
                    f"{clean(cloud.name)}: {plural(len(cloud.points), 'point')}" for cloud in clouds.clouds
                )
            )
            + "."
        ),
        data=data,
        layout={
            "xaxis": _frame(f"component 1 ({share(first)} of the variance)"),
            "yaxis": _frame(f"component 2 ({share(second)})", scaleanchor="x"),
            "margin": {"l": 32, "r": 8, "t": 8, "b": 36},
            "dragmode": "pan",
        },
        height=470,
        narrow_height=360,
        wide=False,
    )
    return figure, switches


def _frame(title: str, **settings: Any) -> dict[str, Any]:
    """An axis without numbers: only distances mean something in this plane."""
    more = {"showgrid": False, "showline": True, "mirror": True, "linecolor": named("rule")}
    return axis(title, showticklabels=False, **more, **settings)


def _classes(clouds: Sequence[PointCloud]) -> list[str]:
    """Returns the most frequent classes, in the order of their names, and one for all others where there are more."""
    names = [label for cloud in clouds for label in cloud.labels]
    if not names:
        return []
    counts = dict.fromkeys(sorted(set(names)), 0)
    for name in names:
        counts[name] += 1
    if len(counts) <= _COLOURED:
        return list(counts)
    kept = sorted(counts, key=lambda name: -counts[name])[: _COLOURED - 1]
    return [*sorted(kept), OTHERS]


def _by_class(cloud: PointCloud, classes: list[str]) -> list[tuple[str, np.ndarray]]:
    everything = np.arange(len(cloud.points))
    if not classes:
        return [("", everything)]
    if not len(cloud.labels):
        return [*((name, everything[:0]) for name in classes), ("", everything)]
    labels = [name if name in classes else OTHERS for name in cloud.labels]
    return [(name, np.flatnonzero([label == name for label in labels])) for name in classes]


def _shapes(clouds: Sequence[PointCloud]) -> list[str]:
    if len(clouds) == 1:
        return ["circle"]
    more = iter(_MORE_SHAPES * len(clouds))
    shapes: list[str] = []
    for cloud in clouds:
        wanted = next((shape for word, shape in _SHAPES.items() if word in cloud.name.lower()), None)
        shapes.append(wanted if wanted is not None and wanted not in shapes else next(more))
    return shapes


def _trace(
    kind: str, cloud: PointCloud, members: np.ndarray, name: str, colour: str, shape: str, meta: list[int]
) -> dict[str, Any]:
    chosen = np.asarray(cloud.points)[members]
    bank = "bank" in cloud.name.lower()
    title = " · ".join(part for part in (for_plotly(cloud.name, 30), for_plotly(name, 40)) if part)
    texts = [for_hover(cloud.texts[place], 140) for place in members] if len(cloud.texts) else None
    open_shape = shape.endswith("-thin")
    return {
        "type": kind,
        "mode": "markers",
        "name": title,
        "meta": meta,
        "x": floats(chosen[:, 0]),
        "y": floats(chosen[:, 1]),
        "marker": {
            "color": colour,
            "symbol": shape,
            "size": 5 if bank else 8,
            "opacity": 0.55 if bank else 0.8,
            "line": {"width": 1 if open_shape else 0.6, "color": colour if open_shape else named("paper")},
        },
        **(
            {"text": texts, "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>"}
            if texts
            else {}
        ),
        **({} if texts else {"hovertemplate": "%{fullData.name}<extra></extra>"}),
    }
