"""Turns raw label values into class ids or scores, by rules that do not depend on the order of the rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from codir.errors import DataError, nearest
from codir.tasks.reading import Rows
from codir.tasks.task import Kind

_INTEGER = re.compile(r"[+-]?\d+")
_MISSING_BESIDE_NUMBERS = frozenset({"na", "n/a", "null", "none", "?", "-"})


def _number(value: Any) -> float | None:
    """Returns a raw label as a float, or None if it is not a number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value) if isinstance(value, str) and "_" not in value else None
    except ValueError:
        return None


def _is_missing(value: Any) -> bool:
    """None, an empty text, and NaN in every spelling float() knows."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    number = _number(value)
    return number is not None and math.isnan(number)


def class_name(value: Any) -> str:
    """Returns the name of the class a raw label stands for: 3, "3", 3.0 and "3.0" are all `"3"`."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    if isinstance(value, int) or _INTEGER.fullmatch(text):
        return str(int(text))
    number = _number(value)
    if number is not None and number.is_integer():
        return str(int(number))
    return text


def require_labels(rows: Rows, column: str) -> None:
    """Raises `DataError` with the line of the first label that is missing or NaN, or of a kind no label can be.

    `NA`, `null` and the like count as missing only where all other labels are numbers; else they are class names.
    """
    values = rows.values[column]
    for row, value in enumerate(values):
        if isinstance(value, (list, dict)):
            raise DataError(
                f"{rows.place(row)}: the label {value!r:.60} in column {column!r} is not a single value."
            )
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    if not missing:
        odd = [row for row, value in enumerate(values) if _number(value) is None]
        if len(odd) < len(values) and all(
            str(values[row]).strip().lower() in _MISSING_BESIDE_NUMBERS for row in odd
        ):
            missing = odd
    if missing:
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        raise DataError(
            f"{rows.place(missing[0])}: the label in column {column!r} is missing or NaN{more}. "
            "Remove the rows without a label, or fill them in."
        )


def detect_kind(rows: Rows, column: str) -> Kind:
    """Regression if all labels are numbers and at least one is not a whole number; classification otherwise.

    Raises:
        DataError: what would be classes has more than half as many different values as rows (20 or more): most
            likely scores, or the wrong column.
    """
    values = rows.values[column]
    numbers = [_number(value) for value in values]
    if all(number is not None for number in numbers) and not all(
        n.is_integer() for n in numbers if n is not None
    ):
        return "regression"
    distinct = len({class_name(value) for value in values})
    if len(values) >= 20 and distinct > len(values) / 2:
        raise DataError(
            f"{rows.source}: the column {column!r} has {distinct} different values in {len(values)} rows, so they are "
            "hardly classes. Give kind=regression if they are scores, kind=classification if they are classes after "
            "all, or another label column."
        )
    return "classification"


def class_names(rows: Rows, column: str) -> tuple[str, ...]:
    """Returns the classes of the training split: sorted as numbers if all are numbers, else as text.

    Raises:
        DataError: there is only one class, so there is nothing to learn.
    """
    names = {class_name(value) for value in rows.values[column]}
    if len(names) < 2:
        raise DataError(
            f"{rows.source}: all {len(rows)} rows have the label {next(iter(names))!r}. A classifier needs two classes."
        )
    if all(_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def class_ids(rows: Rows, column: str, names: Sequence[str], owner: str) -> list[int]:
    """Returns the class id of each row.

    Args:
        rows: the split.
        column: its label column.
        names: known classes, index = id.
        owner: what knows these classes, for the message: "the training split".

    Raises:
        DataError: a label is not among `names`; names it, its line, and the classes there are.
    """
    ids = {name: index for index, name in enumerate(names)}
    found: list[int] = []
    for row, value in enumerate(rows.values[column]):
        raw = value if isinstance(value, str) else class_name(value)
        index = ids.get(raw.strip(), ids.get(class_name(value)))
        if index is None:
            shown = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
            raise DataError(
                f"{rows.place(row)}: the label {raw!r} is unknown to {owner}{nearest(raw, names)}. It has {shown}."
            )
        found.append(index)
    return found


def scores(rows: Rows, column: str) -> list[float]:
    """Returns the labels as floats; one that is not a finite number raises `DataError` with its line."""
    found: list[float] = []
    for row, value in enumerate(rows.values[column]):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise DataError(
                f"{rows.place(row)}: the label {value!r} is not a finite number, and this is regression."
            )
        found.append(number)
    return found
