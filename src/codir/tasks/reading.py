"""Reads tabular text files so that every complaint can name the file and the line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.errors import DataError, nearest
from codir.tasks.column_types import ColumnType, class_names_of, named_classes, type_of_arrow, type_of_values

if TYPE_CHECKING:
    import pyarrow

# What a reader yields: the line (or row) number, counted from 1 at the top of the file, and the values by column.
Record = tuple[int, dict[str, Any]]

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet", ".txt")


@dataclass
class Rows:
    """The wanted columns of a source, and where each row stands in it.

    Attributes:
        source: path or name of the source.
        unit: "line" for text files, "row" where there are no lines.
        places: the number of the line each row starts on, or of the row.
        values: one list for each wanted column. Where the file itself names classes, they hold these names (None for
            "no label", which is an id below zero).
        types: what the format of the file says of each column (see `codir.tasks.column_types`).
        classes: the names that the file itself gives the classes of a column, in the order of their ids; only for
            columns of the type "class".
    """

    source: str
    unit: str
    places: list[int]
    values: dict[str, list[Any]]
    types: dict[str, ColumnType]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        """Returns, for example, `train.csv, line 17`."""
        return f"{self.source}, {self.unit} {self.places[row]}"


def read_utf8(path: str | Path) -> str:
    """Returns the text of a UTF-8 file, without a byte order mark and with its line ends as they are.

    Raises:
        DataError: there is no such file, it is empty, or a byte is not UTF-8 (the line is named).
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.{_neighbour(path)}") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}, line 1: the file is UTF-16. Save it as UTF-8.")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise DataError(f"{path} is empty.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8. Convert the file, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from error


def _neighbour(path: Path) -> str:
    """Returns a hint at a file of a similar name in the same folder, or nothing."""
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return ""


def plain_lines(text: str) -> list[str]:
    """Splits at line feeds only (other Unicode line separators are text) and drops the carriage returns before them."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def read_rows(
    path: str | Path, columns: Sequence[str], delimiter: str | None = None, optional: Sequence[str] = ()
) -> Rows:
    """Reads the named columns of a CSV, TSV, JSON lines, JSON or Parquet file; the ending of its name decides.

    Args:
        path: the file.
        columns: the columns to keep.
        delimiter: for CSV and TSV: overrides what the ending says.
        optional: further columns to keep, where the file has them.

    Raises:
        DataError: with the file and, where there is one, the line.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in DELIMITERS:
        rows = _collect(path, "line", _delimited(path, delimiter or DELIMITERS[ending]), columns, optional)
        return replace(rows, types=dict.fromkeys(rows.values, "text"))
    if ending in (".jsonl", ".ndjson"):
        return _collect(path, "line", _json_lines(path, read_utf8(path)), columns, optional)
    if ending == ".json":
        text = read_utf8(path)
        is_array = text.lstrip().startswith("[")
        return _collect(
            path, "line", (_json_array if is_array else _json_lines)(path, text), columns, optional
        )
    if ending == ".parquet":
        return _parquet(path, columns, optional)
    if ending == ".txt":
        raise DataError(
            f"{path}: a plain text file has no columns, so it cannot hold labels. Use {', '.join(FORMATS[:-1])}."
        )
    raise DataError(
        f"{path}: the ending {ending or '(none)'!r} is not one codir can read. Use {', '.join(FORMATS)}."
    )


def require_columns(source: str, have: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises `DataError` naming the source, the missing column, those it has, and the nearest."""
    for name in wanted:
        if name not in have:
            shown = ", ".join(repr(column) for column in have[:30]) + (", ..." if len(have) > 30 else "")
            hint = ""
            if len(have) == 1 and ";" in have[0]:
                hint = " The columns seem to be separated by ';': pass that as the delimiter."
            raise DataError(f"{source} has no column {name!r}{nearest(name, have)}. It has {shown}.{hint}")


def _collect(
    path: Path, unit: str, records: Iterable[Record], columns: Sequence[str], optional: Sequence[str]
) -> Rows:
    """Gathers the wanted columns; a key that only some JSON records have is None in the others."""
    places: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in (*columns, *optional)}
    seen: dict[str, None] = {}  # an ordered set
    for place, record in records:
        places.append(place)
        seen.update(dict.fromkeys(record))
        for name, column in values.items():
            column.append(record.get(name))
    if not places:
        raise DataError(f"{path} is empty: it has no rows.")
    require_columns(str(path), list(seen), columns)
    kept = {name: column for name, column in values.items() if name in seen}
    return Rows(
        str(path), unit, places, kept, {name: type_of_values(column) for name, column in kept.items()}
    )


def _delimited(path: Path, delimiter: str) -> Iterator[Record]:
    """Reads CSV (RFC 4180, strictly) or tab separated text."""
    text = read_utf8(path)
    parsed = _tabs(path, text) if delimiter == "\t" else _quoted(path, text, delimiter)
    header: list[str] | None = None
    for line, fields in parsed:
        if header is None:
            header = [name.strip() for name in fields]
            doubled = {name for name in header if header.count(name) > 1}
            if doubled:
                raise DataError(f"{path}, line {line}: the header names {sorted(doubled)} more than once.")
        elif len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} columns "
                f"({', '.join(header[:10])}). A field that holds the delimiter must be in double quotes."
            )
        else:
            yield line, dict(zip(header, fields, strict=True))
    if header is not None:
        # A file with a header only is empty, but its columns are still worth checking first
        return


def _quoted(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line the record starts on, fields); blank lines are skipped, quoted fields may span lines."""
    old_limit = csv.field_size_limit(min(max(len(text) + 1, csv.field_size_limit()), 2**31 - 1))
    start = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        records = []
        for fields in reader:
            if fields:
                records.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: the record that starts here is not well-formed CSV ({error}). A quote inside a "
            "quoted field is written twice, and every quote that is opened must be closed."
        ) from error
    finally:
        csv.field_size_limit(old_limit)
    yield from records


_QUOTED_FIELD = re.compile(r'"(?:[^"]|"")*"')


def _tabs(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
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
    quoted = all(
        _QUOTED_FIELD.fullmatch(field) for _, fields in lines for field in fields if field.startswith('"')
    )
    for number, fields in lines:
        if quoted:
            fields = [f[1:-1].replace('""', '"') if f.startswith('"') else f for f in fields]
        yield number, fields


def _json_lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(plain_lines(text), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno})."
                ) from error
            yield number, _record(path, number, value)


