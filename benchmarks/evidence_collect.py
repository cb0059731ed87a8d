"""Makes one small file out of a study's folder: all that figures, tables and `codir recommend` need of it.

A study may be shared out over machines and days: several folders, and files that were made before, give one file. No
text of a data set and no path of a machine is kept. The same folders give the same file, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from codir.errors import CodirError, ConfigError, RunError
from codir.recipes.data_config import DataConfig
from codir.recipes.student_config import StudentConfig
from codir.recipes.training_config import TrainingConfig
from codir.recipes.yaml_text import read_yaml_file
from codir.storage import read_json, write_text
from codir.studies.report import read_findings
from codir.studies.results import TrialResult
from codir.studies.trial import Trial
from codir.tasks.glue import glue_task
from codir.tasks.metrics import constant_score
from codir.workflows.data import load_data
from codir.workflows.runfolder import RunFolder

LARGEST = 300_000  # bytes of a file of results
_POINTS = (60, 40, 30, 20, 15, 10, 5)  # of a curve; the first with which the file is small enough
# in log.jsonl, but no curve of a term
_NO_CURVE = ("epoch", "step", "grad_norm", "learning_rate", "total_flos")
_UNFINISHED = "not finished for"
_PATHS = ("data_dir", "train", "validation", "model", "config", "origin", "unlabeled")


def collect(name: str, sources: Sequence[Path], file: Path) -> dict[str, Any]:
    """Writes the results of a study.

    Args:
        name: of the study.
        sources: folders where it ran, and files of results that were made of other parts of it, `file` itself too.
        file: JSON to write; replaced.

    Returns:
        What was written.

    Raises:
        ConfigError: two sources have the same trial, or another recipe of the same name.
        RunError: there is no study in a folder, no results in a file, or nothing is finished.
    """
    parts = [_Collected(source) if source.is_file() else _Folder(source) for source in sources]
    content: dict[str, Any] = {"study": name}
    for key in ("arms", "tasks", "students", "constants"):
        content[key] = _merged(key, [getattr(part, key) for part in parts], sources)
    found: dict[str, str] = {}
    for part in parts:
        for key, place in part.places.items():
            if key in found:
                raise ConfigError(f"{place} and {found[key]} are the same trial.")
            found[key] = place
    if not found:
        raise RunError(
            f"No trial is finished in {', '.join(map(str, sources))}: there is nothing to collect."
        )
    seeds = sorted({seed for part in parts for seed in part.seeds})
    grid = list(product(content["tasks"], content["students"], content["arms"], seeds))
    content |= {
        "baseline": parts[0].baseline,
        "seeds": seeds,
        "planned": len(grid),
        "finished": len(found),
        "failed": sorted({key for part in parts for key in part.failed} - set(found)),
        "missing": [
            *_unfinished(grid, found),
            *(line for part in parts for line in part.missing if _UNFINISHED not in line),
        ],
    }
    text = ""
    for points in _POINTS:
        content |= {"teachers": {}, "environments": []}
        trials = [trial for part in parts for trial in part.trials(content, points)]
        content["trials"] = sorted(trials, key=_place)
        text = _lines(content)
        if len(text.encode()) <= LARGEST:
            break
    else:
        raise RunError(f"The results of {name} take {len(text):,} bytes: more than {LARGEST:,}.")
    write_text(file, text)
    return content


def _place(trial: Mapping[str, Any]) -> tuple[str, ...]:
    return trial["task"], trial["student"] or "", trial["recipe"], _key(trial)


def _key(trial: Mapping[str, Any]) -> str:
    names = (trial["recipe"], trial["task"], trial["student"], trial["seed"])
    return Trial(*names, trial.get("searched", {})).key


def _unfinished(grid: Sequence[tuple[str, str, str, int]], found: Mapping[str, Any]) -> list[str]:
    """Returns a line for each recipe and task that lack seeds; searched settings have no grid to lack in."""
    seeds: dict[str, list[int]] = {}
    for task, student, recipe, seed in grid:
        trial = Trial(recipe, task, student or None, seed)
        searched = f"{trial.key.rpartition('/')[0]}-"
        if trial.key not in found and not any(key.startswith(searched) for key in found):
            name = f"{recipe} ({student})" if student else recipe
            seeds.setdefault(f"{name} on {task}", []).append(seed)
    return [
        f"{what}: {_UNFINISHED} seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
        for what, lacking in seeds.items()
    ]


class _Folder:
    """A folder that a study, or a part of it, ran in."""

    def __init__(self, folder: Path):
        findings, results, config = read_findings(folder)
        if config is None:
            raise RunError(f"{folder} has run folders and no study.yaml: nothing says what was compared.")
        self._results = [each for each in results if each.phase == "final"]
        self.places = {result.key: str(result.folder) for result in self._results}
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
            if (result := next((each for each in self._results if each.task == name), None)) is not None
        }

    def trials(self, content: dict[str, Any], points: int) -> list[dict[str, Any]]:
        """Returns its trials; their teachers and environments are added to `content`."""
        return [_trial(result, content, points) for result in self._results]


class _Collected:
    """A file of results that was made before, perhaps on another machine."""

    def __init__(self, file: Path):
        self._content = read_json(file)
        try:
            self.baseline, self.seeds = self._content["baseline"], self._content["seeds"]
            self.arms, self.tasks = self._content["arms"], self._content["tasks"]
            self.students, self.constants = self._content["students"], self._content["constants"]
            self.failed, self.missing = self._content["failed"], self._content["missing"]
            self.places = {_key(trial): f"{_key(trial)} in {file}" for trial in self._content["trials"]}
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{file} has no results of a study ({error}): it is not one of `collect`."
            ) from None

    def trials(self, content: dict[str, Any], points: int) -> list[dict[str, Any]]:
        """Returns its trials; their teachers and environments are added to `content`."""
        found = []
        for trial in self._content["trials"]:
            _add_teacher(
                content, trial["task"], self._content["teachers"][trial["task"]], trial["teacher_score"]
            )
            environment = self._content["environments"][trial["environment"]]
            number = _number(environment, content["environments"])
            found.append({**trial, "environment": number, "curves": _thinner(trial["curves"], points)})
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
        return _short(result.constant_score, 6)
    try:
        loaded = load_data(data, train=False)
    except CodirError:  # the data are not on this machine
        return None
    split = next(iter(loaded.validation.values()))
    return _short(constant_score(result.metric, np.asarray(split["label"][:])), 6)


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


def _merged(what: str, parts: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, folder in zip(parts, folders, strict=True):
        for name, value in part.items():
            if found.setdefault(name, value) != value:
                raise ConfigError(
                    f"{folder} means something else by {name!r} ({what}) than {folders[0]}: give it another name in "
                    "one of the studies."
                )
    return found


def _trial(result: TrialResult, content: dict[str, Any], points: int) -> dict[str, Any]:
    run = RunFolder(result.folder)
    metrics, config = read_json(run.metrics), read_yaml_file(result.folder / "codir.yaml")[0]
    shape = read_json(result.folder / "config.json") if (result.folder / "config.json").is_file() else {}
    split = next(iter(metrics["validation_examples"]))
    in_table = next(row for row in metrics["comparison"]["rows"] if row["role"] == "teacher")["metrics"]
    teacher = _teacher(config["teacher"], result, in_table)
    _add_teacher(content, result.task, teacher, teacher["score"])
    return {
        "recipe": result.recipe,
        "task": result.task,
        "student": result.student,
        "seed": result.seed,
        **({"searched": dict(result.settings)} if result.settings else {}),
        "metric": result.metric,
        "score": _short(result.score, 8),
        "metrics": {key: _short(value, 6) for key, value in result.metrics.items()},
        "teacher_score": _short(result.teacher_score, 8),
        "agreement": _short(result.agreement, 5),
        "split": split,
        "train_examples": metrics["train_examples"],
        "validation_examples": metrics["validation_examples"][split],
        "layers": shape.get("num_hidden_layers", shape.get("n_layers")),
        "width": shape.get("hidden_size", shape.get("dim")),
        "parameters": result.parameters,
        "embedding_parameters": result.embedding_parameters,
        "bytes": result.size,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "batch_size": config["training"]["batch_size"] * config["training"].get("gradient_accumulation", 1),
        "learning_rate": config["training"]["learning_rate"],
        "environment": _environment(result.folder, content["environments"]),
        **_curves(run.log, result.metric, points),
    }


def _add_teacher(content: dict[str, Any], task: str, teacher: Mapping[str, Any], score: float) -> None:
    """Adds a task's teacher; of further ones (fine-tuned again on another machine) only what they score."""
    known = content["teachers"].setdefault(
        task, {key: value for key, value in teacher.items() if key != "other_scores"}
    )
    if score not in (others := known.get("other_scores", [])) and score != known["score"]:
        known["other_scores"] = [*others, score]


