"""What a study found: its finished trials by recipe, task and student, and compared with a baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from codir.errors import ConfigError, nearest
from codir.runs.holm import holm
from codir.studies.statistics import PairedDifference, Ranking, Spread, paired_difference, ranking

if TYPE_CHECKING:
    from codir.studies.results import TrialResult

AVERAGE = "average"  # shown where the name of a task stands; the key of averages is None
_BASELINES = ("kd", "finetune")  # the first of these that was run, where no baseline is named


@dataclass(frozen=True)
class Row:
    """A recipe with a student; what is compared.

    Attributes:
        recipe: its name, with the settings that tell it from others of that name.
        student: name of the student; None where the study has one for all.
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
        spread: of the scores; None where there is none.
        kept: mean over the seeds of score / teacher's score; None where a teacher's score is not above zero.
        seconds: mean training time; with `seconds_total` over all seeds.
        steps: the numbers of optimiser steps that occur, ascending.
        epochs, best_epoch: mean of the passes made, and of those after which the kept weights stood; None if unknown.
        parameters: of the student.
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


@dataclass(frozen=True)
class Findings:
    """Everything the tables, the pictures and the words of a report are made of.

    Attributes:
        rows: recipes with students, in the study's order.
        tasks: their names, in the study's order.
        cells: by (row, task); only those with finished trials.
        averages: by row, over seeds, of the mean over the tasks; only rows with a seed finished on every task.
        teachers: by task, the teacher's score; a mean where trials had different ones.
        baseline: the recipe that the differences are against; None where there is none to compare with.
        differences: by (row, task or None for the average); of the rows but the baseline's.
        ranks: over the blocks (task, student, seed) in which every recipe has a score; None where there are too few.
        blocks_left_out: number of blocks in which a recipe has none.
        why_no_ranks: said where `ranks` is None.
        budget: what is unequal about the budgets, a line each.
        missing: what is not finished or undefined, a line each.
        trials: number of final trials that are finished.
        search_trials, search_seconds: what the search cost on top.
        constants: by task, what answering the same class to everything scores; tasks of which it is not known are not
            there.
    """

    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    cells: Mapping[tuple[Row, str], Cell]
    averages: Mapping[Row, Spread]
    teachers: Mapping[str, float]
    baseline: str | None
    differences: Mapping[tuple[Row, str | None], PairedDifference]
    ranks: Ranking | None
    blocks_left_out: int
    why_no_ranks: str
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
        results: of finished trials; those of a search count for the cost only.
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
    names = _names(final)
    if planned is not None:
        planned = list(planned)
    students = {result.student for result in final} | {student for _, _, student, _ in planned or ()}
    if len(students) == 1:  # its name would only be repeated in every line
        final = [replace(result, student=None) for result in final]
        planned = None if planned is None else [(*place[:2], None, place[3]) for place in planned]
    order_of = {name: place for place, name in enumerate(recipes)}
    task_order = {name: place for place, name in enumerate(tasks)}
    by_cell: dict[tuple[Row, str], list[TrialResult]] = {}
    for result in final:
        by_cell.setdefault((Row(names[result.folder], result.student), result.task), []).append(result)
    found_tasks = sorted(
        {task for _, task in by_cell}, key=lambda task: (task_order.get(task, len(tasks)), task)
    )
    recipe_of = {row: group[0].recipe for (row, _), group in by_cell.items()}
    rows = sorted(
        recipe_of,
        key=lambda row: (
            row.student or "",
            order_of.get(recipe_of[row], len(recipes)),
            row.recipe,
        ),
    )
    cells = {place: _cell(group) for place, group in by_cell.items()}
    shown = {row.recipe for row in rows}
    chosen = _baseline(baseline, shown)
    teachers = {}
    for task in found_tasks:
        scores = [result.teacher_score for result in final if result.task == task]
        finite = [score for score in scores if math.isfinite(score)]
        teachers[task] = sum(finite) / len(finite) if finite else math.nan
    by_seed = {row: _average_by_seed(row, found_tasks, cells) for row in rows}
    ranks, left_out, why = _ranks(rows, found_tasks, cells)
    return Findings(
        rows=tuple(rows),
        tasks=tuple(found_tasks),
        cells=cells,
        averages={row: Spread.of(list(values.values())) for row, values in by_seed.items() if values},
        teachers=teachers,
        baseline=chosen,
        differences=_differences(rows, found_tasks, cells, by_seed, chosen),
        ranks=ranks,
        blocks_left_out=left_out,
        why_no_ranks=why,
        budget=tuple(_budget(rows, found_tasks, cells)),
        missing=(
            *_missing(rows, found_tasks, cells, final, names, planned),
            *(f"{key}: failed: {error}" for key, error in sorted((failed or {}).items())),
        ),
        trials=len(final),
        search_trials=len(search),
        search_seconds=sum(result.seconds for result in search),
        constants={
            result.task: result.constant_score for result in final if result.constant_score is not None
        },
    )


def _names(results: Sequence[TrialResult]) -> dict[object, str]:
    """Names each result's row by its folder: its recipe, with its settings where one recipe has several on one task."""
    variants: dict[tuple[str, str, str | None], list[str]] = {}
    for result in results:
        known = variants.setdefault((result.recipe, result.task, result.student), [])
        if (settings := _settings(result)) not in known:
            known.append(settings)
    several = {recipe for (recipe, _, _), found in variants.items() if len(found) > 1}
    names: dict[object, str] = {}
    for result in results:
        settings = _settings(result)
        names[result.folder] = (
            f"{result.recipe} [{settings}]" if result.recipe in several and settings else result.recipe
        )
    return names


