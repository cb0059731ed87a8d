"""The report of a study: words and tables of what is finished. `codir report FOLDER` makes the page with pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from codir.files import held, write_text
from codir.printing import Console, terminal
from codir.studies.config import StudyConfig
from codir.studies.findings import AVERAGE, Cell, Findings, Row, Spread, find
from codir.studies.results import Plan
from codir.studies.trial import TrialResult
from codir.table import DASH, Column, Table, Value, inline

FILES = ("report.md", "results.csv", "trials.csv", "table.tex")
_MOST = 12  # lines of what is missing in the terminal, before the rest is counted


def write_report(output: str | Path, console: Console | None = None, baseline: str | None = None) -> Findings:
    """Reads a study's finished trials, prints its tables and writes its report (`FILES`) into its folder.

    A study may be unfinished: the report says what is missing.

    Args:
        output: the study's folder.
        console: where to print; the terminal by default.
        baseline: recipe to compare with, instead of the study's own.

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, a finished trial is damaged, or the files cannot be written.
    """
    output, console = Path(output), terminal(console)
    with held(output / "report.md"):
        findings, results, config = read_findings(output, baseline)
        tables = [scores_table(findings)] * bool(findings.trials)
        tables += [differences_table(findings)] * bool(findings.differences)
        tables += [spread_table(findings)] * bool(findings.trials)
        latex = "\n".join(table.to_latex() for table in tables)
        contents = (
            _markdown(findings, tables, config),
            _results_csv(findings),
            _trials_csv(results),
            f"% needs \\usepackage[T1]{{fontenc}} and \\usepackage{{booktabs}}\n{latex}",
        )
        for name, text in zip(FILES, contents, strict=True):
            write_text(output / name, text)
    for table in tables:
        console.print(table.to_rich())
    lines = [_finished(findings), *plain_words(findings), *(f"Missing: {line}" for line in findings.missing[:_MOST])]
    if len(findings.missing) > _MOST:
        lines.append(f"Missing: and {len(findings.missing) - _MOST} more, all in report.md")
    way = f"The report is in {output / 'report.md'}; `codir report {output}` makes a page with pictures of it."
    for line in [*lines, way]:
        console.print(line, markup=False, highlight=False)
    return findings


def read_findings(
    output: Path, baseline: str | None = None, damaged: list[str] | None = None
) -> tuple[Findings, list[TrialResult], StudyConfig]:
    """Reads a study's folder, which may be unfinished, and brings its finished trials together.

    Args:
        output: the study's folder.
        baseline: recipe to compare with, instead of the study's own.
        damaged: gets a line for each finished trial that cannot be read; None refuses the first of them.

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, or a finished trial is damaged.
    """
    plan = Plan.load(output)
    config, results = plan.config, plan.results(damaged)
    failed = {key: each.error for key, each in plan.done([]).items() if each.state == "failed"}
    finished = {result.recipe for result in results if result.phase == "final"}
    findings = find(
        results,
        baseline or (config.reference if config.reference in finished else None),
        recipes=list(config.recipes),
        tasks=list(config.tasks),
        planned=[(g.recipe, g.task, g.student, seed) for g in plan.search.groups() for seed in config.seeds],
        failed=failed,
    )
    return findings, results, config


# ---- words: what the findings allow to say, and no more --------------------------------------------------------------


def plain_words(findings: Findings) -> list[str]:
    """Returns sentences: task by task who differs from the baseline beyond noise, then the reservations.

    A difference counts as shown only if its 95 % interval excludes zero and its p stays below 0.05 after Holm's
    correction; anything else is "no difference shown", which is not the same as no difference.
    """
    if not findings.trials:
        return ["No trial is finished, so there is nothing to compare."]
    lines: list[str] = []
    if not findings.differences:
        lines.append("There is nothing to compare with: a baseline and another recipe have to be finished.")
    for panel in findings.panels:
        lines += _on(findings, panel)
    if pairs := sorted({d.n for d in findings.differences.values() if d.has_interval}):
        told = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        lines.append(
            f"Each comparison is of {told} pairs, one a seed (paired t test): it speaks of other seeds, not of other "
            "data. No difference shown does not mean that there is none: the interval says how large it may be."
        )
    for task, constant in findings.constants.items():
        spreads = ((row, findings.spread(row, task)) for row in findings.rows)
        if low := [row for row, spread in spreads if spread and spread.mean <= constant + 1e-9]:
            lines.append(
                f"On {task} answering the same class to everything scores {100 * constant:.1f} points: no more than "
                f"that, on average, has {_names(low)}."
            )
    lines += [f"Unequal budget: {line}." for line in findings.budget]
    if findings.search_trials:
        lines.append(
            f"The search took {findings.search_trials} trials and {findings.search_seconds:,.0f} s on top; its scores "
            "are no results."
        )
    return [
        *lines,
        "Where trainings keep the checkpoint that was best on the dev split, its score is a little high for every "
        "recipe alike.",
    ]


def _on(findings: Findings, panel: str | None) -> Iterable[str]:
    found = {row: d for row in findings.rows if (d := findings.differences.get((row, panel))) is not None}
    where = f"on {panel}" if panel is not None else f"in the {AVERAGE} of {len(findings.tasks)} tasks"
    base, tested = findings.baseline, sum(d.has_interval for d in found.values())
    for row, d in found.items():
        if d.includes_zero:
            continue
        side = "above" if d.difference > 0 else "below"
        told = f"{row} is {side} {base} beyond noise {where}" if d.shown else f"{row} {where}"
        told += f": {_signed(d.difference)} points (95 % interval {_signed(d.low)} to {_signed(d.high)}, {d.n} pairs)"
        p = f"p {_p(d.adjusted)} after Holm's correction over {tested} compared"
        yield (
            f"{told}, {p}."
            if d.shown
            else f"{told}; its interval excludes zero, but {p}: no difference from {base} shown."
        )
    rest = [row for row, d in found.items() if d.has_interval and d.includes_zero]
    if rest and len(rest) == len(found):
        yield f"No recipe is shown to differ from {base} beyond noise {where} ({_names(rest)})."
    elif rest:
        yield f"No difference from {base} shown {where}: {_names(rest)}."
    for why in dict.fromkeys(d.without for d in found.values() if not d.has_interval):
        rows = _names(row for row, d in found.items() if d.without == why)
        yield f"Nothing is said of the difference from {base} {where} of {rows}: {why}."


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(map(str, rows))


# ---- tables ----------------------------------------------------------------------------------------------------------


def points(value: float | None) -> str:
    """Shows a score as the field's papers do, times 100 with one digit."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.1f}"