def _teacher(folder: str, result: TrialResult, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Returns the teacher's shape, from its own folder where that is on this machine."""
    path = Path(folder) / "config.json"
    shape = read_json(path) if path.is_file() else {}
    return {
        "blocks": shape.get("num_hidden_layers", shape.get("n_layers")),
        "width": shape.get("hidden_size", shape.get("dim")),
        "family": shape.get("model_type"),
        "parameters": result.teacher_parameters,
        "metric": result.metric,
        "score": _short(result.teacher_score, 8),
        "metrics": {key: _short(value, 6) for key, value in metrics.items()},
    }


def _environment(folder: Path, known: list[dict[str, Any]]) -> int:
    """Returns the number of the versions and the machine among those known; a new one is added."""
    found = read_json(folder / "environment.json")
    machine = found.get("machine", {})
    here = {
        "precision": found.get("precision"),
        "versions": found.get("versions", {}),
        "machine": {key: machine.get(key) for key in ("cpu", "cores", "threads", "gpus")},
    }
    return _number(here, known)


def _number(environment: dict[str, Any], known: list[dict[str, Any]]) -> int:
    if environment not in known:
        known.append(environment)
    return known.index(environment)


def _curves(log: Path, metric: str, points: int) -> dict[str, Any]:
    """Returns the score after each evaluation, and every logged term, thinned to a number of points."""
    entries = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    )
    scores = [entry for entry in entries if f"eval_{metric}" in entry]
    steps = [entry for entry in entries if "loss" in entry]
    names = dict.fromkeys(
        key for entry in steps for key, value in entry.items() if key not in _NO_CURVE and _is_number(value)
    )
    groups = _groups(steps, points)
    return {
        "evaluations": {
            "epoch": [_short(entry["epoch"], 6) for entry in scores],
            "step": [entry["step"] for entry in scores],
            "score": [_short(entry[f"eval_{metric}"], 5) for entry in scores],
        },
        "curves": {
            "step": [group[-1]["step"] for group in groups],
            **{name: [_mean(entry.get(name) for entry in group) for group in groups] for name in names},
        },
    }


def _thinner(curves: Mapping[str, Any], points: int) -> dict[str, Any]:
    """Returns curves that were thinned before with at most so many points."""
    if len(curves["step"]) <= points:
        return dict(curves)
    names = [key for key in curves if key != "step"]
    rows = [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]
    groups = _groups(rows, points)
    return {
        "step": [group[-1]["step"] for group in groups],
        **{name: [_mean(row[name] for row in group) for group in groups] for name in names},
    }


def _groups(entries: list[dict[str, Any]], points: int) -> list[list[dict[str, Any]]]:
    """Puts neighbours together, so that at most `points` groups are left: each entry is a mean over as many steps."""
    size = max(1, math.ceil(len(entries) / points))
    return [entries[first : first + size] for first in range(0, len(entries), size)]


def _mean(values: Any) -> float | None:
    found = [value for value in values if _is_number(value)]
    return _short(sum(found) / len(found), 3) if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float | None, digits: int = 6) -> float | None:
    """Returns a number with so many digits that count; None for what is no number."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None


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
