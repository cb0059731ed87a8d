"""The report of a study: words and tables of what is finished. `codir report FOLDER` makes the page with pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from codir.errors import RunError
from codir.files import held, write_text
from codir.printing import Console, terminal
from codir.studies.config import StudyConfig
from codir.studies.findings import AVERAGE, Cell, Findings, Row, find
from codir.studies.results import STUDY, Plan, TrialResult, read_results
from codir.studies.statistics import Spread
from codir.studies.words import plain_words
from codir.table import DASH, Column, Table, Value, inline

FILES = ("report.md", "results.csv", "trials.csv", "table.tex")
_MOST_MISSING = 12  # lines of what is missing in the terminal, before the rest is counted


def write_report(output: str | Path, console: Console | None = None, baseline: str | None = None) -> Findings:
    """Reads a study's finished trials, prints its tables and writes its report into its folder.

    The files are `FILES`. A study may be unfinished: the report says what is missing.

    Args:
        output: the study's folder.
        console: where to print; the terminal by default.
        baseline: recipe to compare with, instead of the study's own.

    Returns:
        What the report is made of.

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, a finished trial is damaged, or the files cannot be written.
    """
    output = Path(output)
    console = terminal(console)
    with held(output / "report.md"):
        findings, results, config = read_findings(output, baseline)
        tables = _tables(findings)
        latex = "\n".join(table.to_latex() for table in tables)
        contents = (
            _markdown(findings, tables, config),
            _results_csv(findings),
            _trials_csv(results),
            f"% needs \\usepackage[T1]{{fontenc}} and \\usepackage{{booktabs}}\n{latex}",
        )
        for name, text in zip(FILES, contents, strict=True):
            write_text(output / name, text)
    _show(findings, tables, output, console)
    return findings


def read_findings(
    output: Path, baseline: str | None = None, damaged: list[str] | None = None
) -> tuple[Findings, list[TrialResult], StudyConfig | None]:
    """Reads a study's folder and brings its finished trials together.

    Args:
        output: the study's folder; it may be unfinished.
        baseline: recipe to compare with, instead of the study's own.
        damaged: gets a line for each finished trial that cannot be read; None refuses the first of them.

    Returns:
        What was found, the trials, and the study's configuration (None where only run folders are left).

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, or a finished trial is damaged.
    """
    results = read_results(output, damaged)
    if not (output / STUDY).is_file():
        if not results:
            raise RunError(f"There is no study in {output}: no configuration and no finished trial.")
        return find(results, baseline), results, None
    plan = Plan.load(output)
    config = plan.config
    done = plan.done(None if damaged is None else [])
    finished = {result.recipe for result in results if result.phase == "final"}
    findings = find(
        results,
        baseline or (config.reference if config.reference in finished else None),
        recipes=list(config.recipes),
        tasks=list(config.tasks),
        planned=[(g.recipe, g.task, g.student, seed) for g in plan.search.groups() for seed in config.seeds],
        failed={key: outcome.error for key, outcome in done.items() if outcome.state == "failed"},
    )
    return findings, results, config


# ---- tables ----------------------------------------------------------------------------------------------------------


def points(value: float | None) -> str:
    """Shows a score as the field's papers do, times 100 with one digit."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.1f}"


def spread_text(spread: Spread | None) -> str | None:
    """Returns `77.1 ±0.8`, mean and standard deviation; without the latter for one score."""
    if spread is None:
        return None
    return points(spread.mean) + ("" if spread.std is None else f" ±{points(spread.std)}")


def signed(value: float) -> str:
    """Shows a difference in points, with its sign."""
    return f"{100 * value:+.1f}"


def _tables(findings: Findings) -> list[Table]:
    if not findings.trials:
        return []
    found = [scores_table(findings)]
    if findings.differences:
        found.append(differences_table(findings))
    return [*found, spread_table(findings), cost_table(findings)]


def scores_table(findings: Findings) -> Table:
    """Rows by tasks: mean and standard deviation over the seeds, the teacher first."""
    counts = {cell.spread.n for cell in findings.cells.values() if cell.spread is not None}
    same = counts.pop() if len(counts) == 1 else None
    metric = {task: cell.metric.replace("_", " ") for (_, task), cell in findings.cells.items()}
    headings = [AVERAGE if panel is None else f"{panel} ({metric[panel]})" for panel in findings.panels]

    def shown(spread: Spread | None) -> str | None:
        text = spread_text(spread)
        return text if spread is None or same is not None else f"{text} ({spread.n})"

    means = {**findings.teachers, None: sum(findings.teachers.values()) / max(1, len(findings.tasks))}
    rows: list[tuple[Value, ...]] = [("teacher", *(points(means[panel]) for panel in findings.panels))]
    if findings.constants:
        known = [findings.constants.get(panel) if panel else None for panel in findings.panels]
        rows.append(("one answer for all", *(None if each is None else points(each) for each in known)))
    rule = len(rows)
    rows += [
        (str(row), *(shown(_spread(findings, row, p)) for p in findings.panels)) for row in findings.rows
    ]
    number = f"{same} seed{'s' if same != 1 else ''}" if same else "the seeds (their number in brackets)"
    note = f"Points (score x 100) on the dev split: mean ± sample standard deviation over {number}."
    if same == 1:
        note = "Points (score x 100) on the dev split, one seed: there is no spread to be seen."
    return Table("Scores", [Column("recipe", left=True), *map(Column, headings)], rows, note, rule_after=rule)


def _spread(findings: Findings, row: Row, panel: str | None) -> Spread | None:
    if panel is None:
        return findings.averages.get(row)
    cell = findings.cells.get((row, panel))
    return cell.spread if cell is not None else None


