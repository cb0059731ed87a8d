"""Tasks: GLUE, any file, the built-in grammar; their metrics; tokenising them for a model."""

from __future__ import annotations

from pathlib import Path

from codir.data.task import Kind, Task, TaskData, limit
from codir.errors import ConfigError, nearest

__all__ = ["BUILT_IN", "Kind", "Task", "TaskData", "limit", "load_task", "task_names"]

BUILT_IN = "acceptability"


def task_names() -> tuple[str, ...]:
    """Returns the names `load_task` knows: the built-in task, then GLUE's."""
    from codir.data.glue import GLUE

    return (BUILT_IN, *GLUE)


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    train: bool = True,
    validation: bool = True,
    train_size: int | None = None,
    validation_size: int | None = None,
    seed: int | None = None,
) -> TaskData:
    """Loads a task by its name.

    Args:
        name: `acceptability` (built in) or a GLUE task; case and hyphens do not matter.
        data_dir: for GLUE: a local folder in its own format; None: the Hub.
        train: also load the training split.
        validation: GLUE only: also load the validation splits; without it their files are not opened.
        train_size: built-in task only: number of training sentences.
        validation_size: built-in task only: number of validation sentences.
        seed: built-in task only: seeds the sentences.

    Raises:
        ConfigError: there is no such task, or an option it does not have.
        DataError: its data cannot be had.
    """
    from codir.data.glue import glue_task, load_glue

    options = {"train": train_size, "validation": validation_size, "seed": seed}
    given = {option: value for option, value in options.items() if value is not None}
    if glue_task(name) is not None:
        if given:
            raise ConfigError(
                f"{name} has a fixed size: train_size, validation_size and seed are for {BUILT_IN!r} only."
            )
        return load_glue(name, data_dir, train=train, validation=validation)
    if name.lower() == BUILT_IN:
        from codir.data.grammar import load_builtin

        data = load_builtin(**given)
        if not train:
            data.train = None
        return data
    known = task_names()
    raise ConfigError(
        f"There is no task {name!r}{nearest(name.lower(), known)}. There are {', '.join(known)}. "
        "For your own data give files instead (--train FILE; in Python codir.data.files.load_files)."
    )