def _settings(result: TrialResult) -> str:
    values = (
        f"{key.rpartition('.')[2]}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for key, value in sorted(result.settings.items())
    )
    return ", ".join(values)


def _cell(group: Sequence[TrialResult]) -> Cell:
    scores = {result.seed: result.score for result in group if math.isfinite(result.score)}
    kept = [
        result.score / result.teacher_score
        for result in group
        if math.isfinite(result.score) and result.teacher_score > 0
    ]
    return Cell(
        metric=group[0].metric,
        scores=scores,
        undefined=tuple(sorted(result.seed for result in group if not math.isfinite(result.score))),
        spread=Spread.of(list(scores.values())) if scores else None,
        kept=sum(kept) / len(kept) if kept and len(kept) == len(scores) else None,
        seconds=sum(result.seconds for result in group) / len(group),
        seconds_total=sum(result.seconds for result in group),
        steps=tuple(sorted({result.steps for result in group})),
        epochs=_mean([result.epochs for result in group]),
        best_epoch=_mean([result.best_epoch for result in group]),
        parameters=group[0].parameters,
        results=tuple(group),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _average_by_seed(
    row: Row, tasks: Sequence[str], cells: Mapping[tuple[Row, str], Cell]
) -> dict[int, float]:
    """Returns the mean over all tasks for each seed that has a score on every one."""
    if any((row, task) not in cells for task in tasks):
        return {}
    seeds = set.intersection(*(set(cells[row, task].scores) for task in tasks)) if tasks else set()
    return {seed: sum(cells[row, task].scores[seed] for task in tasks) / len(tasks) for seed in sorted(seeds)}


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
    rows: Sequence[Row],
    tasks: Sequence[str],
    cells: Mapping[tuple[Row, str], Cell],
    by_seed: Mapping[Row, Mapping[int, float]],
    baseline: str | None,
) -> dict[tuple[Row, str | None], PairedDifference]:
    if baseline is None:
        return {}
    found: dict[tuple[Row, str | None], PairedDifference] = {}
    for task in (*tasks, None) if len(tasks) > 1 else tasks:
        family: dict[Row, PairedDifference] = {}
        for row in rows:
            against = Row(baseline, row.student)
            if against not in rows:  # one of the two has a student of its own kind, whatever the study's are
                against = next(other for other in rows if other.recipe == baseline)
            if row == against:
                continue
            if task is None:
                ours, theirs = by_seed.get(row, {}), by_seed.get(against, {})
            else:
                empty: Mapping[int, float] = {}
                ours = cells[row, task].scores if (row, task) in cells else empty
                theirs = cells[against, task].scores if (against, task) in cells else empty
            if not ours:
                continue
            common = sorted(ours.keys() & theirs.keys())
            family[row] = paired_difference([ours[s] for s in common], [theirs[s] for s in common])
        adjusted = holm([difference.p_value for difference in family.values()])
        for (row, difference), p in zip(family.items(), adjusted, strict=True):
            found[row, task] = replace(difference, adjusted=p)
    return found


def _ranks(
    rows: Sequence[Row], tasks: Sequence[str], cells: Mapping[tuple[Row, str], Cell]
) -> tuple[Ranking | None, int, str]:
    """Ranks the recipes over the blocks (task, student, seed) in which each of them has a score."""
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    students = [student for student in dict.fromkeys(row.student for row in rows) if student is not None] or [
        None
    ]
    complete, others = [], 0
    for task in tasks:
        for student in students:
            in_block = [
                cells.get((Row(recipe, student), task), cells.get((Row(recipe), task))) for recipe in recipes
            ]
            seeds = sorted({seed for cell in in_block if cell is not None for seed in cell.scores})
            for seed in seeds:
                scores = [None if cell is None else cell.scores.get(seed) for cell in in_block]
                present = [score for score in scores if score is not None]
                if len(present) == len(recipes):
                    complete.append(present)
                else:
                    others += 1
    if len(recipes) < 2:
        return None, others, "there is only one recipe" if recipes else "no trial is finished"
    if len(complete) < 2:
        return None, others, f"{len(complete)} blocks (task, seed) have a score of every recipe; it takes two"
    return ranking(recipes, complete), others, ""


def _budget(rows: Sequence[Row], tasks: Sequence[str], cells: Mapping[tuple[Row, str], Cell]) -> list[str]:
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
    rows: Sequence[Row],
    tasks: Sequence[str],
    cells: Mapping[tuple[Row, str], Cell],
    results: Sequence[TrialResult],
    names: Mapping[object, str],
    planned: Iterable[tuple[str, str, str | None, int]] | None,
) -> list[str]:
    if planned is None:
        seeds = sorted({result.seed for result in results})
        done = {(Row(names[r.folder], r.student), r.task, r.seed) for r in results}
        wanted = [(row, task, seed) for row in rows for task in tasks for seed in seeds]
    else:
        done = {(Row(r.recipe, r.student), r.task, r.seed) for r in results}
        wanted = [(Row(recipe, student), task, seed) for recipe, task, student, seed in planned]
    open_seeds: dict[tuple[Row, str], list[int]] = {}
    for row, task, seed in wanted:
        if (row, task, seed) not in done:
            open_seeds.setdefault((row, task), []).append(seed)
    lines = [
        f"{row} on {task}: not finished for {_seeds(sorted(seeds))}"
        for (row, task), seeds in open_seeds.items()
    ]
    lines += [
        f"{row} on {task}: the {cell.metric} of {_seeds(cell.undefined)} is undefined and left out"
        for (row, task), cell in cells.items()
        if cell.undefined
    ]
    return lines


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
