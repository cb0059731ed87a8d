"""Reads collected results, and brings those of several studies together so that they can be compared.

Two rules put what belongs together into one table. A task `cola-aug` beside a task `cola`, both of the same data, is
CoLA with something changed in its data: its recipes are shown on `cola`, as `kd +aug`. Likewise a student `half-mlm`
beside `half`. And where two studies have a recipe of the same name, the trials are one sample if budget, objectives and
student are the same, and the later study's is shown as `kd [long]` if they are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from codir.errors import ConfigError, nearest
from codir.storage import read_json
from codir.studies.findings import Findings, Row, find
from codir.studies.results import TrialResult
from codir.studies.statistics import LEVEL, Spread


@dataclass(frozen=True)
class EvidenceTrial:
    """One finished trial.

    Attributes:
        study: it is of.
        result: its scores and costs; recipe, task and student as they are shown.
        arm: recipe's settings in the study.
        conditions: what has to be the same for two trials to be one sample.
        values: all that was collected of it.
    """

    study: str
    result: TrialResult
    arm: Mapping[str, Any] = field(repr=False)
    conditions: Mapping[str, Any] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    @property
    def kept(self) -> float:
        """Score in percent of the teacher's."""
        return 100 * self.result.score / self.result.teacher_score

    @property
    def settings(self) -> dict[str, Any]:
        """What is set in it, by dotted keys: by the study for all recipes, and over that for this one."""
        found = {
            f"student.{key}": value for key, value in self.conditions["student"].items() if key != "layers"
        }
        for key in ("unlabeled", "limit_unlabeled"):
            if key in self.conditions["data"]:
                found[f"data.{key}"] = self.conditions["data"][key]
        return found | dict(self.arm["settings"])

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Returns steps and values of a logged term; two empty lists if it has none."""
        curves = self.values["curves"]
        pairs = [
            (step, value)
            for step, value in zip(curves["step"], curves.get(name, []), strict=False)
            if value is not None
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def end_of(self, name: str, share: float = 0.2) -> float | None:
        """Returns a term's mean over the last part of the training; None if it has none."""
        _, values = self.curve(name)
        last = values[-max(1, math.ceil(share * len(values))) :]
        return sum(last) / len(last) if last else None


@dataclass(frozen=True)
class Study:
    """Collected results of one study.

    Attributes:
        name: of its file.
        content: of its results.
        trials: finished ones.
    """

    name: str
    content: Mapping[str, Any]
    trials: tuple[EvidenceTrial, ...]


def read_study(file: Path) -> Study:
    """Reads the results of a study."""
    content = read_json(file)
    tasks, students = (
        {name: _shown(name, content[key]) for name in content[key]} for key in ("tasks", "students")
    )
    trials = []
    for values in content["trials"]:
        task, of_task = tasks[values["task"]]
        student, of_student = students.get(values["student"] or "", (values["student"], ""))
        arm = content["arms"][values["recipe"]]
        label = " ".join([values["recipe"], *(f"+{each}" for each in (of_task, of_student) if each)])
        if searched := values.get("searched"):
            label += " " + ",".join(
                f"{key.rpartition('.')[2]}={value}" for key, value in sorted(searched.items())
            )
        key = f"{values['task']}/{values['student']}/{label}/{values['seed']}"
        result = TrialResult(
            recipe=label,
            task=task,
            student=student,
            seed=values["seed"],
            settings={},
            phase="final",
            metric=values["metric"],
            score=math.nan if values["score"] is None else values["score"],
            metrics=values["metrics"],
            teacher_score=values["teacher_score"],
            agreement=values["agreement"],
            parameters=values["parameters"],
            embedding_parameters=values["embedding_parameters"],
            teacher_parameters=content["teachers"][values["task"]]["parameters"],
            size=values["bytes"],
            steps=values["steps"],
            seconds=values["seconds"],
            epochs=values["epochs"],
            best_epoch=values["best_epoch"],
            folder=Path(content["study"], key),
            constant_score=content["constants"].get(values["task"]),
        )
        conditions = {
            "data": content["tasks"][values["task"]],
            "student": content["students"].get(values["student"] or "", {}),
            "train_examples": values["train_examples"],
            "epochs": values["epochs"],
            "batch_size": values["batch_size"],
            "learning_rate": values["learning_rate"],
            "objectives": arm["objectives"],
        }
        trials.append(EvidenceTrial(content["study"], result, arm, conditions, values))
    return Study(content["study"], content, tuple(trials))


