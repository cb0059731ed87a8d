"""One table, four dresses: the terminal (rich), Markdown, CSV and LaTeX; and the tables of a study's findings."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codir.studies.findings import AVERAGE, Cell, Findings, Row
from codir.studies.statistics import PairedDifference, Spread

if TYPE_CHECKING:
    from rich.table import Table

    from codir.studies.results import TrialResult

Value = str | int | float | None
_DASH = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: as shown.
        text: shows a value that is not None; by default as it is.
        name: heading in CSV, where the values stand as they are; by default `heading`.
        left: aligned to the left, as names are.
    """

    heading: str
    text: Callable[[Value], str] = str
    name: str | None = None
    left: bool = False

    def show(self, value: Value) -> str:
        """Returns a value as text; None and what is not a number as a dash."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _DASH
        return self.text(value)


@dataclass(frozen=True)
class StudyTable:
    """A table before it is put into a format.

    Attributes:
        title: a line above it.
        columns: of every row.
        rows: the values, one for each column.
        note: a line below it; empty for none.
        rule_after: draw a line after this many rows (0: none), where the format can.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    rule_after: int = 0

    def cells(self) -> list[list[str]]:
        """Returns the rows as text."""
        return [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows
        ]

    def to_rich(self) -> Table:
        """Returns the table for the terminal; names are never read as markup, numbers never folded."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(self.title, style="bold"),
            title_justify="left",
            caption=Text(self.note) if self.note else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            collapse_padding=True,
        )
        rows = self.cells()
        for number, column in enumerate(self.columns):
            width = max((len(row[number]) for row in rows), default=0)
            justify: Literal["left", "right"] = "left" if column.left else "right"
            table.add_column(
                Text(column.heading),
                justify=justify,
                overflow="fold",
                min_width=min(width, 18) if column.left else width,
            )
        for number, row in enumerate(rows, start=1):
            table.add_row(*map(Text, row), end_section=number == self.rule_after)
        return table

    def to_markdown(self) -> str:
        """Returns title, table (GitHub's) and note; what Markdown would read as its own is escaped."""
        lines = [f"**{escape_markdown(self.title)}**", ""]
        lines.append(_markdown_row([column.heading for column in self.columns]))
        lines.append("| " + " | ".join("---" if column.left else "---:" for column in self.columns) + " |")
        lines += [_markdown_row(row) for row in self.cells()]
        if self.note:
            lines += ["", escape_markdown(self.note)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Returns the values as they are, not rounded, under the columns' names; None is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name or column.heading for column in self.columns])
        for row in self.rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
        return file.getvalue()

    def to_latex(self) -> str:
        """Returns a `table` environment with the rules of booktabs; names are escaped."""
        form = "".join("l" if column.left else "r" for column in self.columns)
        lines = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape_latex(self.title)}{'. ' if self.note else ''}{escape_latex(self.note)}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            _latex_row([column.heading for column in self.columns]),
            r"\midrule",
        ]
        for number, row in enumerate(self.cells(), start=1):
            lines.append(_latex_row(row))
            if number == self.rule_after and number < len(self.rows):
                lines.append(r"\midrule")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def escape_markdown(text: str) -> str:
    """Returns text that Markdown shows as it is, inside one cell of a table."""
    return re.sub(r"([\\|`*_<>\[\]~#$&])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would start an optional argument
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
}


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets as it is; newlines become spaces."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    # a hyphen before a number is a minus sign
    shown = (re.sub(r"(?<![\w-])-(?=\d)", "$-$", escape_latex(cell)) for cell in cells)
    return " & ".join(shown) + r" \\"


def points(value: Value) -> str:
    """Shows a score as the field's papers do, times 100 with one digit."""
    return _DASH if value is None or math.isnan(float(value)) else f"{100 * float(value):.1f}"


def _signed(value: Value) -> str:
    return f"{100 * float(value):+.1f}" if value is not None else _DASH


def _probability(value: Value) -> str:
    return _DASH if value is None else "<0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def _count(value: Value) -> str:
    return f"{int(value or 0):,}"


def _millions(value: Value) -> str:
    return f"{float(value or 0) / 1e6:.2f}M"


def _seconds(value: Value) -> str:
    return f"{float(value or 0):.1f}"


def _of(form: str) -> Callable[[Value], str]:
    return lambda value: format(float(value or 0), form)


def spread_text(spread: Spread | None) -> str | None:
    """Returns `77.1 ±0.8`, mean and standard deviation; without the latter for one score."""
    if spread is None:
        return None
    return points(spread.mean) + ("" if spread.std is None else f" ±{points(spread.std)}")


