"""Two kinds of squares: how alike the blocks of two models are, and who answered what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codir.reports.contents import BlockSimilarity, Confusion
from codir.reports.escaping import capital, for_plotly, shortened
from codir.reports.figures import Figure, axis, floats
from codir.reports.numbers import share

_PRINTED = 14  # up to so many rows or columns the values stand in the squares
# Viridis (Smith and van der Walt, 2015): even steps from dark to light, for every colour vision.
VIRIDIS = (
    "#440154",
    "#482878",
    "#3e4a89",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
)
SCALE = [[number / (len(VIRIDIS) - 1), colour] for number, colour in enumerate(VIRIDIS)]
_DARK_INK, _LIGHT_INK = "#000000", "#ffffff"


def colour_at(part: float) -> str:
    """Returns the scale's colour at `part`, 0..1, mixed as plotly does."""
    place = min(1.0, max(0.0, part)) * (len(VIRIDIS) - 1)
    below = min(int(place), len(VIRIDIS) - 2)
    mixed = [
        round(low + (place - below) * (high - low))
        for low, high in zip(_channels(VIRIDIS[below]), _channels(VIRIDIS[below + 1]), strict=True)
    ]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(colour: str) -> str:
    """Returns black or white, whichever is read better on `colour` (WCAG's relative luminance): at least 4.5 to 1."""
    return _DARK_INK if luminance(colour) > 0.179 else _LIGHT_INK


def luminance(colour: str) -> float:
    """Returns the relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    linear = [
        channel / 255 / 12.92 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4
        for channel in _channels(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _printed(
    text: list[list[str]], parts: np.ndarray, x: Sequence[Any], y: Sequence[Any]
) -> list[dict[str, Any]]:
    """Returns a trace that writes `text` into the squares, in the ink that can be read on each colour."""
    if max(len(x), len(y)) > _PRINTED:
        return []
    cells = [(row, column) for row in range(len(y)) for column in range(len(x)) if text[row][column]]
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": [x[column] for _, column in cells],
            "y": [y[row] for row, _ in cells],
            "text": [text[row][column] for row, column in cells],
            "textfont": {"color": [ink_on(colour_at(float(parts[cell]))) for cell in cells]},
            "hoverinfo": "skip",
        }
    ]


def similarity_range(similarities: Sequence[BlockSimilarity]) -> tuple[float, float]:
    """Returns the ends of the colour scale that all of them share: one is the top, the bottom a round tenth."""
    values = np.concatenate(
        [np.asarray(item.values, dtype=float).ravel() for item in similarities] or [[0.0]]
    )
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if finite.size else 0.0
    return min(0.9, max(0.0, np.floor(10 * low) / 10)), 1.0


def similarity_figures(similarities: Sequence[BlockSimilarity]) -> list[Figure]:
    """Returns one figure for each pair of models, all on one colour scale; each row's highest value is bold."""
    low, high = similarity_range(similarities)
    return [_similarity(item, number, low, high) for number, item in enumerate(similarities)]


