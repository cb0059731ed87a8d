"""Where a model's weights come from: from run folder to run folder, back to a model on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_MOST = 12  # a chain this long is a circle
# Where people keep models on their own disk: `runs/teacher` is no id although it looks like one.
_FOLDERS = frozenset(
    {
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
    }
)


def looks_like_hub_id(name: str) -> bool:
    """Whether `name` is `model` or `owner/model` by the Hub's rules, and no folder here."""
    part = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
    return bool(re.fullmatch(rf"{part}(?:/{part})?", name)) and not Path(name).exists()


def hub_ancestor(model: str | None, near: Path | None = None) -> str | None:
    """Returns the id on the Hub of the model that `model` was made from, or of itself.

    A run folder says in its `codir.yaml` what it started from, so that a student of a local teacher is traced to
    the pre-trained model both come from. None where the chain ends in a folder that says nothing, or in random weights.

    Args:
        model: as the user named it, a folder or an id.
        near: a folder beside which relative paths are looked for, too.
    """
    for _ in range(_MOST):
        if model is None:
            return None
        folder = _folder(model, near)
        if folder is None:
            local = "/" in model and model.split("/")[0].lower() in _FOLDERS
            return model if looks_like_hub_id(model) and not local else None
        near = folder.absolute().parent
        model = started_from(_settings(folder))
    return None


def started_from(settings: Mapping[str, Any]) -> str | None:
    """Returns the model whose weights a run started from, by its `codir.yaml`; None for random weights."""
    if settings.get("command") == "finetune":
        return _text(settings.get("model"))
    student = settings.get("student")
    student = student if isinstance(student, Mapping) else {}
    if source := student.get("model") or student.get("origin"):
        return _text(source)
    if student.get("config") or student.get("init") == "random":
        return None
    return _text(settings.get("teacher"))


def _folder(model: str, near: Path | None) -> Path | None:
    path = Path(model).expanduser()
    places = (
        [path] if near is None or path.is_absolute() else [path, *(up / path for up in (near, *near.parents))]
    )
    return next((place for place in places if place.is_dir()), None)


def _settings(folder: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load((folder / "codir.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
