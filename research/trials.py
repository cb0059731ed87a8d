"""Reads the collected results of studies and compares their trials: spread over seeds, paired differences, Holm.

A task `cola-aug` beside a task `cola`, both of the same data, is CoLA with something changed in its data: its recipes
are shown on `cola`, as `kd +aug`. Likewise a student `half-mlm` beside `half`. Where two studies have a recipe of the
same name, the trials are one sample if data, budget, objectives and student's start are the same; the later study's is
shown as `kd [long]` if they are not. Nothing here needs codir.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

LEVEL, ALPHA = 0.95, 0.05
# settings of a training of which a trial itself says the outcome
_OF_A_TRIAL = ("epochs", "steps", "batch_size", "learning_rate", "seed")


class Row(NamedTuple):
    """A line of the tables: a recipe with a student, None where all have the same."""

    recipe: str
    student: str | None = None

    def __str__(self) -> str:
        return self.recipe if self.student is None else f"{self.recipe} ({self.student})"


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        study: the study it belongs to.
        recipe, task, student: the names under which it is shown.
        seed: its seed.
        metric, score, teacher_score, agreement: what it scored; the score is NaN where it is undefined.
        arm: the recipe's settings in the study.
        conditions: what has to be the same for two trials to be one sample.
        values: all that was collected.
    """

    study: str
    recipe: str
    task: str
    student: str | None
    seed: int
    metric: str
    score: float
    teacher_score: float
    agreement: float | None
    arm: Mapping[str, Any] = field(repr=False)
    conditions: Mapping[str, Any] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    @property
    def kept(self) -> float:
        """The score in percent of the teacher's."""
        return 100 * self.score / self.teacher_score

    @property
    def settings(self) -> dict[str, Any]:
        """What is set in it, by dotted keys: by the study for all recipes, and over that for this one."""
        student, data = self.conditions["student"], self.conditions["data"]
        found = {f"student.{key}": value for key, value in student.items() if key != "layers"}
        found |= {f"data.{key}": data[key] for key in ("unlabeled", "limit_unlabeled") if key in data}
        return found | dict(self.arm["settings"])

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Returns the steps and values of a logged term; two empty lists if it has none."""
        curves = self.values["curves"]
        pairs = zip(curves["step"], curves.get(name, []), strict=False)
        known = [(step, value) for step, value in pairs if value is not None]
        return [step for step, _ in known], [value for _, value in known]

    def end_of(self, name: str, share: float = 0.2) -> float | None:
        """Returns a term's mean over the last part of the training; None if it has none."""
        _, values = self.curve(name)
        last = values[-max(1, math.ceil(share * len(values))) :]
        return sum(last) / len(last) if last else None


@dataclass(frozen=True)
class Study:
    """The collected results of one study: its name, the file's content, the finished trials."""

    name: str
    content: Mapping[str, Any]
    trials: tuple[Trial, ...]


def read_study(file: Path) -> Study:
    """Reads the results of a study; raises `ValueError` if the file has none."""
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        return study_of(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} has no results of a study ({type(error).__name__}: {error}).") from None


def study_of(content: Mapping[str, Any]) -> Study:
    """Returns the study that a file of results holds."""
    tasks, students = ({name: _shown(name, content[key]) for name in content[key]} for key in ("tasks", "students"))
    trials = []
    for values in content["trials"]:
        task, of_task = tasks[values["task"]]
        student, of_student = students.get(values["student"] or "", (values["student"], ""))
        label = " ".join([values["recipe"], *(f"+{each}" for each in (of_task, of_student) if each)])
        if searched := values.get("searched"):
            words = (f"{key.rpartition('.')[2]}={value}" for key, value in sorted(searched.items()))
            label += " " + ",".join(words)
        arm = content["arms"][values["recipe"]]
        of_student_config = content["students"].get(values["student"] or "", {})
        conditions = {
            "data": content["tasks"][values["task"]],
            "student": of_student_config,
            **{key: values[key] for key in ("train_examples", "epochs", "batch_size", "learning_rate")},
            "training": {key: value for key, value in arm.get("training", {}).items() if key not in _OF_A_TRIAL},
            "start": start_of(of_student_config, arm),
            "objectives": arm["objectives"],
        }
        trials.append(
            Trial(
                content["study"],
                label,
                task,
                student,
                values["seed"],
                values["metric"],
                math.nan if values["score"] is None else values["score"],
                values["teacher_score"],
                values["agreement"],
                arm,
                conditions,
                values,
            )
        )
    return Study(content["study"], content, tuple(trials))


