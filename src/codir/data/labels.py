"""The labels of a training and a validation split, read together: classes or scores, which classes, which ids.

A label is text, and keeps its characters: `07` and `7` are two classes. It is a number only where the format of the
file says so (JSON, Parquet), or where scores are asked for. What is looked at is the different labels and how often
each occurs, so that the order of the rows says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from codir.data.reading import Rows
from codir.data.task import Kind
from codir.errors import ConfigError, DataError, nearest
from codir.kinds import kind_named
from codir.models.classes import find_classes, is_numbered, matching_key, number_value, spelt_twice

_MISSING_BESIDE_NUMBERS = frozenset({"na", "n/a", "null", "none", "?", "-"})
# 4,5 or 90 % or 1.234,50 or $4.50: a number to the reader, and text to every program. 1.2.3 and 01.02.2024 are none.
_NUMBER_WITH_SIGNS = re.compile(r"[$€£]?\s*[+-]?(\d{1,3}([.,'\u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[%‰€$£]?")
_LABEL = (str, bool, int, float, Decimal)
_FEW = 20  # values: versions (3.9, 3.10) or half stars; measured scores have more, or values that occur once


@dataclass
class Labelling:
    """What `read_labels` found."""

    kind: Kind
    names: tuple[str, ...] | None = None  # the classes, index = class id; None for scores
    # what was guessed and why, and what is odd about the labels
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
        texts: names of the text columns.
        label: name of the label column.
        kind: what the labels are; None: what they look like.
        names: class names of a model, in the order of its ids. A model that only numbers its classes has them in the
            order in which the file names them.

    Raises:
        DataError: a label that is missing or unknown, or that cannot be meant; one class in two spellings.
    """
    columns = [_Column(rows, label) for rows in (train, validation) if rows is not None]
    first = columns[0]
    in_file = first.rows.classes.get(label, ())
    found = Labelling(kind or "classification")
    if kind is None and not names and not in_file:
        found.kind, why = first.kind()
        found.notes += [why] if why else []
    owner = "the given class names"
    if kind_named(found.kind).has_classes:
        found.notes += [blanks for column in columns if (blanks := column.spellings())]
        if names and not (is_numbered(names) and len(names) == len(in_file)):
            found.names = tuple(names)
        else:
            owner = f"the training split {first.rows.source}"
            found.names = in_file or (first.classes() if train is not None and not names else ())
        if not found.names:
            raise ConfigError(
                f"Evaluating on {first.rows.source} alone needs the class names (of the model) in `labels`."
            )
        if not names and (twice := spelt_twice(found.names)):
            raise DataError(
                f"{first.rows.source}: the classes {' and '.join(map(ascii, twice))} of the column {label!r} are one "
                "class in two spellings. Give the file one name for each class."
            )
    for column in columns:
        if found.names is None:
            labels = column.scores()
        else:
            by_value = not column.text or not (names or first.text)
            # classes of a model are found as models are matched with each other, those of a file as they are written
            labels = column.ids(found.names, owner, by_value, exact=not names and not by_value)
        found._labels[column.rows.source] = labels
        twice = _contradictions(column.rows, texts, label, labels)
        found.notes += [twice] if twice else []
    return found


def _contradictions(rows: Rows, texts: Sequence[str], label: str, labels: np.ndarray) -> str | None:
    """Says how many texts stand in a file with several labels, and where the first one does; None if none does."""
    places: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(zip(*(map(str.strip, rows.columns[name]) for name in texts), strict=True)):
        places.setdefault(key, []).append(row)
    twice = [own for own in places.values() if len(set(labels[own].tolist())) > 1]
    if not twice:
        return None
    one = twice[0][0]
    other = next(row for row in twice[0] if labels[row] != labels[one])
    what = f"{'pair' if len(twice) == 1 else 'pairs'} of texts" if len(texts) == 2 else "text" + "s" * (len(twice) > 1)
    stand = f"{len(twice):,} {what} stand" if len(twice) > 1 else f"One {what} stands"
    shown = " and ".join(f"{rows.place(row, source=False)} ({rows.columns[label][row]!r})" for row in (one, other))
    return (
        f"{stand} in {rows.source} with more than one label ({sum(map(len, twice)):,} rows), first in {shown}: at most "
        "one of them can be right."
    )


