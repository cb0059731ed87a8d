"""Reads the collected results of a study.

A task `cola-aug` beside a task `cola`, both of the same data, is CoLA with something changed in its data: its recipes
are shown on `cola`, as `kd +aug`. Likewise a student `half-mlm` beside `half`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codir.errors import ConfigError
from codir.storage import read_json
from codir.studies.results import TrialResult
from evidence_start import resolved_start

_OF_A_TRIAL = (
    "epochs",
    "steps",
    "batch_size",
    "learning_rate",
    "seed",
)  # settings of which a trial says the outcome


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
    """Reads the results of a study; raises `ConfigError` if the file has none."""
    content = read_json(file)
    try:
        return _study(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} has no results of a study ({type(error).__name__}: {error}): it is not one of "
            "`evidence.py collect`."
        ) from None


def _study(content: Mapping[str, Any]) -> Study:
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
            "training": {
                key: value for key, value in arm.get("training", {}).items() if key not in _OF_A_TRIAL
            },
            "start": resolved_start(content["students"].get(values["student"] or "", {}), arm),
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
