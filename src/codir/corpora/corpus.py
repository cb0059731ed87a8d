"""A prepared corpus on disk: packed blocks, memory-mapped, with the tokenizer they were made with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.corpora.encoder import tokenizer_digest
from codir.errors import DataError, RunError, nearest
from codir.storage import file_digest, read_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["FORMAT", "MANIFEST", "WORK", "Corpus", "open_corpus", "tokenizer_digest"]

FORMAT = 1
"""Version of the folder's layout; raise it when that changes."""

MANIFEST = "corpus.json"
WORK = ".building"
_DIGESTS_UP_TO = 1 << 30


class Corpus:
    """A corpus folder that is whole; `open_corpus` makes one.

    Attributes:
        path: the folder.
        manifest: the content of `corpus.json`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest

    @cached_property
    def train(self) -> Dataset:
        """The blocks to train on: `input_ids` (int32, special tokens included), `document`; a row is a block's id."""
        return self._part("train")

    @cached_property
    def validation(self) -> Dataset:
        """The blocks of the documents held out, with the same columns; may be empty."""
        return self._part("validation")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the blocks, from the copy in the folder."""
        from codir.corpora.encoder import load

        return load(str(self.path / "tokenizer"))[0]

    @property
    def config_path(self) -> Path | None:
        """`config.json` of the model whose tokenizer this is, where it came with one."""
        path = self.path / "tokenizer" / "config.json"
        return path if path.is_file() else None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def block(self) -> int:
        """The most tokens a block has, special tokens included."""
        return self.manifest["block"]

    @property
    def vocab_size(self) -> int:
        """Number of tokens the tokenizer knows, added ones included."""
        return self.manifest["vocab_size"]

    @property
    def key(self) -> str:
        """Fingerprint of the blocks and their tokenizer: the same for the same corpus, wherever it was made."""
        return self.manifest["key"]

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
        """Raises `DataError` if a model's tokenizer is not the one the blocks were made with.

        Args:
            tokenizer: the model's.
            whose: named in the message, for example "the teacher roberta-base".
        """
        if tokenizer_digest(tokenizer) == self.manifest["tokenizer"]["digest"]:
            return
        raise DataError(
            f"The corpus {self.path} was prepared with the tokenizer of {self.manifest['tokenizer']['name']} "
            f"({self.vocab_size:,} tokens), which is not that of {whose} ({len(tokenizer):,} tokens): prepare one "
            "for it with `codir corpus --tokenizer`."
        )

    def _part(self, name: str) -> Dataset:
        from datasets import Dataset, Split
        from datasets.table import MemoryMappedTable, concat_tables

        paths = [self.path / file for file in sorted(self.manifest["files"]) if file.startswith(f"{name}/")]
        table = concat_tables([MemoryMappedTable.from_file(str(path)) for path in paths])
        return Dataset(table, split=Split(name), fingerprint=f"{self.key}-{name}")


def open_corpus(path: str | Path, *, digests: bool | None = None) -> Corpus:
    """Opens a corpus folder and checks that its files are whole.

    Args:
        path: the folder.
        digests: read every file and compare its digest too; None: only up to 1 GB in all (a second), beyond that the
            sizes alone, by which a truncated file is found.

    Raises:
        DataError: no such folder, no corpus or an unfinished one, another format, a file that is missing, truncated or
            changed (it is named).
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        near = nearest(path.name, [e.name for e in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"The corpus {path} does not exist{near}. Prepare one with `codir corpus`.")
    if not (path / MANIFEST).is_file():
        if (path / WORK).is_dir():
            raise DataError(
                f"The corpus {path} is unfinished: give its `codir corpus` command again with --resume."
            )
        held = sorted(entry.name for entry in path.iterdir())
        shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "") if held else "nothing"
        raise DataError(
            f"{path} is no corpus: {MANIFEST} is missing (it holds {shown}). Prepare one with `codir corpus`."
        )
    try:
        manifest = read_json(path / MANIFEST)
    except RunError as error:
        raise DataError(f"{error} Prepare the corpus again with `codir corpus`.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        version = manifest.get("format") if isinstance(manifest, dict) else None
        raise DataError(
            f"{path / MANIFEST} has the format {version}, and this codir reads {FORMAT}: prepare the corpus again "
            "with `codir corpus`."
        )
    _check_files(path, manifest["files"], digests)
    return Corpus(path, manifest)


def _check_files(path: Path, files: dict[str, dict[str, Any]], digests: bool | None) -> None:
    if digests is None:
        digests = sum(facts["bytes"] for facts in files.values()) <= _DIGESTS_UP_TO
    for name, facts in files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        fault = None
        if size is None:
            fault = "is missing"
        elif size != facts["bytes"]:
            fault = (
                f"has {size:,} bytes where {facts['bytes']:,} were written: it is truncated or was changed"
            )
        elif digests and file_digest(file) != facts["xxh3_128"]:
            fault = "has another content than was written"
        if fault:
            raise DataError(f"The corpus file {file} {fault}. Prepare the corpus again with `codir corpus`.")