class _Column:
    """The labels of one split: the different ones as text, in the order in which they come, and which each row has.

    `NA`, `null` and the like count as missing only where all other labels are numbers; else they are class names.
    Whatever is refused is a `DataError` with the first line.
    """

    def __init__(self, rows: Rows, column: str):
        self.rows, self.column = rows, column
        values = rows.columns[column]
        kinds = set(map(type, values)) - {type(None)}
        self.text = str in kinds or (bool in kinds and len(kinds) > 1)  # else numbers, or all true or false
        for row, value in enumerate(values if any(not issubclass(kind, _LABEL) for kind in kinds) else ()):
            if value is not None and not isinstance(value, _LABEL):
                raise DataError(
                    f"{rows.place(row)}: the label {value!r:.60} in column {column!r} is of the type "
                    f"{type(value).__name__}, and not a text, a number, or true or false. Name another with --label."
                )
        codes: dict[str, int] = {}
        self.names: dict[str, int] = {}
        cells = (value if isinstance(value, str) else _name_of(value) for value in values)
        self._by_cell = np.array([codes.setdefault(cell, len(codes)) for cell in cells], dtype=np.int64)
        self._cells = list(codes)
        of_cell = np.array([self.names.setdefault(cell.strip(), len(self.names)) for cell in self._cells])
        self._codes = of_cell[self._by_cell]
        counted = np.bincount(self._codes, minlength=len(self.names)).tolist()
        self.counts = dict(zip(self.names, counted, strict=True))
        self.numbers = {name: _number_of(name) for name in self.names}
        missing = {name for name, number in self.numbers.items() if not matching_key(name) or number != number}
        odd = {name for name, number in self.numbers.items() if number is None}
        if not missing and len(odd) < len(self.names) and {each.lower() for each in odd} <= _MISSING_BESIDE_NUMBERS:
            missing = odd
        if missing:
            count = sum(self.counts[name] for name in missing)
            more = f" (and {count - 1} more rows)" if count > 1 else ""
            lacking = f"{self._first(missing)}: the label in column {column!r} is missing or NaN{more}"
            raise DataError(f"{lacking}. Remove the rows without a label, or fill them in.")

    def _first(self, names: Collection[str], source: bool = True) -> str:
        """Returns the place of the first row that has one of these labels."""
        return self.rows.place(int(np.isin(self._codes, [self.names[name] for name in names]).argmax()), source)

    def kind(self) -> tuple[Kind, str | None]:
        """Says whether the labels are classes or scores, and in a sentence why, where it is worth saying.

        Scores are numbers of which at least one is not whole. Where they are text to the file's format (CSV), they may
        be names, too (versions, half stars): few values that occur more than once are classes. More values than a third
        of the rows, or none that occurs twice, are no classes.
        """
        names, total = list(self.names), len(self.rows)
        numeric = None not in self.numbers.values()
        whole = all(
            number is None or number.is_integer() or name.lstrip("+-").isdigit()  # of more than 308 digits
            for name, number in self.numbers.items()
        )
        once = max(self.counts.values()) == 1
        many = (total >= 20 and 3 * len(names) > total) or (total >= 6 and once)
        shown = ", ".join(f"{name!r:.40}" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        read = f"The labels in column {self.column!r} of {self.rows.source} are"
        few = not many and len(names) <= _FEW and min(self.counts.values()) > 1
        if numeric and not whole and not (self.text and few):
            return "regression", (
                f"{read} numbers and not all whole ({shown}): they are read as scores. `--kind classification` reads "
                "them as classes."
            )
        if not numeric and all(map(_NUMBER_WITH_SIGNS.fullmatch, names)):
            self.scores()
        if many:
            scores = "`--kind regression` if they are scores, " if numeric else ""
            raise DataError(
                f"{self.rows.source}: the column {self.column!r} has {len(names)} different values in {total} rows "
                f"({shown}){', each of them once' if once else ''}, so they are hardly classes. Give {scores}`--kind "
                "classification` if they are classes after all, or another column with --label."
            )
        if numeric and len(names) > 2:
            return (
                "classification",
                f"{read} read as {len(names)} classes ({shown}). `--kind regression` reads them as scores.",
            )
        return "classification", None

    def scores(self) -> np.ndarray:
        """Returns the labels as floats; one that is not a finite number is refused."""
        for name, number in self.numbers.items():
            if number is None or not math.isfinite(number):
                digits = re.sub(r"[^\d.,+-]", "", name)
                head, _, tail = digits.replace(",", ".").rpartition(".")
                plain = f"{head.replace('.', '')}.{tail}" if head else tail
                hint = f" ({plain})" if _NUMBER_WITH_SIGNS.fullmatch(name) else ""
                raise DataError(
                    f"{self._first({name})}: the label {name!r:.40} is not a finite number. Write scores with a point "
                    f"and without signs{hint}, with `--kind regression`; `--kind classification` reads classes."
                )
        return np.array(list(self.numbers.values()), dtype=np.float64)[self._codes]

    def classes(self) -> tuple[str, ...]:
        """Returns the classes that occur: by value if all are numbers in their plain spelling, else as text."""
        if len(self.names) < 2:
            raise DataError(
                f"{self.rows.source}: all {len(self.rows)} rows have the label {next(iter(self.names))!r}. A "
                "classifier needs two classes."
            )
        values = {name: number_value(name) for name in self.names}
        plain = all(
            value is not None and value.adjusted() < 400 and _plain(value) == name for name, value in values.items()
        )
        return tuple(sorted(self.names, key=lambda name: (values[name] if plain else 0, name)))

    def spellings(self) -> str | None:
        """Refuses two spellings of one class (`matching_key`); returns a sentence on blanks around labels, if any."""
        if twice := spelt_twice(self.names):
            first = [f"{self.counts[name]:,} rows, first in {self._first({name}, source=False)}" for name in twice]
            show = repr if len({name.casefold() for name in twice}) == 1 else ascii  # they may look alike
            shown = " and ".join(f"{show(name)} ({where})" for name, where in zip(twice, first, strict=True))
            raise DataError(
                f"{self.rows.source}: the labels {shown} in column {self.column!r} are one class in two spellings. "
                "Write one of them in all rows."
            )
        padded = [at for at, cell in enumerate(self._cells) if cell != cell.strip()]
        if not padded:
            return None
        rows = np.flatnonzero(np.isin(self._by_cell, padded))
        place = self.rows.place(int(rows[0]), source=False)
        return (
            f"{len(rows):,} labels in column {self.column!r} of {self.rows.source} have blanks around them and are "
            f"read without ({self._cells[padded[0]]!r}, first in {place})."
        )

    def ids(self, names: Sequence[str], owner: str, by_value: bool, exact: bool) -> np.ndarray:
        """Returns, for each row, where its class stands among the names that their owner knows."""
        known: dict[str, int | None] = {name: index for index, name in enumerate(names)}
        free = [] if exact else [name for name in self.names if name not in known]
        known |= dict(zip(free, find_classes(free, names, numbers=by_value), strict=True))
        owners: dict[int, str] = {}
        for name in self.names:
            if (index := known.get(name)) is None:
                shown = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
                unknown = f"the label {name!r} is unknown to {owner}{nearest(name, names)}"
                raise DataError(f"{self._first({name})}: {unknown}. It has {shown}.")
            if (other := owners.setdefault(index, name)) != name:
                raise DataError(
                    f"{self._first({name})}: the labels {name!r} and {other!r} in column {self.column!r} would both be "
                    f"the class {names[index]!r} of {owner}. Write each class in one way."
                )
        return np.array([known[name] for name in self.names], dtype=np.int64)[self._codes]


# --- single cells


def _name_of(value: Any) -> str:
    """Returns the class that a cell of a typed format stands for: 3 and 3.0 are both `3`; true is `true`."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return _plain(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))


def _plain(number: Decimal) -> str:
    """Spells a number in the one way without an exponent and without zeros that say nothing."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _number_of(name: str) -> float | None:
    """Returns a label as a float, or None if it is no number."""
    try:
        return None if "_" in name else float(name)
    except ValueError:
        return None
