"""Reads the named columns of a file; the ending of its name says how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codir.data.decoding import plain_lines, read_text, require_file
from codir.data.delimited import read_delimited
from codir.data.delimiters import require_delimiter
from codir.data.json_files import read_json
from codir.data.rows import Rows, arrow_rows, require_columns
from codir.errors import DataError

__all__ = ["DELIMITERS", "FORMATS", "Rows", "read_lines", "read_rows"]

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet", ".txt")


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
        return read_delimited(path, columns, separator, optional, encoding)
    if ending in (".jsonl", ".ndjson", ".json"):
        return read_json(path, columns, optional, encoding)
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
    lines = plain_lines(content.text)
    return Rows(str(path), "line", {column: lines}, {column: "text"}, notes=content.notes)


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
