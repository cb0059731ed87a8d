"""Makes one small file out of a study's folder: all that figures, tables and `codir recommend` need of it.

A study may be shared out over machines and days: several folders, and files that were made before, give one file. What
another study has trained already need not be trained again: its results give the trials that both have. No text of a
data set and no path of a machine is kept. The same folders give the same file, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from codir.errors import CodirError, ConfigError, RunError
from codir.recipes.data_config import DataConfig
from codir.recipes.student_config import StudentConfig
from codir.recipes.training_config import TrainingConfig
from codir.storage import read_json, write_text
from codir.studies.report import read_findings
from codir.studies.results import TrialResult
from codir.studies.trial import Trial
from codir.tasks.glue import glue_task
from codir.tasks.metrics import constant_score
from codir.workflows.data import load_data
from evidence_studies import Outline
from evidence_trial import add_teacher, collected, number_of, short, thinner

LARGEST = 300_000  # bytes of a file of results
_POINTS = (60, 40, 30, 20, 15, 10, 5)  # of a curve; the first with which the file is small enough
_UNFINISHED = "not finished for"
_PATHS = ("data_dir", "train", "validation", "model", "config", "origin", "unlabeled")


@dataclass(frozen=True)
class _Found:
    """A finished trial in a source.

    Attributes:
        cell: its task, student, recipe and seed.
        where: it lies, for messages.
        mark: its score and seconds. Two sources that agree in them have one and the same training.
    """

    cell: tuple[str, str, str, int]
    where: str
    mark: tuple[float | None, float | None]


def collect(name: str, sources: Sequence[Path], file: Path, whole: Outline | None = None) -> dict[str, Any]:
    """Writes the results of a study.

    Args:
        name: of the study.
        sources: folders where it ran, and files of results that were made of other parts of it, `file` itself too, or
            of another study that has trials of this one. A training that several have counts once.
        file: JSON to write; replaced.
        whole: what the study compares, and all that is taken from the sources; by default what they compare.

    Returns:
        What was written.

    Raises:
        ConfigError: two sources have the same trial of two trainings, or another recipe of the same name.
        RunError: there is no study in a folder, no results in a file, or nothing of this study is finished.
    """
    parts = [_Collected(source) if source.is_file() else _Folder(source) for source in sources]
    if whole is None:
        whole = Outline(
            recipes=tuple(_merged("arms", parts, sources)),
            tasks=tuple(_merged("tasks", parts, sources)),
            students=tuple(_merged("students", parts, sources)),
            seeds=tuple(sorted({seed for part in parts for seed in part.seeds})),
            baseline=parts[0].baseline,
        )
    wanted = {
        "arms": whole.recipes,
        "tasks": whole.tasks,
        "students": whole.students,
        "constants": whole.tasks,
    }
    content: dict[str, Any] = {"study": name}
    for key, among in wanted.items():
        content[key] = _merged(key, parts, sources, among)
    cells = set(product(whole.tasks, whole.students, whole.recipes, whole.seeds))
    found, taken = _without_repeats(parts, cells)
    if not found:
        raise RunError(
            f"No trial of {name} is finished in {', '.join(map(str, sources))}: there is nothing to collect."
        )
    own = [part for part in parts if part.study in (None, name)]
    content |= {
        "baseline": whole.baseline or parts[0].baseline,
        "seeds": list(whole.seeds),
        "planned": len(cells),
        "finished": len(found),
        "failed": sorted({key for part in own for key in part.failed} - set(found)),
        "missing": [
            *_unfinished(whole, {each.cell for each in found.values()}),
            *(line for part in own for line in part.missing if _UNFINISHED not in line),
        ],
    }
    text = ""
    for points in _POINTS:
        content |= {"teachers": {}, "environments": []}
        pairs = zip(parts, taken, strict=True)
        trials = [trial for part, keys in pairs for trial in part.trials(keys, content, points)]
        content["trials"] = sorted(trials, key=_place)
        text = _lines(content)
        if len(text.encode()) <= LARGEST:
            break
    else:
        raise RunError(f"The results of {name} take {len(text):,} bytes: more than {LARGEST:,}.")
    write_text(file, text)
    return content


def _without_repeats(
    parts: Sequence[_Folder | _Collected], cells: Collection[tuple[str, str, str, int]]
) -> tuple[dict[str, _Found], list[list[str]]]:
    """Returns the study's trials by key, and the keys to take from each source: a training that several have, once."""
    found: dict[str, _Found] = {}
    taken: list[list[str]] = []
    for part in parts:
        taken.append([])
        for key, each in part.found.items():
            if each.cell not in cells:
                continue
            if key in found:
                if found[key].mark != each.mark:
                    raise ConfigError(
                        f"{each.where} and {found[key].where} are two trainings of one trial: name one of them."
                    )
                continue
            found[key] = each
            taken[-1].append(key)
    return found, taken