def spread_text(spread: Spread | None) -> str | None:
    """Returns `77.1 ±0.8`, mean and standard deviation; without the latter for one score."""
    if spread is None:
        return None
    return points(spread.mean) + ("" if spread.std is None else f" ±{points(spread.std)}")


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:+.1f}"


def _p(value: float | None) -> str:
    return DASH if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def scores_table(findings: Findings) -> Table:
    """Rows by tasks: mean and standard deviation over the seeds, the teacher first."""
    counts = {cell.spread.n for cell in findings.cells.values() if cell.spread is not None}
    same = counts.pop() if len(counts) == 1 else None
    metric = {task: cell.metric.replace("_", " ") for (_, task), cell in findings.cells.items()}
    headings = [AVERAGE if panel is None else f"{panel} ({metric[panel]})" for panel in findings.panels]
    means = {**findings.teachers, None: sum(findings.teachers.values()) / max(1, len(findings.tasks))}
    rows: list[tuple[Value, ...]] = [("teacher", *(points(means[panel]) for panel in findings.panels))]
    if findings.constants:
        known = (findings.constants.get(panel or "") for panel in findings.panels)
        rows.append(("one answer for all", *map(points, known)))
    rule = len(rows)
    for row in findings.rows:
        spreads = [findings.spread(row, panel) for panel in findings.panels]
        numbers = ["" if same or not spread else f" ({spread.n})" for spread in spreads]
        texts = [f"{spread_text(s)}{n}" if s else None for s, n in zip(spreads, numbers, strict=True)]
        rows.append((str(row), *texts))
    number = f"{same} seeds" if same else "the seeds (their number in brackets)"
    note = f"Points (score x 100) on the dev split: mean ± sample standard deviation over {number}."
    if same == 1:
        note = "Points (score x 100) on the dev split, one seed: there is no spread to be seen."
    return Table("Scores", [Column("recipe", left=True), *map(Column, headings)], rows, note, rule_after=rule)


