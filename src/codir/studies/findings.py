"""What a study found: its finished trials by recipe, task and student, and compared with a baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from codir.errors import ConfigError, nearest
from codir.measure.paired import holm
from codir.studies.results import TrialResult
from codir.studies.statistics import PairedDifference, Spread, paired_difference

AVERAGE = "average"  # shown where the name of a task stands; the key of averages is None
_BASELINES = ("kd", "finetune")  # the first of these that was run, where no baseline is named


@dataclass(frozen=True)
class Row:
    """A recipe with a student; what is compared.

    Attributes:
        recipe: its name, with the settings that tell it from others of that name.
        student: the student's name; None where the study has one for all.
    """

    recipe: str
    student: str | None = None

    def __str__(self) -> str:
        return self.recipe if self.student is None else f"{self.recipe} ({self.student})"


@dataclass(frozen=True)
class Cell:
    """One row on one task.

    Attributes:
        metric: the task's main metric.
        scores: by seed, finite ones only, from 0 to 1 (correlations from -1).
        undefined: seeds whose score is not a number.
        spread: the scores' spread; None where there is none.
        kept: mean over the seeds of score / teacher's score; None where a teacher's score is not above zero.
        seconds: mean training time; with `seconds_total` over all seeds.
        steps: the numbers of optimiser steps that occur, ascending.
        epochs, best_epoch: mean of the passes made, and of those after which the kept weights stood; None if unknown.
        parameters: the student's.
        results: the trials behind it.
    """

    metric: str
    scores: Mapping[int, float]
    undefined: tuple[int, ...]
    spread: Spread | None
    kept: float | None
    seconds: float
    seconds_total: float
    steps: tuple[int, ...]
    epochs: float | None
    best_epoch: float | None
    parameters: int
    results: tuple[TrialResult, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, results: Sequence[TrialResult]) -> Cell:
        """Summarises the trials of one row on one task."""
        finite = [result for result in results if math.isfinite(result.score)]
        kept = [result.score / result.teacher_score for result in finite if result.teacher_score > 0]
        seconds = sum(result.seconds for result in results)
        return cls(
            metric=results[0].metric,
            scores={result.seed: result.score for result in finite},
            undefined=tuple(sorted(result.seed for result in results if not math.isfinite(result.score))),
            spread=Spread.of([result.score for result in finite]) if finite else None,
            kept=_mean(kept) if len(kept) == len(finite) else None,
            seconds=seconds / len(results),
            seconds_total=seconds,
            steps=tuple(sorted({result.steps for result in results})),
            epochs=_mean([result.epochs for result in results]),
            best_epoch=_mean([result.best_epoch for result in results]),
            parameters=results[0].parameters,
            results=tuple(results),
        )


Cells = Mapping[tuple[Row, str], Cell]


@dataclass(frozen=True)
class Findings:
    """Everything the tables and the words of a report are made of.

    Attributes:
        rows: recipes with students, in the study's order.
        tasks: their names, in the study's order.
        cells: by (row, task); only those with finished trials.
        averages: by row, over seeds, of the mean over the tasks; only rows with a seed finished on every task.
        teachers: by task, the teacher's score; a mean where trials had different ones.
        baseline: the recipe that the differences are against; None where there is none to compare with.
        differences: by (row, task or None for the average); of the rows but the baseline's.
        budget: what is unequal about the budgets, a line each.
        missing: what is not finished or undefined, a line each.
        trials: number of final trials that are finished.
        search_trials, search_seconds: what the search cost on top.
        constants: by task, what answering the same class to everything scores; only tasks of which it is known.
    """

    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    cells: Cells
    averages: Mapping[Row, Spread]
    teachers: Mapping[str, float]
    baseline: str | None
    differences: Mapping[tuple[Row, str | None], PairedDifference]
    budget: tuple[str, ...]
    missing: tuple[str, ...]
    trials: int
    search_trials: int = 0
    search_seconds: float = 0.0
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def panels(self) -> tuple[str | None, ...]:
        """The tasks, and None for their average where there are several."""
        return (*self.tasks, None) if len(self.tasks) > 1 else tuple(self.tasks)


def find(
    results: Sequence[TrialResult],
    baseline: str | None = None,
    recipes: Sequence[str] = (),
    tasks: Sequence[str] = (),
    planned: Iterable[tuple[str, str, str | None, int]] | None = None,
    failed: Mapping[str, str] | None = None,
) -> Findings:
    """Brings the results of a study together.

    Differences are paired by seed, on one task; on the average they are those of the seeds that both recipes have
    finished on all tasks, the tasks' mean of each seed being one value, so that a pair is a seed there, too. Holm's
    correction is over the rows compared on one task, or on the average.

    Args:
        results: finished trials; those of a search count for the cost only.
        baseline: recipe to compare with; by default kd, or finetune, where it was run.
        recipes, tasks: the order to show them in; others come after these.
        planned: (recipe, task, student, seed) of all trials of the study; by default every recipe and student found
            with every task and seed found.
        failed: errors of the trials that failed, by key.

    Raises:
        ConfigError: no trial of the baseline is finished.
    """
    final = [result for result in results if result.phase == "final"]
    search = [result for result in results if result.phase != "final"]
    planned = None if planned is None else list(planned)
    students = {result.student for result in final} | {student for _, _, student, _ in planned or ()}
    if len(students) == 1:  # its name would only be repeated in every line
        final = [replace(result, student=None) for result in final]
        planned = None if planned is None else [(*place[:2], None, place[3]) for place in planned]
    names = _names(final)
    groups: dict[tuple[Row, str], list[TrialResult]] = {}
    for result in final:
        groups.setdefault((Row(names[result.folder], result.student), result.task), []).append(result)
    recipe_of = {row: group[0].recipe for (row, _), group in groups.items()}
    rows = sorted(
        recipe_of, key=lambda row: (row.student or "", *_place(recipe_of[row], recipes), row.recipe)
    )
    shown_tasks = sorted({task for _, task in groups}, key=lambda task: _place(task, tasks))
    cells = {place: Cell.of(group) for place, group in groups.items()}
    teachers = {}
    for task in shown_tasks:
        scores = [result.teacher_score for result in final if result.task == task]
        teachers[task] = _mean([score for score in scores if math.isfinite(score)]) or math.nan
    chosen = _baseline(baseline, {row.recipe for row in rows})
    by_seed = {row: _scores(row, None, shown_tasks, cells) for row in rows}
    return Findings(
        rows=tuple(rows),
        tasks=tuple(shown_tasks),
        cells=cells,
        averages={row: Spread.of(list(values.values())) for row, values in by_seed.items() if values},
        teachers=teachers,
        baseline=chosen,
        differences=_differences(rows, shown_tasks, cells, chosen) if chosen is not None else {},
        budget=tuple(_budget(rows, shown_tasks, cells)),
        missing=(
            *_missing(cells, final, names, planned),
            *(f"{key}: failed: {error}" for key, error in sorted((failed or {}).items())),
        ),
        trials=len(final),
        search_trials=len(search),
        search_seconds=sum(result.seconds for result in search),
        constants={r.task: r.constant_score for r in final if r.constant_score is not None},
    )


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (list(order).index(name) if name in order else len(order)), name


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _names(results: Sequence[TrialResult]) -> dict[object, str]:
    """Names each result's row by its folder: its recipe, with its settings where one recipe has several on one task."""
    variants: dict[tuple[str, str, str | None], set[str]] = {}
    for result in results:
        variants.setdefault((result.recipe, result.task, result.student), set()).add(_settings(result))
    several = {recipe for (recipe, _, _), found in variants.items() if len(found) > 1}
    return {
        result.folder: f"{result.recipe} [{settings}]"
        if result.recipe in several and settings
        else result.recipe
        for result in results
        for settings in [_settings(result)]
    }


