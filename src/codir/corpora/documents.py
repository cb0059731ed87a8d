"""Reads the documents of a part of a source, without ever holding the whole of it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from codir.corpora.planning import Part
from codir.corpora.sources import HEADING, Source
from codir.errors import DataError

_READ = 1 << 20
_SEGMENT = 1 << 16


@dataclass(frozen=True)
class End:
    """The text of a document is over.

    Attributes:
        row: number of the row it came from, counted from the part's beginning; for messages.
    """

    row: int


@dataclass(frozen=True)
class Bad:
    """A row that is no document: why, and where it is (counted from the part's beginning)."""

    reason: str
    row: int


Event = str | End | Bad


def read_documents(source: Source, part: Part, text: str) -> Iterator[Event]:
    """Yields the segments of each document, then its `End`; rows without a usable text are `Bad`.

    Raises:
        DataError: the file is gone or no longer what it was.
    """
    try:
        if source.kind == "text":
            yield from _plain(source, part)
        elif source.kind == "jsonl":
            yield from _json(source, part, text)
        else:
            yield from _columns(source, part, text)
    except OSError as error:
        raise DataError(f"Cannot read {source.name}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source.name} was changed while it was read: it is no longer {source.encoding.upper()}."
        ) from error


def place(source: Source, part: Part, row: int) -> str:
    """Returns where a row stands: `articles.jsonl, line 17`."""
    if source.kind in ("text", "jsonl"):
        with open(source.path, "rb") as file:
            left, lines = part.begin, 1
            while left and (chunk := file.read(min(_READ, left))):
                lines += chunk.count(b"\n")
                left -= len(chunk)
        return f"{source.name}, line {lines + row}"
    if source.kind == "arrow":
        return f"{source.name}, row {part.begin + row + 1}"
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        before = sum(file.metadata.row_group(group).num_rows for group in range(part.begin))
    return f"{source.name}, row {before + row + 1}"


def _pieces(source: Source, part: Part) -> Iterator[tuple[str, bool, bool]]:
    """Yields (text, whether it begins a line, whether it ends one): lines, the very long ones in pieces."""
    decoder = codecs.getincrementaldecoder(source.encoding)()
    left, begins = part.end - part.begin, True
    with open(source.path, "rb") as file:
        file.seek(part.begin)
        while left and (raw := file.readline(min(_READ, left))):
            left -= len(raw)
            ends = raw.endswith(b"\n") or not left
            text = decoder.decode(raw, final=ends)
            if part.begin == 0 and left + len(raw) == part.end:
                text = text.removeprefix("\ufeff")
            yield text, begins, ends
            begins = ends


def _plain(source: Source, part: Part) -> Iterator[Event]:
    mode = source.documents
    held: list[str] = []  # short lines are handed on together
    size, anything, blank, row = 0, False, True, 0
    for text, begins, ends in _pieces(source, part):
        if mode == "heading" and anything and begins and HEADING.fullmatch(text):
            yield "".join(held)
            yield End(row)
            held, size, anything = [], 0, False
        held.append(text)
        size += len(text)
        empty = not text.strip()
        blank = empty and (blank or begins)
        anything = anything or not empty
        over = ends and anything and (mode == "line" or (mode == "blank" and blank))
        if over or size >= _SEGMENT:
            if anything:
                yield "".join(held)
            held, size = [], 0
        if over:
            yield End(row)
            anything = False
        row += ends
    if anything:
        yield "".join(held)
        yield End(row)


def _json(source: Source, part: Part, text: str) -> Iterator[Event]:
    held: list[str] = []
    row = 0
    for piece, _, ends in _pieces(source, part):
        held.append(piece)
        if not ends:
            continue
        line, held = "".join(held), []
        if line.strip():
            yield from _row(_value(line, text), row)
        row += 1


def _value(line: str, text: str) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Bad("not valid JSON", 0)
    if not isinstance(record, dict):
        return Bad("not a JSON object", 0)
    return record.get(text)


def _row(value: Any, row: int) -> Iterator[Event]:
    if isinstance(value, Bad):
        yield Bad(value.reason, row)
    elif value is None:
        yield Bad("no text", row)
    elif not isinstance(value, str):
        yield Bad("not a text", row)
    elif not value.strip():
        yield Bad("empty", row)
    elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        yield Bad("not valid Unicode", row)  # JSON can spell half a surrogate pair, which nothing can encode
    else:
        yield value
        yield End(row)


def _columns(source: Source, part: Part, text: str) -> Iterator[Event]:
    import pyarrow as pa

    try:
        row = 0
        for batch in _batches(source, part, text):
            for value in batch.column(0).to_pylist():
                yield from _row(value, row)
                row += 1
    except pa.ArrowException as error:
        raise DataError(f"{source.name} cannot be read to its end: {error}") from error


def _batches(source: Source, part: Part, text: str) -> Iterator[Any]:
    if source.kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(source.path) as file:
            groups = list(range(part.begin, part.end))
            yield from file.iter_batches(batch_size=256, row_groups=groups, columns=[text])
    else:
        from datasets import Dataset

        table = Dataset.from_file(source.path).data.table.select([text])
        yield from table.slice(part.begin, part.end - part.begin).to_batches(max_chunksize=256)