def _similarity(item: BlockSimilarity, number: int, low: float, high: float) -> Figure:
    values = np.asarray(item.values, dtype=float)
    rows, columns = values.shape
    best = [int(np.nanargmax(row)) if np.isfinite(row).any() else -1 for row in values]
    text = [
        [
            "" if not np.isfinite(value) else f"<b>{value:.2f}</b>" if column == best[row] else f"{value:.2f}"
            for column, value in enumerate(line)
        ]
        for row, line in enumerate(values)
    ]
    student, teacher = shortened(item.student, 30), shortened(item.teacher, 30)
    across, down = [str(place + 1) for place in range(columns)], [str(place + 1) for place in range(rows)]
    height = 110 + min(44, max(22, 480 // max(rows, 1))) * rows
    return Figure(
        name=f"similarity-{number}",
        title=capital(f"{student} and {teacher}"),
        takeaway=_similarity_takeaway(values, best, student, item),
        data=[
            {
                "type": "heatmap",
                "z": floats(values),
                "x": across,
                "y": down,
                "zmin": low,
                "zmax": high,
                "colorscale": SCALE,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "hovertemplate": "student block %{y}, teacher block %{x}: %{z:.3f}<extra></extra>",
            },
            *_printed(text, (values - low) / (high - low), across, down),
        ],
        layout={
            "xaxis": axis(f"block of {for_plotly(item.teacher, 30)}", type="category", showgrid=False),
            "yaxis": axis(
                f"block of {for_plotly(item.student, 30)}",
                type="category",
                showgrid=False,
                autorange="reversed",
            ),
            "margin": {"l": 52, "r": 8, "t": 8, "b": 48},
            "font": {"size": 13},
        },
        narrow={"font": {"size": 10}, "margin": {"l": 40, "r": 4, "t": 8, "b": 44}},
        height=height,
        narrow_height=height,
        wide=False,
    )


def _similarity_takeaway(values: np.ndarray, best: list[int], student: str, item: BlockSimilarity) -> str:
    found = [(row, column) for row, column in enumerate(best) if column >= 0]
    if not found:
        return f"No similarity could be computed for {student}."
    row, column = found[-1]
    text = (
        f"The last block of {student} is most like the teacher's block {column + 1} ({values[row, column]:.2f}); "
        if row == len(best) - 1
        else f"Block {row + 1} of {student} is most like the teacher's block {column + 1}; "
    )
    mean = float(np.mean([values[place] for place in found]))
    return (
        text
        + f"the highest value of each row is {mean:.2f} on average. {item.examples} examples, {item.pooling} pooling."
    )


def confusion_figures(confusions: Sequence[Confusion]) -> list[Figure]:
    """Returns one figure for each model: counts and shares of the true class, coloured by the share."""
    return [_confusion(item, number) for number, item in enumerate(confusions)]


def _confusion(item: Confusion, number: int) -> Figure:
    counts = np.asarray(item.counts, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    classes = len(item.labels)
    few = classes <= 8
    labels = [for_plotly(label, 18 if few else 12) for label in item.labels]
    places = list(range(classes))
    text = [
        [
            f"{int(count)}<br>{100 * part:.0f} %" if few else f"{int(count)}" if count else ""
            for count, part in zip(line, parts, strict=True)
        ]
        for line, parts in zip(counts, shares, strict=True)
    ]
    hover = [
        [
            f"true {for_plotly(true, 60)}, answered {for_plotly(answer, 60)}: {int(count)} ({100 * part:.1f} %)"
            for answer, count, part in zip(item.labels, line, parts, strict=True)
        ]
        for true, line, parts in zip(item.labels, counts, shares, strict=True)
    ]
    height = 100 + (72 * classes if classes <= 5 else max(300, min(15 * classes + 60, 520)))
    ticks: dict[str, Any] = {"tickvals": places, "ticktext": labels, "showgrid": False}
    return Figure(
        name=f"confusion-{number}",
        title=capital(shortened(item.name, 40)),
        takeaway=_confusion_takeaway(item, counts, shares),
        data=[
            {
                "type": "heatmap",
                "z": floats(100 * shares),
                "x": places,
                "y": places,
                "zmin": 0,
                "zmax": 100,
                "colorscale": SCALE,
                "showscale": False,
                "xgap": 2 if classes <= 15 else 1,
                "ygap": 2 if classes <= 15 else 1,
                "hovertext": hover,
                "hoverinfo": "text",
            },
            *_printed(text, shares, places, places),
        ],
        layout={
            "xaxis": axis("answered", **ticks, tickangle=0 if few and classes < 5 else -40),
            "yaxis": axis("true class", **ticks, autorange="reversed"),
            "margin": {"l": 52, "r": 8, "t": 8, "b": 48},
        },
        narrow={
            "font": {"size": 11 if few else 8},
            "xaxis": {"tickfont": {"size": 11 if few else 9}},
            "yaxis": {"tickfont": {"size": 11 if few else 9}},
        },
        height=height,
        narrow_height=height,
        wide=False,
    )


def _confusion_takeaway(item: Confusion, counts: np.ndarray, shares: np.ndarray) -> str:
    total = int(counts.sum())
    if not total:
        return "No example was answered."
    right = f"{int(np.trace(counts))} of {total} right ({share(float(np.trace(counts)) / total)})"
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    if not off[row, column]:
        return right + "."
    return (
        f"{right}; the most frequent mistake of a class: {share(float(off[row, column]))} of "
        f"{shortened(item.labels[int(row)], 40)} are taken for {shortened(item.labels[int(column)], 40)}."
    )


def scale_css() -> str:
    """Returns the colour scale as a CSS gradient from left to right."""
    return f"linear-gradient(to right, {', '.join(VIRIDIS)})"