def spread_table(findings: Findings) -> Table:
    """One line for each row on each task: the sample in a few numbers, the share of the teacher kept, the cost."""
    columns = [*_PLACE, Column("seeds"), *(Column(n, points) for n in ("mean", "median", "max", "min", "std"))]
    columns += [Column("kept", lambda value: f"{100 * value:.1f}%"), Column("steps")]
    columns += [Column("best after", "{:.3g}".format), Column("s/trial", "{:.1f}".format)]
    columns.append(Column("params", lambda value: f"{value / 1e6:.2f}M"))
    rows: list[tuple[Value, ...]] = []
    for panel, row, cell in _places(findings):
        s = findings.spread(row, panel)
        numbers = (s.n, s.mean, s.median, s.high, s.low, s.std) if s else (0, *[None] * 5)
        cost: tuple[Value, ...] = (None,) * 5
        if cell:
            steps = " or ".join(f"{count:,}" for count in cell.steps)
            cost = (cell.kept, steps, cell.best_epoch, cell.seconds, cell.parameters)
        rows.append((panel or AVERAGE, str(row), *numbers, *cost))
    note = (
        "Points; std is the sample standard deviation; kept is the mean of score / teacher's score. Best after so many "
        "epochs; seconds are training time on the wall clock: workers that share a machine slow each other down."
    )
    return Table("Spread over the seeds, and cost", columns, rows, note)


def differences_table(findings: Findings) -> Table:
    """The paired differences from the baseline with interval and tests."""
    columns = [*_PLACE, Column("pairs"), *(Column(name, _signed) for name in ("difference", "from", "to"))]
    columns += [Column(name, _p) for name in ("p (t)", "p (t, Holm)")]
    rows: list[tuple[Value, ...]] = []
    for panel, row, _ in _places(findings):
        if (d := findings.differences.get((row, panel))) is not None:
            shown = d.without or ("no" if not d.shown else "above" if d.difference > 0 else "below")
            numbers = (d.n, d.difference, d.low, d.high, d.p_value, d.adjusted)
            rows.append((panel or AVERAGE, str(row), *numbers, shown))
    note = (
        "Points, paired by seed. From, to (95 % interval) and p (t): paired t test over the seeds; Holm's correction: "
        "over the recipes of one task. Shown: interval without zero and Holm's p below 0.05; 'no' is no 'equal'."
    )
    title = f"Difference from {findings.baseline}"
    return Table(title, [*columns, Column("shown", left=True)], rows, note)


_PLACE = (Column("task", left=True), Column("recipe", left=True))


def _places(findings: Findings) -> list[tuple[str | None, Row, Cell | None]]:
    """Returns task (None: the average), row and cell, in the order they are shown."""
    return [
        (panel, row, findings.cells.get((row, panel or "")))
        for panel in findings.panels
        for row in findings.rows
        if (row in findings.averages if panel is None else (row, panel) in findings.cells)
    ]


# ---- the files -------------------------------------------------------------------------------------------------------


def _results_csv(findings: Findings) -> str:
    """Returns spread, cost and differences in one table, a line for each row on each task and the average."""
    frame = spread_table(findings).to_pandas()
    frame = frame.merge(differences_table(findings).to_pandas(), how="outer", on=["task", "recipe"], sort=False)
    return frame.to_csv(index=False, lineterminator="\n")


def _trials_csv(results: Sequence[TrialResult]) -> str:
    """Returns one line for each finished trial, every metric in a column of its own; what is not known is empty."""
    import pandas

    records = [
        {**asdict(result), "settings": json.dumps(dict(result.settings), default=str), **result.metrics}
        for result in results
    ]
    frame = pandas.DataFrame(records, dtype=object).drop(columns="metrics", errors="ignore")
    return frame.to_csv(index=False, lineterminator="\n")


def _markdown(findings: Findings, tables: Sequence[Table], config: StudyConfig) -> str:
    lines = ["# Report of the study", "", _finished(findings), ""]
    if findings.missing:
        lines += ["Missing:", "", *(f"- {inline(line)}" for line in findings.missing), ""]
    lines += ["## In words", "", *(f"- {inline(line)}" for line in plain_words(findings)), ""]
    if tables:
        lines += ["## Tables", "", "\n".join(table.to_markdown() for table in tables)]
    seeds = ", ".join(map(str, config.seeds))
    lines += [f"Recipes {', '.join(config.recipes)}; tasks {', '.join(config.tasks)}; seeds {seeds}.", ""]
    return "\n".join(lines)


def _finished(findings: Findings) -> str:
    line = f"{findings.trials} trial{'s' if findings.trials != 1 else ''} finished"
    return f"{line}; the study is not complete." if findings.missing else f"{line}."
