"""The wanted columns of a file, what its format says of them, and where each row stands in it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from codir.errors import DataError, nearest

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


@dataclass
class Rows:
    """The wanted columns of a source, and where each row stands in it.

    Attributes:
        source: path or name of the source.
        unit: "line" for text files, "row" where there are no lines.
        columns: the wanted columns. Where the file itself names classes, they hold these names (None for "no label",
            which is an id below zero).
        types: what the format of the file says of each column.
        classes: the names that the file itself gives the classes of a column, in the order of their ids; only for
            columns of the type "class".
        places: the number of the line each row starts on, or of the row.
        notes: sentences the user should read, on how the file was read.
    """

    source: str
    unit: str
    columns: Mapping[str, list[Any]]
    types: dict[str, ColumnType]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: Sequence[int] = ()
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Returns, for example, `train.csv, line 17`."""
        return f"{self.source}, {self.unit} {self.places[row] if self.places else row + 1}"

    def texts(self, column: str) -> list[str]:
        """Returns a column of texts after a look at all of them.

        Raises:
            DataError: a value is missing, empty, or not a text; with the line of the first.
        """
        values = self.columns[column]
        bad = [row for row, value in enumerate(values) if _fault(value)]
        if bad:
            more = f" (and {len(bad) - 1:,} more rows are not fit)" if len(bad) > 1 else ""
            raise DataError(
                f"{self.place(bad[0])}: the text in column {column!r} is {_fault(values[bad[0]])}{more}. "
                "Remove or fill these rows."
            )
        return values


def _fault(value: Any) -> str:
    """Says what keeps a value from being a text, or nothing."""
    if value is None:
        return "missing"
    if not isinstance(value, str):
        return f"not a text but {value!r:.60}"
    if not value.strip():
        return "empty"
    # JSON can spell half a surrogate pair, which no encoding can write
    return "" if value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value) else "not valid Unicode"


def require_columns(source: str, have: Sequence[str], wanted: Iterable[str], hint: str = "") -> None:
    """Raises `DataError` naming the source, the missing column, those it has, and the nearest."""
    for name in wanted:
        if name not in have:
            shown = ", ".join(repr(column) for column in have[:30]) + (", ..." if len(have) > 30 else "")
            raise DataError(f"{source} has no column {name!r}{nearest(name, have)}. It has {shown}.{hint}")


def type_of_values(values: Iterable[Any]) -> ColumnType:
    """Returns the type of a column whose values each have their own: that of all that are not missing.

    Whole numbers beside others are floats, other mixtures are "mixed".
    """
    kinds = set(map(type, values)) - {type(None)}
    found: set[ColumnType] = {_type_of(kind) for kind in kinds}
    if found == {"integer", "float"}:
        return "float"
    if len(found) > 1:
        return "mixed"
    return found.pop() if found else "empty"


def _type_of(kind: type) -> ColumnType:
    for known, name in _PYTHON:
        if issubclass(kind, known):
            return name
    return "other"


def _type_of_arrow(kind: pyarrow.DataType) -> ColumnType:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _type_of_arrow(kind.value_type)
    tests: Mapping[ColumnType, Sequence[Callable[[Any], bool]]] = {
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "boolean": (types.is_boolean,),
        "integer": (types.is_integer,),
        "float": (types.is_floating,),
        "decimal": (types.is_decimal,),
        "time": (types.is_temporal,),
        "bytes": (
            *(types.is_binary, types.is_large_binary),
            *(types.is_fixed_size_binary, types.is_binary_view),
        ),
        "nested": (types.is_nested,),
        "empty": (types.is_null,),
    }
    for name, known in tests.items():
        if any(test(kind) for test in known):
            return name
    return "other"


def arrow_rows(source: str, table: pyarrow.Table) -> Rows:
    """Returns the rows of an Arrow table, with the types and class names of its schema.

    Raises:
        DataError: a column of classes holds a number that is not one of them; a value is out of Python's range.
    """
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (ValueError, OverflowError, ArithmeticError) as error:
            raise DataError(f"{source}: the column {name!r} cannot be read: {error}.") from error
    types: dict[str, ColumnType] = {field.name: _type_of_arrow(field.type) for field in table.schema}
    rows = Rows(source, "row", columns, types)
    for name, names in _class_names(table.schema).items():
        if types[name] != "integer":
            continue
        ids: list[int | None] = columns[name]
        for row, number in enumerate(ids):
            if number is not None and number >= len(names):
                raise DataError(
                    f"{rows.place(row)}: the column {name!r} holds the class {number}, and the file names "
                    f"{len(names)} classes ({', '.join(names[:20])}), counted from 0."
                )
        columns[name] = [None if number is None or number < 0 else names[number] for number in ids]
        types[name], rows.classes[name] = "class", names
    return rows


def _class_names(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
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