def _shown(name: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Returns the name that `cola-aug` is shown under, and what is changed in it."""
    for base, values in known.items():
        if name.startswith(f"{base}-") and values.get("task") == known[name].get("task"):
            return base, name[len(base) + 1 :]
    return name, ""


@dataclass(frozen=True)
class Chosen:
    """Trials of some studies that are compared.

    Attributes:
        studies: they are of.
        trials: all of them.
        findings: what the scores say (`codir.studies.findings`).
    """

    studies: tuple[Study, ...]
    trials: tuple[EvidenceTrial, ...]
    findings: Findings

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
        by_seed = self._seeds(row)
        if task is not None:
            values = [each[task].kept for each in by_seed.values() if task in each]
        else:
            values = [
                statistics.fmean(trial.kept for trial in each.values()) for each in self._whole(by_seed)
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
            for each in self._whole(self._seeds(row))
        ]
        return Spread.of(values) if values else None

    def _seeds(self, row: Row) -> dict[int, dict[str, EvidenceTrial]]:
        """Returns a row's trials with a score by seed and task."""
        found: dict[int, dict[str, EvidenceTrial]] = {}
        for trial in self.by_row[row]:
            if math.isfinite(trial.kept):
                found.setdefault(trial.result.seed, {})[trial.result.task] = trial
        return found

    def _whole(self, by_seed: Mapping[int, dict[str, EvidenceTrial]]) -> list[dict[str, EvidenceTrial]]:
        """Returns the seeds that have finished all tasks."""
        return [each for each in by_seed.values() if len(each) == len(self.findings.tasks)]

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
            unknown, or another metric is wanted of the last evaluation, of which the main one alone was kept.
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
    kept = [
        trial
        for trial in merged
        if (not recipes or trial.result.recipe in recipes)
        and trial.result.recipe not in leave_out
        and (not tasks or trial.result.task in tasks)
        and (not students or trial.result.student in students)
    ]
    kept = [_with_metric(trial, metrics or {}, studies) for trial in kept]
    if last:
        kept = [_at_the_end(trial) for trial in kept]
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
    return Chosen(tuple(studies), tuple(kept), findings)


def _merged(studies: Sequence[Study]) -> list[EvidenceTrial]:
    found: dict[tuple[Any, ...], EvidenceTrial] = {}
    conditions: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for study in studies:
        for trial in study.trials:
            result = trial.result
            group = (result.recipe, result.task, result.student)
            if not _same(conditions.setdefault(group, trial.conditions), trial.conditions):
                result = replace(result, recipe=f"{result.recipe} [{study.name}]")
                trial = replace(trial, result=result)
                group = (result.recipe, result.task, result.student)
                conditions.setdefault(group, trial.conditions)
            found.setdefault((*group, result.seed), trial)
    return list(found.values())


def _same(one: Any, other: Any) -> bool:
    """Whether settings are the same; one that only the newer of two versions of codir has does not count."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-3)  # epochs end with a whole step
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
    return replace(trial, result=replace(trial.result, score=scores[-1]))


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


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Returns the rank correlation; None with fewer than three pairs or where one side does not vary."""
    if len(pairs) < 3 or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return None
    ranks = [stats.rankdata(side) for side in np.array(pairs).T]
    return float(np.corrcoef(*ranks)[0, 1])
