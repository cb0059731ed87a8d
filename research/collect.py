"""Makes one small file out of a study's folders: all that figures and tables need of it.

A study may be shared out over machines and days: several folders give one file, and a file that was made before, of
this study or of another that has some of the same trials, may stand for a folder that is gone. No text of a data set
and no path of a machine is kept. The same folders give the same file, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

LARGEST = 300_000  # bytes of a file of results
_POINTS = (60, 40, 30, 20, 15, 10, 5)  # of a curve; the first with which the file is small enough
_PATHS = ("data_dir", "train", "validation", "model", "config", "origin", "unlabeled")
_NO_CURVE = (
    "epoch",
    "step",
    "grad_norm",
    "learning_rate",
    "total_flos",
)  # in log.jsonl, but no curve of a term


def collect(name: str, sources: Sequence[Path], file: Path) -> dict[str, Any]:
    """Writes the results of a study and returns them.

    Args:
        name: the study's name.
        sources: folders in which it ran, and files of results; the first says what is compared.
        file: the JSON file to write; replaced.

    Raises:
        ValueError: two sources have another training of one trial, or mean something else by one name; there is
            nothing to collect, or the file would be too large.
    """
    parts = [json.loads(source.read_text("utf-8")) if source.is_file() else read_folder(source) for source in sources]
    content: dict[str, Any] = {"study": name}
    for key in ("arms", "tasks", "students", "constants"):
        content[key] = {}
        for part, source in zip(parts, sources, strict=True):
            for each, value in part[key].items():
                if content[key].setdefault(each, value) != value:
                    raise ValueError(f"{source} means something else by {each!r} ({key}) than the sources before it.")
    content |= {
        "baseline": parts[0]["baseline"],
        "seeds": sorted({seed for part in parts for seed in part["seeds"]}),
    }
    trials: dict[tuple[Any, ...], dict[str, Any]] = {}
    teachers, environments = {}, []
    for part, source in zip(parts, sources, strict=True):
        for trial in part["trials"]:
            key = (
                trial["task"],
                trial["student"] or "",
                trial["recipe"],
                trial["seed"],
                str(trial.get("searched", "")),
            )
            known = trials.get(key)
            if known is not None and (known["score"], known["seconds"]) != (trial["score"], trial["seconds"]):
                raise ValueError(f"{source} has another training of {'/'.join(map(str, key))}: name one of them.")
            environment = part["environments"][trial["environment"]]
            if environment not in environments:
                environments.append(environment)
            trials.setdefault(key, {**trial, "environment": environments.index(environment)})
        teachers = {**part["teachers"], **teachers}
    if not trials:
        raise ValueError(f"No trial of {name} is finished in {', '.join(map(str, sources))}.")
    cells = {(task, s, arm, seed) for task in content["tasks"] for s in content["students"] or [""]
             for arm in content["arms"] for seed in content["seeds"]}  # fmt: skip
    lacking: dict[tuple[str, str, str], list[int]] = {}
    for task, student, arm, seed in sorted(cells - {key[:4] for key in trials}):
        lacking.setdefault((task, student, arm), []).append(seed)
    content |= {
        "planned": len(cells),
        "finished": len(trials),
        "failed": sorted({each for part in parts for each in part["failed"]}),
        "missing": [
            f"{arm}{f' ({student})' if len(content['students']) > 1 else ''} on {task}: not finished for "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            for (task, student, arm), seeds in lacking.items()
        ],
        "teachers": teachers,
        "environments": environments,
    }
    for points in _POINTS:
        content["trials"] = [
            {**trials[key], "curves": thinned(trials[key]["curves"], points)} for key in sorted(trials)
        ]
        text = lines(content)
        if len(text.encode()) <= LARGEST:
            file.write_text(text, encoding="utf-8")
            return content
    raise ValueError(f"The results of {name} take more than {LARGEST:,} bytes.")


def read_folder(folder: Path) -> dict[str, Any]:
    """Reads a study's folder into what a file of results has."""
    from codir.studies.report import read_findings

    findings, results, config = read_findings(folder)
    if config is None:
        raise ValueError(f"{folder} has run folders and no study.yaml: nothing says what was compared.")
    recipes = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
    final = [each for each in results if each.phase == "final"]
    content: dict[str, Any] = {
        "arms": {name: _arm(recipes[name], config, name) for name in config.recipes if name in recipes},
        "tasks": {name: _task(data) for name, data in config.tasks.items()},
        "students": {
            name: without_paths(student.model_dump(mode="json", exclude_unset=True))
            for name, student in (config.students or {"": config.student}).items()
        },
        "constants": {each.task: short(each.constant_score) for each in final},
        "baseline": config.reference,
        "seeds": config.seeds,
        "failed": [line.split(": failed")[0] for line in findings.missing if ": failed:" in line],
        "teachers": {},
        "environments": [],
    }
    content["trials"] = [_trial(each, content) for each in final]
    return content


def _arm(recipe: Mapping[str, Any], config: Any, name: str) -> dict[str, Any]:
    """Returns what a recipe of a study is: whose settings it has, and what they are."""
    settings = {**config.recipes[name].settings, **config.settings.get(name, {})}
    found = {
        "recipe": Path(recipe["recipe"]).stem if str(recipe["recipe"]).endswith("ml") else recipe["recipe"],
        "settings": without_paths(settings),
        "objectives": recipe["objectives"],
        "training": recipe["training"],
    }
    return found | {key: without_paths(recipe[key]) for key in ("student", "start") if recipe.get(key)}


