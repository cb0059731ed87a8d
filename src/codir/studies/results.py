"""What a study's folder says: its configuration, how its trials ended, what the finished ones gave.

`study.yaml` is the resolved study, `recipes.json` what its recipes came to (so that a recipe file that is changed or
gone later changes no results); `trials/`, `teachers/`, `cache/` and `logs/` are what they say. The run folders below
`trials/` are the truth: nothing else says what is done.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codir.errors import ConfigError, RunError
from codir.files import read_json, write_json, write_text
from codir.manifest import read_whole
from codir.record.runfolder import RunFolder
from codir.studies.config import StudyConfig
from codir.studies.loading import load_study, study_yaml
from codir.studies.recipes import ResolvedRecipe, notes_of, resolve_recipes, teacher_folder
from codir.studies.search import Search
from codir.studies.trial import TRIALS, Outcome, Phase, Trial, read_log, read_outcome, read_trials

STUDY, RECIPES = "study.yaml", "recipes.json"


def is_study(output: str | Path) -> bool:
    """Says whether a study was started in a folder, or trials of one are left there."""
    return (Path(output) / STUDY).is_file() or (Path(output) / TRIALS).is_dir()


class Plan:
    """What a study has to do and what it has done, worked out from its folder alone.

    Args:
        config: the study's configuration.
        recipes: what its recipes come to; by default they are resolved now.

    Raises:
        ConfigError: see `resolve_recipes`.
    """

    def __init__(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe] | None = None):
        self.config, self.output = config, config.output
        self.recipes = resolve_recipes(config) if recipes is None else recipes
        self.search = Search(config, self.recipes)
        self._ended: dict[str, Outcome] = {}  # what has ended never changes

    @classmethod
    def load(cls, output: str | Path) -> Plan:
        """Returns the plan of the study in a folder.

        Raises:
            RunError: there is none, or it is damaged.
        """
        output = Path(output).expanduser().absolute()
        if not (output / STUDY).is_file():
            raise RunError(
                f"{output} holds no study: start one with "
                f"`codir study STUDY.yaml --output {shlex.quote(str(output))}`."
            )
        try:
            config = load_study(output / STUDY, flags={"output": ("--output", str(output))})
            recipes = {k: ResolvedRecipe(**values) for k, values in read_json(output / RECIPES).items()}
            return cls(config, recipes)
        except (ConfigError, OSError, TypeError, AttributeError) as error:
            raise RunError(f"{output} is a damaged study: {error}") from error

    def save(self) -> None:
        """Writes what `load` reads, and in comments what the recipes say otherwise; `study.yaml` comes last."""
        notes = [f"# {line}\n" for line in notes_of(self.recipes)]
        if notes:
            notes.insert(0, "# What the recipes say otherwise, and the study does not use:\n")
        write_json(self.output / RECIPES, {name: asdict(recipe) for name, recipe in self.recipes.items()})
        write_text(self.output / STUDY, study_yaml(self.config) + "".join(notes))

    def done(self, damaged: list[str] | None = None) -> Mapping[str, Outcome]:
        """Returns how trials ended, by key.

        Args:
            damaged: gets a line for each trial that cannot be read; None refuses the first of them.
        """
        for trial in read_trials(self.output):
            if trial.key in self._ended:
                continue
            try:
                outcome = read_outcome(trial.folder(self.output))
            except RunError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                continue
            if outcome is not None:
                self._ended[trial.key] = outcome
        return self._ended

    def trials(self, ask: bool = False, damaged: list[str] | None = None) -> list[Trial]:
        """Returns every trial that can be named by now; see `Search.trials`."""
        return self.search.trials(self.done(damaged), read_trials(self.output), ask)

    def teacher_state(self, task: str) -> str:
        """Returns `finished`, `failed`, or another state of the teacher of a task."""
        return "finished" if task in self.config.teachers else self.teacher_run(task).state

    def teacher_run(self, task: str) -> RunFolder:
        """Returns the run folder of a teacher that the study fine-tunes."""
        return RunFolder(teacher_folder(self.config, task))

    def failures(self) -> dict[str, str]:
        """Returns errors by key, of trials and (`teacher:TASK`) teachers."""
        found = {key: each.error for key, each in self.done().items() if each.state == "failed"}
        for task in self.config.tasks:
            if self.teacher_state(task) == "failed":
                attempts = self.teacher_run(task).status.get("attempts", [{}])
                found[f"teacher:{task}"] = str(attempts[-1].get("error", "unknown"))
        return found

    def in_words(self) -> str:
        """Returns, for example, `12 of 40 trials finished, 1 failed`."""
        states = [outcome.state for outcome in self.done().values()]
        dead = [task for task in self.config.tasks if self.teacher_state(task) == "failed"]
        parts = [f"{states.count('finished')} of {len(self.search.all_trials())} trials finished"]
        parts += [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
        return ", ".join(parts + [f"no teacher for {', '.join(dead)}"] * bool(dead))


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
        parameters, embedding_parameters: the student's numbers of parameters.
        teacher_parameters: the teacher's.
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
    def key(self) -> str:
        """The trial's key."""
        return Trial(self.recipe, self.task, self.student, self.seed, self.settings).key


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
        # a trial trains one student, without the baselines of `codir distill`
        (role, row), *_ = rows.items()
        cost, metric = content["costs"][role], content["main_metric"]
        entries = [entry for entry in read_log(run.log) if "epoch" in entry]
        best = [entry["epoch"] for entry in entries if entry.get("step") == cost["best_step"]]
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
            epochs=entries[-1]["epoch"] if entries else None,
            best_epoch=best[-1] if best and cost["best_step"] is not None else None,
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


def read_results(output: str | Path, damaged: list[str] | None = None) -> list[TrialResult]:
    """Returns the results of all finished trials of a study, ordered by task, student, recipe, settings and seed.

    Args:
        output: the study's folder.
        damaged: gets a line for each finished trial whose files are damaged.

    Raises:
        RunError: a finished trial's files are damaged, and no list for that was given.
    """
    output = Path(output)
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
    if not (output / STUDY).is_file():
        return results
    # a search may have trained before what is now compared
    trials = Plan.load(output).trials(damaged=[] if damaged is not None else None)
    compared = {trial.key for trial in trials if trial.phase == "final"}
    return [replace(result, phase="final" if result.key in compared else "search") for result in results]
