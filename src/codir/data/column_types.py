"""What the format of a file says of a column: text, a number, a class with a name, ..."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow

ColumnType = Literal[
    "text",  # the only type of CSV, TSV and plain text
    "integer",
    "float",
    "boolean",
    "decimal",
    "time",  # a date, a time, a timestamp, a duration
    "bytes",
    "class",  # numbers for which the file itself has names (the ClassLabel of `datasets`)
    "nested",  # a list or a record in each cell
    "mixed",  # values of several types, in JSON
    "empty",  # nothing but missing values
    "other",
]

_PYTHON: tuple[tuple[type | tuple[type, ...], ColumnType], ...] = (
    (str, "text"),
    (bool, "boolean"),  # before the integers, of which Python thinks it is one
    (int, "integer"),
    (float, "float"),
    (Decimal, "decimal"),
    ((datetime.date, datetime.time, datetime.timedelta), "time"),
    (bytes, "bytes"),
    ((list, tuple, dict), "nested"),
)


def _of_class(kind: type) -> ColumnType:
    if kind is type(None):
        return "empty"
    for known, name in _PYTHON:
        if issubclass(kind, known):
            return name
    return "other"


def type_of_values(values: Iterable[Any]) -> ColumnType:
    """Returns the type of a column whose values each have their own: that of all that are not missing.

    Whole numbers beside others are floats, other mixtures are "mixed".
    """
    found: list[ColumnType] = list(
        {_of_class(kind): None for kind in set(map(type, values)) if kind is not type(None)}
    )
    if set(found) == {"integer", "float"}:
        return "float"
    if len(found) > 1:
        return "mixed"
    return found[0] if found else "empty"


def type_of_arrow(kind: pyarrow.DataType) -> ColumnType:
    """Returns the type of a column of Parquet or Arrow."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return type_of_arrow(kind.value_type)
    tests: Mapping[ColumnType, bool] = {
        "text": types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind),
        "boolean": types.is_boolean(kind),
        "integer": types.is_integer(kind),
        "float": types.is_floating(kind),
        "decimal": types.is_decimal(kind),
        "time": types.is_temporal(kind),
        "bytes": types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind),
        "nested": types.is_nested(kind),
        "empty": types.is_null(kind),
    }
    for name, holds in tests.items():
        if holds:
            return name
    return "other"


def class_names_of(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """Returns the class names of the columns for which `datasets` wrote a ClassLabel into the schema's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw or b"{}")["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # of another writer, or damaged: the numbers are then numbers
    found = {}
    for column, feature in features:
        names = feature.get("names") if isinstance(feature, dict) else None
        if column in schema.names and isinstance(names, list) and feature.get("_type") == "ClassLabel":
            found[column] = tuple(map(str, names))
    return found


def named_classes(ids: Sequence[int | None], names: Sequence[str]) -> list[str | None]:
    """Returns the class name of each id; None where there is no label (an id below zero, as on the Hub).

    Raises:
        IndexError: with the row, counted from 0, and the id for which there is no name.
    """
    for row, number in enumerate(ids):
        if number is not None and number >= len(names):
            raise IndexError(row, number)
    return [None if number is None or number < 0 else names[number] for number in ids]
