"""A study's pictures: the differences from the baseline with their intervals, and the recipes' ranks."""

from __future__ import annotations

import math
from typing import Any

from codir.runs.drawing import new_figure, plain, rendered
from codir.studies.findings import AVERAGE, Findings
from codir.studies.statistics import PairedDifference, Ranking

_ABOVE, _BELOW, _UNDECIDED, _BASE = "#08519c", "#b2182b", "#7f7f7f", "#bdbdbd"
_PANELS_A_ROW = 4


def draw_differences(findings: Findings) -> dict[str, bytes]:
    """Draws a forest plot: a panel for each task and one for the average, a line for each recipe.

    A dot is the mean paired difference from the baseline in points, its bar the 95 % interval; a hollow dot has no
    interval. Blue and red are differences that are shown (`PairedDifference.shown`), grey those that are not.

    Returns:
        The picture by format; empty where there is no difference to draw.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if not findings.differences:
        return {}
    rows = [
        row for row in findings.rows if any((row, panel) in findings.differences for panel in findings.panels)
    ]
    panels = [panel for panel in findings.panels if any((row, panel) in findings.differences for row in rows)]
    columns = min(len(panels), _PANELS_A_ROW)
    lines = math.ceil(len(panels) / columns)
    longest = max(len(str(row)) for row in rows)
    figure = new_figure(
        width=min(2.9 * columns, 11.5) + 0.075 * longest + 0.3, height=lines * (0.95 + 0.27 * len(rows)) + 0.8
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        panel = panels[number]
        axes.axvline(0, color="black", linewidth=0.8)
        for place, row in enumerate(rows):
            if (difference := findings.differences.get((row, panel))) is not None and difference.n:
                _draw_difference(axes, place, difference)
        axes.set_title(AVERAGE if panel is None else plain(panel), fontsize=10)
        axes.set_yticks(range(len(rows)), [plain(str(row)) for row in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0.08)
    figure.suptitle(
        f"Difference from {plain(str(findings.baseline))}, points, 95 % intervals over seeds", fontsize=11
    )
    figure.supxlabel("blue, red: shown beyond noise (after Holm's correction); grey: not shown", fontsize=8)
    return rendered(figure)


def _draw_difference(axes: Any, place: int, difference: PairedDifference) -> None:
    value = 100 * difference.difference
    colour = _UNDECIDED if not difference.shown else _ABOVE if value > 0 else _BELOW
    if difference.low is not None and difference.high is not None:
        axes.plot([100 * difference.low, 100 * difference.high], [place, place], color=colour, linewidth=1.8)
        axes.plot([value], [place], "o", color=colour, markersize=5)
    else:
        axes.plot([value], [place], "o", markerfacecolor="white", markeredgecolor=colour, markersize=5)


def draw_ranks(findings: Findings) -> dict[str, bytes]:
    """Draws the critical-difference diagram (Demšar 2006): average ranks on a line, bars join what does not differ.

    Returns:
        The picture by format; empty where there are no ranks.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    ranks = findings.ranks
    if ranks is None:
        return {}
    k = len(ranks.names)
    on_left = math.ceil(k / 2)
    bars = len(ranks.groups)
    first_label = 0.55 + 0.28 * bars
    depth = first_label + 0.42 * on_left
    figure = new_figure(width=8.5, height=1.6 + 0.62 * depth)
    axes = figure.subplots()
    axes.set_axis_off()
    span = k - 1
    side = 0.42 * span  # room for the names
    axes.set_xlim(1 - side, k + side)
    axes.set_ylim(depth + 0.1, -1.6)

    axes.plot([1, k], [0, 0], color="black", linewidth=1.2)
    for rank in range(1, k + 1):
        axes.plot([rank, rank], [0, -0.15], color="black", linewidth=1)
        axes.text(rank, -0.25, str(rank), ha="center", va="bottom", fontsize=9)
    reach = ranks.critical_difference
    if reach <= span:
        axes.plot([1, 1 + reach], [-0.95, -0.95], color="black", linewidth=1.4)
        for end in (1, 1 + reach):
            axes.plot([end, end], [-0.85, -1.05], color="black", linewidth=1.4)
        axes.text(1 + reach / 2, -1.08, f"CD = {reach:.2f}", ha="center", va="bottom", fontsize=9)
    else:
        axes.text(1, -1.08, f"CD = {reach:.2f}, wider than the axis", ha="left", va="bottom", fontsize=9)
    for number, (name, rank) in enumerate(zip(ranks.names, ranks.ranks, strict=True)):
        left = number < on_left
        height = first_label + 0.42 * (number if left else k - 1 - number)
        end = 1 - 0.06 * span if left else k + 0.06 * span
        axes.plot([rank, rank, end], [0, height, height], color="black", linewidth=0.8)
        text = f"{plain(name)}  {rank:.2f}" if left else f"{rank:.2f}  {plain(name)}"
        shift = -0.01 * span if left else 0.01 * span
        axes.text(end + shift, height, text, ha="right" if left else "left", va="center", fontsize=9)
    for number, (first, last) in enumerate(ranks.groups):
        height = 0.32 + 0.28 * number
        margin = 0.012 * span
        axes.plot(
            [ranks.ranks[first] - margin, ranks.ranks[last] + margin],
            [height, height],
            color=_ABOVE,
            linewidth=3.2,
            solid_capstyle="butt",
        )
    axes.set_title(_ranks_title(ranks), fontsize=10)
    return rendered(figure)


def _ranks_title(ranks: Ranking) -> str:
    blocks = f"average rank over {ranks.blocks} blocks (task, seed), 1 is best"
    if ranks.p_value is None:
        return f"{blocks}\nno Friedman test"
    p = "p < 0.001" if ranks.p_value < 0.001 else f"p = {ranks.p_value:.3f}"
    verdict = "bars join what Nemenyi's test does not tell apart" if ranks.shown else "no difference shown"
    return f"{blocks}\nFriedman {p}: {verdict}"
