"""Reads CSV and tab separated text: whole columns at once, and row by row where something is wrong or unusual.

What is plain goes through Arrow's reader, a hundred times as fast. What that one would read otherwise than RFC 4180
says, and all that is broken, is read by Python's, which knows the line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codir.data.decoding import Decoded, plain_lines, read_text
from codir.data.delimiters import delimiter_hint
from codir.data.rows import Rows, compute, require_columns
from codir.errors import DataError

if TYPE_CHECKING:
    import pyarrow

Fields = tuple[int, list[str]]
"""The line a record starts on, counted from 1, and its fields."""

_QUOTE, _LINE_ENDS = ord('"'), (ord("\n"), ord("\r"))
_QUOTED_FIELD = r'"(?:[^"]|"")*"'
_SAYS_DELIMITER = re.compile(rb'"?sep=([\t -~])"?(?=\r?\n)', re.IGNORECASE)
_BLOCK = 1 << 24


def read_delimited(
    path: Path,
    columns: Sequence[str],
    delimiter: str,
    optional: Sequence[str] = (),
    encoding: str | None = None,
) -> Rows:
    """Reads the named columns of CSV (RFC 4180, strictly) or tab separated text.

    Columns without a name, as spreadsheets export them, are passed over: those without content, and those with
    something in every row (a row number). One with something in some rows only is more likely a text that was cut.

    Raises:
        DataError: with the line, where there is one.
    """
    content, delimiter = _read(path, encoding, delimiter)
    header, table = _fast(content.utf8, delimiter) or _slow(path, content.text, columns, delimiter)
    header = _require_header(path, header, columns, delimiter)
    if not table or not len(table[0]):
        raise DataError(f"{path} is empty: it has no rows.")

    def find_places() -> list[int]:
        return [line for line, _ in _records(path, _read(path, encoding, delimiter)[0].text, delimiter)][1:]

    named = {name: header.index(name) for name in (*columns, *optional) if name in header}
    kept = {name: table[number] for name, number in named.items()}
    rows = Rows(str(path), "line", kept, dict.fromkeys(kept, "text"), {}, find_places, content.notes)
    for number, name in enumerate(header):
        if not name:
            _require_all_or_none(rows, table[number], number)
    return rows


def _read(path: Path, encoding: str | None, delimiter: str) -> tuple[Decoded, str]:
    """Returns a file's content and its delimiter, which it may name itself: `sep=;` is a spreadsheet's first line."""
    content = read_text(path, encoding)
    if (said := _SAYS_DELIMITER.match(content.utf8)) is not None:
        content.utf8 = content.utf8[
            said.end() :
        ]  # the end of the line stays, so that lines keep their numbers
        if (found := said[1].decode()) != delimiter:
            content.notes.append(f"{path} is read with {found!r} between fields, as its first line says.")
        return content, found
    return content, delimiter


def _require_header(path: Path, header: Sequence[str], columns: Sequence[str], delimiter: str) -> list[str]:
    """Returns the names of the columns without blanks around them, after a look at those that are wanted."""
    names = [name.strip() for name in header]
    require_columns(str(path), [name for name in names if name], columns, delimiter_hint(names, delimiter))
    if doubled := sorted({name for name in columns if names.count(name) > 1}):
        raise DataError(f"{path}, line 1: the header names {doubled} more than once.")
    return names


def _require_all_or_none(rows: Rows, column: pyarrow.ChunkedArray, number: int) -> None:
    pc = compute()

    filled = pc.not_equal(pc.utf8_trim_whitespace(column), "").to_numpy(zero_copy_only=False)
    if filled.any() and not filled.all():
        row = int(np.flatnonzero(filled)[0])
        raise DataError(
            f"{rows.place(row)}: {column[row].as_py()!r:.60} stands in column {number + 1}, which has no name in the "
            "header and is empty in other rows. Name the column; a text that holds the delimiter belongs in double "
            "quotes."
        )


def _fast(raw: bytes, delimiter: str) -> tuple[list[str], list[pyarrow.ChunkedArray]] | None:
    """Returns the header and all columns of a file that Arrow reads as RFC 4180 says; None for every other one."""
    import pyarrow as pa
    import pyarrow.csv

    start = re.search(rb"[^\r\n]", raw)
    if start is None or not delimiter.isascii() or raw.count(b"\r") != raw.count(b"\r\n"):
        return None
    line = raw[start.start() : raw.find(b"\n", start.start()) % (len(raw) + 1)].decode().rstrip("\r")
    tabs, quotes = delimiter == "\t", b'"' in raw
    if quotes and not tabs and not _well_quoted(raw, ord(delimiter)):
        return None
    try:
        header = line.split("\t") if tabs else next(csv.reader([line], delimiter=delimiter, strict=True))
        names = [str(number) for number in range(len(header))]
        table = pyarrow.csv.read_csv(
            pa.BufferReader(raw),
            pyarrow.csv.ReadOptions(column_names=names, block_size=_BLOCK),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes and not tabs else False,
                newlines_in_values=quotes and not tabs,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except (pa.ArrowException, csv.Error):
        return None
    columns = table.columns
    if tabs and quotes:
        columns = _unquoted(columns)
    return [column[0].as_py() for column in columns], [column.slice(1) for column in columns]


def _well_quoted(raw: bytes, delimiter: int) -> bool:
    """Whether every quote opens a field, closes one, or is one of two inside of a field.

    Quotes are then opening and closing in turns. An opening one stands at the beginning of a field or right behind a
    closing one (the two are a quote in the text); a closing one at the end of a field or right before an opening one.
    """
    data = np.frombuffer(raw, dtype=np.uint8)
    places = np.flatnonzero(data == _QUOTE)
    if len(places) % 2:
        return False
    opening, closing = places[::2], places[1::2]
    between = np.zeros(256, dtype=bool)
    between[[delimiter, *_LINE_ENDS]] = True
    doubled = np.append(opening[1:] == closing[:-1] + 1, False)
    opens = between[data[np.maximum(opening - 1, 0)]] | (opening == 0) | np.roll(doubled, 1)
    closes = between[data[np.minimum(closing + 1, len(data) - 1)]] | (closing == len(data) - 1) | doubled
    return bool(opens.all() and closes.all())


def _unquoted(columns: Sequence[pyarrow.ChunkedArray]) -> list[pyarrow.ChunkedArray]:
    """Takes the quotes off tab separated columns if every field that starts with one is a complete quoted field."""
    pc = compute()

    starts = [pc.starts_with(column, '"') for column in columns]
    whole = [pc.match_substring_regex(column, f"(?s)^{_QUOTED_FIELD}$") for column in columns]
    if not all(pc.all(pc.equal(*each)).as_py() for each in zip(starts, whole, strict=True)):
        return list(columns)
    return [
        pc.if_else(quoted, pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"'), column)
        for column, quoted in zip(columns, starts, strict=True)
    ]


def _slow(
    path: Path, text: str, wanted: Sequence[str], delimiter: str
) -> tuple[list[str], list[pyarrow.ChunkedArray]]:
    """Returns the header and all columns; raises `DataError` with the line of the first record that does not fit."""
    import pyarrow as pa

    records = _records(path, text, delimiter)
    _, header = next(records, (1, [""]))
    names = _require_header(path, header, wanted, delimiter)
    columns: list[list[str]] = [[] for _ in header]
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} columns "
                f"({', '.join(names[:10])}). A field that holds the delimiter must be in double quotes."
                f"{delimiter_hint(names, delimiter)}"
            )
        for column, value in zip(columns, fields, strict=True):
            column.append(value)
    return header, [pa.chunked_array([column], type=pa.string()) for column in columns]


def _records(path: Path, text: str, delimiter: str) -> Iterator[Fields]:
    return _tabs(path, text) if delimiter == "\t" else _quoted(path, text, delimiter)


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
            f"{delimiter_hint(text.lstrip().splitlines()[:1], delimiter)}"
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
    quoted = all(
        re.fullmatch(_QUOTED_FIELD, field) for _, fields in lines for field in fields if field.startswith('"')
    )
    for number, fields in lines:
        if quoted:
            fields = [f[1:-1].replace('""', '"') if f.startswith('"') else f for f in fields]
        yield number, fields
