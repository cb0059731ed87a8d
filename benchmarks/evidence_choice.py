"""Brings the trials of several studies together so that they can be compared.

Where two studies have a recipe of the same name, the trials are one sample if data, budget, objectives and student's
start are the same, and the later study's is shown as `kd [long]` if they are not.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from scipy import stats

from codir.errors import ConfigError, nearest
from codir.studies.findings import Findings, Row, find
from codir.studies.statistics import LEVEL, Spread
from evidence_data import EvidenceTrial, Study


@dataclass(frozen=True)
class Chosen:
    """Trials of some studies that are compared.

    Attributes:
        studies: they are of.
        trials: all of them.
        findings: what the scores say (`codir.studies.findings`); Holm's correction is over all recipes of the studies,
            those that are not shown, too.
        compared: by task, and None for the average, how many recipes that correction is over.
    """

    studies: tuple[Study, ...]
    trials: tuple[EvidenceTrial, ...]
    findings: Findings
    compared: Mapping[str | None, int]

    @cached_property
    def by_row(self) -> dict[Row, list[EvidenceTrial]]:
        """The trials of each row of the tables."""
        found: dict[Row, list[EvidenceTrial]] = {row: [] for row in self.findings.rows}
        for trial in self.trials:
            found[self.row(trial)].append(trial)
        return found

    def row(self, trial: EvidenceTrial) -> Row:
        """The row of the tables that a trial belongs to."""
        row = Row(trial.result.recipe, trial.result.student)
        return row if row in self.findings.rows else Row(trial.result.recipe)

    @property
    def panels(self) -> list[str | None]:
        """None for the average, where there are several tasks, and the tasks."""
        tasks = list(self.findings.tasks)
        return [None, *tasks] if len(tasks) > 1 else [*tasks]

    def kept(self, row: Row, task: str | None) -> Spread | None:
        """Returns what a row keeps of its teacher in percent, over the seeds; None without a seed.

        On the average (task None) each seed gives one value, the mean over the tasks, where it has finished all.
        """
        if task is not None:
            values = [each[task].kept for each in self._seeds(row).values() if task in each]
        else:
            values = [
                statistics.fmean(trial.kept for trial in each.values())
                for each in self.whole_seeds(row).values()
            ]
        return Spread.of(values) if values else None

    def average_kept(self, row: Row) -> Spread | None:
        """Returns the average of a row's scores in percent of the average of the teachers', over the seeds.

        So the paper's table 1 is read (81.2 of 84.5); tasks with small scores weigh less than in `kept`. None where no
        seed has finished all tasks.
        """
        values = [
            100
            * sum(trial.result.score for trial in each.values())
            / sum(trial.result.teacher_score for trial in each.values())
            for each in self.whole_seeds(row).values()
        ]
        return Spread.of(values) if values else None

    def _seeds(self, row: Row) -> dict[int, dict[str, EvidenceTrial]]:
        """Returns a row's trials with a score by seed and task."""
        found: dict[int, dict[str, EvidenceTrial]] = {}
        for trial in self.by_row[row]:
            if math.isfinite(trial.kept):
                found.setdefault(trial.result.seed, {})[trial.result.task] = trial
        return found

    def whole_seeds(self, row: Row) -> dict[int, dict[str, EvidenceTrial]]:
        """Returns a row's trials by task of each seed that has a score on all tasks."""
        return {
            seed: each for seed, each in self._seeds(row).items() if len(each) == len(self.findings.tasks)
        }

    def order(self) -> list[Row]:
        """The rows, the one that keeps most first: by the average, then by the tasks that it has."""

        def place(row: Row) -> tuple[bool, float]:
            spreads = [self.kept(row, task) for task in (None, *self.findings.tasks)]
            first = next((each.mean for each in spreads if each is not None), 0.0)
            return spreads[0] is None, -first

        return sorted(self.findings.rows, key=place)


def interval(spread: Spread) -> tuple[float, float] | None:
    """Returns the 95 % t interval of a mean; None with fewer than two values."""
    if spread.std is None:
        return None
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, spread.n - 1)) * spread.std / math.sqrt(spread.n)
    return spread.mean - reach, spread.mean + reach


