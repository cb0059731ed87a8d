"""Where a model's weights come from: from run folder to run folder, back to a model on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_MOST = 12  # a chain this long is a circle
# Where people keep models on their own disk: `runs/teacher` is no id although it looks like one.
_FOLDERS = [
    "checkpoints",
    "deploy",
    "exp",
    "experiments",
    "model",
    "models",
    "out",
    "output",
    "outputs",
    "results",
    "runs",
]
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"


def hub_ancestor(model: str | None, near: Path | None = None) -> str | None:
    """Returns the id on the Hub of the model that `model` was made from, or its own if it is one.

    A run folder says in its `codir.yaml` what it started from, so that a student of a local teacher is traced to
    the pre-trained model both come from. None where the chain ends in a folder that says nothing, or in random weights.

    Args:
        model: A folder or an id, as the user named it.
        near: A folder beside which relative paths are looked for, too.
    """
    for _ in range(_MOST):
        if model is None:
            return None
        folder = _folder(model, near)
        if folder is None:
            local = "/" in model and model.split("/")[0].lower() in _FOLDERS
            return model if re.fullmatch(rf"{_PART}(?:/{_PART})?", model) and not local else None
        near = folder.absolute().parent
        try:
            settings = yaml.safe_load((folder / "codir.yaml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        model = started_from(settings) if isinstance(settings, Mapping) else None
    return None


def started_from(settings: Mapping[str, Any]) -> str | None:
    """Returns the model whose weights a run started from, by its `codir.yaml`; None for random weights."""
    student = settings.get("student")
    student = student if isinstance(student, Mapping) else {}
    if settings.get("command") == "finetune":
        name = settings.get("model")
    elif source := student.get("model") or student.get("origin"):
        name = source
    elif student.get("config") or student.get("init") == "random":
        name = None
    else:
        name = settings.get("teacher")
    return name if isinstance(name, str) and name else None


def _folder(model: str, near: Path | None) -> Path | None:
    path = Path(model).expanduser()
    above = [] if near is None or path.is_absolute() else [near, *near.parents]
    return next((place for place in [path, *(up / path for up in above)] if place.is_dir()), None)
