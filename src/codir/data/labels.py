"""The labels of a training split and a validation split, read together: classes or scores, which classes, which ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from codir.data.label_column import Comparison, LabelColumn
from codir.data.rows import Rows
from codir.data.task import Kind
from codir.errors import ConfigError, DataError
from codir.kinds import kind_named
from codir.models.classes import is_numbered, spelt_twice


@dataclass
class Labelling:
    """What `read_labels` found.

    Attributes:
        kind: classification or regression.
        names: the classes, index = class id; None for regression.
        notes: sentences the user should read: what was guessed and why, and what is odd about the labels.
    """

    kind: Kind
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    _labels: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, rows: Rows) -> np.ndarray:
        """Returns the class id, or the score, of each row of a split."""
        return self._labels[rows.source]


def read_labels(
    train: Rows | None,
    validation: Rows | None,
    texts: Sequence[str],
    label: str,
    kind: Kind | None = None,
    names: Sequence[str] | None = None,
) -> Labelling:
    """Reads the labels of both splits; classes are those of the training split, or those that are given.

    Args:
        train: the training split, or None.
        validation: the validation split, or None; one of the two there is.
        texts: the text columns.
        label: the label column.
        kind: what the labels are; None: what they look like (`LabelColumn.kind`).
        names: class names of a model, in the order of its ids. A model that only numbers its classes has them in the
            order in which the file names them.

    Raises:
        DataError: a label that is missing or unknown, or that cannot be meant; one class in two spellings.
    """
    columns = {rows.source: LabelColumn(rows, label) for rows in (train, validation) if rows is not None}
    reference = next(iter(columns.values()))
    in_file = reference.rows.classes.get(label, ())
    found = Labelling(kind or "classification")
    if kind is None and not names and not in_file:
        found.kind, why = reference.kind()
        found.notes += [why] if why else []
    owner = "the given class names"
    if kind_named(found.kind).has_classes:
        said = [column.spellings() for column in columns.values()]
        found.notes += [blanks for blanks in said if blanks]
        if names and not (is_numbered(names) and len(names) == len(in_file)):
            found.names = tuple(names)
        else:
            occurring = reference.classes() if train is not None and not names else ()
            found.names = in_file or occurring
            owner = f"the training split {reference.rows.source}"
        if not found.names:
            raise ConfigError(
                f"Evaluating on {reference.rows.source} alone needs the class names (of the model) in `labels`."
            )
        if not names and (twice := spelt_twice(found.names)):
            raise DataError(
                f"{reference.rows.source}: the classes {' and '.join(map(ascii, twice))} of the column {label!r} are "
                "one class in two spellings. Give the file one name for each class."
            )
    compare: Comparison = "key"  # classes of a model: as models are matched with each other
    if not names:
        compare = "exact" if reference.type in ("text", "class", "mixed") else "value"
    for source, column in columns.items():
        labels = column.scores() if found.names is None else column.ids(found.names, owner, compare)
        found._labels[source] = labels
        twice = _contradictions(column.rows, texts, label, labels)
        found.notes += [twice] if twice else []
    return found


def _contradictions(rows: Rows, texts: Sequence[str], label: str, labels: np.ndarray) -> str | None:
    """Says how many texts stand in a file with several labels, and where the first one does; None if none does.

    Blanks around a text make no other text.
    """
    keys = list(zip(*([text.strip() for text in rows.columns[name]] for name in texts), strict=True))
    first: dict[tuple[str, ...], int] = {}
    unlike = [row for row, key in enumerate(keys) if labels[first.setdefault(key, row)] != labels[row]]
    if not unlike:
        return None

    def place(row: int) -> str:
        return f"{rows.place(row).removeprefix(f'{rows.source}, ')} ({rows.columns[label][row]!r})"

    twice = {keys[row] for row in unlike}
    found = [row for row, key in enumerate(keys) if key in twice]
    second = next(row for row in unlike if keys[row] == keys[found[0]])
    one, several = ("pair of texts", "pairs of texts") if len(texts) == 2 else ("text", "texts")
    what = f"{len(twice):,} {several} stand" if len(twice) > 1 else f"One {one} stands"
    return (
        f"{what} in {rows.source} with more than one label ({len(found):,} rows), first in {place(found[0])} and "
        f"{place(second)}: at most one of them can be right."
    )
