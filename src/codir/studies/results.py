"""What the finished trials of a study gave, read from their run folders: no database is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codir.errors import RunError
from codir.manifest import read_whole
from codir.runs.runfolder import RunFolder
from codir.studies.trial import Phase, Trial, read_trials


@dataclass(frozen=True)
class TrialResult:
    """One finished trial.

    Attributes:
        recipe, task, student, seed, settings: as in `Trial`; `settings` is what was searched.
        phase: `final` for the trials that are compared, `search` for those that only served to choose settings.
        metric: name of the task's main metric.
        score: its value on the dev split of the task, the kept checkpoint run in fp32. Selection (of the checkpoint
            and, in a search, of the settings) uses the same data.
        metrics: all metrics; those of further splits as `SPLIT/METRIC`.
        teacher_score: the teacher's main metric on the same data.
        agreement: share of the examples that student and teacher say the same of (regression: their correlation).
        parameters, embedding_parameters: of the student.
        teacher_parameters: of its teacher.
        size: bytes of the student's model files.
        steps: optimiser steps made.
        seconds: wall-clock time of the training over all attempts.
        epochs: passes over the training data that were made.
        best_epoch: after which of them the kept weights stood; None where the last ones were kept.
        folder: the run folder.
        constant_score: what answering the same class to everything scores; None for scores, and in older run folders.
    """

    recipe: str
    task: str
    student: str | None
    seed: int
    settings: Mapping[str, Any]
    phase: Phase
    metric: str
    score: float
    metrics: Mapping[str, float]
    teacher_score: float
    agreement: float | None
    parameters: int
    embedding_parameters: int
    teacher_parameters: int
    size: int | None
    steps: int
    seconds: float
    epochs: float | None
    best_epoch: float | None
    folder: Path
    constant_score: float | None = None

    @property
    def trial(self) -> Trial:
        """The trial that this came of."""
        return Trial(self.recipe, self.task, self.student, self.seed, self.settings, self.phase)

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.trial.key


def read_result(trial: Trial, output: Path) -> TrialResult | None:
    """Returns what a trial gave, or None if it is not finished.

    Raises:
        RunError: the run folder says it is finished and its files are damaged.
    """
    run = RunFolder(trial.folder(output))
    if not run.finished:
        return None
    content = read_whole(run.metrics)
    try:
        rows = {row["role"]: row for row in content["comparison"]["rows"]}
        teacher = rows.pop("teacher")
        # A trial trains one student, without the baselines of `codir distill`.
        (role, row), *_ = rows.items()
        cost, metric = content["costs"][role], content["main_metric"]
        epochs, best_epoch = _epochs(run.log, cost["best_step"])
        return TrialResult(
            recipe=trial.recipe,
            task=trial.task,
            student=trial.student,
            seed=trial.seed,
            settings=dict(trial.settings),
            phase=trial.phase,
            metric=metric,
            score=_number(row["metrics"][metric]),
            metrics={name: _number(value) for name, value in row["metrics"].items()},
            teacher_score=_number(teacher["metrics"][metric]),
            agreement=row["agreement"],
            parameters=row["parameters"],
            embedding_parameters=row["embedding_parameters"],
            teacher_parameters=teacher["parameters"],
            size=row["bytes"],
            steps=cost["steps"],
            seconds=cost["seconds"],
            epochs=epochs,
            best_epoch=best_epoch,
            folder=run.path,
            constant_score=content["comparison"].get("constant"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"{run.metrics} is not what `codir distill` writes ({type(error).__name__}: {error}). Remove the folder "
            f"{run.path} to run this trial again."
        ) from error


def _number(value: float | None) -> float:
    """Returns what stood there before JSON, which has no NaN."""
    return float("nan") if value is None else float(value)


def _epochs(log: Path, best_step: int | None) -> tuple[float | None, float | None]:
    """Returns the last epoch in a log and that of the best step."""
    last = best = None
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            last = entry.get("epoch", last)
            if best_step is not None and entry.get("step") == best_step:
                best = entry.get("epoch", best)
    return last, best


def read_results(output: str | Path, damaged: list[str] | None = None) -> list[TrialResult]:
    """Returns the results of all finished trials of a study, ordered by task, student, recipe, settings and seed.

    Args:
        output: the study's folder.
        damaged: gets a line for each finished trial whose files are damaged.

    Raises:
        RunError: a finished trial's files are damaged, and no list for that was given.
    """
    from codir.studies.folder import Plan, StudyFolder

    output, folder = Path(output), StudyFolder(output)
    results = []
    for trial in read_trials(output):
        try:
            result = read_result(trial, output)
        except RunError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
            continue
        if result is not None:
            results.append(result)
    if not folder.exists:
        return results
    # a search may have trained before what is now compared
    try:
        compared = {trial.key for trial in Plan(folder).trials() if trial.phase == "final"}
    except RunError as error:
        if damaged is None:
            raise
        damaged.append(str(error))  # what a search goes on with cannot be told
        return results
    return [replace(result, phase="final" if result.key in compared else "search") for result in results]