def _place(trial: Mapping[str, Any]) -> tuple[str, ...]:
    return trial["task"], trial["student"] or "", trial["recipe"], _key(trial)


def _key(trial: Mapping[str, Any]) -> str:
    names = (trial["recipe"], trial["task"], trial["student"], trial["seed"])
    return Trial(*names, trial.get("searched", {})).key


def _unfinished(whole: Outline, done: Collection[tuple[str, str, str, int]]) -> list[str]:
    """Returns a line for each recipe and task that lack seeds."""
    seeds: dict[str, list[int]] = {}
    for cell in product(whole.tasks, whole.students, whole.recipes, whole.seeds):
        if cell not in done:
            task, student, recipe, seed = cell
            name = f"{recipe} ({student})" if len(whole.students) > 1 else recipe
            seeds.setdefault(f"{name} on {task}", []).append(seed)
    return [
        f"{what}: {_UNFINISHED} seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
        for what, lacking in seeds.items()
    ]


class _Folder:
    """A folder that a study, or a part of it, ran in."""

    study = None  # a folder does not know the study's name

    def __init__(self, folder: Path):
        findings, results, config = read_findings(folder)
        if config is None:
            raise RunError(f"{folder} has run folders and no study.yaml: nothing says what was compared.")
        self._results = {each.key: each for each in results if each.phase == "final"}
        self.found = {
            key: _Found(
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
            name: _differs(student.model_dump(mode="json"), StudentConfig())
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


class _Collected:
    """A file of results that was made before, perhaps on another machine."""

    def __init__(self, file: Path):
        self._content = read_json(file)
        try:
            self.study = self._content["study"]
            self.baseline, self.seeds = self._content["baseline"], self._content["seeds"]
            self.arms, self.tasks = self._content["arms"], self._content["tasks"]
            self.students, self.constants = self._content["students"], self._content["constants"]
            self.failed, self.missing = self._content["failed"], self._content["missing"]
            self._trials = {_key(trial): trial for trial in self._content["trials"]}
            self.found = {
                key: _Found(
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


def _merged(
    what: str,
    parts: Sequence[_Folder | _Collected],
    sources: Sequence[Path],
    among: Collection[str] | None = None,
) -> dict[str, Any]:
    """Returns what the sources say of each name, or of those of the study in its order; they have to agree."""
    found: dict[str, Any] = {}
    first: dict[str, Path] = {}
    for part, source in zip(parts, sources, strict=True):
        for name, value in getattr(part, what).items():
            if among is not None and name not in among:
                continue
            if found.setdefault(name, value) != value:
                raise ConfigError(
                    f"{source} means something else by {name!r} ({what}) than {first[name]}: give it another name in "
                    "one of the studies."
                )
            first.setdefault(name, source)
    return {name: found[name] for name in among or found if name in found}


def _lines(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each trial, so that a difference between two versions can be read."""

    def one(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    lines = []
    for key, value in content.items():
        if key in ("trials", "environments"):
            lines.append(f'"{key}": [\n' + ",\n".join(one(each) for each in value) + "\n]")
        elif isinstance(value, dict) and value:
            inner = ",\n".join(f"  {one(name)}: {one(each)}" for name, each in value.items())
            lines.append(f'"{key}": {{\n{inner}\n}}')
        else:
            lines.append(f'"{key}": {one(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"
