"""The wanted columns of a file, and where each row stands in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from codir.data.column_types import ColumnType, class_names_of, named_classes, type_of_arrow
from codir.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow

_BLANKS = "".join(letter for letter in map(chr, range(0x3001)) if letter.isspace())


class _Lists(Mapping[str, list[Any]]):
    """Columns as lists of Python values, made when they are first asked for."""

    def __init__(self, columns: Mapping[str, Any]):
        self._columns = columns
        self._made: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._made:
            column = self._columns[name]
            self._made[name] = column if isinstance(column, list) else column.to_pylist()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass
class Rows:
    """The wanted columns of a source, and where each row stands in it.

    Attributes:
        source: path or name of the source.
        unit: "line" for text files, "row" where there are no lines.
        columns: the wanted columns, each a list of Python values or an Arrow array. Where the file itself names
            classes, they hold these names (None for "no label", which is an id below zero).
        types: what the format of the file says of each column (see `codir.data.column_types`).
        classes: the names that the file itself gives the classes of a column, in the order of their ids; only for
            columns of the type "class".
        find_places: finds the number of the line each row starts on; called for a message only. None: rows are counted.
        notes: sentences the user should read, on how the file was read.
    """

    source: str
    unit: str
    columns: Mapping[str, Any]
    types: dict[str, ColumnType]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    find_places: Callable[[], Sequence[int]] | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @cached_property
    def values(self) -> Mapping[str, list[Any]]:
        """Returns the columns as lists of Python values."""
        return _Lists(self.columns)

    @cached_property
    def places(self) -> Sequence[int]:
        """Returns the number of the line each row starts on, or of the row."""
        return self.find_places() if self.find_places is not None else range(1, len(self) + 1)

    def place(self, row: int) -> str:
        """Returns, for example, `train.csv, line 17`."""
        return f"{self.source}, {self.unit} {self.places[row]}"

    def texts(self, column: str) -> Any:
        """Returns a column of texts, an Arrow array or a list, after a look at all of them.

        Raises:
            DataError: a value is missing, empty, or not a text; with the line of the first.
        """
        values = self.columns[column]
        if isinstance(values, list) or self.types[column] != "text":
            values = self.values[column]
            bad: Sequence[int] = [row for row, value in enumerate(values) if _fault(value)]
        else:
            pc = compute()
            full = pc.fill_null(pc.not_equal(pc.utf8_trim(values, characters=_BLANKS), ""), False)
            bad = np.flatnonzero(~full.to_numpy(zero_copy_only=False)).tolist()
        if bad:
            more = f" (and {len(bad) - 1:,} more rows are not fit)" if len(bad) > 1 else ""
            raise DataError(
                f"{self.place(bad[0])}: the text in column {column!r} is {_fault(self.values[column][bad[0]])}{more}. "
                "Remove or fill these rows."
            )
        return values


def compute() -> Any:
    """Returns Arrow's functions on columns, which it makes when it is imported, so that no type checker knows them."""
    import pyarrow.compute

    return pyarrow.compute


def encoded(column: Any) -> tuple[list[Any], np.ndarray]:
    """Returns the different values of a column, in the order in which they come, and for each row which of them it has.

    Args:
        column: a list of Python values that can be told apart, or an Arrow array.
    """
    if isinstance(column, list):
        places: dict[Any, int] = {}
        codes = np.fromiter(
            (places.setdefault(value, len(places)) for value in column), np.int64, len(column)
        )
        return list(places), codes
    import pyarrow

    array = pyarrow.chunked_array(column.chunks) if isinstance(column, pyarrow.ChunkedArray) else column
    array = compute().dictionary_encode(array, null_encoding="encode")
    whole = array.combine_chunks() if isinstance(array, pyarrow.ChunkedArray) else array
    return whole.dictionary.to_pylist(), whole.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def arrow_rows(source: str, table: pyarrow.Table) -> Rows:
    """Returns the rows of an Arrow table, with the types and class names of its schema.

    Raises:
        DataError: a column of classes holds a number that is not one of them; a value is out of Python's range.
    """
    from pyarrow import types as kinds

    columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
    types: dict[str, ColumnType] = {field.name: type_of_arrow(field.type) for field in table.schema}
    rows = Rows(source, "row", columns, types)
    for name, kind in types.items():
        if kinds.is_dictionary(columns[name].type):
            columns[name] = columns[name].cast(columns[name].type.value_type)
        if kind in ("time", "decimal"):
            try:
                columns[name] = columns[name].to_pylist()
            except (ValueError, OverflowError, ArithmeticError) as error:
                raise DataError(f"{source}: the column {name!r} cannot be read: {error}.") from error
    for name, names in class_names_of(table.schema).items():
        if types[name] != "integer":
            continue
        try:
            columns[name] = named_classes(columns[name].to_pylist(), names)
        except IndexError as error:
            row, number = error.args
            raise DataError(
                f"{rows.place(row)}: the column {name!r} holds the class {number}, and the file names {len(names)} "
                f"classes ({', '.join(names[:20])}), counted from 0."
            ) from error
        types[name], rows.classes[name] = "class", names
    return rows


def require_columns(source: str, have: Sequence[str], wanted: Iterable[str], hint: str = "") -> None:
    """Raises `DataError` naming the source, the missing column, those it has, and the nearest."""
    for name in wanted:
        if name not in have:
            shown = ", ".join(repr(column) for column in have[:30]) + (", ..." if len(have) > 30 else "")
            raise DataError(f"{source} has no column {name!r}{nearest(name, have)}. It has {shown}.{hint}")


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