def interval_text(difference: PairedDifference) -> str | None:
    """Returns `-0.3 to 1.2`; None where there is no interval."""
    if difference.low is None or difference.high is None:
        return None
    return f"{_signed(difference.low)} to {_signed(difference.high)}"


def scores_table(findings: Findings) -> StudyTable:
    """Rows by tasks: mean and standard deviation over the seeds, the teacher first."""
    single = {cell.spread.n for cell in findings.cells.values() if cell.spread is not None}
    same = single.pop() if len(single) == 1 else None
    metric = {task: cell.metric.replace("_", " ") for (_, task), cell in findings.cells.items()}
    columns = [Column("recipe", left=True)]
    columns += [Column(f"{task} ({metric[task]})") for task in findings.tasks]
    average = len(findings.tasks) > 1
    if average:
        columns.append(Column(AVERAGE))
    teacher: list[Value] = ["teacher", *(points(findings.teachers[task]) for task in findings.tasks)]
    if average:
        teacher.append(points(sum(findings.teachers.values()) / len(findings.tasks)))
    rows = [tuple(teacher)]
    if findings.constants:
        constant: list[Value] = ["one answer for all"]
        constant += [
            points(findings.constants[task]) if task in findings.constants else None
            for task in findings.tasks
        ]
        rows.append(tuple(constant + [None] * average))
    for row in findings.rows:
        texts: list[Value] = [str(row)]
        for task in findings.tasks:
            cell = findings.cells.get((row, task))
            texts.append(_with_count(cell.spread if cell else None, same))
        if average:
            texts.append(_with_count(findings.averages.get(row), same))
        rows.append(tuple(texts))
    number = f"{same} seed{'s' if same != 1 else ''}" if same else "the seeds (their number in brackets)"
    note = f"Points (score x 100) on the dev split: mean ± sample standard deviation over {number}."
    if same == 1:
        note = "Points (score x 100) on the dev split, one seed: there is no spread to be seen."
    return StudyTable("Scores", tuple(columns), tuple(rows), note, rule_after=len(rows) - len(findings.rows))


def _with_count(spread: Spread | None, same: int | None) -> str | None:
    text = spread_text(spread)
    return text if text is None or spread is None or same is not None else f"{text} ({spread.n})"


def spread_table(findings: Findings) -> StudyTable:
    """One line for each row on each task: the whole sample in a few numbers, and the share of the teacher kept."""
    columns = (
        Column("task", left=True),
        Column("recipe", left=True),
        Column("seeds", name="n"),
        *(Column(name, points) for name in ("mean", "median", "max", "min", "std")),
        Column("kept", lambda value: f"{100 * float(value or 0):.1f}%"),
    )
    rows = []
    for task, row, cell in _by_task(findings):
        if cell.spread is not None:
            s = cell.spread
            rows.append((task, str(row), s.n, s.mean, s.median, s.high, s.low, s.std, cell.kept))
    if len(findings.tasks) > 1:
        for row, s in findings.averages.items():
            rows.append((AVERAGE, str(row), s.n, s.mean, s.median, s.high, s.low, s.std, None))
    note = "Points; std is the sample standard deviation; kept is the mean of score / teacher's score."
    return StudyTable("Spread over the seeds", columns, tuple(rows), note)


def differences_table(findings: Findings) -> StudyTable:
    """The paired differences from the baseline with interval and tests."""
    columns = (
        Column("task", left=True),
        Column("recipe", left=True),
        Column("pairs"),
        Column("difference", _signed),
        Column("95 % interval"),
        Column("p (t)", _probability),
        Column("p (t, Holm)", _probability),
        Column("p (sign flip)", _probability),
        Column("shown", left=True),
    )
    rows = []
    for (row, task), d in sorted_differences(findings):
        shown = "no" if not d.shown else "above" if d.difference > 0 else "below"
        rows.append(
            (
                AVERAGE if task is None else task,
                str(row),
                d.n,
                d.difference,
                interval_text(d) or d.without,
                d.p_value,
                d.adjusted,
                d.p_flip,
                shown,
            )
        )
    note = (
        "Points, paired by seed. Interval and p (t): paired t test over the seeds; Holm's correction is over the "
        "recipes compared on one task; p (sign flip): permutation of the signs of the pairs. Shown: interval without "
        "zero and Holm's p below 0.05; 'no' does not mean equal."
    )
    return StudyTable(f"Difference from {findings.baseline}", columns, tuple(rows), note)


