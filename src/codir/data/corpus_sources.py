"""The texts of a corpus: which files there are, what is in them, and their documents one by one."""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from codir.data.encodings import encoding_of
from codir.data.reading import from_hub, require_columns, text_fault
from codir.errors import ConfigError, DataError, nearest
from codir.files import file_digest

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS = ("auto", "line", "blank", "heading", "file")
_KINDS: dict[str, Literal["jsonl", "parquet"]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_TEXT = (".txt", ".text", ".md", ".raw", ".tokens")
# Endings that would be read as plain text and give nonsense.
_REFUSED = (".csv", ".tsv", ".json", ".html", ".xml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar")
# WikiText's mark of a new article: " = Title = " (sections have "= =").
_HEADING = re.compile(r"\s*= (?!=)\S.*(?<!=) =\s*")
_SAMPLE = 1 << 18
_CHOOSE = " Choose with --text."


@dataclass
class Source:
    """One input as it was found."""

    name: str  # as the user gave it, or found in a folder
    path: str  # the file, or the id of a Hub data set
    kind: Literal["text", "jsonl", "parquet", "rows"]  # `rows` are those of a data set
    bytes: int = 0  # about how much text there is in it
    digest: str = ""  # 128-bit xxHash of a file, the fingerprint of a data set
    documents: str | None = None  # what separates documents in a text file
    encoding: str = "utf-8"
    skipped: str | None = None  # why it is left out, if it is
    data: Dataset | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest says about it."""
        facts = {"name": self.name, "kind": self.kind, "bytes": self.bytes, "xxh3_128": self.digest}
        facts |= {"documents": self.documents} if self.documents else {}
        return facts | ({"encoding": self.encoding} if not self.encoding.startswith("utf-8") else {})


class Document(NamedTuple):
    """A document: its text, where it stands, and what is wrong with it, if anything is (the text is then empty)."""

    text: str
    place: str
    fault: str = ""


def find_sources(inputs: Sequence[str], text: str) -> list[Source]:
    """Returns what is behind the inputs, in their order, each once; no text is read yet.

    Args:
        inputs: files, folders (searched for known endings), patterns (`wiki/**/*.txt`), data sets saved by `datasets`,
            or Hub data sets: `owner/name`, `owner/name:split`, `owner/name:config:split`.
        text: column of the text.

    Raises:
        ConfigError: there is no input.
        DataError: an input that does not exist, has an ending that cannot be read, or lacks the column.
    """
    if not inputs:
        raise ConfigError("There is no input: give at least one file, folder or Hub data set (--input).")
    found: dict[str, Source] = {}
    for each in inputs:
        path = Path(each).expanduser()
        if path.is_dir() and (path / "dataset_info.json").is_file():
            from datasets import Dataset

            found.setdefault(str(path.resolve()), _data_set(each, Dataset.load_from_disk(str(path)), text))
            continue
        if path.is_dir():
            files = [at for at in sorted(path.rglob("*")) if at.suffix.lower() in (*_KINDS, *_TEXT)]
            files = [at for at in files if not any(p.startswith(".") for p in at.relative_to(path).parts)]
        elif path.exists():
            files = [path]
        elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+){0,2}", each):
            repository, *rest = each.split(":")
            split, config = rest[-1] if rest else "train", rest[0] if len(rest) == 2 else None
            found.setdefault(each, _data_set(each, from_hub(repository, config, split), text))
            continue
        else:
            files = sorted(map(Path, glob.glob(each, recursive=True)))
        if not files:
            hint = nearest(path.name, [entry.name for entry in path.parent.glob("*")])
            raise DataError(f"Cannot read {each}: no file with text is there{hint} ({', '.join((*_TEXT, *_KINDS))}).")
        for file in filter(Path.is_file, files):
            ending, place = file.suffix.lower(), str(file.resolve())
            if ending in _REFUSED:
                raise DataError(
                    f"{file}: a corpus cannot be read from {ending!r} files. Give .txt, .jsonl or .parquet."
                )
            found.setdefault(place, Source(str(file), place, _KINDS.get(ending, "text"), file.stat().st_size))
    return list(found.values())


def _data_set(name: str, data: Dataset, text: str) -> Source:
    _require_text(name, text, data.features.arrow_schema)
    data = data.select_columns([text])
    return Source(name, name, "rows", data.data.nbytes, data._fingerprint, data=data)


def _require_text(name: str, text: str, schema: Any) -> None:
    require_columns(name, schema.names, [text], _CHOOSE)
    if "string" not in str(schema.field(text).type):
        raise DataError(f"{name}: the column {text!r} holds {schema.field(text).type}, not text.")


def scan(source: Source, text: str, documents: str, encoding: str | None = None) -> Source:
    """Looks a source over once: fills in its digest, encoding and separation of documents, or why it is skipped.

    Args:
        source: to be looked over.
        text: column of the text.
        documents: what separates documents in a text file, or `auto`.
        encoding: of text files that are not UTF-8; None: such a file is skipped.

    Raises:
        DataError: the column is missing, or its values are no text.
    """
    if source.data is not None:
        source.skipped = None if len(source.data) else "no rows"
        return source
    source.digest = file_digest(source.path)
    if not source.bytes:
        source.skipped = "empty file"
    elif source.kind == "parquet":
        _scan_parquet(source, text)
    else:
        try:
            source.encoding = encoding_of(Path(source.path), encoding)
        except DataError as error:
            source.skipped = str(error).removeprefix(source.path).lstrip(", ")
            return source
        if source.kind == "jsonl":
            _require_key(source, text)
        elif documents == "auto":
            with open(source.path, encoding=source.encoding, newline="\n") as file:
                source.documents = decide_documents(file.read(_SAMPLE))
        else:
            source.documents = documents
    return source


def _scan_parquet(source: Source, text: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError) as error:
        source.skipped = f"no readable Parquet file ({error})"[:200]
        return
    _require_text(source.name, text, schema)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    source.bytes = sum(each.total_uncompressed_size for each in columns if each.path_in_schema == text)
    source.skipped = None if metadata.num_rows else "no rows"


def _require_key(source: Source, text: str) -> None:
    """Raises `DataError` if none of the first JSON records has the column."""
    keys: dict[str, None] = {}
    for _, line in itertools.islice(_lines(source), 100):
        record = _loaded(line)
        keys.update(dict.fromkeys(record if isinstance(record, dict) else ()))
    if keys:
        require_columns(source.name, list(keys), [text], _CHOOSE)


def decide_documents(sample: str) -> str:
    """Tells from the beginning of a text file how its documents are separated.

    In this order: WikiText's headings; hard-wrapped lines (short, most of them in the middle of a sentence) are one
    document, since nothing tells a paragraph from a document there; groups of several lines between blank lines
    are a document each; else every line is one.
    """
    lines = [line.rstrip() for line in sample.split("\n")]
    if any(map(_HEADING.fullmatch, lines)) and any("= = " in line for line in lines):
        return "heading"
    followed = [line for line, following in itertools.pairwise(lines) if line and following]
    if len(followed) <= 0.2 * sum(map(bool, lines)) or all(lines[:-1]):
        return "file" if len(followed) >= 20 and _is_wrapped(followed) else "line"
    return "file" if _is_wrapped(followed) else "blank"


def _is_wrapped(followed: list[str]) -> bool:
    """Says whether lines that another line follows break off in mid-sentence and at a margin."""
    if not followed:
        return False
    lengths = sorted(map(len, followed))
    margin, middle = lengths[len(lengths) * 19 // 20], lengths[len(lengths) // 2]
    ended = sum(line[-1] in ".!?…\"'”’。！？" for line in followed)
    return 40 <= margin <= 100 and middle >= 0.75 * margin and ended <= 0.5 * len(followed)


def read_documents(source: Source, text: str) -> Iterator[Document]:
    """Yields the documents of a source in their order; rows without a usable text with what is wrong with them.

    Raises:
        DataError: the file is gone or no longer what it was.
    """
    import pyarrow as pa

    try:
        if source.kind == "text":
            yield from _plain(source)
        elif source.kind == "jsonl":
            for number, line in _lines(source):
                if line.strip():
                    record = _loaded(line)
                    value = record.get(text) if isinstance(record, dict) else None
                    fault = text_fault(value) if isinstance(record, dict) else "not a JSON object"
                    yield _document(value, f"{source.name}, line {number}", fault)
        else:
            values = (value for batch in _batches(source, text) for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, 1):
                yield _document(value, f"{source.name}, row {number}", text_fault(value))
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise DataError(f"{source.name} cannot be read to its end any more: {error}") from error


def _document(value: Any, place: str, fault: str) -> Document:
    return Document("", place, fault.split(" but ")[0]) if fault else Document(value.strip(), place)


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    with open(source.path, encoding=source.encoding, newline="\n") as file:
        yield from enumerate(file, 1)


def _plain(source: Source) -> Iterator[Document]:
    mode, held, first = source.documents, [], 0
    for number, line in itertools.chain(_lines(source), [(0, None)]):
        blank = line is None or not line.strip()
        ended = blank if mode == "blank" else mode == "heading" and _HEADING.fullmatch(line or "")
        if held and (line is None or ended or mode == "line"):
            yield Document("".join(held).strip(), f"{source.name}, line {first}")
            held = []
        if line is not None and (held or not blank):
            first = first if held else number
            held.append(line)


def _batches(source: Source, text: str) -> Iterator[Any]:
    if source.data is not None:
        yield from source.data.with_format("arrow").iter(256)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        yield from file.iter_batches(batch_size=256, columns=[text])