def choose(
    studies: Sequence[Study],
    *,
    recipes: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    tasks: Sequence[str] = (),
    students: Sequence[str] = (),
    baseline: str | None = None,
    metrics: Mapping[str, str] | None = None,
    last: bool = False,
) -> Chosen | None:
    """Brings trials together.

    Args:
        studies: whose; of two trials of one kind and seed the first counts.
        recipes, leave_out, tasks, students: only these, or all but these, as they are shown; all by default.
        baseline: to compare with; by default that of the first study.
        metrics: by task, another metric than its main one; `agreement` is that with the teacher.
        last: the main metric of the last evaluation, in the number format of the training, instead of that of the
            model that was given out (the best of all evaluations, unless the study says otherwise).

    Returns:
        None if there is no such trial.

    Raises:
        ConfigError: trials of one task were judged on different data or against different teachers, a name is
            unknown, one trial has two scores, or another metric is wanted of the last evaluation, of which the main
            one alone was kept.
    """
    if last and metrics:
        raise ConfigError(
            f"Of the last evaluation the main metric alone was kept, not {', '.join(sorted(set(metrics.values())))}: "
            "leave out checkpoint=last or metric=..."
        )
    merged = _merged(studies)
    for what, wanted in (("recipe", [*recipes, *leave_out]), ("task", tasks), ("student", students)):
        known = {getattr(trial.result, what) for trial in merged}
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"No {what} {name!r}{nearest(name, [each for each in known if each])} in the results of "
                    f"{', '.join(study.name for study in studies)}: {', '.join(sorted(map(str, known)))}."
                )
    family = [
        trial
        for trial in merged
        if (not tasks or trial.result.task in tasks) and (not students or trial.result.student in students)
    ]
    family = [_with_metric(trial, metrics or {}, studies) for trial in family]
    if last:
        family = [_at_the_end(trial) for trial in family]
    kept = [
        trial
        for trial in family
        if (not recipes or trial.result.recipe in recipes) and trial.result.recipe not in leave_out
    ]
    if not kept:
        return None
    _check_comparable(kept)
    shown = {trial.result.recipe for trial in kept}
    against = baseline or studies[0].content["baseline"]
    order = list(recipes) or list(dict.fromkeys(trial.result.recipe for trial in _in_order(kept, studies)))
    findings = find(
        [trial.result for trial in kept],
        baseline=against if against in shown or baseline else None,
        recipes=order,
        tasks=list(tasks) or [name for study in studies for name in study.content["tasks"]],
    )
    findings, compared = _corrected(
        findings, kept, [trial for trial in family if trial.result.task in findings.tasks]
    )
    return Chosen(tuple(studies), tuple(kept), findings, compared)


def _corrected(
    findings: Findings, shown: Sequence[EvidenceTrial], family: Sequence[EvidenceTrial]
) -> tuple[Findings, dict[str | None, int]]:
    """Takes Holm's p from the whole family, so that what a table leaves out makes nothing in it more certain.

    Returns:
        The findings, and for each panel how many recipes have a p.
    """
    if findings.baseline is None:
        return findings, {}
    tested = {
        place: difference
        for place, difference in find(
            [trial.result for trial in family], findings.baseline
        ).differences.items()
        if difference.p_value is not None
    }
    named = {trial.result.student for trial in family}
    alone = {trial.result.student for trial in shown}
    hidden = (
        next(iter(alone)) if len(alone) == 1 < len(named) else None
    )  # a row's student, where only one is shown

    def adjusted(row: Row, task: str | None) -> float | None:
        difference = tested.get((row if hidden is None else Row(row.recipe, hidden), task))
        return None if difference is None else difference.adjusted

    differences = {
        (row, task): replace(difference, adjusted=adjusted(row, task))
        for (row, task), difference in findings.differences.items()
    }
    return replace(findings, differences=differences), Counter(task for _, task in tested)


