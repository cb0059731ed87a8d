"""The figures of the evidence: one function a figure, from found trials to a matplotlib figure. Readable in grey."""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy import stats

from trials import Comparison, Row, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = Mapping[str, Sequence[str]]

_INK, _GREY, _LIGHT, _BAND = "#08306b", "#7f7f7f", "#d9d9d9", "#f2f2f2"
_GRID: dict[str, Any] = {"color": "#e5e5e5", "linewidth": 0.6}
# dark to light, and each with a dash and a mark of its own: told apart without colours, too
_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#08306b", "linestyle": "-", "marker": "o"},
    {"color": "#b2182b", "linestyle": (0, (5, 1.5)), "marker": "s"},
    {"color": "#2a8a57", "linestyle": (0, (1, 1)), "marker": "^"},
    {"color": "#e08214", "linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "D"},
    {"color": "#7b5aa6", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#8c8c8c", "linestyle": (0, (8, 2)), "marker": "x"},
)
AVERAGE = "average of the tasks"


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches, without a window or any global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Figure) -> bytes:
    """Returns the figure as SVG; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "codir"}):
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def plain(text: str) -> str:
    """Returns text in which matplotlib reads no mathematics."""
    return " ".join(text.split()).replace("$", r"\$")


def draw_kept(found: Comparison) -> Figure:
    """Draws what each row keeps of its teacher, in percent: a panel for the average and one for each task, sorted."""
    rows, panels = found.order(), found.panels
    figure, grid = _panels(rows, panels, unit=0.3)
    for axes, task in zip(grid, panels, strict=True):
        axes.axvline(100, color="black", linewidth=1)
        reference = [
            spread for row in rows if row.recipe == found.baseline and (spread := found.kept(row, task)) is not None
        ]
        for spread in reference[:1]:
            axes.axvline(spread.mean, color=_GREY, linewidth=0.9, linestyle=(0, (2, 2)))
        for place, row in enumerate(rows):
            spread = found.kept(row, task)
            if spread is None:
                continue
            if task is not None:
                seeds = [trial.kept for trial in found.by_row[row] if trial.task == task]
                axes.plot(seeds, [place] * len(seeds), "|", color="#9e9e9e", markersize=7, markeredgewidth=1)
            _dot(axes, place, spread.mean, spread.interval, filled=True)
            if task == panels[0]:
                axes.annotate(
                    f"{spread.mean:.1f}",
                    (1, place),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=_INK,
                )
        if (constant := drawn_constant(found, task)) is not None:
            axes.axvline(constant, color="#b2182b", linewidth=1, linestyle=":")
        axes.set_title(plain(_panel_name(found, task)), fontsize=9.5)
    figure.supxlabel("kept of the teacher's score, %  (teacher: black line at 100)", fontsize=9)
    return figure


def drawn_constant(found: Comparison, task: str | None) -> float | None:
    """Returns what one answer for everything keeps, in percent; None where it is far below all rows: not drawn."""
    constant = found.constant(task)
    if task is None or constant is None:
        return None
    kept = [trial.kept for trial in found.trials if trial.task == task and math.isfinite(trial.kept)]
    share = 100 * constant / found.teacher(task)
    return share if share > min(kept) - 0.5 * (max(100, *kept) - min(kept)) else None


def draw_gains(found: Comparison, label: str = "") -> Figure:
    """Draws the paired differences from the baseline with their intervals; filled where shown beyond noise."""
    differences, panels = found.differences, found.panels

    def place_of(row: Row) -> float:
        own = [differences.get((row, panel)) for panel in panels]
        return -next((each.mean for each in own if each is not None and each.n), 0.0)

    with_pairs = dict.fromkeys(row for row, _ in differences)
    rows = sorted(with_pairs, key=lambda row: ((row, None) not in differences, place_of(row)))
    figure, grid = _panels(rows, panels, unit=0.28)
    for axes, task in zip(grid, panels, strict=True):
        axes.axvline(0, color="black", linewidth=1)
        for place, row in enumerate(rows):
            difference = differences.get((row, task))
            if difference is not None and difference.n:
                ends = difference.interval and (100 * difference.interval[0], 100 * difference.interval[1])
                _dot(axes, place, 100 * difference.mean, ends, filled=difference.shown)
        axes.set_title(plain(_panel_name(found, task)), fontsize=9.5)
    against = plain(label or f"paired difference from {found.baseline}")
    between = " " if figure.get_figwidth() > 7 else "\n"
    intervals = any(each.interval for each in differences.values())
    noise = "95 % intervals (filled: beyond noise after Holm's correction)" if intervals else "one seed"
    figure.supxlabel(f"{against}, points,{between}{noise}", fontsize=9)
    return figure


def draw_costs(found: Comparison) -> Figure:
    """Draws what is kept against the time of a training: one point a row, names beside the panel."""
    tasks = found.tasks
    points = []
    for row in found.rows:
        spread = found.kept(row, found.panels[0])
        if spread is not None:
            points.append((row, found.minutes(row), spread))
    figure = new_figure(7.6, max(3.6, 0.24 * len(points) + 1.4))
    axes = figure.subplots()
    for _, time, spread in points:
        if (ends := spread.interval) is not None:
            axes.plot([time, time], ends, color="#b0b0b0", linewidth=1.2, zorder=1)
        axes.plot([time], [spread.mean], "o", color=_INK, markersize=6, zorder=3)
    by_name: dict[tuple[str, str | None], list[tuple[float, float]]] = {}
    for row, time, spread in points:
        by_name.setdefault((row.recipe.split(" [")[0], row.student), []).append((time, spread.mean))
    for group in by_name.values():
        if len(group) > 1:  # one recipe with several budgets
            ordered = sorted(group)
            axes.plot([x for x, _ in ordered], [y for _, y in ordered], color=_INK, linewidth=0.9, zorder=2)
    times = [time for _, time, _ in points]
    if max(times) / min(times) > 3:
        axes.set_xscale("log")
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.06, y=0.06)
    _names_beside(axes, [(time, spread.mean, plain(str(row))) for row, time, spread in points])
    axes.set_xlabel("minutes of a training (median over the seeds, mean over the tasks)", fontsize=9)
    axes.set_ylabel("kept of the teacher's score, %" + (", average" if len(tasks) > 1 else ""), fontsize=9)
    axes.grid(**_GRID)
    _bare(axes)
    return figure


# what is logged of a contrastive term, and how it is shown
_DYNAMICS = (
    ("loss_crd", "contrastive loss", True),
    ("loss_task", "loss of the labels", False),
    ("crd_accuracy", "accuracy", False),
    ("crd_positive", "cosine to the positive", False),
    ("crd_negative", "cosine to negatives", False),
    ("crd_temperature", "temperature", False),
)


def draw_dynamics(found: Comparison, groups: Groups) -> Figure:
    """Draws how the contrastive term moves: a column for each group of recipes, a row for each thing logged."""
    task = found.tasks[0]
    recipes = {row.recipe for row in found.rows}
    trials = [trial for trial in found.trials if trial.task == task]
    columns = {
        name: own
        for name, members in groups.items()
        if (own := [each for each in members if each in recipes and _lines(trials, each, "loss_crd")])
    }
    shown = [
        each
        for each in _DYNAMICS
        if any(_lines(trials, recipe, each[0]) for some in columns.values() for recipe in some)
    ]
    counts = Counter(recipe for some in columns.values() for recipe in some)
    reference = max(counts, key=lambda recipe: counts[recipe])  # looks the same in every column
    columns = {name: sorted(some, key=lambda each: each != reference) for name, some in columns.items()}
    most = max(map(len, columns.values()))
    legend = 0.1 + 0.15 * most
    figure = new_figure(0.5 + 2.35 * len(columns), legend + 0.5 + 1.45 * len(shown))
    ratios = [legend, *[1.45] * len(shown)]
    grid = figure.subplots(len(shown) + 1, len(columns), squeeze=False, height_ratios=ratios)
    for column, (name, members) in enumerate(columns.items()):
        panels = []
        for line, (key, label, logarithmic) in enumerate(shown, start=1):
            axes, with_lines = grid[line][column], [each for each in members if _lines(trials, each, key)]
            if not with_lines:
                axes.set_visible(False)
                continue
            if panels:
                axes.sharex(panels[0])
            panels.append(axes)
            before = [each for each in grid[line][:column] if each.get_visible()]
            if before:
                axes.sharey(before[0])
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel(label, fontsize=8.5)
            for number, recipe in enumerate(members, start=0 if reference in members else 1):
                _draw_lines(axes, _lines(trials, recipe, key), plain(recipe), number)
            if logarithmic:
                axes.set_yscale("log")
            if key == "crd_accuracy":
                axes.set_ylim(-0.03, 1.05)
            axes.grid(**_GRID)
            axes.tick_params(labelsize=7.5, labelbottom=False)
            _bare(axes)
        panels[-1].tick_params(labelbottom=True)
        panels[-1].set_xlabel("optimiser step", fontsize=8.5)
        grid[0][column].set_axis_off()
        grid[0][column].set_title(plain(name), fontsize=9.5)
        grid[0][column].legend(
            *panels[0].get_legend_handles_labels(),
            loc="upper center",
            fontsize=7.5,
            frameon=False,
            handlelength=3.2,
            borderaxespad=0,
        )
    return figure


def _lines(trials: Sequence[Trial], recipe: str, key: str) -> list[tuple[list[int], list[float]]]:
    found = [trial.curve(key) for trial in trials if trial.recipe == recipe]
    return [each for each in found if each[0]]


def _draw_lines(axes: Any, lines: Sequence[tuple[list[int], list[float]]], name: str, number: int) -> None:
    """Draws the mean over the seeds, and from the lowest to the highest of them as a band."""
    if not lines:
        return
    shortest = min(lines, key=lambda line: len(line[0]))[0]
    values = [[line[1][place] for line in lines] for place in range(len(shortest))]
    means = [statistics.fmean(each) for each in values]
    style = _LINES[number % len(_LINES)]
    if len(lines) > 1:
        low, high = [min(each) for each in values], [max(each) for each in values]
        axes.fill_between(shortest, low, high, color=style["color"], alpha=0.12, linewidth=0)
    every = max(1, len(shortest) // 6)
    axes.plot(shortest, means, label=name, markersize=3.5, linewidth=1.4, markevery=(number % every, every), **style)


def draw_ends(found: Comparison, key: str = "loss_crd") -> Figure:
    """Draws what is kept against where the contrastive loss stands at the end: a point a trial, a ring a recipe."""
    tasks = [
        task
        for task in found.tasks
        if any(trial.task == task and trial.end_of(key) is not None for trial in found.trials)
    ]
    rows = {
        task: [row for row in found.rows if any(each.task == task and each.end_of(key) for each in found.by_row[row])]
        for task in tasks
    }
    most = max(map(len, rows.values()))
    figure = new_figure(0.4 + 4.6 * len(tasks), max(3.4, 0.21 * most + 1.3))
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        named = []
        for row in rows[task]:
            ends = ends_of(found, row, task, key)
            axes.plot([x for x, _ in ends], [y for _, y in ends], ".", color="#8a8a8a", markersize=4, zorder=2)
            middle = (
                math.exp(statistics.fmean(math.log(x) for x, _ in ends)),
                statistics.fmean(y for _, y in ends),
            )
            axes.plot([middle[0]], [middle[1]], "o", color=_INK, markersize=6.5, zorder=3)
            named.append((*middle, plain(str(row))))
        for row in found.rows:
            spread = found.kept(row, task)
            if row.recipe == found.baseline and spread is not None:
                axes.axhline(spread.mean, color="black", linewidth=0.9, linestyle=(0, (4, 2)))
                if (band := spread.interval) is not None:
                    axes.axhspan(*band, color=_BAND, zorder=0)
        axes.set_xscale("log")
        axes.margins(x=0.08, y=0.08)
        _names_beside(axes, named)
        axes.set_title(plain(task), fontsize=9.5)
        axes.set_xlabel("contrastive loss over the last fifth of the training", fontsize=8.5)
        axes.set_ylabel("kept of the teacher's score, %", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.grid(**_GRID)
        _bare(axes)
    return figure


def ends_of(found: Comparison, row: Row, task: str, key: str = "loss_crd") -> list[tuple[float, float]]:
    """Returns (loss at the end, % kept) of a row's trials on a task."""
    return [
        (end, trial.kept)
        for trial in found.by_row[row]
        if trial.task == task and (end := trial.end_of(key)) is not None and end > 0
    ]


