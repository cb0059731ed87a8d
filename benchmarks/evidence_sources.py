"""What a study is collected from: folders that it, or a part of it, ran in, and files of results made before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codir.config.data_config import DataConfig
from codir.config.student_config import START, StudentConfig
from codir.config.training_config import TrainingConfig
from codir.data.glue import glue_task
from codir.data.metrics import constant_score
from codir.errors import CodirError, RunError
from codir.runs.data import load_data
from codir.storage import read_json
from codir.studies.report import read_findings
from codir.studies.results import TrialResult
from codir.studies.trial import Trial
from evidence_trial import add_teacher, collected, number_of, short, thinner

_PATHS = ("data_dir", "train", "validation", "model", "config", "origin", "unlabeled")


@dataclass(frozen=True)
class Found:
    """A finished trial in a source.

    Attributes:
        cell: its task, student, recipe and seed.
        where: it lies, for messages.
        mark: its score and seconds. Two sources that agree in them have one and the same training.
    """

    cell: tuple[str, str, str, int]
    where: str
    mark: tuple[float | None, float | None]


class StudyFolder:
    """A folder that a study, or a part of it, ran in."""

    study = None  # a folder does not know the study's name

    def __init__(self, folder: Path):
        findings, results, config = read_findings(folder)
        if config is None:
            raise RunError(f"{folder} has run folders and no study.yaml: nothing says what was compared.")
        self._results = {each.key: each for each in results if each.phase == "final"}
        self.found = {
            key: Found(
                (each.task, each.student or "", each.recipe, each.seed),
                str(each.folder),
                (short(each.score, 8), each.seconds),
            )
            for key, each in self._results.items()
        }
        self.baseline = config.reference
        self.seeds = config.seeds
        recipes = read_json(folder / "recipes.json")
        self.arms = {name: _arm(recipes[name], config, name) for name in config.recipes if name in recipes}
        self.tasks = {
            name: {
                "kind": _kind(data),
                **_differs(data.model_dump(mode="json"), DataConfig.model_construct()),
            }
            for name, data in config.tasks.items()
        }
        students = config.students or {"": config.student}
        self.students = {
            name: _differs(student.model_dump(mode="json"), StudentConfig()) | _said_start(student)
            for name, student in students.items()
        }
        self.failed = [line.split(": failed")[0] for line in findings.missing if ": failed:" in line]
        self.missing = [line.splitlines()[0][:200] for line in findings.missing]
        self.constants = {
            name: _constant(data, result)
            for name, data in config.tasks.items()
            if (result := next((each for each in self._results.values() if each.task == name), None))
        }

    def trials(self, keys: Collection[str], content: dict[str, Any], points: int) -> list[dict[str, Any]]:
        """Returns these of its trials; their teachers and environments are added to `content`."""
        return [collected(self._results[key], content, points) for key in keys]


class ResultsFile:
    """A file of results that was made before, perhaps on another machine."""

    def __init__(self, file: Path):
        self._content = read_json(file)
        try:
            self.study = self._content["study"]
            self.baseline, self.seeds = self._content["baseline"], self._content["seeds"]
            self.arms, self.tasks = self._content["arms"], self._content["tasks"]
            self.students, self.constants = self._content["students"], self._content["constants"]
            self.failed, self.missing = self._content["failed"], self._content["missing"]
            self._trials = {key_of(trial): trial for trial in self._content["trials"]}
            self.found = {
                key: Found(
                    (each["task"], each["student"] or "", each["recipe"], each["seed"]),
                    f"{key} in {file}",
                    (each["score"], each["seconds"]),
                )
                for key, each in self._trials.items()
            }
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{file} has no results of a study ({error}): it is not one of `collect`."
            ) from None

    def trials(self, keys: Collection[str], content: dict[str, Any], points: int) -> list[dict[str, Any]]:
        """Returns these of its trials; their teachers and environments are added to `content`."""
        found = []
        for trial in map(self._trials.__getitem__, keys):
            add_teacher(
                content, trial["task"], self._content["teachers"][trial["task"]], trial["teacher_score"]
            )
            environment = self._content["environments"][trial["environment"]]
            number = number_of(environment, content["environments"])
            found.append({**trial, "environment": number, "curves": thinner(trial["curves"], points)})
        return found


def _arm(recipe: Mapping[str, Any], config: Any, name: str) -> dict[str, Any]:
    """Returns what a recipe of a study is: whose settings it has, and all of them that are not the default."""
    found = {
        "recipe": Path(recipe["recipe"]).stem if str(recipe["recipe"]).endswith("ml") else recipe["recipe"],
        "settings": _without_paths({**config.recipes[name].settings, **config.settings.get(name, {})}),
        "objectives": recipe["objectives"],
        "training": _differs(recipe["training"], TrainingConfig()),
    }
    for key in ("student", "start"):
        if recipe.get(key):
            found[key] = _without_paths(recipe[key])
    return found


def _said_start(student: StudentConfig) -> dict[str, Any]:
    """Returns the start that a study's student names, even where it is the default: no recipe's counts then."""
    said = student.said()
    return _without_paths({key: said[key] for key in START if key in said})


def _kind(data: Any) -> str:
    if data.kind is not None:
        return str(data.kind)
    task = glue_task(data.task) if data.task is not None else None
    return str(task.kind) if task is not None else "classification"


def _constant(data: DataConfig, result: TrialResult) -> float | None:
    """Returns what one answer for everything scores: as the trial says, else (older trials) from the labels."""
    if result.constant_score is not None:
        return short(result.constant_score, 6)
    try:
        loaded = load_data(data, train=False)
    except CodirError:  # the data are not on this machine
        return None
    split = next(iter(loaded.validation.values()))
    return short(constant_score(result.metric, np.asarray(split["label"][:])), 6)


def _differs(values: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    usual = defaults.model_dump(mode="json")
    found = {key: value for key, value in values.items() if value != usual.get(key)}
    if values.get("task"):
        found = {"task": values["task"], **found}
    return _without_paths(found)


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the folder of the data, and of other paths all but the last part."""

    def last(value: Any) -> Any:
        if isinstance(value, list):
            return [last(each) for each in value]
        return Path(value).name if isinstance(value, str) else value

    return {
        key: last(value) if key.rpartition(".")[2] in _PATHS else value
        for key, value in values.items()
        if key != "data_dir"
    }


def key_of(trial: Mapping[str, Any]) -> str:
    """Returns the trial in one line, as codir.studies has it."""
    names = (trial["recipe"], trial["task"], trial["student"], trial["seed"])
    return Trial(*names, trial.get("searched", {})).key
