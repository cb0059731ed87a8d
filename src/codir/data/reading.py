"""Reads the named columns of CSV, tab separated, JSON and Parquet files, with the line of whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.data.encodings import plain_lines, read_text, require_file
from codir.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet", ".txt")

_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_LIKELY = (";", "\t", ",", "|")
_QUOTED_FIELD = re.compile(r'"(?:[^"]|"")*"')
_SAYS_DELIMITER = re.compile(r'"?sep=([\t -~])"?(?=\r?\n)', re.IGNORECASE)
Fields = tuple[int, list[str]]  # the line a record starts on, counted from 1, and its fields


@dataclass
class Rows:
    """The wanted columns of a source, and where each row stands in it."""

    source: str
    unit: str  # "line" for text files, "row" where there are no lines
    columns: Mapping[str, list[Any]]  # where the file itself names classes, they hold these names
    # by column, such names in the order of their ids
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: Sequence[int] = ()  # the line each row starts on; none where rows are counted

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int, source: bool = True) -> str:
        """Returns, for example, `train.csv, line 17`."""
        where = f"{self.unit} {self.places[row] if self.places else row + 1}"
        return f"{self.source}, {where}" if source else where

    def require_texts(self, column: str) -> None:
        """Raises `DataError` if a value of a column is missing, empty, or not a text; with the line of the first."""
        values = self.columns[column]
        bad = [row for row, value in enumerate(values) if text_fault(value)]
        if bad:
            more = f" (and {len(bad) - 1:,} more rows are not fit)" if len(bad) > 1 else ""
            raise DataError(
                f"{self.place(bad[0])}: the text in column {column!r} is {text_fault(values[bad[0]])}{more}. "
                "Remove or fill these rows."
            )


def text_fault(value: Any) -> str:
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


def require_delimiter(delimiter: str) -> str:
    """Returns the character that separates fields, `tab` and the like by their names; else raises `ConfigError`."""
    found = _NAMES.get(delimiter.lower(), delimiter)
    if len(found) != 1 or found in '"\r\n\0':
        raise ConfigError(
            f"The delimiter {delimiter!r:.40} is not one character (or one that has another meaning). Usual are ';', "
            "',', '|' and tab."
        )
    return found


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
    if ending == ".parquet":
        rows = _parquet(path, columns, optional)
    elif ending in DELIMITERS:
        separator = require_delimiter(delimiter) if delimiter is not None else DELIMITERS[ending]
        rows = _delimited(path, read_text(path, encoding), columns, separator, optional)
    elif ending in (".jsonl", ".ndjson", ".json"):
        rows = _json(path, read_text(path, encoding), columns, optional)
    elif ending == ".txt":
        raise DataError(
            f"{path}: a plain text file has no columns, so it cannot hold labels. Use {', '.join(FORMATS[:-1])}."
        )
    else:
        raise DataError(
            f"{path}: the ending {ending or '(none)'!r} is not one codir can read. Use {', '.join(FORMATS)}."
        )
    if rows.columns and not len(rows):
        raise DataError(f"{path} is empty: it has no rows.")
    return rows


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


# --- Parquet and other Arrow tables


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
    return arrow_rows(str(path), table)


def arrow_rows(source: str, table: pyarrow.Table) -> Rows:
    """Returns the rows of an Arrow table, with the class names that `datasets` wrote into its schema.

    Raises:
        DataError: a column of classes holds a number that is not one of them; a value is out of Python's range.
    """
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (ValueError, OverflowError, ArithmeticError) as error:
            raise DataError(f"{source}: the column {name!r} cannot be read: {error}.") from error
    rows = Rows(source, "row", columns)
    try:
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        named = {
            name: tuple(map(str, features[name]["names"]))
            for name in columns
            if features.get(name, {}).get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        named = {}  # of another writer: the numbers are then numbers
    for name, names in named.items():
        for row, number in enumerate(columns[name]):
            if number is not None and number >= len(names):
                raise DataError(
                    f"{rows.place(row)}: the column {name!r} holds the class {number}, and the file names "
                    f"{len(names)} classes ({', '.join(names[:20])}), counted from 0."
                )
        # an id below zero is that of "no label"
        columns[name] = [None if each is None or each < 0 else names[each] for each in columns[name]]
        rows.classes[name] = names
    return rows


# --- CSV and tab separated text


def _delimited(path: Path, text: str, columns: Sequence[str], delimiter: str, optional: Sequence[str]) -> Rows:
    """Reads CSV (RFC 4180, strictly) or tab separated text.

    Columns without a name, as spreadsheets export them, are passed over: those without content, and those with
    something in every row (a row number). One with something in some rows only is more likely a text that was cut.
    """
    if (said := _SAYS_DELIMITER.match(text)) is not None:  # a spreadsheet's first line: `sep=;`
        # the end of the line stays, so that lines keep their numbers
        text, delimiter = text[said.end() :], said[1]
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
    named = {name: header.index(name) for name in (*columns, *optional) if name in header}
    found = Rows(
        str(path),
        "line",
        {name: [each[at] for each in rows] for name, at in named.items()},
        places=places,
    )
    for at in (at for at, name in enumerate(header) if not name):
        filled = [row for row, fields in enumerate(rows) if fields[at].strip()]
        if filled and len(filled) < len(rows):
            raise DataError(
                f"{found.place(filled[0])}: {rows[filled[0]][at]!r:.60} stands in column {at + 1}, which has no name "
                "in the header and is empty in other rows. Name the column; a text that holds the delimiter belongs "
                "in double quotes."
            )
    return found


def _delimiter_hint(header: Sequence[str], delimiter: str) -> str:
    """Returns the delimiter that a header of one column shows, and its flag; or nothing."""
    other = max(_LIKELY, key=header[0].count) if len(header) == 1 else delimiter
    if other == delimiter or other not in header[0]:
        return ""
    given = "tab" if other == "\t" else other
    return f" The columns seem to be separated by {other!r}: add --delimiter '{given}' (data.delimiter in YAML)."


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


def _json(path: Path, text: str, columns: Sequence[str], optional: Sequence[str]) -> Rows:
    """Reads JSON lines, or an array in a .json file; a key left out in some rows is None there."""
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        unit, records = "row", dict(enumerate(_loads(path, text), 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        unit, records = "line", {number: _loads(path, line, number) for number, line in lines if line.strip()}
    seen: dict[str, None] = {}  # an ordered set
    for place, record in records.items():
        if not isinstance(record, dict):
            raise DataError(
                f'{path}, {unit} {place}: expected a JSON object like {{"text": ...}}, found {record!r:.60}.'
            )
        seen.update(dict.fromkeys(record))
    if records:
        require_columns(str(path), list(seen), columns)
    names = [name for name in dict.fromkeys((*columns, *optional)) if name in seen or not records]
    values = {name: [record.get(name) for record in records.values()] for name in names}
    return Rows(str(path), unit, values, places=list(records))


def _loads(path: Path, text: str, line: int | None = None) -> Any:
    place = path if line is None else f"{path}, line {line}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line or error.lineno}"
        raise DataError(f"{where}: not valid JSON ({error.msg}, column {error.colno}).") from error
    except ValueError as error:  # of more than 4,300 digits
        raise DataError(
            f"{place}: a number with more digits than can be read. As a text it needs quotation marks."
        ) from error
    except RecursionError as error:
        raise DataError(f"{place}: lists or objects too deep within one another to be read.") from error