def _json_array(path: Path, text: str) -> Iterator[Record]:
    """Decodes the elements of a JSON array one by one, to know the line each starts on."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")

    def skip(position: int) -> int:
        match = space.match(text, position)
        return match.end() if match else position

    position, number, counted = skip(skip(0) + 1), 1, 0
    while text[position : position + 1] != "]":
        number += text.count("\n", counted, position)
        counted = position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from error
        yield number, _record(path, number, value)
        position = skip(position)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
        elif text[position : position + 1] != "]":
            line = text.count("\n", 0, position) + 1
            raise DataError(
                f"{path}, line {line}: not valid JSON (a comma or the closing bracket is missing)."
            )


def _record(path: Path, number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{path}, line {number}: expected a JSON object like {{"text": ...}}, found {value!r:.60}.'
        )
    return value


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        require_columns(str(path), schema.names, columns)
        names = [name for name in dict.fromkeys((*columns, *optional)) if name in schema.names]
        table = pyarrow.parquet.read_table(path, columns=names)
    except FileNotFoundError as error:
        raise DataError(f"Cannot read {path}: no such file.{_neighbour(path)}") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} is empty: it has no rows.")
    return arrow_rows(str(path), table)


def arrow_rows(source: str, table: pyarrow.Table) -> Rows:
    """Returns the rows of an Arrow table, with the types and class names of its schema.

    Raises:
        DataError: a column of classes holds a number that is not one of them.
    """
    values: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    types: dict[str, ColumnType] = {field.name: type_of_arrow(field.type) for field in table.schema}
    rows = Rows(source, "row", list(range(1, table.num_rows + 1)), values, types)
    for name, names in class_names_of(table.schema).items():
        if types[name] != "integer":
            continue
        try:
            values[name] = named_classes(values[name], names)
        except IndexError as error:
            row, number = error.args
            raise DataError(
                f"{rows.place(row)}: the column {name!r} holds the class {number}, and the file names {len(names)} "
                f"classes ({', '.join(names[:20])}), counted from 0."
            ) from error
        types[name], rows.classes[name] = "class", names
    return rows
