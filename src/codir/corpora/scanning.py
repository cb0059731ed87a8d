"""Looks a source over once: its digest, whether it is text, how its documents are separated."""

from __future__ import annotations

import codecs
import itertools
import json
from typing import Any

import xxhash

from codir.corpora.planning import column_bytes
from codir.corpora.sources import HEADING, Documents, Source, no_column
from codir.data.detection import detect, mixture, without_mark
from codir.errors import DataError
from codir.storage import file_digest

_SAMPLE = 1 << 18
_CHUNK = 1 << 22


def scan(source: Source, text: str, documents: str, encoding: str | None = None) -> Source:
    """Fills in a source's digest, its separation of documents and its size, or why it is skipped.

    Args:
        source: to be looked over.
        text: column of the text.
        documents: what separates documents in a text file, or `auto`.
        encoding: of a text file that is not UTF-8; None: such a file is skipped, and what it looks like is said.

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
        _scan_text(source, encoding)
        if source.skipped is None and source.kind == "jsonl":
            _check_records(source, text)
        if source.skipped is None and source.kind == "text":
            source.documents = decide_documents(_sample(source)) if documents == "auto" else documents  # type: ignore[assignment]
    return source


def _scan_text(source: Source, encoding: str | None) -> None:
    """Fills in digest and encoding: UTF-8 where the whole file is, else the given one."""
    if (wide := _wide(_head(source))) is not None:
        source.skipped = f"{wide.upper()}, not UTF-8: `{conversion(wide)}`"
        return
    reason, place = _read_through(source, "utf-8")
    if reason is None or place is None:
        source.skipped = reason
        return
    raw = _around(source, place)
    fit, lines = mixture(raw)
    if 3 * fit >= lines:
        source.skipped = (
            f"{reason}, though {fit:,} of {lines:,} lines around it are: no one encoding reads them all"
        )
        return
    if encoding is not None:
        source.encoding = encoding
        reason, place = _read_through(source, encoding)
    if place is not None:
        found, _ = detect(raw)
        reason = f"{reason}: it looks like {found}, add --encoding {found}" if found else reason
    source.skipped = reason


def _read_through(source: Source, encoding: str) -> tuple[str | None, int | None]:
    """Fills in the digest; returns why a file cannot be read in an encoding, and where a byte does not fit it."""
    digest, decoder = xxhash.xxh3_128(), codecs.getincrementaldecoder(encoding)()
    position = 0
    with open(source.path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            digest.update(chunk)
            if (zero := chunk.find(b"\0")) >= 0:
                return f"binary (a zero byte at {position + zero:,})", None
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = position - held + error.start
                byte = error.object[error.start]
                return f"not {encoding.upper()} (byte 0x{byte:02x} at {place:,})", place
            if not chunk:
                break
            position += len(chunk)
    source.digest = digest.hexdigest()
    return None, None


def conversion(encoding: str) -> str:
    """Returns the command that makes UTF-8 of text in UTF-16 or UTF-32."""
    name = encoding.upper().replace("_", "-").replace("-LE", "LE").replace("-BE", "BE")
    return f"iconv -f {name} -t UTF-8 OLD > NEW"


def _head(source: Source) -> bytes:
    with open(source.path, "rb") as file:
        return file.read(_SAMPLE)


def _around(source: Source, place: int) -> bytes:
    """Returns the text around a byte, from the beginning of a line."""
    with open(source.path, "rb") as file:
        file.seek(begin := max(0, place - _CHUNK))
        raw = file.read(2 * _CHUNK)
    return raw[raw.find(b"\n", 0, place - begin) + 1 :] if begin else raw


def _wide(head: bytes) -> str | None:
    """Returns UTF-16 or UTF-32 if text is in it, by its mark or by its zero bytes; a picture has those, too."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    name = without_mark(head) if head.count(0) > len(head) / 4 else None
    letters = head[: len(head) // 4 * 4].decode(name, "replace") if name else ""
    shown = sum(letter.isprintable() or letter.isspace() for letter in letters)
    return name if name and shown > 0.95 * len(letters) else None


def _sample(source: Source) -> str:
    return _head(source).decode(source.encoding, errors="ignore").removeprefix("\ufeff")


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
    with open(source.path, encoding=source.encoding, newline="\n") as file:
        for _, line in zip(range(100), file, strict=False):
            try:
                record = json.loads(line.removeprefix("\ufeff"))
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
