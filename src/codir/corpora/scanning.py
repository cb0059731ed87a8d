"""Looks a source over once: its digest, whether it is text, how its documents are separated."""

from __future__ import annotations

import codecs
import itertools
import json
from typing import Any

import xxhash

from codir.corpora.planning import column_bytes
from codir.corpora.sources import HEADING, Documents, Source, no_column
from codir.errors import DataError
from codir.storage import file_digest

_SAMPLE = 1 << 18
_CHUNK = 1 << 22


def scan(source: Source, text: str, documents: str) -> Source:
    """Fills in a source's digest, its separation of documents and its size, or why it is skipped.

    Raises:
        DataError: the column is missing, or its values are no text.
    """
    if not source.bytes:
        source.skipped = "empty file"
    elif source.kind == "parquet":
        _scan_parquet(source, text)
    elif source.kind == "arrow":
        _scan_arrow(source, text)
    else:
        source.text_bytes = source.bytes
        _scan_text(source)
        if source.skipped is None and source.kind == "jsonl":
            _check_records(source, text)
        if source.skipped is None and source.kind == "text":
            source.documents = decide_documents(_sample(source)) if documents == "auto" else documents  # type: ignore[assignment]
    return source


def _scan_text(source: Source) -> None:
    digest, decoder = xxhash.xxh3_128(), codecs.getincrementaldecoder("utf-8")()
    position = 0
    with open(source.path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            digest.update(chunk)
            if not position and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                source.skipped = "UTF-16, not UTF-8"
                return
            if (zero := chunk.find(b"\0")) >= 0:
                source.skipped = f"binary (a zero byte at {position + zero:,})"
                return
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = position - held + error.start
                byte = error.object[error.start]
                source.skipped = f"not UTF-8 (byte 0x{byte:02x} at {place:,})"
                return
            if not chunk:
                break
            position += len(chunk)
    source.digest = digest.hexdigest()


def _sample(source: Source) -> str:
    with open(source.path, "rb") as file:
        return file.read(_SAMPLE).decode("utf-8", errors="ignore").removeprefix("\ufeff")


def decide_documents(sample: str) -> Documents:
    """Tells from the beginning of a text file how its documents are separated.

    In this order: WikiText's headings; hard-wrapped lines (short, most of them in the middle of a sentence) are one
    document, since nothing tells a paragraph from a document there; groups of several lines between blank lines
    are a document each; else every line is one.
    """
    lines = [line.rstrip() for line in sample.split("\n")]
    if sum(HEADING.fullmatch(line) is not None for line in lines) >= 1 and any(
        "= = " in line for line in lines
    ):
        return "heading"
    filled = [line for line in lines if line]
    followed = [line for line, following in itertools.pairwise(lines) if line and following]
    if len(followed) <= 0.2 * len(filled) or not any(not line for line in lines[:-1]):
        hard_wrapped = len(followed) >= 20 and _is_wrapped(followed)
        return "file" if hard_wrapped else "line"
    return "file" if _is_wrapped(followed) else "blank"


def _is_wrapped(followed: list[str]) -> bool:
    """Says whether lines that another line follows break off in mid-sentence and at a margin."""
    if not followed:
        return False
    lengths = sorted(map(len, followed))
    margin, middle = lengths[len(lengths) * 19 // 20], lengths[len(lengths) // 2]
    ended = sum(line[-1] in ".!?…\"'”’。！？" for line in followed)
    return 40 <= margin <= 100 and middle >= 0.75 * margin and ended <= 0.5 * len(followed)


def _check_records(source: Source, text: str) -> None:
    """Raises `DataError` if none of the first JSON records has the column."""
    keys: dict[str, None] = {}
    with open(source.path, encoding="utf-8-sig", newline="\n") as file:
        for _, line in zip(range(100), file, strict=False):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                if text in record:
                    return
                keys.update(dict.fromkeys(record))
    if keys:
        raise no_column(source.name, text, list(keys))


def _scan_parquet(source: Source, text: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError) as error:
        source.skipped = f"no readable Parquet file ({error})"[:200]
        return
    _check_schema(source.name, text, schema)
    sizes = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    source.text_bytes = sum(column_bytes(group, text) for group in sizes)
    source.digest = file_digest(source.path)
    if not metadata.num_rows:
        source.skipped = "no rows"


def _scan_arrow(source: Source, text: str) -> None:
    import pyarrow as pa
    from datasets import Dataset

    try:
        data = Dataset.from_file(source.path)
    except (pa.ArrowException, OSError, ValueError) as error:
        source.skipped = f"no readable Arrow file ({error})"[:200]
        return
    _check_schema(source.name, text, data.data.schema)
    source.text_bytes = source.bytes
    source.digest = file_digest(source.path)
    if not len(data):
        source.skipped = "no rows"


def _check_schema(name: str, text: str, schema: Any) -> None:
    import pyarrow as pa

    if text not in schema.names:
        raise no_column(name, text, schema.names)
    kind = schema.field(text).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise DataError(f"{name}: the column {text!r} holds {kind}, not text.")
