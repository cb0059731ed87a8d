"""The tables of a study's findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from codir.studies.findings import AVERAGE, Cell, Findings, Row
from codir.studies.statistics import PairedDifference, Spread
from codir.studies.study_table import DASH, Column, StudyTable, Value

if TYPE_CHECKING:
    from codir.studies.results import TrialResult


def points(value: Value) -> str:
    """Shows a score as the field's papers do, times 100 with one digit."""
    return DASH if value is None or math.isnan(float(value)) else f"{100 * float(value):.1f}"


def _signed(value: Value) -> str:
    return f"{100 * float(value):+.1f}" if value is not None else DASH


def _probability(value: Value) -> str:
    return DASH if value is None else "<0.001" if float(value) < 0.001 else f"{float(value):.3f}"


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
