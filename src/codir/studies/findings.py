"""What a study found: its finished trials by recipe, task and student, their spread, their differences from a baseline.

`codir.measure.paired` compares two models on the same examples and speaks of the examples; here two recipes are
compared over the same seeds, and it speaks of the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats

from codir.errors import ConfigError, nearest
from codir.measure.paired import holm
from codir.studies.trial import TrialResult

AVERAGE = "average"  # shown where the name of a task stands; the key of averages is None
LEVEL, ALPHA = 0.95, 0.05


@dataclass(frozen=True)
class Spread:
    """A sample of finite scores in a few numbers."""

    n: int
    mean: float
    median: float
    high: float
    low: float
    std: float | None  # of the sample (divisor n - 1); None with fewer than two scores

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises finite values, at least one."""
        if not values or not all(map(math.isfinite, values)):
            raise ValueError(f"a spread needs finite values, at least one: {list(values)}")
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), statistics.median(values), max(values), min(values), std)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences, with what can be said about its noise."""

    n: int
    difference: float  # mean of (score - baseline's score); NaN without pairs
    low: float | None = None  # 95 % interval of the mean by Student's t with n - 1 degrees of freedom
    high: float | None = None
    p_value: float | None = None  # two-sided, of the paired t test, which belongs to the interval
    adjusted: float | None = None  # `p_value` after Holm's correction over the recipes compared
    without: str = ""  # why there is no interval; empty where there is one

    @property
    def has_interval(self) -> bool:
        """Whether an interval could be computed."""
        return self.low is not None and self.high is not None

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes zero; True where there is no interval, since then nothing is shown."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the interval excludes zero and Holm's p, where applied, is below 0.05."""
        p = self.p_value if self.adjusted is None else self.adjusted
        return not self.includes_zero and p is not None and p < ALPHA