def _task(data: Any) -> dict[str, Any]:
    from codir.data.glue import glue_task

    known = glue_task(data.task) if data.task is not None else None
    kind = data.kind or (known.kind if known is not None else "classification")
    return {"kind": str(kind), **without_paths(data.model_dump(mode="json", exclude_defaults=True))}


def _trial(result: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Returns a trial as it is kept; its teacher and environment are added to `content`."""
    folder = result.folder
    metrics, environment = (_json(folder / name) for name in ("metrics.json", "environment.json"))
    config = yaml.safe_load((folder / "codir.yaml").read_text(encoding="utf-8"))
    shape, training = _json(folder / "config.json"), config["training"]
    split = next(iter(metrics["validation_examples"]))
    taught = _json(Path(config["teacher"]) / "config.json")
    rows = metrics["comparison"]["rows"]
    content["teachers"].setdefault(
        result.task,
        {
            "blocks": _one_of(taught, "num_hidden_layers", "n_layers"),
            "width": _one_of(taught, "hidden_size", "dim"),
            "family": taught.get("model_type"),
            "parameters": result.teacher_parameters,
            "metric": result.metric,
            "score": short(result.teacher_score, 8),
            "metrics": {
                key: short(value) for key, value in next(r for r in rows if r["role"] == "teacher")["metrics"].items()
            },
        },
    )
    machine = environment.get("machine", {})
    here = {
        "precision": environment.get("precision"),
        "versions": environment.get("versions", {}),
        "machine": {key: machine.get(key) for key in ("cpu", "cores", "threads", "gpus")},
    }
    if here not in content["environments"]:
        content["environments"].append(here)
    return {
        "recipe": result.recipe,
        "task": result.task,
        "student": result.student,
        "seed": result.seed,
        **({"searched": dict(result.settings)} if result.settings else {}),
        "metric": result.metric,
        "score": short(result.score, 8),
        "metrics": {key: short(value) for key, value in result.metrics.items()},
        "teacher_score": short(result.teacher_score, 8),
        "agreement": short(result.agreement, 5),
        "split": split,
        "train_examples": metrics["train_examples"],
        "validation_examples": metrics["validation_examples"][split],
        "layers": _one_of(shape, "num_hidden_layers", "n_layers"),
        "width": _one_of(shape, "hidden_size", "dim"),
        "parameters": result.parameters,
        "embedding_parameters": result.embedding_parameters,
        "bytes": result.size,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "batch_size": _one_of(training, "per_device_train_batch_size", "batch_size")
        * (_one_of(training, "gradient_accumulation_steps", "gradient_accumulation") or 1),
        "learning_rate": training["learning_rate"],
        "environment": content["environments"].index(here),
        **_curves(folder / "log.jsonl", result.metric),
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _one_of(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _curves(log: Path, metric: str) -> dict[str, Any]:
    """Returns the score after each evaluation, and every logged term."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    scores = [entry for entry in entries if f"eval_{metric}" in entry]
    steps = [entry for entry in entries if "loss" in entry]
    names = dict.fromkeys(
        key for entry in steps for key, value in entry.items() if key not in _NO_CURVE and _is_number(value)
    )
    return {
        "evaluations": {
            "epoch": [short(entry["epoch"]) for entry in scores],
            "step": [entry["step"] for entry in scores],
            "score": [short(entry[f"eval_{metric}"], 5) for entry in scores],
        },
        "curves": {"step": [entry["step"] for entry in steps]}
        | {name: [entry.get(name) for entry in steps] for name in names},
    }


def thinned(curves: Mapping[str, Sequence[Any]], points: int) -> dict[str, list[Any]]:
    """Returns curves of at most so many points, each the mean over as many neighbouring steps."""
    size = max(1, math.ceil(len(curves["step"]) / points))

    def groups(values: Sequence[Any], of: Callable[[Sequence[Any]], Any]) -> list[Any]:
        return [of(values[first : first + size]) for first in range(0, len(values), size)]

    return {
        name: groups(values, (lambda some: some[-1]) if name == "step" else _mean) for name, values in curves.items()
    }


def _mean(values: Iterable[Any]) -> float | None:
    found = [value for value in values if _is_number(value)]
    return short(sum(found) / len(found), 3) if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value: float | None, digits: int = 6) -> float | None:
    """Returns a number with so many digits that count; None for what is no number."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
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


def lines(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each trial, so that a difference between two versions can be read."""

    def one(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    found = []
    for key, value in content.items():
        if key in ("trials", "environments"):
            found.append(f'"{key}": [\n' + ",\n".join(one(each) for each in value) + "\n]")
        elif isinstance(value, dict) and value:
            inner = ",\n".join(f"  {one(name)}: {one(each)}" for name, each in value.items())
            found.append(f'"{key}": {{\n{inner}\n}}')
        else:
            found.append(f'"{key}": {one(value)}')
    return "{\n" + ",\n".join(found) + "\n}\n"