def ends_correlation(found: Comparison, task: str, key: str = "loss_crd") -> tuple[int, float | None]:
    """Returns the number of trials with a contrastive loss, and Spearman's correlation of its end with the score.

    None for the correlation with fewer than three trials, or where loss or score does not vary.
    """
    pairs = [pair for row in found.rows for pair in ends_of(found, row, task, key)]
    if len(pairs) < 3 or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return len(pairs), None
    ends, scores = zip(*pairs, strict=True)
    outcome: Any = stats.spearmanr(ends, scores)
    return len(pairs), float(outcome.statistic)


def draw_epochs(found: Comparison) -> Figure:
    """Draws the score after each epoch, mean over the seeds: a panel for each task, the teacher as a line."""
    tasks = found.tasks
    rows = found.order()
    columns = 4 if len(tasks) > 1 else 3  # of the legend
    figure = new_figure(max(5.2, 0.6 + 3.4 * len(tasks)), 3.1 + 0.2 * math.ceil(len(rows) / columns))
    grid = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        axes.axhline(100 * found.teacher(task), color="black", linewidth=1)
        for number, row in enumerate(rows):
            lines = [
                (
                    each.values["evaluations"]["epoch"],
                    [100 * score for score in each.values["evaluations"]["score"]],
                )
                for each in found.by_row[row]
                if each.task == task and each.values["evaluations"]["epoch"]
            ]
            _draw_lines(axes, lines, plain(str(row)), number)
        axes.set_title(plain(task), fontsize=9.5)
        axes.set_xlabel("epoch", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.grid(**_GRID)
        _bare(axes)
    grid[0].set_ylabel("score (teacher: black line)", fontsize=8.5)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=3.2,
    )
    return figure


