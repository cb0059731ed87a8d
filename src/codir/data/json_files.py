"""Reads JSON lines and arrays of JSON objects, with the line of whatever is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codir.data.column_types import ColumnType, type_of_values
from codir.data.decoding import read_text
from codir.data.rows import Rows, require_columns
from codir.errors import DataError

Record = tuple[int, dict[str, Any]]
"""The line an object starts on, counted from 1, and its values by column."""


def read_json(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), encoding: str | None = None
) -> Rows:
    """Reads the named columns of JSON lines, or of an array in a .json file; a key left out in some rows is None there.

    Raises:
        DataError: with the line, where there is one.
    """
    content = read_text(path, encoding)
    text = content.text
    is_array = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    places: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in (*columns, *optional)}
    seen: dict[str, None] = {}  # an ordered set
    for place, record in _array(path, text) if is_array else _lines(path, text):
        places.append(place)
        seen.update(dict.fromkeys(record))
        for name, column in values.items():
            column.append(record.get(name))
    if not places:
        raise DataError(f"{path} is empty: it has no rows.")
    require_columns(str(path), list(seen), columns)
    kept = {name: column for name, column in values.items() if name in seen}
    types: dict[str, ColumnType] = {name: type_of_values(column) for name, column in kept.items()}
    return Rows(str(path), "line", kept, types, {}, lambda: places, content.notes)


def _lines(path: Path, text: str) -> Iterator[Record]:
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)]
        start, number = start + len(line) + 1, number + 1
        if line.strip():
            with _Explained(path, number):
                value = json.loads(line)
            yield number, _record(path, number, value)


def _array(path: Path, text: str) -> Iterator[Record]:
    """Decodes the elements of a JSON array one by one, to know the line each starts on."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")

    def skip(position: int) -> int:
        match = space.match(text, position)
        return match.end() if match else position

    position, number, counted = skip(skip(0) + 1), 1, 0
    while text[position : position + 1] != "]":
        number += text.count("\n", counted, position)
        counted = position
        with _Explained(path, number):
            value, position = decoder.raw_decode(text, position)
        yield number, _record(path, number, value)
        position = skip(position)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
        elif text[position : position + 1] != "]":
            line = text.count("\n", 0, position) + 1
            raise DataError(
                f"{path}, line {line}: not valid JSON (a comma or the closing bracket is missing)."
            )


class _Explained:
    """Turns what Python's JSON reader raises into a sentence with the line."""

    def __init__(self, path: Path, line: int):
        self.path, self.line = path, line

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, json.JSONDecodeError):
            line = self.line if error.lineno == 1 else error.lineno
            why = f"not valid JSON ({error.msg}, column {error.colno})"
        elif isinstance(error, ValueError):  # of more than 4,300 digits
            line, why = (
                self.line,
                "a number with more digits than can be read. As a text it needs quotation marks",
            )
        elif isinstance(error, RecursionError):
            line, why = self.line, "lists or objects too deep within one another to be read"
        else:
            return
        raise DataError(f"{self.path}, line {line}: {why}.") from error


def _record(path: Path, number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{path}, line {number}: expected a JSON object like {{"text": ...}}, found {value!r:.60}.'
        )
    return value