def _settings(result: TrialResult) -> str:
    return ", ".join(
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in sorted(result.settings.items())
    )


def _scores(row: Row, task: str | None, tasks: Sequence[str], cells: Cells) -> Mapping[int, float]:
    """Returns a row's scores by seed on a task; for None the means over all tasks, of seeds that have every one."""
    if task is not None:
        return cells[row, task].scores if (row, task) in cells else {}
    if not tasks or any((row, each) not in cells for each in tasks):
        return {}
    of_tasks = [cells[row, each].scores for each in tasks]
    seeds = sorted(set.intersection(*map(set, of_tasks)))
    return {seed: sum(scores[seed] for scores in of_tasks) / len(tasks) for seed in seeds}


def _baseline(wanted: str | None, shown: set[str]) -> str | None:
    if wanted is None:
        return next((name for name in _BASELINES if name in shown), None)
    if shown and wanted not in shown:
        raise ConfigError(
            f"The baseline {wanted!r} has no finished trial{nearest(wanted, shown)}: there are "
            f"{', '.join(sorted(shown))}."
        )
    return wanted if shown else None


def _differences(
    rows: Sequence[Row], tasks: Sequence[str], cells: Cells, baseline: str
) -> dict[tuple[Row, str | None], PairedDifference]:
    found: dict[tuple[Row, str | None], PairedDifference] = {}
    for task in (*tasks, None) if len(tasks) > 1 else tasks:
        family: dict[Row, PairedDifference] = {}
        for row in rows:
            against = Row(baseline, row.student)
            if against not in rows:  # one of the two has a student of its own kind, whatever the study's are
                against = next(other for other in rows if other.recipe == baseline)
            ours, theirs = _scores(row, task, tasks, cells), _scores(against, task, tasks, cells)
            if row == against or not ours:
                continue
            common = sorted(ours.keys() & theirs.keys())
            family[row] = paired_difference([ours[s] for s in common], [theirs[s] for s in common])
        adjusted = holm([difference.p_value for difference in family.values()])
        for (row, difference), p in zip(family.items(), adjusted, strict=True):
            found[row, task] = replace(difference, adjusted=p)
    return found


