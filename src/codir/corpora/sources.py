"""Finds the inputs of a corpus, looks each over once (digest, UTF-8, how documents are separated), plans the shards."""

from __future__ import annotations

import codecs
import glob
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from codir.errors import ConfigError, DataError, nearest
from codir.storage import file_digest

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["text", "jsonl", "parquet", "arrow"]
Documents = Literal["line", "blank", "heading", "file"]

DOCUMENTS = ("auto", "line", "blank", "heading", "file")
SHARD_BYTES = 4 << 20
"""Bytes of text that are one piece of work; a constant, so that the result does not depend on the workers."""

_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
_TEXT = (".txt", ".text", ".md", ".raw", ".tokens")
# Endings that would be read as plain text and give nonsense.
_REFUSED = (".csv", ".tsv", ".json", ".html", ".xml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar")
_SAMPLE = 1 << 18
_CHUNK = 1 << 22
# WikiText's mark of a new article: " = Title = " (sections have "= =").
HEADING = re.compile(r"\s*= (?!=)\S.*(?<!=) =\s*")


@dataclass
class Source:
    """One input file as it was found.

    Attributes:
        name: as the user gave it, or found in a folder.
        path: the file.
        kind: how it is read.
        bytes, modified, digest: size, time of change in ns, 128-bit xxHash of the content.
        documents: what separates documents in a text file.
        text_bytes: about how much text there is in it.
        skipped: why it is left out, if it is.
    """

    name: str
    path: str
    kind: Kind
    bytes: int
    modified: int
    digest: str = ""
    documents: Documents | None = None
    text_bytes: int = 0
    skipped: str | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest says about it."""
        facts = {"name": self.name, "kind": self.kind, "bytes": self.bytes, "xxh3_128": self.digest}
        return facts | ({"documents": self.documents} if self.documents else {})

    def state(self) -> dict[str, Any]:
        """Returns all fields."""
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """A stretch of one source: bytes [begin, end) of text and JSON lines, row groups of Parquet, rows of Arrow."""

    source: int
    begin: int
    end: int


# --- finding ---------------------------------------------------------------------------------------------------------


def find_sources(
    inputs: Sequence[str], text: str, scratch: Path, load: Callable[..., Dataset] | None = None
) -> list[Source]:
    """Returns the files behind the inputs, in their order, each once; nothing but their size is read.

    Args:
        inputs: files, folders (searched for known endings), patterns (`wiki/**/*.txt`), data sets saved by `datasets`,
            or Hub data sets: `owner/name`, `owner/name:split`, `owner/name:config:split`.
        text: column of the text.
        scratch: folder for the rows of a Hub data set that are in no file.
        load: loads a Hub data set; `datasets.load_dataset` if None.

    Raises:
        DataError: an input that does not exist or has an ending that cannot be read.
    """
    if not inputs:
        raise ConfigError("There is no input: give at least one file, folder or Hub data set (--input).")
    found: dict[str, Source] = {}
    for number, each in enumerate(inputs):
        path = Path(each).expanduser()
        if path.is_dir():
            files = _in_folder(path)
        elif path.exists():
            files = [path]
        elif glob.has_magic(each):
            files = sorted(Path(match) for match in glob.glob(each, recursive=True) if Path(match).is_file())
            if not files:
                raise DataError(f"No file fits the pattern {each!r}.")
        elif _is_hub(each):
            for source in _hub_files(each, text, scratch / f"hub-{number}", load):
                found.setdefault(source.path, source)
            continue
        else:
            hint = nearest(path.name, [entry.name for entry in path.parent.glob("*")])
            raise DataError(f"Cannot read {each}: no such file.{hint}")
        for file in files:
            found.setdefault(str(file.resolve()), _source(str(file), file))
    return list(found.values())


def _source(name: str, path: Path) -> Source:
    ending = path.suffix.lower()
    if ending in _REFUSED:
        raise DataError(
            f"{name}: a corpus cannot be read from {ending!r} files. Give .txt (also {', '.join(_TEXT[1:])}), .jsonl "
            "or .parquet, unpacked."
        )
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"Cannot read {name}: {error.strerror or error}.") from error
    kind = _KINDS.get(ending, "text")
    return Source(name, str(path.resolve()), kind, status.st_size, status.st_mtime_ns)


def _in_folder(folder: Path) -> list[Path]:
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        return [folder / entry["filename"] for entry in files]
    known = (*_KINDS, *_TEXT)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    files = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"The folder {folder} holds no text: no file in it ends with {', '.join(known)}.")
    return files


def _is_hub(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}", name) is not None and not name.startswith(".")


def _hub_files(name: str, text: str, scratch: Path, load: Callable[..., Dataset] | None) -> Iterator[Source]:
    """Loads a Hub data set and yields its Arrow files in the cache of `datasets`."""
    from datasets import Dataset, load_dataset

    repository, *rest = name.split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        data = (load or load_dataset)(repository, config, split=split)
    except Exception as error:  # a dozen types, from several libraries
        raise DataError(
            f"{name!r} is neither a file here nor could its split {split!r} be loaded from the Hub "
            f"({type(error).__name__}: {error}). Check the path or the id (owner/name:config:split), or the network."
        ) from error
    if text not in data.column_names:
        raise _no_column(name, text, data.column_names)
    files = [Path(entry["filename"]) for entry in data.cache_files]
    if data._indices is not None or sum(len(Dataset.from_file(str(file))) for file in files) != len(data):
        # a selection of rows, or rows in memory: the files hold others
        data.select_columns([text]).save_to_disk(str(scratch))
        files = _in_folder(scratch)
    for file in files:
        yield _source(f"{name} ({file.name})", file)


# --- looking over ----------------------------------------------------------------------------------------------------


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
    if len(followed) < 0.2 * len(filled) or not any(not line for line in lines[:-1]):
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
    _check_schema(source.name, text, schema)
    sizes = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    source.text_bytes = sum(_column_bytes(group, text) for group in sizes)
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


def _column_bytes(group: Any, text: str) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text)


# --- planning --------------------------------------------------------------------------------------------------------


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
        size += _column_bytes(metadata.row_group(group), text)
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
