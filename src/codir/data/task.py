"""What a task is: named text columns, a label, its classes, its metrics; and the data that go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codir.errors import ConfigError, DataError
from codir.kinds import kind_named

if TYPE_CHECKING:
    from datasets import Dataset

Kind = str
"""The name of a kind of prediction, see `codir.kinds`."""


@dataclass(frozen=True)
class Task:
    """A task, without its data."""

    name: str  # as it is written in tables and model cards
    kind: Kind
    text: tuple[str, ...]  # the one or two source columns the text comes from (two: sentence pairs)
    label: str  # the source column of the label
    labels: tuple[str, ...] | None  # class names, the index is the class id; None for scores
    metrics: tuple[str, ...]  # names known to `codir.kinds.metrics`, in the order of printing
    main_metric: str  # one of them, larger is better: checkpoints and searches choose by it

    def __post_init__(self) -> None:
        """Refuses a task that contradicts itself."""
        if len(self.text) not in (1, 2):
            raise ConfigError(f"Task {self.name!r} names {len(self.text)} text columns; one or two are possible.")
        if (self.labels is not None) != kind_named(self.kind).has_classes:
            raise ConfigError(f"Task {self.name!r}: class names are for kinds of labels that have classes.")
        if self.main_metric not in self.metrics:
            raise ConfigError(f"Task {self.name!r}: the main metric {self.main_metric!r} is not in {self.metrics}.")

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return len(self.text) == 2

    @property
    def num_classes(self) -> int:
        """Returns C: the number of classes, 1 for regression."""
        return 1 if self.labels is None else len(self.labels)


@dataclass
class TaskData:
    """A task with its splits: columns `text`, `text_pair` (only for pairs) and `label` (a ClassLabel, or a float)."""

    task: Task
    train: Dataset | None  # None where only evaluation was asked for
    validation: dict[str, Dataset]  # one or more, by name; the first is the main one
    notes: list[str] = field(default_factory=list)  # what the user should read: rows left out or held out
    source: str = ""  # where the data came from, for the run folder
    unlabeled: Dataset | None = None  # further training texts without labels (no column `label`)

    @property
    def main_split(self) -> str:
        """Returns the name of the main validation split."""
        return next(iter(self.validation))


def make_split(
    kind: Kind | None,
    text: Any,
    text_pair: Any = None,
    label: Any = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """Builds one split in memory: columns `text`, `text_pair` and `label` as `TaskData` describes them.

    Texts are lists or Arrow arrays, labels lists or NumPy arrays. A label that is None is that of an unlabelled
    example. With the `names` of the classes the column knows them (it is a ClassLabel of `datasets`), so that whoever
    trains on it can match models by name.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    columns: dict[str, Any] = {"text": text}
    features: dict = {"text": Value("string")}
    if text_pair is not None:
        columns["text_pair"], features["text_pair"] = text_pair, Value("string")
    if label is not None:
        of_kind = kind_named(kind or "classification")
        named = ClassLabel(names=list(names)) if names and of_kind.has_classes else None
        columns["label"] = label
        features["label"] = named or Value(of_kind.label_dtype)
    return Dataset.from_dict(columns, features=Features(features))


def limit(split: Dataset, n: int | None, seed: int = 0) -> Dataset:
    """Returns a stated subset: `n` rows drawn uniformly without replacement, kept in their original order.

    The draw depends on the number of rows, `n` and `seed` only, so a table can state its subset by these numbers.
    It is not stratified. With `n=None` or at least as many as there are, the split itself is returned.

    Raises:
        ConfigError: `n` is below 1.
    """
    import numpy as np

    if n is not None and n < 1:
        raise ConfigError(
            f"A split cannot be limited to {n} rows; give a number of at least 1, or nothing for all rows."
        )
    if n is None or n >= len(split):
        return split
    rows = np.random.default_rng(seed).choice(len(split), size=n, replace=False)
    return split.select(sorted(rows.tolist()), keep_in_memory=True)


def hold_out(split: Dataset, kind: Kind, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off `share` of the rows (at least one), of each class where there are classes; order is kept.

    The draw depends on the labels, `share` and `seed` only: it is the same for every training seed.

    Returns:
        The rest, and the rows that were split off.

    Raises:
        DataError: fewer than 10 rows; so large a share that nothing of a class would be left to train on.
    """
    import numpy as np

    if len(split) < 10:
        raise DataError(f"{len(split)} training rows are too few to hold some out. Give a validation file.")
    random = np.random.default_rng(seed)
    groups = [np.arange(len(split))]
    if kind_named(kind).has_classes:
        labels = split.select_columns(["label"]).with_format("numpy")[:]["label"]
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    held = np.zeros(len(split), dtype=bool)
    for group in groups:
        held[random.permutation(group)[: round(len(group) * share)]] = True
    if gone := sum(held[group].all() for group in groups):
        smallest = min(map(len, groups))
        most = (math.ceil(100 * (smallest - 0.5) / smallest) - 1) / 100
        lost = f"no row of {gone} of the {len(groups)} classes" if len(groups) > 1 else "no row"
        raise DataError(
            f"Holding out {share:g} of {len(split):,} rows leaves {lost} to train on. Hold out at most {most:g} "
            "(--holdout), or give validation data (--validation)."
        )
    if not held.any():  # every class is tiny: take one row of the largest
        held[random.choice(max(groups, key=len))] = True
    rest, held_out = (split.select(np.flatnonzero(rows), keep_in_memory=True) for rows in (~held, held))
    return rest, held_out