def _shown(name: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Returns the name that `cola-aug` is shown under, and what is changed in it."""
    for base, values in known.items():
        if name.startswith(f"{base}-") and values.get("task") == known[name].get("task"):
            return base, name[len(base) + 1 :]
    return name, ""


def start_of(student: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a trial's student started from, so that two are equal where their trainings started alike.

    A recipe's start counts where the study's student says nothing of it; the recipe's settings count over both; a
    recipe with a student of its own has that one.
    """
    own = {key[len("student.") :]: value for key, value in arm["settings"].items() if key.startswith("student.")}
    given = arm.get("student") or {**arm.get("start", {}), **student}
    found = {"init": "spread", **given, **own}
    return {key: value for key, value in found.items() if value is not None}


# ---- numbers ---------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """A sample of values: their number, mean and sample standard deviation (None with fewer than two)."""

    n: int
    mean: float
    std: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % t interval of the mean; None with fewer than two values."""
        if self.std is None:
            return None
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, self.n - 1)) * self.std / math.sqrt(self.n)
        return self.mean - reach, self.mean + reach


def spread_of(values: Sequence[float]) -> Spread | None:
    """Returns the spread of a sample; None of no values."""
    if not values:
        return None
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


class Difference(NamedTuple):
    """The mean of differences paired by seed.

    Attributes:
        n: number of pairs.
        mean: NaN without pairs.
        interval: 95 % t interval; None where there is none.
        p: two-sided p of the paired t test that belongs to it.
        adjusted: p after Holm's correction over the recipes compared.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero and p, corrected, is below 0.05."""
        p = self.p if self.adjusted is None else self.adjusted
        return (
            self.interval is not None and not self.interval[0] <= 0 <= self.interval[1] and p is not None and p < ALPHA
        )


def paired(scores: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Compares two recipes' scores by seed, over the seeds that both have."""
    values = [scores[seed] - baseline[seed] for seed in sorted(scores.keys() & baseline.keys())]
    spread = spread_of(values)
    if spread is None:
        return Difference(0, math.nan)
    error = (spread.std or 0.0) / math.sqrt(spread.n)
    if error <= 1e-12 * max(1.0, abs(spread.mean)):  # no spread, no interval; rounding is no difference
        return Difference(spread.n, 0.0 if spread.n > 1 and abs(spread.mean) <= 1e-12 else spread.mean)
    p = float(2 * stats.t.sf(abs(spread.mean) / error, spread.n - 1))
    return Difference(spread.n, spread.mean, spread.interval, p)


def holm(differences: Mapping[Row, Difference]) -> dict[Row, Difference]:
    """Corrects the p of one family (Holm 1979); a difference without p does not count."""
    order = sorted((each.p, place) for place, each in enumerate(differences.values()) if each.p is not None)
    adjusted: dict[int, float] = {}
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return {row: each._replace(adjusted=adjusted.get(place)) for place, (row, each) in enumerate(differences.items())}


# ---- comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Trials of some studies, compared.

    Attributes:
        studies: the studies they belong to.
        trials: all of them.
        rows, tasks: in the order of the tables.
        baseline: the recipe that the differences are against.
        differences: by row and task, None for the average of the tasks.
        compared: by task, how many recipes Holm's correction is over; those that are not shown count too.
    """

    studies: tuple[Study, ...]
    trials: tuple[Trial, ...]
    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    baseline: str | None
    differences: Mapping[tuple[Row, str | None], Difference]
    compared: Mapping[str | None, int]

    @cached_property
    def by_row(self) -> dict[Row, list[Trial]]:
        """The trials of each row."""
        return _by_row(self.trials, self.rows)

    @cached_property
    def panels(self) -> list[str | None]:
        """None for the average, where there are several tasks, and the tasks."""
        return [None, *self.tasks] if len(self.tasks) > 1 else [*self.tasks]

    def scores(self, row: Row, task: str) -> dict[int, float]:
        """Returns a row's scores on a task by seed, those that are defined."""
        return _scores(self.by_row[row], task)

    def teacher(self, task: str) -> float:
        """Returns the teacher's score."""
        return statistics.fmean(each.teacher_score for each in self.trials if each.task == task)

    def constant(self, task: str | None) -> float | None:
        """Returns what one answer to everything scores, None where it is not known."""
        for trial in self.trials:
            if trial.task == task and trial.metric == trial.values["metric"]:
                study = next(each for each in self.studies if each.name == trial.study)
                if (found := study.content["constants"].get(trial.values["task"])) is not None:
                    return found
        return None

    def kept(self, row: Row, task: str | None) -> Spread | None:
        """Returns what a row keeps of its teacher in percent; of the average over the seeds that finished all tasks."""
        if task is not None:
            own = [each for each in self.by_row[row] if each.task == task and math.isfinite(each.score)]
            return spread_of([each.kept for each in own])
        whole = self._whole_seeds(row)
        return spread_of([statistics.fmean(each.kept for each in trials) for trials in whole])

    def average_kept(self, row: Row) -> Spread | None:
        """Returns the average score in percent of the teachers' average, as the paper counts (81.2 of 84.5)."""
        return spread_of(
            [
                100 * sum(each.score for each in trials) / sum(each.teacher_score for each in trials)
                for trials in self._whole_seeds(row)
            ]
        )

    def _whole_seeds(self, row: Row) -> list[list[Trial]]:
        found: dict[int, dict[str, Trial]] = {}
        for trial in self.by_row[row]:
            if math.isfinite(trial.score):
                found.setdefault(trial.seed, {})[trial.task] = trial
        return [list(each.values()) for each in found.values() if len(each) == len(self.tasks)]

    def order(self) -> list[Row]:
        """Returns the rows, the one that keeps most first: by the average, then by the tasks that it has."""

        def place(row: Row) -> tuple[bool, float]:
            spreads = [self.kept(row, task) for task in (None, *self.tasks)]
            return spreads[0] is None, -next((each.mean for each in spreads if each is not None), 0.0)

        return sorted(self.rows, key=place)

    def minutes(self, row: Row) -> float:
        """Returns the minutes of a training: median over the seeds, mean over the tasks."""
        seconds = [[each.values["seconds"] for each in self.by_row[row] if each.task == task] for task in self.tasks]
        return statistics.mean(statistics.median(each) for each in seconds if each) / 60


def compare(
    studies: Sequence[Study],
    *,
    recipes: Sequence[str] = (),
    without: Sequence[str] = (),
    tasks: Sequence[str] = (),
    baseline: str | None = None,
    metrics: Mapping[str, str] | None = None,
    last: bool = False,
) -> Comparison | None:
    """Brings trials together.

    Args:
        studies: whose; of two trials of one kind and seed the first counts.
        recipes, without, tasks: only these, or all but these, as they are shown; all by default.
        baseline: the recipe to compare with; by default that of the first study.
        metrics: by task, another metric than its main one; `agreement` is that with the teacher.
        last: the main metric of the last evaluation, in the number format of the training, instead of that of the
            model that was given out (the best of all evaluations, unless the study says otherwise).

    Returns:
        None if there is no such trial.

    Raises:
        ValueError: trials of one task were judged on different data or against different teachers, a name is unknown,
            one trial has two scores, or another metric is wanted of the last evaluation.
    """
    if last and metrics:
        raise ValueError("Of the last evaluation the main metric alone was kept.")
    merged = _merged(studies)
    for what, names in (("recipe", [*recipes, *without]), ("task", tasks)):
        known = {getattr(trial, what) for trial in merged}
        for name in names:
            if name not in known:
                raise ValueError(f"There is no {what} {name!r}: there are {', '.join(sorted(known))}.")
    family = [trial for trial in merged if not tasks or trial.task in tasks]
    family = [_with_metric(trial, metrics or {}, studies) for trial in family]
    if last:
        family = [_at_the_end(trial) for trial in family]
    kept = [each for each in family if (not recipes or each.recipe in recipes) and each.recipe not in without]
    if not kept:
        return None
    _check_comparable(kept)
    shown = {trial.recipe for trial in kept}
    against = baseline or studies[0].content["baseline"]
    against = against if against in shown else next((each for each in ("kd", "finetune") if each in shown), None)
    task_order = list(tasks) or [name for study in studies for name in study.content["tasks"]]
    found = sorted({trial.task for trial in kept}, key=task_order.index)
    places = {
        (study.name, arm): (n, m) for n, study in enumerate(studies) for m, arm in enumerate(study.content["arms"])
    }
    order = list(recipes) or list(
        dict.fromkeys(each.recipe for each in sorted(kept, key=lambda each: places[each.study, each.values["recipe"]]))
    )
    rows = sorted(_rows(kept), key=lambda row: (row.student or "", order.index(row.recipe), row.recipe))
    compared = [each for each in family if each.task in found]
    whole = _differences(_by_row(compared, _rows(compared)), found, against)
    differences = _differences(_by_row(kept, rows), found, against)
    one_of_several = len({each.student for each in kept}) == 1 < len({each.student for each in family})
    # Holm's p is taken from the whole family, so that what a table leaves out makes nothing in it more certain
    for (row, task), each in differences.items():
        of_family = whole.get((Row(row.recipe, kept[0].student) if one_of_several else row, task))
        differences[row, task] = each._replace(adjusted=None if of_family is None else of_family.adjusted)
    counts: dict[str | None, int] = {}
    for (_, task), each in whole.items():
        counts[task] = counts.get(task, 0) + (each.p is not None)
    return Comparison(tuple(studies), tuple(kept), tuple(rows), tuple(found), against, differences, counts)


def _rows(trials: Sequence[Trial]) -> list[Row]:
    one = len({trial.student for trial in trials}) == 1  # its name would only be repeated in every line
    return list(dict.fromkeys(Row(trial.recipe, None if one else trial.student) for trial in trials))


def _by_row(trials: Sequence[Trial], rows: Collection[Row]) -> dict[Row, list[Trial]]:
    found: dict[Row, list[Trial]] = {row: [] for row in rows}
    for trial in trials:
        row = Row(trial.recipe, trial.student)
        found[row if row in found else Row(trial.recipe)].append(trial)
    return found


def _scores(trials: Sequence[Trial], task: str) -> dict[int, float]:
    return {each.seed: each.score for each in trials if each.task == task and math.isfinite(each.score)}


def _differences(
    by_row: Mapping[Row, Sequence[Trial]], tasks: Sequence[str], baseline: str | None
) -> dict[tuple[Row, str | None], Difference]:
    """Pairs each row with the baseline of its student, on each task and on the average of each seed's tasks."""
    found: dict[tuple[Row, str | None], Difference] = {}
    if baseline is None:
        return found

    def of(row: Row, task: str | None) -> dict[int, float]:
        if task is not None:
            return _scores(by_row[row], task)
        scores = [_scores(by_row[row], each) for each in tasks]
        seeds = set.intersection(*(set(each) for each in scores))
        return {seed: statistics.fmean(each[seed] for each in scores) for seed in sorted(seeds)}

    for task in [*tasks, None] if len(tasks) > 1 else tasks:
        family = {}
        for row in by_row:
            against = Row(baseline, row.student)
            if against not in by_row:  # one of the two has a student of its own
                against = next(other for other in by_row if other.recipe == baseline)
            if row != against and (ours := of(row, task)):
                family[row] = paired(ours, of(against, task))
        found |= {(row, task): each for row, each in holm(family).items()}
    return found


def _merged(studies: Sequence[Study]) -> list[Trial]:
    """Returns the trials of all studies; raises `ValueError` where one trial was trained twice with two scores."""
    found: dict[tuple[Any, ...], Trial] = {}
    conditions: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for study in studies:
        for trial in study.trials:
            group = (trial.recipe, trial.task, trial.student)
            if not _one_sample(conditions.setdefault(group, trial.conditions), trial.conditions):
                trial = replace(trial, recipe=f"{trial.recipe} [{study.name}]")
                group = (trial.recipe, trial.task, trial.student)
                conditions.setdefault(group, trial.conditions)
            first = found.setdefault((*group, trial.seed), trial)
            if first.score != trial.score and not (math.isnan(first.score) and math.isnan(trial.score)):
                raise ValueError(
                    f"{first.study} and {trial.study} have two scores of one trial: {first.score:.4f} and "
                    f"{trial.score:.4f} of {', '.join(filter(None, group))}, seed {trial.seed}."
                )
    return list(found.values())


def _one_sample(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trials' conditions are the same; a setting that only one codir's objectives have does not count."""
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


def _with_metric(trial: Trial, metrics: Mapping[str, str], studies: Sequence[Study]) -> Trial:
    name = metrics.get(trial.task)
    if name is None:
        return trial
    study = next(study for study in studies if study.name == trial.study)
    teacher = {**study.content["teachers"][trial.values["task"]]["metrics"], "agreement": 1.0}
    own = {**trial.values["metrics"], "agreement": trial.agreement}
    if name not in teacher or own.get(name) is None:
        raise ValueError(f"{trial.task} has no metric {name!r}: there are {', '.join(teacher)}.")
    return replace(trial, metric=name, score=own[name], teacher_score=teacher[name])


def _at_the_end(trial: Trial) -> Trial:
    scores = trial.values["evaluations"]["score"]
    if not scores:
        raise ValueError(f"{trial.study}: {trial.recipe}, seed {trial.seed} has no evaluations, so no last one.")
    # how often it agrees with the teacher is known of the model that was given out alone
    return replace(trial, score=scores[-1], agreement=None)


def _check_comparable(trials: Sequence[Trial]) -> None:
    first: dict[str, Trial] = {}
    for trial in trials:
        other = first.setdefault(trial.task, trial)
        for what in ("split", "validation_examples"):
            if trial.values[what] != other.values[what]:
                raise ValueError(
                    f"{trial.study} and {other.study} cannot be compared on {trial.task}: the {what} is "
                    f"{trial.values[what]} in one and {other.values[what]} in the other."
                )
        if not math.isclose(trial.teacher_score, other.teacher_score, rel_tol=1e-5):
            raise ValueError(
                f"{trial.study} and {other.study} cannot be compared on {trial.task}: their teachers score "
                f"{trial.teacher_score:.4f} and {other.teacher_score:.4f}."
            )
