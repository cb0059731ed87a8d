"""The labels of one split, read by rules that do not depend on the order of the rows.

A label is text, and keeps its characters: `07` and `7` are two classes. It is a number only where the format of the
file says so (JSON, Parquet), or where scores are asked for. What is looked at is the different values and how
often each occurs.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any, Literal, NoReturn

import numpy as np

from codir.data.rows import ColumnType, Rows, type_of_values
from codir.data.task import Kind
from codir.errors import DataError, nearest
from codir.models.classes import find_classes, matching_key, number_value, spelt_twice

_MISSING_BESIDE_NUMBERS = frozenset({"na", "n/a", "null", "none", "?", "-"})
# 4,5 or 90 % or 1.234,50 or $4.50: a number to the reader, and text to every program. 1.2.3 and 01.02.2024 are none.
_DRESSED_NUMBER = re.compile(r"[$€£]?\s*[+-]?(\d{1,3}([.,'\u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[%‰€$£]?")
# What no label can be, and what to do about it.
_NO_LABEL: dict[ColumnType, str] = {
    "time": "a date or a time",
    "bytes": "bytes, not text",
    "nested": "not a single value",
    "other": "neither text nor a number nor true or false",
}
Comparison = Literal["exact", "key", "value"]
"""How a text is found among known classes: as it is written, by `matching_key`, or as a number, too."""
_FEW = 20  # values: versions (3.9, 3.10) or half stars; measured scores have more, or values that occur once


class LabelColumn:
    """The labels of one split.

    Args:
        rows: the split.
        column: its label column.

    Attributes:
        counts: the different values, in the order in which they come, and how many rows have each.

    Raises:
        DataError: a label is missing or NaN, or of a kind that no label can be; names the first line. `NA`, `null` and
            the like count as missing only where all other labels are numbers; else they are class names.
    """

    def __init__(self, rows: Rows, column: str):
        self.rows, self.column, self.type = rows, column, rows.types[column]
        if self.type in _NO_LABEL:
            values = rows.columns[column]
            self._refuse(next((row for row, value in enumerate(values) if value is not None), 0), values)
        values = rows.columns[column] if self.type != "mixed" else self._as_text(rows.columns[column])
        codes: dict[Any, int] = {}  # of the different values, in the order in which they come
        self._codes = np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)
        self._different = list(codes)
        counted = np.bincount(self._codes, minlength=len(self._different))
        self.counts: dict[Any, int] = dict(zip(self._different, counted.tolist(), strict=True))
        missing = {value for value in self.counts if _is_missing(value)}
        if not missing:
            odd = {value for value in self.counts if _number_of(value) is None}
            if len(odd) < len(self.counts) and all(
                str(value).strip().lower() in _MISSING_BESIDE_NUMBERS for value in odd
            ):
                missing = odd
        if missing:
            count = sum(self.counts[value] for value in missing)
            more = f" (and {count - 1} more rows)" if count > 1 else ""
            raise DataError(
                f"{self._first(missing)}: the label in column {column!r} is missing or NaN{more}. "
                "Remove the rows without a label, or fill them in."
            )

    @property
    def names(self) -> dict[str, int]:
        """The name of each class that occurs, and how many rows have it."""
        found: dict[str, int] = {}
        for value, count in self.counts.items():
            found[label_of(value)] = found.get(label_of(value), 0) + count
        return found

    def _refuse(self, row: int, values: list[Any]) -> NoReturn:
        why = _NO_LABEL.get(type_of_values(values[row : row + 1]), _NO_LABEL["other"])
        raise DataError(
            f"{self.rows.place(row)}: the label {values[row]!r:.60} in column {self.column!r} is {why}. A label "
            "is a text, a number, or true or false: store the column as one of these, or name another with --label."
        )

    def _as_text(self, values: list[Any]) -> list[str | None]:
        """Returns the cells of a column of several types by their names, for only these can be compared."""
        for row, value in enumerate(values):
            if not isinstance(value, (str, bool, int, float, Decimal, type(None))):
                self._refuse(row, values)
        return [None if _is_missing(value) else label_of(value) for value in values]

    def _first(self, values: Collection[Any]) -> str:
        """Returns the place of the first row that has one of these values."""
        codes = [code for code, value in enumerate(self._different) if value in values]
        return self.rows.place(int(np.isin(self._codes, codes).argmax()))

    def _place(self, name: str) -> str:
        """Returns the place of the first row of a class."""
        return self._first({value for value in self.counts if label_of(value) == name})

    def _examples(self) -> str:
        names = list(self.names)
        return ", ".join(f"{name!r:.40}" for name in names[:3]) + (", ..." if len(names) > 3 else "")

    # ---- classes or scores -------------------------------------------------------------------------------------

    def kind(self) -> tuple[Kind, str | None]:
        """Says whether the labels are classes or scores, and in a sentence why, where it is worth saying.

        Scores are numbers of which at least one is not whole. Where they are text to the file's format (CSV), they may
        be names, too (versions, half stars): few values that occur more than once are classes.

        Raises:
            DataError: they cannot be meant as classes: more of them than a third of the rows, or all with one example;
                or they look like numbers and can be read as none.
        """
        names, total = self.names, len(self.rows)
        numbers = [_number_of(value) for value in self.counts]
        whole = all(
            number is None or number.is_integer() or isinstance(value, int)
            for value, number in zip(self.counts, numbers, strict=True)
        )
        once = max(names.values()) == 1
        many = (total >= 20 and 3 * len(names) > total) or (total >= 6 and once)
        of_column = f"The labels in column {self.column!r} of {self.rows.source}"
        if None not in numbers and not whole:
            few = not many and len(names) <= _FEW and min(names.values()) > 1
            if self.type != "text" or not few:
                return "regression", (
                    f"{of_column} are numbers and not all whole ({self._examples()}): they are read as scores. "
                    "`--kind classification` reads them as classes."
                )
        if None in numbers and all(_DRESSED_NUMBER.fullmatch(name) for name in names):
            dressed = next(
                value for value, number in zip(self.counts, numbers, strict=True) if number is None
            )
            raise DataError(
                f"{self._first({dressed})}: the label {dressed!r} in column {self.column!r} is text that looks like a "
                f"number, as all labels there do. If they are scores, write them with a point and without signs "
                f"({_undressed(str(dressed))}) and add `--kind regression`; if they are classes, add `--kind "
                "classification`."
            )
        if many:
            scores = "`--kind regression` if they are scores, " if None not in numbers else ""
            raise DataError(
                f"{self.rows.source}: the column {self.column!r} has {len(names)} different values in {total} rows "
                f"({self._examples()}){', each of them once' if once else ''}, so they are hardly classes. Give "
                f"{scores}`--kind classification` if they are classes after all, or another column with --label."
            )
        if None not in numbers and len(names) > 2:
            return "classification", (
                f"{of_column} are read as {len(names)} classes ({self._examples()}). `--kind regression` reads them as "
                "scores."
            )
        return "classification", None

    def scores(self) -> np.ndarray:
        """Returns the labels as floats; one that is not a finite number raises `DataError` with its line."""
        found = {value: _number_of(value) for value in self.counts}
        bad = [value for value, number in found.items() if number is None or not math.isfinite(number)]
        if bad:
            shown = str(bad[0])
            hint = ""
            if _DRESSED_NUMBER.fullmatch(shown.strip()):
                hint = f" Write it with a point and without signs: {_undressed(shown)}."
            raise DataError(
                f"{self._first(set(bad[:1]))}: the label {bad[0]!r:.40} is not a finite number, and this is regression."
                f"{hint}"
            )
        return np.array([found[value] for value in self._different], dtype=np.float64)[self._codes]

    # ---- classes -----------------------------------------------------------------------------------------------

    def classes(self) -> tuple[str, ...]:
        """Returns the classes that occur, in order (`_sorted_names`).

        Raises:
            DataError: there is only one class, so there is nothing to learn.
        """
        names = self.names
        if len(names) < 2:
            raise DataError(
                f"{self.rows.source}: all {len(self.rows)} rows have the label {next(iter(names))!r}. A classifier "
                "needs two classes."
            )
        return _sorted_names(names)

    def spellings(self) -> str | None:
        """Checks that each class has one spelling; returns a sentence on labels that differ in blanks around them.

        Raises:
            DataError: two labels are one class (`codir.models.classes.matching_key`); with their lines and numbers.
        """
        names = self.names
        if twice := spelt_twice(names):
            how, show = _difference(*twice[:2])
            shown = [
                f"{show(name)} ({names[name]:,} {'row' if names[name] == 1 else 'rows'}, first in "
                f"{self._place(name).removeprefix(f'{self.rows.source}, ')})"
                for name in twice
            ]
            raise DataError(
                f"{self.rows.source}: the labels {' and '.join(shown)} in column {self.column!r} differ only in {how}, "
                "so they are one class in two spellings. Write one of them in all rows."
            )
        raw: dict[str, list[str]] = {}
        for value in self.counts:
            if isinstance(value, str):
                raw.setdefault(value.strip(), []).append(value)
        padded = [
            value for group in raw.values() if len(group) > 1 for value in group if value != value.strip()
        ]
        if not padded:
            return None
        count = sum(self.counts[value] for value in padded)
        return (
            f"{count:,} labels in column {self.column!r} of {self.rows.source} have blanks around them ({padded[0]!r}, "
            f"first in {self._first(set(padded)).removeprefix(f'{self.rows.source}, ')}) and are read without."
        )

    def ids(self, names: Sequence[str], owner: str, compare: Comparison) -> np.ndarray:
        """Returns the class id of each row.

        Args:
            names: known classes, index = id.
            owner: what knows these classes, for the message: "the training split".
            compare: how a text is found among them. Numbers, true and false of the file's own format have no spelling
                and are compared by value.

        Raises:
            DataError: a label is not among `names`, or two labels are one of them; with the line and the classes.
        """
        known = {name: index for index, name in enumerate(names)}
        labels = {value: label_of(value) for value in self.counts}
        free = [value for value, label in labels.items() if label not in known]
        alike: dict[Any, int | None] = {}
        for by in ("key", "value"):
            some = [value for value in free if by == (compare if isinstance(value, str) else "value")]
            places = find_classes([labels[value] for value in some], names, numbers=by == "value")
            alike |= dict(zip(some, places, strict=True))
        found = {value: known.get(label, alike.get(value)) for value, label in labels.items()}
        unknown = [value for value, index in found.items() if index is None]
        if unknown:
            label = labels[unknown[0]]
            shown = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
            raise DataError(
                f"{self._first(set(unknown[:1]))}: the label {label!r} is unknown to {owner}{nearest(label, names)}. "
                f"It has {shown}."
            )
        owners: dict[int | None, str] = {}
        for value, index in found.items():
            other = owners.setdefault(index, labels[value])
            if other != labels[value]:
                raise DataError(
                    f"{self._first({value})}: the labels {labels[value]!r} and {other!r} in column {self.column!r} "
                    f"would both be the class {names[index or 0]!r} of {owner}. Write each class in one way."
                )
        return np.array([found[value] for value in self._different], dtype=np.int64)[self._codes]


# --- single cells


def label_of(value: Any) -> str:
    """Returns the name of the class that a cell stands for, the one way from a cell to a label.

    Text is its own name, but for blanks around it. A number of the file's own format has no spelling, so 3 and 3.0 are
    both `3`; true is `true`.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, Decimal)):
        return _plain(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    return str(value)


def _plain(number: Decimal) -> str:
    """Spells a number in the one way without an exponent and without zeros that say nothing."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """Returns class names in order: by value if all are numbers in their plain spelling, else as text."""
    numbers = {name: number_value(name) for name in names}
    plain = all(
        number is not None and number.adjusted() < 400 and _plain(number) == name
        for name, number in numbers.items()
    )
    return tuple(sorted(names, key=lambda name: (numbers[name] if plain else 0, name)))


def _number_of(value: Any) -> float | None:
    """Returns a cell as a float, or None if it is no number."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (ValueError, TypeError):
        return None


def _is_missing(value: Any) -> bool:
    """None, a text in which nothing can be seen, and NaN in every spelling float() knows."""
    if value is None or (isinstance(value, str) and not matching_key(value)):
        return True
    try:
        return not isinstance(value, bool) and math.isnan(float(value))
    except (ValueError, TypeError, OverflowError):
        return False


def _undressed(text: str) -> str:
    """Returns a number as it should have been written: the last comma or point is the decimal one."""
    digits = re.sub(r"[^\d.,+-]", "", text)
    head, mark, tail = digits.rpartition("," if digits.rfind(",") > digits.rfind(".") else ".")
    return f"{re.sub('[.,]', '', head)}.{tail}" if mark and tail else re.sub("[.,]", "", digits)


def _difference(first: str, second: str) -> tuple[str, Callable[[str], str]]:
    """Says in what two spellings of one class differ, and by which function they are shown."""
    if first.casefold() == second.casefold():
        return "upper and lower case", repr
    if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", second):
        return "their Unicode form", ascii
    if " ".join(first.split()) == " ".join(second.split()):
        return "blanks", repr
    return "characters that cannot be seen (or case, blanks and Unicode form)", ascii
