"""From the data section of a configuration to the task's splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import PretrainedConfig

from codir.config.config import DataConfig
from codir.data import BUILT_IN, load_task
from codir.data.files import load_files, load_unlabeled
from codir.data.task import Kind, TaskData, hold_out, limit
from codir.errors import ConfigError
from codir.kinds import kind_named, kind_of

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_TEXT, DEFAULT_TEXT_PAIR, DEFAULT_LABEL = "text", "text_pair", "label"


def load_data(
    data: DataConfig,
    *,
    train: bool = True,
    labels: Sequence[str] | None = None,
    kind: Kind | None = None,
) -> TaskData:
    """Loads what a `DataConfig` asks for, cut down to its limits; unlabelled texts only with the training split.

    The built-in task generates as many sentences as the limits say (more than its default size, too); elsewhere a
    limit draws a fixed subset, the same for every training seed, and says so in `notes`.

    Args:
        data: task or files.
        train: also load the training split; without it a validation file alone is enough.
        labels: class names for files without training split (those of the model to be evaluated).
        kind: likewise what the labels are, where `data.kind` does not say it.

    Raises:
        ConfigError: an unknown task, or settings that do not fit together.
        DataError: for everything wrong with the data, with file and line.
    """
    built_in = data.task is not None and data.task.lower() == BUILT_IN
    if data.task is not None:
        whole = _task(data, train, built_in)
    else:
        # without a validation file a part of the training data is held out, so that has to be read in any case
        only_validation = not train and data.validation is not None
        whole = load_files(
            None if only_validation else data.train,
            data.validation,
            text=data.text or DEFAULT_TEXT,
            text_pair=data.text_pair,
            label=data.label or DEFAULT_LABEL,
            kind=data.kind or kind,
            labels=labels if kind_named(data.kind or kind or "classification").has_classes else None,
            holdout=data.holdout,
            delimiter=data.delimiter,
            encoding=data.encoding,
        )
    loaded = whole if train else replace(whole, train=None)
    if not built_in:  # that one is made to measure
        loaded = _limited(loaded, data)
    if not data.unlabeled or loaded.train is None:
        return loaded
    unlabeled, notes = load_unlabeled(
        data.unlabeled,
        loaded.train,
        whole.validation,
        text=data.text or DEFAULT_TEXT,
        text_pair=(data.text_pair or DEFAULT_TEXT_PAIR) if loaded.task.pairs else None,
        most=data.limit_unlabeled,
        delimiter=data.delimiter,
        encoding=data.encoding,
    )
    return replace(loaded, unlabeled=unlabeled, notes=[*loaded.notes, *notes])


def load_data_for(model: PretrainedConfig, data: DataConfig, train: bool = False) -> TaskData:
    """Loads data, as `load_data`, for a model that is there already: its config says what files of labels hold."""
    kind = kind_of(model)
    return load_data(data, train=train, labels=kind.known_names(model), kind=kind.name)


def _task(data: DataConfig, train: bool, built_in: bool) -> TaskData:
    """Loads a task by name; where a share is held out it stands in the place of the task's validation splits."""
    assert data.task is not None
    sizes = {}
    if built_in:
        if data.data_dir is not None:
            raise ConfigError(f"The task {BUILT_IN} is generated: leave out data_dir ({data.data_dir}).")
        sizes = {"train_size": data.limit_train, "validation_size": data.limit_validation}
    held_out = data.holdout is not None
    loaded = load_task(data.task, data.data_dir, train=train or held_out, validation=not held_out, **sizes)
    if data.holdout is None:
        return loaded
    assert loaded.train is not None, "load_task gives a training split unless asked not to"
    rest, held = hold_out(loaded.train, loaded.task.kind, data.holdout, seed=0)
    note = (
        f"{len(held):,} of the {len(loaded.train):,} training examples are held out and validate; the task's own "
        "validation data are not opened."
    )
    return replace(loaded, train=rest, validation={"holdout": held}, notes=[*loaded.notes, note])


def _limited(loaded: TaskData, data: DataConfig) -> TaskData:
    notes = list(loaded.notes)

    def limited(name: str, split: Dataset, most: int | None) -> Dataset:
        part = limit(split, most)
        if len(part) < len(split):
            notes.append(f"Of {len(split):,} {name} examples {len(part):,} are used (a fixed random subset).")
        return part

    train = loaded.train and limited("training", loaded.train, data.limit_train)
    validation = {name: limited(name, split, data.limit_validation) for name, split in loaded.validation.items()}
    return replace(loaded, train=train, validation=validation, notes=notes)