def sorted_differences(
    findings: Findings,
) -> list[tuple[tuple[Row, str | None], PairedDifference]]:
    """Returns the differences task by task, the average last, the rows in their order."""
    return [
        ((row, panel), findings.differences[row, panel])
        for panel in findings.panels
        for row in findings.rows
        if (row, panel) in findings.differences
    ]


def cost_table(findings: Findings) -> StudyTable:
    """What a trial took, beside what it gave."""
    columns = (
        Column("task", left=True),
        Column("recipe", left=True),
        Column("score", points),
        Column("steps", lambda value: str(value)),
        Column("epochs", _of(".4g")),
        Column("best after", _of(".3g"), name="best epoch"),
        Column("s/trial", _seconds, name="seconds per trial"),
        Column("s in all", _seconds, name="seconds"),
        Column("params", _millions, name="parameters"),
    )
    rows = []
    for task, row, cell in _by_task(findings):
        steps = " or ".join(f"{count:,}" for count in cell.steps)
        mean = None if cell.spread is None else cell.spread.mean
        rows.append(
            (
                task,
                str(row),
                mean,
                steps,
                cell.epochs,
                cell.best_epoch,
                cell.seconds,
                cell.seconds_total,
                cell.parameters,
            )
        )
    note = (
        "Training time of the student on the wall clock; workers that share a machine slow each other down."
    )
    return StudyTable("Cost", columns, tuple(rows), note)


def results_table(findings: Findings) -> StudyTable:
    """Everything in one long table, a line for each row on each task (and the average), for CSV."""
    names = (
        *(
            "task",
            "recipe",
            "student",
            "metric",
            "n",
            "mean",
            "median",
            "max",
            "min",
            "std",
            "teacher",
            "kept",
        ),
        *("baseline", "pairs", "difference", "low", "high", "p_t", "p_t_holm", "p_sign_flip"),
        *("seconds_per_trial", "seconds", "steps", "epochs", "best_epoch", "parameters"),
    )
    rows: list[tuple[Value, ...]] = []
    for panel in findings.panels:
        for row in findings.rows:
            cell = None if panel is None else findings.cells.get((row, panel))
            spread = findings.averages.get(row) if panel is None else cell.spread if cell else None
            if cell is None and spread is None:
                continue
            d = findings.differences.get((row, panel))
            of_spread: tuple[Value, ...] = (None,) * 6
            if spread is not None:
                of_spread = (spread.n, spread.mean, spread.median, spread.high, spread.low, spread.std)
            teacher = None if panel is None else findings.teachers[panel]
            of_difference: tuple[Value, ...] = (None,) * 8
            if d is not None:
                of_difference = (
                    *(findings.baseline, d.n, d.difference, d.low, d.high, d.p_value, d.adjusted, d.p_flip),
                )
            of_cost: tuple[Value, ...] = (None,) * 6
            if cell is not None:
                steps = " ".join(map(str, cell.steps))
                of_cost = (
                    *(cell.seconds, cell.seconds_total, steps, cell.epochs, cell.best_epoch, cell.parameters),
                )
            metric = None if cell is None else cell.metric
            rows.append(
                (
                    *(AVERAGE if panel is None else panel, row.recipe, row.student, metric),
                    *of_spread,
                    *(teacher, cell.kept if cell else None),
                    *of_difference,
                    *of_cost,
                )
            )
    return StudyTable("Results", tuple(Column(name) for name in names), tuple(rows))


def trials_table(results: Sequence[TrialResult]) -> StudyTable:
    """One line for each finished trial, every metric in a column of its own, for CSV."""
    import json

    metrics = sorted({name for result in results for name in result.metrics})
    names = (
        *("task", "recipe", "student", "seed", "phase", "settings", "metric", "score", "teacher_score"),
        *("agreement", "steps", "epochs", "best_epoch", "seconds", "parameters", "folder", *metrics),
    )
    rows = tuple(
        (
            *(r.task, r.recipe, r.student, r.seed, r.phase, json.dumps(dict(r.settings), default=str)),
            *(r.metric, r.score, r.teacher_score, r.agreement, r.steps, r.epochs, r.best_epoch, r.seconds),
            *(r.parameters, str(r.folder), *(r.metrics.get(name) for name in metrics)),
        )
        for r in results
    )
    return StudyTable("Trials", tuple(Column(name) for name in names), rows)


def _by_task(findings: Findings) -> list[tuple[str, Row, Cell]]:
    return [
        (task, row, findings.cells[row, task])
        for task in findings.tasks
        for row in findings.rows
        if (row, task) in findings.cells
    ]
