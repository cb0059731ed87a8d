"""The paper's figures and ours in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from codir.errors import RunError
from codir.runs.holm import holm
from codir.storage import read_json
from codir.studies.findings import AVERAGE
from codir.studies.paper_tables import Statistic, TableColumn, TableRow
from codir.studies.recipes import teacher_folder
from codir.studies.reproduction import Reproduction
from codir.studies.results import TrialResult
from codir.studies.statistics import PairedDifference, Spread, paired_difference
from codir.table import Column, Value
from codir.table import Table as StudyTable

PAPER, OURS = "paper", "ours"


def side_by_side(made: Reproduction, results: Mapping[str, Sequence[TrialResult]]) -> StudyTable:
    """Returns two lines for each row that is made here, one for each that is not.

    Ours are mean and standard deviation over the seeds (or the row's own statistic), in points. Where a task is missing
    there is a further average, over the columns that both have: the paper's printed one is over all of them.

    Args:
        made: the reproduction.
        results: final trials by the student's name.
    """
    table = made.table
    headings = list(table.columns)
    have = [heading for heading in headings if table.columns[heading].task in made.tasks]
    reduced = table.average is not None and have != headings
    columns = [Column("row", left=True), Column("of", left=True), *(Column(heading) for heading in headings)]
    if table.average is not None:
        columns.append(Column(table.average))
    if reduced:
        columns.append(Column(f"average of {', '.join(have)}" if len(have) > 1 else f"{have[0]} alone"))
    rows: list[tuple[Value, ...]] = []
    for row in table.rows:
        rows.append((row.name, PAPER, *_paper(row, headings, have, table.average is not None, reduced)))
        if made_here(made, row):
            ours = _ours(made, row, results)
            shown = [_text(ours.get(heading, {}), row.statistic) for heading in headings]
            average = _average(ours, have)
            if table.average is not None:
                shown.append(None if reduced else _text(average, row.statistic))
            if reduced:
                shown.append(_text(average, row.statistic))
            rows.append(("", OURS, *shown))
    title = f"{table.source} of the paper, scale {made.wanted.scale}: {table.title}"
    note = f"Paper: {table.paper_scores}. Ours: development sets, {_seeds(made, results)}, in points."
    return StudyTable(title, tuple(columns), tuple(rows), f"{note} {table.note}".strip())


def differences_between_rows(
    made: Reproduction, results: Mapping[str, Sequence[TrialResult]]
) -> StudyTable | None:
    """Returns how our rows differ from the first of them, paired by seed, with intervals; None with fewer than two.

    A column's p is corrected by Holm over the rows. Rows that are one and the same setting count once.
    """
    rows: dict[tuple[str | None, str | None], TableRow] = {}
    for row in made.table.rows:
        if row.statistic == "mean" and made.study_of(row) is not None:
            rows.setdefault((row.recipe, row.student), row)
    if len(rows) < 2:
        return None
    have = [heading for heading, column in made.table.columns.items() if column.task in made.tasks]
    scores = [_ours(made, row, results) for row in rows.values()]
    for one in scores:
        if len(have) > 1:
            one[AVERAGE] = _average(one, have)
    headings = [*have, AVERAGE] if len(have) > 1 else have
    texts: dict[str, list[str]] = {}
    for heading in headings:
        first, *others = (one.get(heading, {}) for one in scores)
        pairs = [sorted(first.keys() & other.keys()) for other in others]
        found = [
            paired_difference([other[s] for s in common], [first[s] for s in common])
            for other, common in zip(others, pairs, strict=True)
        ]
        adjusted = holm([difference.p_value for difference in found])
        texts[heading] = [
            _difference(replace(difference, adjusted=p))
            for difference, p in zip(found, adjusted, strict=True)
        ]
    names = [row.name for row in rows.values()]
    lines = [
        (name, *(texts[heading][number] for heading in headings)) for number, name in enumerate(names[1:])
    ]
    columns = (Column("row", left=True), *(Column(heading) for heading in headings))
    note = (
        "Points, paired by seed; brackets: 95 % interval (paired t over the seeds). A star: shown: it excludes zero "
        "and p is below 0.05 after Holm's correction over the rows. No star is not the same as equal."
    )
    return StudyTable(f"Ours: difference from {names[0]}", columns, tuple(lines), note)


def _difference(difference: PairedDifference) -> str:
    if not difference.n:
        return "no pair"
    text = f"{100 * difference.difference:+.1f}"
    if difference.low is None or difference.high is None:
        return f"{text} ({difference.without})"
    return (
        f"{text} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]{'*' if difference.shown else ''}"
    )


def made_here(made: Reproduction, row: TableRow) -> bool:
    """Whether a row has a line of ours."""
    return made.study_of(row) is not None or (row.teacher and bool(made.studies))


def _paper(
    row: TableRow, headings: Sequence[str], have: Sequence[str], average: bool, reduced: bool
) -> list[Value]:
    figures = row.paper or [None] * (len(headings) + average)
    digits = 2 if row.statistic == "std" else 1
    shown: list[Value] = [None if figure is None else f"{figure:.{digits}f}" for figure in figures]
    if reduced:
        some = [figures[headings.index(heading)] for heading in have]
        known = [figure for figure in some if figure is not None]
        shown.append(f"{sum(known) / len(known):.1f}" if len(known) == len(some) else None)
    return shown


def _ours(
    made: Reproduction, row: TableRow, results: Mapping[str, Sequence[TrialResult]]
) -> dict[str, dict[int, float]]:
    """Returns by column and seed what a row scores."""
    found: dict[str, dict[int, float]] = {}
    for heading, column in made.table.columns.items():
        if row.teacher:
            score = _teacher(made, column, results)
            found[heading] = {} if score is None else {0: score}
            continue
        found[heading] = {
            result.seed: result.metrics[column.metric]
            for result in results.get(str(row.student), ())
            if result.recipe == row.recipe and result.task == column.task and column.metric in result.metrics
        }
    return found


def _teacher(
    made: Reproduction, column: TableColumn, results: Mapping[str, Sequence[TrialResult]]
) -> float | None:
    """Returns the teacher's score from its own run folder, or its main metric from a trial."""
    study = next(iter(made.studies.values()))
    if column.task not in study.tasks:
        return None
    try:
        metrics = read_json(Path(teacher_folder(study, column.task)) / "metrics.json")["metrics"]
        if column.metric in metrics:
            return float(metrics[column.metric])
    except (OSError, KeyError, TypeError, RunError):
        pass  # a teacher from elsewhere has no such file
    of_task = (r for some in results.values() for r in some if r.task == column.task)
    return next((r.teacher_score for r in of_task if r.metric == column.metric), None)


def _average(ours: Mapping[str, Mapping[int, float]], have: Sequence[str]) -> dict[int, float]:
    """Returns by seed the mean over the columns; only seeds that have them all."""
    seeds = set.intersection(*(set(ours.get(heading, {})) for heading in have)) if have else set()
    return {seed: sum(ours[heading][seed] for heading in have) / len(have) for seed in sorted(seeds)}


def _text(by_seed: Mapping[int, float], statistic: Statistic) -> str | None:
    if not by_seed:
        return None
    spread = Spread.of([100 * value for value in by_seed.values()])
    if statistic == "std":
        return None if spread.std is None else f"{spread.std:.2f}"
    if statistic != "mean":
        return f"{spread.median if statistic == 'median' else spread.high:.1f}"
    return f"{spread.mean:.1f}" + ("" if spread.std is None else f" ±{spread.std:.1f}")


def _seeds(made: Reproduction, results: Mapping[str, Sequence[TrialResult]]) -> str:
    seeds = sorted({result.seed for some in results.values() for result in some})
    if not seeds:
        return "nothing finished yet"
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}), so there is no spread"
    means = all(row.statistic == "mean" for row in made.table.rows)
    return f"{'mean ± standard deviation over ' if means else ''}{len(seeds)} seeds"
