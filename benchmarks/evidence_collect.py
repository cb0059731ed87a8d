"""Makes one small file out of a study's folder: all that figures, tables and `codir recommend` need of it.

No text of a data set and no path of the machine is kept. The same folder gives the same file, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
from codir.tasks.glue import glue_task
from codir.tasks.metrics import constant_score
from codir.workflows.data import load_data
from codir.workflows.runfolder import RunFolder

LARGEST = 300_000  # bytes of a file of results
_POINTS = (60, 40, 30, 20, 15, 10, 5)  # of a curve; the first with which the file is small enough
# in log.jsonl, but no curve of a term
_NO_CURVE = ("epoch", "step", "grad_norm", "learning_rate", "total_flos")
_PATHS = ("data_dir", "train", "validation", "model", "config", "origin", "unlabeled")


def collect(name: str, folders: Sequence[Path], file: Path) -> dict[str, Any]:
    """Writes the results of a study.

    Args:
        name: of the study.
        folders: where it ran; several, if its trials were shared out.
        file: JSON to write; replaced.

    Returns:
        What was written.

    Raises:
        ConfigError: two folders have the same trial, or another recipe of the same name.
        RunError: there is no study in a folder, or nothing is finished.
    """
    parts = [_Part(folder) for folder in folders]
    content: dict[str, Any] = {"study": name}
    for key in ("arms", "tasks", "students", "constants"):
        content[key] = _merged(key, [getattr(part, key) for part in parts], folders)
    content |= {
        "baseline": parts[0].baseline,
        "seeds": sorted({seed for part in parts for seed in part.seeds}),
        "planned": sum(part.planned for part in parts),
        "finished": sum(len(part.results) for part in parts),
        "failed": sorted({key for part in parts for key in part.failed}),
        "missing": [line for part in parts for line in part.missing],
        "teachers": {},
        "environments": [],
    }
    trials: dict[str, TrialResult] = {}
    for part in parts:
        for result in part.results:
            if result.key in trials:
                raise ConfigError(f"{result.folder} and {trials[result.key].folder} are the same trial.")
            trials[result.key] = result
    if not trials:
        raise RunError(
            f"No trial is finished in {', '.join(map(str, folders))}: there is nothing to collect."
        )
    ordered = sorted(trials.values(), key=lambda each: (each.task, each.student or "", each.recipe, each.key))
    text = ""
    for points in _POINTS:
        content["environments"] = []
        content["trials"] = [_trial(result, content, points) for result in ordered]
        text = _lines(content)
        if len(text.encode()) <= LARGEST:
            break
    else:
        raise RunError(f"The results of {name} take {len(text):,} bytes: more than {LARGEST:,}.")
    write_text(file, text)
    return content


class _Part:
    """One folder of a study."""

    def __init__(self, folder: Path):
        findings, results, config = read_findings(folder)
        if config is None:
            raise RunError(f"{folder} has run folders and no study.yaml: nothing says what was compared.")
        self.results = [each for each in results if each.phase == "final"]
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
        self.planned = len(config.recipes) * len(config.tasks) * len(students) * len(config.seeds)
        self.failed = [line.split(": failed")[0] for line in findings.missing if ": failed:" in line]
        self.missing = [line.splitlines()[0][:200] for line in findings.missing]
        self.constants = {
            name: _constant(data, result)
            for name, data in config.tasks.items()
            if (result := next((each for each in self.results if each.task == name), None)) is not None
        }


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
    teacher = content["teachers"].setdefault(result.task, _teacher(config["teacher"], result, in_table))
    score = _short(result.teacher_score, 8)
    if score not in (others := teacher.get("other_scores", [])) and score != teacher["score"]:
        teacher["other_scores"] = [*others, score]
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
    if here not in known:
        known.append(here)
    return known.index(here)


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
