"""The texts of a corpus: which files there are, what is in them, and their documents one by one."""

from __future__ import annotations

import codecs
import glob
import itertools
import json
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from codir.data.encodings import detect, fault, mixture, without_mark
from codir.data.reading import from_hub
from codir.errors import ConfigError, DataError, nearest
from codir.files import file_digest

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS = ("auto", "line", "blank", "heading", "file")
_KINDS: dict[str, Literal["jsonl", "parquet"]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_TEXT = (".txt", ".text", ".md", ".raw", ".tokens")
# Endings that would be read as plain text and give nonsense.
_REFUSED = (".csv", ".tsv", ".json", ".html", ".xml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar")
# WikiText's mark of a new article: " = Title = " (sections have "= =").
_HEADING = re.compile(r"\s*= (?!=)\S.*(?<!=) =\s*")
_SAMPLE = 1 << 18
_AROUND = 1 << 22


@dataclass
class Source:
    """One input as it was found.

    Attributes:
        name: as the user gave it, or found in a folder.
        path: the file, or the id of a Hub data set.
        kind: how it is read; `rows` are those of a data set.
        bytes: about how much text there is in it.
        digest: 128-bit xxHash of a file, the fingerprint of a data set.
        documents: what separates documents in a text file.
        encoding: of a text file, as Python calls it.
        skipped: why it is left out, if it is.
        data: the data set, where it is one.
    """

    name: str
    path: str
    kind: Literal["text", "jsonl", "parquet", "rows"]
    bytes: int = 0
    digest: str = ""
    documents: str | None = None
    encoding: str = "utf-8"
    skipped: str | None = None
    data: Dataset | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest says about it."""
        facts = {"name": self.name, "kind": self.kind, "bytes": self.bytes, "xxh3_128": self.digest}
        facts |= {"documents": self.documents} if self.documents else {}
        return facts | ({"encoding": self.encoding} if self.encoding != "utf-8" else {})


class Document(NamedTuple):
    """A document: its text, where it stands, and what is wrong with it, if anything is (the text is then empty)."""

    text: str
    place: str
    fault: str = ""


# --- which files there are


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
        if path.is_dir() and (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
            from datasets import Dataset

            found.setdefault(str(path.resolve()), _data_set(each, Dataset.load_from_disk(str(path)), text))
            continue
        if path.is_dir():
            files = _in_folder(path)
        elif path.exists():
            files = [path]
        elif glob.has_magic(each):
            files = sorted(Path(match) for match in glob.glob(each, recursive=True) if Path(match).is_file())
            if not files:
                raise DataError(f"No file fits the pattern {each!r}.")
        elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+){0,2}", each):
            repository, *rest = each.split(":")
            split, config = rest[-1] if rest else "train", rest[0] if len(rest) == 2 else None
            found.setdefault(each, _data_set(each, from_hub(repository, config, split), text))
            continue
        else:
            hint = nearest(path.name, [entry.name for entry in path.parent.glob("*")])
            raise DataError(f"Cannot read {each}: no such file.{hint}")
        for file in files:
            found.setdefault(str(file.resolve()), _file(file))
    return list(found.values())


def _file(path: Path) -> Source:
    ending = path.suffix.lower()
    if ending in _REFUSED:
        raise DataError(
            f"{path}: a corpus cannot be read from {ending!r} files. Give .txt (also {', '.join(_TEXT[1:])}), .jsonl "
            "or .parquet, unpacked."
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    return Source(str(path), str(path.resolve()), _KINDS.get(ending, "text"), size)


def _in_folder(folder: Path) -> list[Path]:
    known = (*_KINDS, *_TEXT)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    files = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"The folder {folder} holds no text: no file in it ends with {', '.join(known)}.")
    return files


def _data_set(name: str, data: Dataset, text: str) -> Source:
    _require_text(name, text, data.features.arrow_schema)
    data = data.select_columns([text])
    return Source(name, name, "rows", data.data.nbytes, data._fingerprint, data=data)


def _require_text(name: str, text: str, schema: Any) -> None:
    import pyarrow as pa

    if text not in schema.names:
        raise _no_column(name, text, schema.names)
    kind = schema.field(text).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise DataError(f"{name}: the column {text!r} holds {kind}, not text.")


def _no_column(name: str, text: str, have: Sequence[str]) -> DataError:
    shown = ", ".join(repr(column) for column in have[:30])
    return DataError(
        f"{name} has no column {text!r}{nearest(text, have)}. It has {shown}; choose with --text."
    )


# --- what is in them


def scan(source: Source, text: str, documents: str, encoding: str | None = None) -> Source:
    """Looks a source over once: fills in its digest, encoding and separation of documents, or why it is skipped.

    Args:
        source: to be looked over.
        text: column of the text.
        documents: what separates documents in a text file, or `auto`.
        encoding: of a text file that is not UTF-8; None: such a file is skipped, and what it looks like is said.

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
        with open(source.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            source.skipped = _unreadable(source, raw, encoding)
            head = raw[:_SAMPLE].decode(source.encoding, "ignore").removeprefix("\ufeff")
        if source.skipped is None and source.kind == "jsonl":
            _require_key(source, text)
        elif source.skipped is None:
            source.documents = decide_documents(head) if documents == "auto" else documents
    return source


def _unreadable(source: Source, raw: mmap.mmap, encoding: str | None) -> str | None:
    """Says why a file cannot be read as text; sets its encoding if it is not UTF-8 but the given one."""
    if (wide := _wide(raw[:_SAMPLE])) is not None:
        return f"{wide.upper()}, not UTF-8: `{conversion(wide)}`"
    if (zero := raw.find(b"\0")) >= 0:
        return f"binary (a zero byte at {zero:,})"
    if (place := fault(raw)) is None:
        return None
    reason = f"not UTF-8 (byte 0x{raw[place]:02x} at {place:,})"
    begin = max(0, place - _AROUND)
    around = raw[begin : place + _AROUND]
    around = around[around.find(b"\n", 0, place - begin) + 1 :] if begin else around  # whole lines
    fit, lines = mixture(around)
    if 3 * fit >= lines:
        return f"{reason}, though {fit:,} of {lines:,} lines around it are: no one encoding reads them all"
    if encoding is not None:
        source.encoding = encoding
        if (place := fault(raw, encoding)) is None:
            return None
        reason = f"not {encoding.upper()} (byte 0x{raw[place]:02x} at {place:,})"
    found, _ = detect(around)
    return f"{reason}: it looks like {found}, add --encoding {found}" if found else reason


def conversion(encoding: str) -> str:
    """Returns the command that makes UTF-8 of text in UTF-16 or UTF-32."""
    name = encoding.upper().replace("_", "-").replace("-LE", "LE").replace("-BE", "BE")
    return f"iconv -f {name} -t UTF-8 OLD > NEW"


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


def decide_documents(sample: str) -> str:
    """Tells from the beginning of a text file how its documents are separated.

    In this order: WikiText's headings; hard-wrapped lines (short, most of them in the middle of a sentence) are one
    document, since nothing tells a paragraph from a document there; groups of several lines between blank lines
    are a document each; else every line is one.
    """
    lines = [line.rstrip() for line in sample.split("\n")]
    if any(map(_HEADING.fullmatch, lines)) and any("= = " in line for line in lines):
        return "heading"
    filled = [line for line in lines if line]
    followed = [line for line, following in itertools.pairwise(lines) if line and following]
    if len(followed) <= 0.2 * len(filled) or all(lines[:-1]):
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


def _require_key(source: Source, text: str) -> None:
    """Raises `DataError` if none of the first JSON records has the column."""
    keys: dict[str, None] = {}
    for _, line in itertools.islice(_lines(source), 100):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        keys.update(dict.fromkeys(record if isinstance(record, dict) else ()))
    if keys and text not in keys:
        raise _no_column(source.name, text, list(keys))


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


# --- their documents


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
                    yield _checked(_value(line, text), f"{source.name}, line {number}")
        else:
            values = (value for batch in _batches(source, text) for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, 1):
                yield _checked(value, f"{source.name}, row {number}")
    except OSError as error:
        raise DataError(f"Cannot read {source.name}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source.name} was changed while it was read: it is no longer {source.encoding.upper()}."
        ) from error
    except pa.ArrowException as error:
        raise DataError(f"{source.name} cannot be read to its end: {error}") from error


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    with open(source.path, encoding=source.encoding, newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def _plain(source: Source) -> Iterator[Document]:
    mode, held, first = source.documents, [], 0
    for number, line in _lines(source):
        blank = not line.strip()
        ended = blank if mode == "blank" else mode == "heading" and _HEADING.fullmatch(line)
        if held and (ended or mode == "line"):
            yield Document("".join(held), f"{source.name}, line {first}")
            held = []
        if not held and not blank:
            first = number
        if held or not blank:
            held.append(line)
    if held:
        yield Document("".join(held), f"{source.name}, line {first}")


def _value(line: str, text: str) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return ValueError("not valid JSON")
    return record.get(text) if isinstance(record, dict) else ValueError("not a JSON object")


def _checked(value: Any, place: str) -> Document:
    if isinstance(value, ValueError):
        return Document("", place, str(value))
    if value is None:
        return Document("", place, "no text")
    if not isinstance(value, str):
        return Document("", place, "not a text")
    if not value.strip():
        return Document("", place, "empty")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        # JSON can spell half a surrogate pair, which nothing can encode
        return Document("", place, "not valid Unicode")
    return Document(value, place)


def _batches(source: Source, text: str) -> Iterator[Any]:
    if source.data is not None:
        yield from source.data.with_format("arrow").iter(256)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        yield from file.iter_batches(batch_size=256, columns=[text])