def _budget(rows: Sequence[Row], tasks: Sequence[str], cells: Cells) -> list[str]:
    """Says where recipes made different numbers of steps on one task."""
    lines = []
    for task in tasks:
        by_steps: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            if (row, task) in cells:
                by_steps.setdefault(cells[row, task].steps, []).append(row)
        if len(by_steps) > 1 or any(len(steps) > 1 for steps in by_steps):
            told = "; ".join(
                f"{' or '.join(f'{count:,}' for count in steps)}: {', '.join(map(str, some))}"
                for steps, some in sorted(by_steps.items())
            )
            lines.append(f"{task}: the trials made different numbers of optimiser steps ({told})")
    return lines


def _missing(
    cells: Cells,
    results: Sequence[TrialResult],
    names: Mapping[object, str],
    planned: Sequence[tuple[str, str, str | None, int]] | None,
) -> list[str]:
    if planned is None:
        done = {(Row(names[r.folder], r.student), r.task, r.seed) for r in results}
        wanted = [
            (row, task, seed)
            for row in dict.fromkeys(row for row, _ in cells)
            for task in dict.fromkeys(task for _, task in cells)
            for seed in sorted({result.seed for result in results})
        ]
    else:
        done = {(Row(r.recipe, r.student), r.task, r.seed) for r in results}
        wanted = [(Row(recipe, student), task, seed) for recipe, task, student, seed in planned]
    left: dict[tuple[Row, str], list[int]] = {}
    for row, task, seed in wanted:
        if (row, task, seed) not in done:
            left.setdefault((row, task), []).append(seed)
    lines = [
        f"{row} on {task}: not finished for {_seeds(sorted(seeds))}" for (row, task), seeds in left.items()
    ]
    return lines + [
        f"{row} on {task}: the {cell.metric} of {_seeds(cell.undefined)} is undefined and left out"
        for (row, task), cell in cells.items()
        if cell.undefined
    ]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