def laid_out(figure: Figure) -> Figure:
    """Lays a figure out, and rounds the places of its panels: the layout's last digits differ from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(value), 4) for value in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))
    for text in figure.texts:  # the labels of the whole figure
        x, y = text.get_position()
        text.set_position((round(x, 4), round(y, 4)))
    return figure


# ---- what figures share ----------------------------------------------------------------------------------------------


def _panels(rows: Sequence[Row], panels: Sequence[str | None], unit: float) -> tuple[Figure, list[Any]]:
    """Makes panels side by side that share their rows; names on the left, every second row shaded."""
    longest = max(len(str(row)) for row in rows)
    width = 0.3 + 0.075 * longest + sum(_width(panel) for panel in panels)
    figure = new_figure(max(width, 5.0), 1.0 + unit * len(rows))  # narrower, and the label below is cut off
    ratios = [_width(panel) for panel in panels]
    grid = list(figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=ratios)[0])
    for axes in grid:
        axes.set_yticks(range(len(rows)), [plain(str(row)) for row in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for place in range(0, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color=_BAND, zorder=0, linewidth=0)
        axes.grid(axis="x", color="#dcdcdc", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, grid


def _width(panel: str | None) -> float:
    return 3.1 if panel is None else 2.4


def _panel_name(found: Comparison, task: str | None) -> str:
    if task is None:
        return AVERAGE
    metric = next(trial.metric for trial in found.trials if trial.task == task)
    return f"{task} ({metric.replace('_', ' ')})"


def _dot(axes: Any, place: int, value: float, ends: tuple[float, float] | None, *, filled: bool) -> None:
    if ends is not None:
        axes.plot(ends, [place, place], color=_INK, linewidth=1.8, zorder=3, solid_capstyle="butt")
    face = _INK if filled else "white"
    axes.plot([value], [place], "o", markerfacecolor=face, markeredgecolor=_INK, markersize=6, zorder=4)


def _names_beside(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes names in a column to the right of a panel, each joined to its point by a thin line."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.set_xlim(axes.get_xlim())
    gap = 0.16 / (axes.figure.get_figheight() - 0.9)  # a line of text in inches, over what is left for the panel
    places = _apart([(y - low) / (high - low) for _, y, _ in points], gap)
    for (x, y, name), place in zip(points, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#c4c4c4", "linewidth": 0.6, "shrinkB": 3, "zorder": 1},
        )


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Returns heights in the order given, moved as little as it takes to stand at least `gap` from each other."""
    order = sorted(range(len(places)), key=lambda each: places[each])
    groups: list[list[float]] = []  # [sum of (height - rank * gap), members]
    for rank, each in enumerate(order):
        groups.append([places[each] - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += members
    lowest = [total / members for total, members in groups for _ in range(int(members))]
    found = [0.0] * len(places)
    for rank, each in enumerate(order):
        found[each] = lowest[rank] + rank * gap
    return found


def _bare(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
