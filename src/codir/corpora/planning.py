"""Divides the sources into shards, the pieces of work: whole documents, about the same amount of text in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from codir.corpora.sources import HEADING, Documents, Source

SHARD_BYTES = 4 << 20
"""Bytes of text that are one piece of work; a constant, so that the result does not depend on the workers."""

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Part:
    """A stretch of one source: bytes [begin, end) of text and JSON lines, row groups of Parquet, rows of Arrow."""

    source: int
    begin: int
    end: int


def plan_shards(sources: Sequence[Source], text: str, shard_bytes: int) -> Iterator[tuple[int, list[Part]]]:
    """Yields (bytes of text, parts) for each shard: whole documents, at least `shard_bytes` but at the end.

    The plan follows from the inputs and the constant alone. A document is never divided between shards.
    """
    parts: list[Part] = []
    size = 0
    for number, source in enumerate(sources):
        if source.skipped is not None:
            continue
        for begin, end, weight in _stretches(source, text, shard_bytes):
            parts.append(Part(number, begin, end))
            size += weight
            if size >= shard_bytes:
                yield size, parts
                parts, size = [], 0
    if parts:
        yield size, parts


def _stretches(source: Source, text: str, shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yields (begin, end, bytes of text) of the parts of a source."""
    if source.kind == "parquet":
        yield from _row_groups(source, text, shard_bytes)
    elif source.kind == "arrow":
        yield from _rows(source, shard_bytes)
    elif source.documents == "file":
        yield 0, source.bytes, source.bytes
    else:
        begin = 0
        with open(source.path, "rb") as file:
            while begin < source.bytes:
                end = source.bytes
                if begin + shard_bytes < end:
                    file.seek(begin + shard_bytes - 1)
                    end = _next_document(file, source.documents or "line", source.bytes)
                yield begin, end, end - begin
                begin = end


def _next_document(file: Any, documents: Documents, size: int) -> int:
    """Returns the offset of the first document that begins at the file's position + 1 or later."""
    while (piece := file.readline(_CHUNK)) and not piece.endswith(b"\n"):
        pass
    if documents == "line":
        return file.tell()
    fresh = True
    while piece := file.readline(_CHUNK):
        if fresh and documents == "blank" and not piece.strip():
            return file.tell()
        if fresh and documents == "heading" and HEADING.fullmatch(piece.decode("utf-8", errors="ignore")):
            return file.tell() - len(piece)
        fresh = piece.endswith(b"\n")
    return size


def _row_groups(source: Source, text: str, shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        metadata = file.metadata
    begin, size = 0, 0
    for group in range(metadata.num_row_groups):
        size += column_bytes(metadata.row_group(group), text)
        if size >= shard_bytes or group == metadata.num_row_groups - 1:
            yield begin, group + 1, size
            begin, size = group + 1, 0


def _rows(source: Source, shard_bytes: int) -> Iterator[tuple[int, int, int]]:
    from datasets import Dataset

    rows = len(Dataset.from_file(source.path))
    step = max(1, rows * shard_bytes // max(source.bytes, 1))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        yield begin, end, (end - begin) * source.bytes // rows


def column_bytes(group: Any, text: str) -> int:
    """Returns the size of a column in the metadata of a Parquet row group, before compression."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text)
