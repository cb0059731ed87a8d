"""A prepared corpus on disk: packed blocks, memory-mapped, with the tokenizer they were made with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codir.data.packing import tokenizer_digest
from codir.errors import DataError, RunError, nearest
from codir.manifest import checked, fault
from codir.storage import read_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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
        from codir.models.loading import read_tokenizer

        return read_tokenizer(self.path / "tokenizer")

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
    again = "Prepare the corpus again with `codir corpus`."
    try:
        manifest = read_json(path / MANIFEST)
    except RunError as error:
        raise DataError(f"{error} {again}") from error
    if isinstance(manifest, dict) and "format" in manifest and manifest["format"] != FORMAT:
        raise DataError(
            f"{path / MANIFEST} has the format {manifest['format']}, and this codir reads {FORMAT}: prepare the corpus "
            "again with `codir corpus`."
        )
    try:
        files = checked(manifest)
        _check_facts(manifest)
    except ValueError as error:
        raise DataError(f"{path / MANIFEST} is damaged: {error}. {again}") from error
    if digests is None:
        digests = sum(facts["bytes"] for facts in files.values()) <= _DIGESTS_UP_TO
    # the blocks may be too many to be read each time, the tokenizer never is
    found = fault(path, files, digest=lambda name: bool(digests) or name.startswith("tokenizer/"))
    if found is not None:
        raise DataError(f"The corpus {path} is damaged: {found}. {again}")
    return Corpus(path, manifest)


def _check_facts(manifest: dict[str, Any]) -> None:
    """Raises `ValueError` unless what is read of a manifest besides its files is there."""
    tokenizer, options = manifest.get("tokenizer"), manifest.get("options")
    if not isinstance(tokenizer, dict) or not {"name", "digest"} <= tokenizer.keys():
        raise ValueError("it does not say whose tokenizer it is")
    if not isinstance(options, dict):
        raise ValueError("it does not say what the corpus was made of")
    for name in ("block", "vocab_size"):
        if not isinstance(manifest.get(name), int):
            raise ValueError(f"its {name!r} is no number")
    if not isinstance(manifest.get("key"), str):
        raise ValueError("it has no key")
