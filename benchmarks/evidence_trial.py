"""What is kept of one finished trial: scores, costs, and its log as curves of few points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.config.yaml_text import read_yaml_file
from codir.runs.runfolder import RunFolder
from codir.storage import read_json
from codir.studies.results import TrialResult

# in log.jsonl, but no curve of a term
_NO_CURVE = ("epoch", "step", "grad_norm", "learning_rate", "total_flos")


def collected(result: TrialResult, content: dict[str, Any], points: int) -> dict[str, Any]:
    """Returns a trial as it is kept; its teacher and environment are added to `content`.

    Args:
        result: of the trial.
        content: of the file, with `teachers` and `environments`.
        points: most points of a curve.
    """
    run = RunFolder(result.folder)
    metrics, config = read_json(run.metrics), read_yaml_file(result.folder / "codir.yaml")[0]
    shape = read_json(result.folder / "config.json") if (result.folder / "config.json").is_file() else {}
    split = next(iter(metrics["validation_examples"]))
    in_table = next(row for row in metrics["comparison"]["rows"] if row["role"] == "teacher")["metrics"]
    teacher = _teacher(config["teacher"], result, in_table)
    add_teacher(content, result.task, teacher, teacher["score"])
    return {
        "recipe": result.recipe,
        "task": result.task,
        "student": result.student,
        "seed": result.seed,
        **({"searched": dict(result.settings)} if result.settings else {}),
        "metric": result.metric,
        "score": short(result.score, 8),
        "metrics": {key: short(value, 6) for key, value in result.metrics.items()},
        "teacher_score": short(result.teacher_score, 8),
        "agreement": short(result.agreement, 5),
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


def add_teacher(content: dict[str, Any], task: str, teacher: Mapping[str, Any], score: float) -> None:
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
        "score": short(result.teacher_score, 8),
        "metrics": {key: short(value, 6) for key, value in metrics.items()},
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
    return number_of(here, known)


def number_of(environment: dict[str, Any], known: list[dict[str, Any]]) -> int:
    """Returns the number of an environment among those known; a new one is added."""
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
            "epoch": [short(entry["epoch"], 6) for entry in scores],
            "step": [entry["step"] for entry in scores],
            "score": [short(entry[f"eval_{metric}"], 5) for entry in scores],
        },
        "curves": {
            "step": [group[-1]["step"] for group in groups],
            **{name: [_mean(entry.get(name) for entry in group) for group in groups] for name in names},
        },
    }


def thinner(curves: Mapping[str, Any], points: int) -> dict[str, Any]:
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
    return short(sum(found) / len(found), 3) if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value: float | None, digits: int = 6) -> float | None:
    """Returns a number with so many digits that count; None for what is no number."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None
