"""The picture of the comparison: what is kept, as dots, and what is gained, as bars from zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from codir.errors import RunError
from codir.runs.drawing import new_figure

if TYPE_CHECKING:
    from codir.runs.comparison import Comparison

_COLOURS = {"teacher": "#7f7f7f", "finetune": "#9ecae1", "kd": "#4292c6", "codir": "#08519c"}


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draws two panels that share their rows: the score (share of the teacher's kept written on it) and the speed-up.

    Args:
        comparison: the table.
        path: the file; its ending says the format (png, svg, pdf).

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: the file cannot be written.
    """
    rows = list(reversed(comparison.rows))  # bars are drawn from below
    figure = new_figure(9, 1.1 + 0.55 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(rows)))
    names = [row.name.replace("$", r"\$") for row in rows]
    colours = [_COLOURS.get(row.role, "#bdbdbd") for row in rows]

    # dots on an axis that ends at the scores: bars from zero would all look the same
    scores = [row.score for row in rows if row.score == row.score]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    air = max(0.45 * (high - low), 0.01)
    left.set_xlim(low - air, high + air)
    left.set_ylim(-0.6, len(rows) - 0.3)
    for place, row, colour in zip(places, rows, colours, strict=True):
        if row.score != row.score:
            left.text(low, place, "-", ha="center", va="center")
            continue
        share = comparison.share_kept(row)
        caption = f"{row.score:.3f}" + ("" if share is None else f"  ({100 * share:.1f}% kept)")
        left.plot([row.score], [place], "o", color=colour, markersize=8)
        left.annotate(
            caption, (row.score, place), (0, 8), textcoords="offset points", ha="center", fontsize=9
        )
    left.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    left.set_yticks(places, names)
    left.set_title(comparison.main_metric.replace("$", r"\$"))

    speeds = [0.0 if row.timing is None else row.timing.speedup for row in rows]
    captions = [
        "-" if row.timing is None else f"{row.timing.speedup:.2f}x  ({row.timing.ms_per_sequence:.1f} ms)"
        for row in rows
    ]
    right.bar_label(right.barh(places, speeds, color=colours), labels=captions, padding=4)
    right.set_xlim(0, 1.45 * max([*speeds, 1e-9]))
    right.set_title("speed-up (ms per sequence)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise RunError(f"Cannot write the picture {path}: {error.strerror or error}") from error
