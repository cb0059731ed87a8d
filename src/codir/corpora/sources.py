"""Finds the input files of a corpus: files, folders, patterns, Hub data sets."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codir.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["text", "jsonl", "parquet", "arrow"]
Documents = Literal["line", "blank", "heading", "file"]

DOCUMENTS = ("auto", "line", "blank", "heading", "file")
_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
_TEXT = (".txt", ".text", ".md", ".raw", ".tokens")
# Endings that would be read as plain text and give nonsense.
_REFUSED = (".csv", ".tsv", ".json", ".html", ".xml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar")
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
        encoding: of a text file, as Python calls it.
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
    encoding: str = "utf-8"
    text_bytes: int = 0
    skipped: str | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest says about it."""
        facts = {"name": self.name, "kind": self.kind, "bytes": self.bytes, "xxh3_128": self.digest}
        facts |= {"documents": self.documents} if self.documents else {}
        return facts | ({"encoding": self.encoding} if self.encoding != "utf-8" else {})

    def state(self) -> dict[str, Any]:
        """Returns all fields."""
        return asdict(self)


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
        raise no_column(name, text, data.column_names)
    files = [Path(entry["filename"]) for entry in data.cache_files]
    if data._indices is not None or sum(len(Dataset.from_file(str(file))) for file in files) != len(data):
        # a selection of rows, or rows in memory: the files hold others
        data.select_columns([text]).save_to_disk(str(scratch))
        files = _in_folder(scratch)
    for file in files:
        yield _source(f"{name} ({file.name})", file)


def no_column(name: str, text: str, have: Sequence[str]) -> DataError:
    """Returns the error for a source without the column of the text, naming the nearest one."""
    shown = ", ".join(repr(column) for column in have[:30])
    return DataError(
        f"{name} has no column {text!r}{nearest(text, have)}. It has {shown}; choose with --text."
    )
