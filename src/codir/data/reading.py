"""Reads the named columns of CSV, tab separated, JSON and Parquet files, with the line of whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.data.encodings import plain_lines, read_text, require_file
from codir.data.rows import ColumnType, Rows, arrow_rows, require_columns, type_of_values
from codir.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet", ".txt")

_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_LIKELY = (";", "\t", ",", "|")
_QUOTED_FIELD = re.compile(r'"(?:[^"]|"")*"')
_SAYS_DELIMITER = re.compile(r'"?sep=([\t -~])"?(?=\r?\n)', re.IGNORECASE)

Fields = tuple[int, list[str]]
"""The line a record starts on, counted from 1, and its fields."""


def read_rows(
    path: str | Path,
    columns: Sequence[str],
    delimiter: str | None = None,
    optional: Sequence[str] = (),
    encoding: str | None = None,
) -> Rows:
    """Reads the named columns of a CSV, TSV, JSON lines, JSON or Parquet file; the ending of its name decides.

    Args:
        path: the file.
        columns: the columns to keep.
        delimiter: for CSV and TSV: overrides what the ending says.
        optional: further columns to keep, where the file has them.
        encoding: of text files that are not UTF-8.

    Raises:
        ConfigError: the delimiter or the encoding is none.
        DataError: with the file and, where there is one, the line.
    """
    path = require_file(path)
    ending = path.suffix.lower()
    if ending in DELIMITERS:
        separator = require_delimiter(delimiter) if delimiter is not None else DELIMITERS[ending]
        return _delimited(path, columns, separator, optional, encoding)
    if ending in (".jsonl", ".ndjson", ".json"):
        return _json(path, columns, optional, encoding)
    if ending == ".parquet":
        return _parquet(path, columns, optional)
    if ending == ".txt":
        raise DataError(
            f"{path}: a plain text file has no columns, so it cannot hold labels. Use {', '.join(FORMATS[:-1])}."
        )
    raise DataError(
        f"{path}: the ending {ending or '(none)'!r} is not one codir can read. Use {', '.join(FORMATS)}."
    )


def read_lines(path: str | Path, column: str, encoding: str | None = None) -> Rows:
    """Reads a plain text file, each line of which is a text.

    Raises:
        ConfigError, DataError: as `read_rows`.
    """
    content = read_text(path, encoding)
    return Rows(str(path), "line", {column: plain_lines(content.text)}, {column: "text"}, notes=content.notes)


def from_hub(repository: str, config: str | None, split: str) -> Dataset:
    """Loads a split of a Hub data set; raises `DataError` if there is none."""
    from datasets import load_dataset

    try:
        return load_dataset(repository, config, split=split)
    except Exception as error:  # a dozen types, from several libraries
        raise DataError(
            f"{repository!r} is neither a file here nor could its split {split!r} be loaded from the Hub "
            f"({type(error).__name__}: {error}). Check the path or the id, or the network."
        ) from error


def require_delimiter(delimiter: str) -> str:
    """Returns the character that separates fields, `tab` and the like by their names.

    Raises:
        ConfigError: it is not one character, or one that has another meaning.
    """
    found = _NAMES.get(delimiter.lower(), delimiter)
    if len(found) != 1 or found in '"\r\n\0':
        raise ConfigError(
            f"The delimiter {delimiter!r:.40} is not one character (or one that has another meaning). Usual are "
            f"{', '.join(map(repr, (*_LIKELY[:1], *_LIKELY[2:])))} and tab."
        )
    return found


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        require_columns(str(path), schema.names, columns)
        names = [name for name in dict.fromkeys((*columns, *optional)) if name in schema.names]
        # by its handle: a path with "=" in it would be taken for a partition
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file, columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} is empty: it has no rows.")
    return arrow_rows(str(path), table)


# --- CSV and tab separated text


def _delimited(
    path: Path, columns: Sequence[str], delimiter: str, optional: Sequence[str], encoding: str | None
) -> Rows:
    """Reads CSV (RFC 4180, strictly) or tab separated text.

    Columns without a name, as spreadsheets export them, are passed over: those without content, and those with
    something in every row (a row number). One with something in some rows only is more likely a text that was cut.
    """
    content = read_text(path, encoding)
    text = content.text
    if (said := _SAYS_DELIMITER.match(text)) is not None:  # a spreadsheet's first line: `sep=;`
        text = text[said.end() :]  # the end of the line stays, so that lines keep their numbers
        if said[1] != delimiter:
            delimiter = said[1]
            content.notes.append(f"{path} is read with {delimiter!r} between fields, as its first line says.")
    records = _tabs(path, text) if delimiter == "\t" else _quoted(path, text, delimiter)
    _, header = next(records, (1, [""]))
    header = [name.strip() for name in header]
    hint = _delimiter_hint(header, delimiter)
    require_columns(str(path), [name for name in header if name], columns, hint)
    if doubled := sorted({name for name in columns if header.count(name) > 1}):
        raise DataError(f"{path}, line 1: the header names {doubled} more than once.")
    places: list[int] = []
    rows: list[list[str]] = []
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} columns "
                f"({', '.join(header[:10])}). A field that holds the delimiter must be in double quotes.{hint}"
            )
        places.append(line)
        rows.append(fields)
    if not rows:
        raise DataError(f"{path} is empty: it has no rows.")
    named = {name: header.index(name) for name in (*columns, *optional) if name in header}
    kept = {name: [fields[number] for fields in rows] for name, number in named.items()}
    found = Rows(str(path), "line", kept, dict.fromkeys(kept, "text"), {}, places, content.notes)
    for number in (number for number, name in enumerate(header) if not name):
        filled = [row for row, fields in enumerate(rows) if fields[number].strip()]
        if filled and len(filled) < len(rows):
            raise DataError(
                f"{found.place(filled[0])}: {rows[filled[0]][number]!r:.60} stands in column {number + 1}, which has "
                "no name in the header and is empty in other rows. Name the column; a text that holds the delimiter "
                "belongs in double quotes."
            )
    return found


def _delimiter_hint(header: Sequence[str], delimiter: str) -> str:
    """Returns the delimiter that a header of one column shows, and its flag; or nothing."""
    if len(header) != 1:
        return ""
    other = max(_LIKELY, key=header[0].count)
    if other == delimiter or other not in header[0]:
        return ""
    given = "tab" if other == "\t" else other
    return (
        f" The columns seem to be separated by {other!r}: add --delimiter '{given}' (data.delimiter in YAML)."
    )


def _quoted(path: Path, text: str, delimiter: str) -> Iterator[Fields]:
    """Yields the records; blank lines are skipped, quoted fields may span lines."""
    old_limit = csv.field_size_limit(min(max(len(text) + 1, csv.field_size_limit()), 2**31 - 1))
    start = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: the record that starts here is not well-formed CSV ({error}). A quote inside a "
            "quoted field is written twice, and every quote that is opened must be closed."
            f"{_delimiter_hint(text.lstrip().splitlines()[:1], delimiter)}"
        ) from error
    finally:
        csv.field_size_limit(old_limit)


def _tabs(path: Path, text: str) -> Iterator[Fields]:
    """Tab separated text comes with quoting (spreadsheets) and without (GLUE); this tells the two apart.

    If every line by itself has as many fields as the header, then quotes are quoting only where *every* field that
    starts with a quote is one complete quoted field; else they are characters like any other, and a leading quote
    cannot swallow rows. If the lines do not fit the header, some field must span lines: read as quoted. A field that
    spans lines *and* holds tabs has swallowed rows: then the lines as they are show which of them is broken.
    """
    lines = [(number, line.split("\t")) for number, line in enumerate(plain_lines(text), 1) if line]
    if len({len(fields) for _, fields in lines}) > 1:
        try:
            records = list(_quoted(path, text, "\t"))
        except DataError:
            records = lines
        swallowed = any("\n" in field and "\t" in field for _, fields in records for field in fields)
        yield from lines if swallowed else records
        return
    quoted = '"' in text and all(
        _QUOTED_FIELD.fullmatch(field) for _, fields in lines for field in fields if field.startswith('"')
    )
    for number, fields in lines:
        if quoted:
            fields = [f[1:-1].replace('""', '"') if f.startswith('"') else f for f in fields]
        yield number, fields


# --- JSON


def _json(path: Path, columns: Sequence[str], optional: Sequence[str], encoding: str | None) -> Rows:
    """Reads JSON lines, or an array in a .json file; a key left out in some rows is None there."""
    content = read_text(path, encoding)
    text = content.text
    is_array = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    places: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in (*columns, *optional)}
    seen: dict[str, None] = {}  # an ordered set
    for place, record in _array(path, text) if is_array else _objects(path, text):
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, line {place}: expected a JSON object like {{"text": ...}}, found {record!r:.60}.'
            )
        places.append(place)
        seen.update(dict.fromkeys(record))
        for name, column in values.items():
            column.append(record.get(name))
    if not places:
        raise DataError(f"{path} is empty: it has no rows.")
    require_columns(str(path), list(seen), columns)
    kept = {name: column for name, column in values.items() if name in seen}
    types: dict[str, ColumnType] = {name: type_of_values(column) for name, column in kept.items()}
    return Rows(str(path), "line", kept, types, {}, places, content.notes)


def _objects(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            with _Explained(path, number):
                value = json.loads(line)
            yield number, value


def _array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
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
        yield number, value
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
        line = self.line
        if isinstance(error, json.JSONDecodeError):
            line = line if error.lineno == 1 else error.lineno
            why = f"not valid JSON ({error.msg}, column {error.colno})"
        elif isinstance(error, ValueError):  # of more than 4,300 digits
            why = "a number with more digits than can be read. As a text it needs quotation marks"
        elif isinstance(error, RecursionError):
            why = "lists or objects too deep within one another to be read"
        else:
            return
        raise DataError(f"{self.path}, line {line}: {why}.") from error