def spread_table(findings: Findings) -> Table:
    """One line for each row on each task: the whole sample in a few numbers, and the share of the teacher kept."""
    columns = [Column("task", left=True), Column("recipe", left=True), Column("seeds")]
    columns += [Column(name, points) for name in ("mean", "median", "max", "min", "std")]
    columns.append(Column("kept", lambda value: f"{100 * value:.1f}%"))
    rows = [
        (panel or AVERAGE, str(row), s.n, s.mean, s.median, s.high, s.low, s.std, cell.kept if cell else None)
        for panel, row, cell in _places(findings)
        if (s := _spread(findings, row, panel)) is not None
    ]
    note = "Points; std is the sample standard deviation; kept is the mean of score / teacher's score."
    return Table("Spread over the seeds", columns, rows, note)


def differences_table(findings: Findings) -> Table:
    """The paired differences from the baseline with interval and tests."""
    columns = (
        *(Column("task", left=True), Column("recipe", left=True), Column("pairs")),
        *(Column("difference", signed), Column("from", signed), Column("to", signed)),
        Column("p (t)", _probability),
        *(
            Column("p (t, Holm)", _probability),
            Column("p (sign flip)", _probability),
            Column("shown", left=True),
        ),
    )
    rows = []
    for panel, row, _ in _places(findings):
        if (d := findings.differences.get((row, panel))) is None:
            continue
        shown = "no" if not d.shown else "above" if d.difference > 0 else "below"
        shown = d.without or shown
        numbers = (d.n, d.difference, d.low, d.high, d.p_value, d.adjusted, d.p_flip)
        rows.append((panel or AVERAGE, str(row), *numbers, shown))
    note = (
        "Points, paired by seed. From, to (95 % interval) and p (t): paired t test over the seeds; Holm's correction: "
        "over the recipes compared on one task; p (sign flip): permutation of the signs of the pairs. Shown: interval "
        "without zero and Holm's p below 0.05; 'no' does not mean equal."
    )
    return Table(f"Difference from {findings.baseline}", columns, rows, note)


def _probability(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def cost_table(findings: Findings) -> Table:
    """What a trial took, beside what it gave."""
    columns = (
        *(Column("task", left=True), Column("recipe", left=True), Column("score", points), Column("steps")),
        *(Column("epochs", "{:.4g}".format), Column("best after", "{:.3g}".format)),
        *(Column("s/trial", "{:.1f}".format), Column("s in all", "{:.1f}".format)),
        Column("params", lambda value: f"{value / 1e6:.2f}M"),
    )
    rows = []
    for task, row, cell in _places(findings):
        if cell is not None:
            mean = None if cell.spread is None else cell.spread.mean
            steps = " or ".join(f"{count:,}" for count in cell.steps)
            numbers = (cell.epochs, cell.best_epoch, cell.seconds, cell.seconds_total, cell.parameters)
            rows.append((task, str(row), mean, steps, *numbers))
    note = (
        "Training time of the student on the wall clock; workers that share a machine slow each other down."
    )
    return Table("Cost", columns, rows, note)


def _places(findings: Findings) -> list[tuple[str | None, Row, Cell | None]]:
    """Returns task (None: the average), row and cell, in the order they are shown."""
    return [
        (panel, row, None if panel is None else findings.cells[row, panel])
        for panel in findings.panels
        for row in findings.rows
        if (row in findings.averages if panel is None else (row, panel) in findings.cells)
    ]


def _results_csv(findings: Findings) -> str:
    """Returns spread, differences and costs in one long table, a line for each row on each task and the average."""
    frame = spread_table(findings).to_pandas()
    for table in (differences_table(findings), cost_table(findings)):
        frame = frame.merge(table.to_pandas(), how="outer", on=["task", "recipe"], sort=False)
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


# ---- the files and the terminal --------------------------------------------------------------------------------------


def _markdown(findings: Findings, tables: Sequence[Table], config: StudyConfig | None) -> str:
    lines = ["# Report of the study", "", _finished(findings), ""]
    if findings.missing:
        lines += ["Missing:", "", *(f"- {inline(line)}" for line in findings.missing), ""]
    lines += ["## In words", "", *(f"- {inline(line)}" for line in plain_words(findings)), ""]
    if tables:
        lines += ["## Tables", "", "\n".join(table.to_markdown() for table in tables)]
    if findings.search_trials:
        lines += [_search(findings), ""]
    if config is not None:
        seeds = ", ".join(map(str, config.seeds))
        lines += [f"Recipes {', '.join(config.recipes)}; tasks {', '.join(config.tasks)}; seeds {seeds}.", ""]
    return "\n".join(lines)


def _finished(findings: Findings) -> str:
    line = f"{findings.trials} trial{'s' if findings.trials != 1 else ''} finished"
    return f"{line}; the study is not complete." if findings.missing else f"{line}."


def _search(findings: Findings) -> str:
    return (
        f"The search took {findings.search_trials} trials and {findings.search_seconds:,.0f} s on top; the scores that "
        "it chose by are no results."
    )


def _show(findings: Findings, tables: Sequence[Table], output: Path, console: Console) -> None:
    lines = [*plain_words(findings), *(f"Missing: {line}" for line in findings.missing[:_MOST_MISSING])]
    if len(findings.missing) > _MOST_MISSING:
        lines.append(f"Missing: and {len(findings.missing) - _MOST_MISSING} more, all in report.md")
    lines += [_search(findings)] * bool(findings.search_trials)
    lines.append(
        f"The report is in {output / 'report.md'}; `codir report {output}` makes a page with pictures of it."
    )
    console.print(_finished(findings), markup=False, highlight=False)
    for table in tables:
        console.print(table.to_rich())
    for line in lines:
        console.print(line, markup=False, highlight=False)