def paired_difference(scores: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Compares two samples [n] of finite scores whose entries belong together, one pair a seed.

    The interval and its test are Student's (1908): they assume that the seeds are independent draws and their
    differences about normal, and speak of other seeds on the same data, not of other data.
    """
    differences = np.array([score - base for score, base in zip(scores, baseline, strict=True)], np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"paired scores must be finite: {list(scores)}, {list(baseline)}")
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    if n < 2:
        return PairedDifference(n, mean, without="one pair has no interval" if n else "no seed in common")
    # differences of equal scores that went different ways through floating point count as equal
    if differences.std(ddof=1) / math.sqrt(n) <= 1e-12 * max(1.0, abs(mean)):
        if abs(mean) <= 1e-12:
            return PairedDifference(n, 0.0, without=f"all {n} pairs are equal")
        return PairedDifference(n, mean, without=f"all {n} differences are the same, a t interval needs spread")
    test: Any = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return PairedDifference(n, mean, float(low), float(high), float(test.pvalue))


@dataclass(frozen=True)
class Row:
    """A recipe with a student; what is compared."""

    recipe: str
    student: str | None = None  # None where the study has one for all

    def __str__(self) -> str:
        return self.recipe if self.student is None else f"{self.recipe} ({self.student})"


@dataclass(frozen=True)
class Cell:
    """One row on one task."""

    metric: str  # the task's main metric
    scores: Mapping[int, float]  # by seed, finite ones only, from 0 to 1 (correlations from -1)
    undefined: tuple[int, ...]  # seeds whose score is not a number
    spread: Spread | None
    # mean over the seeds of score / teacher's; None where a teacher's score is not above zero
    kept: float | None
    seconds: float  # mean training time
    seconds_total: float
    steps: tuple[int, ...]  # the numbers of optimiser steps that occur, ascending
    best_epoch: float | None  # mean of the passes after which the kept weights stood
    parameters: int  # the student's
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
            best_epoch=_mean([result.best_epoch for result in results]),
            parameters=results[0].parameters,
            results=tuple(results),
        )


Cells = Mapping[tuple[Row, str], Cell]


@dataclass(frozen=True)
class Findings:
    """Everything the tables and the words of a report are made of."""

    rows: tuple[Row, ...]  # in the study's order
    tasks: tuple[str, ...]  # likewise
    cells: Cells  # only those with finished trials
    averages: Mapping[Row, Spread]  # over seeds, of the mean over the tasks; of seeds finished on every task
    teachers: Mapping[str, float]  # by task, the teacher's score; a mean where trials had different ones
    # the recipe that the differences are against; None where there is none to compare with
    baseline: str | None
    differences: Mapping[tuple[Row, str | None], PairedDifference]  # None: of the average
    budget: tuple[str, ...]  # what is unequal about the budgets, a line each
    missing: tuple[str, ...]  # what is not finished or undefined, a line each
    trials: int  # number of final trials that are finished
    search_trials: int  # what the search cost on top
    search_seconds: float
    constants: Mapping[str, float]  # by task, what answering the same class to everything scores, where it is known

    @property
    def panels(self) -> tuple[str | None, ...]:
        """The tasks, and None for their average where there are several."""
        return (*self.tasks, None) if len(self.tasks) > 1 else self.tasks

    def spread(self, row: Row, panel: str | None) -> Spread | None:
        """Returns a row's scores on a task, or on the average, in a few numbers."""
        if panel is None:
            return self.averages.get(row)
        return self.cells[row, panel].spread if (row, panel) in self.cells else None


def find(
    results: Sequence[TrialResult],
    baseline: str | None = None,
    recipes: Sequence[str] = (),
    tasks: Sequence[str] = (),
    planned: Iterable[tuple[str, str, str | None, int]] = (),
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
        planned: (recipe, task, student, seed) of all trials of the study.
        failed: errors of the trials that failed, by key.

    Raises:
        ConfigError: no trial of the baseline is finished.
    """
    final = [result for result in results if result.phase == "final"]
    search = [result for result in results if result.phase != "final"]
    planned = list(planned)
    if len({result.student for result in final} | {student for _, _, student, _ in planned}) == 1:
        # its name would only be repeated in every line
        final = [replace(result, student=None) for result in final]
        planned = [(recipe, task, None, seed) for recipe, task, _, seed in planned]

    groups: dict[tuple[Row, str], list[TrialResult]] = {}
    for result in final:
        groups.setdefault((Row(result.recipe, result.student), result.task), []).append(result)
    cells = {place: Cell.of(group) for place, group in groups.items()}
    places = {name: place for place, name in enumerate([*tasks, *recipes])}
    rows = sorted({row for row, _ in cells}, key=lambda r: (r.student or "", places.get(r.recipe, math.inf), r.recipe))
    shown = sorted({task for _, task in cells}, key=lambda task: (places.get(task, math.inf), task))
    known = {row.recipe for row in rows}
    if baseline is None:
        baseline = next((name for name in ("kd", "finetune") if name in known), None)
    elif known and baseline not in known:
        raise ConfigError(
            f"The baseline {baseline!r} has no finished trial{nearest(baseline, known)}: there are "
            f"{', '.join(sorted(known))}."
        )
    by_seed = {row: _scores(row, None, shown, cells) for row in rows}
    return Findings(
        rows=tuple(rows),
        tasks=tuple(shown),
        cells=cells,
        averages={row: Spread.of(list(values.values())) for row, values in by_seed.items() if values},
        teachers={
            task: _mean([r.teacher_score for r in final if r.task == task and math.isfinite(r.teacher_score)])
            or math.nan
            for task in shown
        },
        baseline=baseline if known else None,
        differences=_differences(rows, shown, cells, baseline) if baseline in known else {},
        budget=tuple(_budget(rows, shown, cells)),
        missing=(
            *_missing(cells, final, planned),
            *(f"{key}: failed: {error}" for key, error in sorted((failed or {}).items())),
        ),
        trials=len(final),
        search_trials=len(search),
        search_seconds=sum(result.seconds for result in search),
        constants={r.task: r.constant_score for r in final if r.constant_score is not None},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _scores(row: Row, task: str | None, tasks: Sequence[str], cells: Cells) -> Mapping[int, float]:
    """Returns a row's scores by seed on a task; for None the means over all tasks, of seeds that have every one."""
    wanted = tasks if task is None else [task]
    if not wanted or any((row, each) not in cells for each in wanted):
        return {}
    scores = [cells[row, each].scores for each in wanted]
    seeds = sorted(set.intersection(*map(set, scores)))
    return {seed: sum(of_task[seed] for of_task in scores) / len(scores) for seed in seeds}


def _differences(
    rows: Sequence[Row], tasks: Sequence[str], cells: Cells, baseline: str | None
) -> dict[tuple[Row, str | None], PairedDifference]:
    found: dict[tuple[Row, str | None], PairedDifference] = {}
    for task in (*tasks, None) if len(tasks) > 1 else tasks:
        family: dict[Row, PairedDifference] = {}
        for row in rows:
            bases = [other for other in rows if other.recipe == baseline]
            # one of the two may have a student of its own kind, whatever the study's are
            against = next((other for other in bases if other.student == row.student), bases[0])
            ours, theirs = _scores(row, task, tasks, cells), _scores(against, task, tasks, cells)
            if row != against and ours:
                common = sorted(ours.keys() & theirs.keys())
                family[row] = paired_difference([ours[s] for s in common], [theirs[s] for s in common])
        adjusted = holm([difference.p_value for difference in family.values()])
        for (row, difference), p in zip(family.items(), adjusted, strict=True):
            found[row, task] = replace(difference, adjusted=p)
    return found


def _budget(rows: Sequence[Row], tasks: Sequence[str], cells: Cells) -> Iterable[str]:
    """Says where recipes made different numbers of steps on one task."""
    for task in tasks:
        by_steps: dict[tuple[int, ...], list[str]] = {}
        for row in rows:
            if (row, task) in cells:
                by_steps.setdefault(cells[row, task].steps, []).append(str(row))
        if len(by_steps) > 1 or any(len(steps) > 1 for steps in by_steps):
            told = "; ".join(
                f"{' or '.join(f'{count:,}' for count in steps)}: {', '.join(some)}"
                for steps, some in sorted(by_steps.items())
            )
            yield f"{task}: the trials made different numbers of optimiser steps ({told})"


def _missing(
    cells: Cells, results: Sequence[TrialResult], planned: Iterable[tuple[str, str, str | None, int]]
) -> Iterable[str]:
    done = {(r.recipe, r.task, r.student, r.seed) for r in results}
    left: dict[str, list[int]] = {}
    for recipe, task, student, seed in planned:
        if (recipe, task, student, seed) not in done:
            left.setdefault(f"{Row(recipe, student)} on {task}: not finished for", []).append(seed)
    for (row, task), cell in cells.items():
        if cell.undefined:
            left[f"{row} on {task}: the {cell.metric} is undefined and left out of"] = list(cell.undefined)
    for what, seeds in left.items():
        yield f"{what} seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