def _merged(studies: Sequence[Study]) -> list[EvidenceTrial]:
    """Returns the trials of all studies; raises `ConfigError` where one trial was trained twice with two scores."""
    found: dict[tuple[Any, ...], EvidenceTrial] = {}
    conditions: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for study in studies:
        for trial in study.trials:
            result = trial.result
            group = (result.recipe, result.task, result.student)
            if not _one_sample(conditions.setdefault(group, trial.conditions), trial.conditions):
                result = replace(result, recipe=f"{result.recipe} [{study.name}]")
                trial = replace(trial, result=result)
                group = (result.recipe, result.task, result.student)
                conditions.setdefault(group, trial.conditions)
            first = found.setdefault((*group, result.seed), trial)
            if not _equal(first.result.score, result.score):
                raise ConfigError(
                    f"{first.study} and {trial.study} have two scores of one trial: {first.result.score:.4f} and "
                    f"{result.score:.4f} of {', '.join(filter(None, group))}, seed {result.seed}."
                )
    return list(found.values())


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _one_sample(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trials' conditions are the same.

    All have to be, in full, but for an objective's settings: one that only the newer of two versions of codir has does
    not count.
    """
    ours, theirs = one["objectives"], other["objectives"]
    return (
        all(_same(one[key], other[key]) for key in one if key != "objectives")
        and ours.keys() == theirs.keys()
        and all(
            _same(ours[name][key], theirs[name][key])
            for name in ours
            for key in ours[name].keys() & theirs[name].keys()
        )
    )


def _same(one: Any, other: Any) -> bool:
    """Whether values are the same; numbers to one in a thousand, since epochs end with a whole step."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-3)
    return bool(one == other)


def _with_metric(trial: EvidenceTrial, metrics: Mapping[str, str], studies: Sequence[Study]) -> EvidenceTrial:
    name = metrics.get(trial.result.task)
    if name is None:
        return trial
    study = next(study for study in studies if study.name == trial.study)
    teacher = {**study.content["teachers"][trial.values["task"]]["metrics"], "agreement": 1.0}
    own = dict(trial.result.metrics)
    if trial.result.agreement is not None:
        own["agreement"] = trial.result.agreement
    if name not in teacher or name not in own:
        raise ConfigError(
            f"{trial.result.task} has no metric {name!r}{nearest(name, teacher)}: {', '.join(teacher)}."
        )
    result = replace(
        trial.result,
        metric=name,
        score=own[name],
        teacher_score=teacher[name],
        constant_score=None,
    )
    return replace(trial, result=result)


def _at_the_end(trial: EvidenceTrial) -> EvidenceTrial:
    scores = trial.values["evaluations"]["score"]
    if not scores:
        raise ConfigError(f"{trial.study}: {trial.result.folder} has no evaluations, so no last one.")
    # how often it agrees with the teacher is known of the model that was given out alone
    return replace(trial, result=replace(trial.result, score=scores[-1], agreement=None))


def _check_comparable(trials: Sequence[EvidenceTrial]) -> None:
    first: dict[str, EvidenceTrial] = {}
    for trial in trials:
        other = first.setdefault(trial.result.task, trial)
        for what in ("split", "validation_examples"):
            if trial.values[what] != other.values[what]:
                raise ConfigError(
                    f"{trial.study} and {other.study} cannot be compared on {trial.result.task}: the {what} is "
                    f"{trial.values[what]} in one and {other.values[what]} in the other."
                )
        if not math.isclose(trial.result.teacher_score, other.result.teacher_score, rel_tol=1e-5):
            raise ConfigError(
                f"{trial.study} and {other.study} cannot be compared on {trial.result.task}: their teachers score "
                f"{trial.result.teacher_score:.4f} and {other.result.teacher_score:.4f}."
            )


def _in_order(trials: Sequence[EvidenceTrial], studies: Sequence[Study]) -> list[EvidenceTrial]:
    """Returns the trials in the order in which the studies name their recipes."""
    places = {
        (study.name, name): (number, place)
        for number, study in enumerate(studies)
        for place, name in enumerate(study.content["arms"])
    }
    return sorted(trials, key=lambda trial: places[trial.study, trial.values["recipe"]])
