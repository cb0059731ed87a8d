"""A configuration as the command line that gives it."""

from __future__ import annotations

import shlex

from codir.config.config import DistillConfig
from codir.config.data_config import DataConfig
from codir.config.library import load_recipe


def command_of(config: DistillConfig) -> str:
    """Returns the `codir distill` command line of a configuration: what differs from the recipe's own settings."""
    own = load_recipe(config.recipe).settings.get("training", {})
    parts = ["codir", "distill", "--teacher", str(config.teacher), *data_flags(config.data)]
    parts += ["--student-layers", str(config.student.layers), "--recipe", config.recipe]
    if config.student.width is not None:
        parts += ["--student-width", str(config.student.width)]
    training = config.training
    flags = [("epochs", "--epochs"), ("batch_size", "--batch-size"), ("learning_rate", "--learning-rate")]
    for name, flag in flags:
        value = getattr(training, name)
        if name == "epochs" or value != own.get(name, type(training).model_fields[name].default):
            parts += [flag, f"{value:g}"]
    if training.precision != "auto":
        parts += ["--precision", training.precision]
    if not config.baseline:
        parts.append("--no-baseline")
    return shlex.join([*parts, "--output", str(config.output)])


def data_flags(data: DataConfig) -> list[str]:
    """Returns the flags that name the data of a configuration."""
    parts: list[str] = []
    for name, info in type(data).model_fields.items():
        value = getattr(data, name)
        if value is None or value == info.default or value == []:
            continue
        for each in value if isinstance(value, list) else [value]:
            flag = [f"--{name.replace('_', '-')}", str(each)]
            parts += flag if name in _FLAGS else ["--set", f"data.{name}={each}"]
    return parts


_FLAGS = {
    "task",
    "data_dir",
    "train",
    "validation",
    "text",
    "text_pair",
    "label",
    "kind",
    "encoding",
    "delimiter",
    "holdout",
    "unlabeled",
    "limit_unlabeled",
    "max_length",
    "limit_train",
    "limit_validation",
}
