"""A prepared corpus on disk: packed blocks, memory-mapped, with the tokenizer they were made with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from codir.data.packing import Packing, tokenizer_digest
from codir.errors import DataError, RunError, nearest
from codir.files import read_json, whole_file
from codir.manifest import checked, entries, entry, fault

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Version of the folder's layout; raise it when that changes."""

MANIFEST = "corpus.json"
WORK = ".building"
MOST_HELD_OUT = 2000
"""Blocks held out at most: an evaluation has to stay cheap."""

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


# --- writing one


def _column(packed: Dataset, name: str) -> Any:
    return packed.data.column(name).combine_chunks()


def blocks_of(packed: Dataset) -> np.ndarray:
    """Returns the number of blocks of each document."""
    return _column(packed, "blocks").value_lengths().to_numpy(zero_copy_only=False)


def write_parts(
    packed: Sequence[Dataset], packing: Packing, validation: float, options: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Writes train and validation; returns counts, files and key for the manifest.

    Documents are numbered through the whole corpus, but for those without a token.
    """
    from datasets import Features, List, Value

    blocks = np.concatenate([blocks_of(each) for each in packed])
    hashes = np.concatenate([_column(each, "hash").to_numpy() for each in packed])
    held = choose_validation(hashes[blocks > 0], blocks[blocks > 0], validation)
    features = Features({"input_ids": List(Value("int32")), "document": Value("int64")})
    parts = {"train": _Part(~held, features.arrow_schema), "validation": _Part(held, features.arrow_schema)}
    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            part.open(stack, folder / name / "00000.arrow")
        start = 0
        for each in packed:
            counts = blocks_of(each)
            counts = counts[counts > 0]
            owners = np.repeat(np.arange(start, start + len(counts)), counts)
            start += len(counts)
            for part in parts.values():
                part.write(_column(each, "blocks").flatten(), owners)
    special = len(packing.encoder.prefix) + len(packing.encoder.suffix)
    counts_of = {
        name: {
            "documents": int(part.chosen.sum()),
            "tokens": part.tokens - special * part.blocks,
            "blocks": part.blocks,
        }
        for name, part in parts.items()
    }
    total = {
        name: sum(each[name] for each in counts_of.values()) for name in ("documents", "tokens", "blocks")
    }
    content = {
        "format": FORMAT,
        "tokenizer": options["tokenizer"],
        "block": packing.block,
        **{name: part.digest() for name, part in parts.items()},
    }
    saved = {f"tokenizer/{name}": facts for name, facts in entries(folder / "tokenizer").items()}
    return {
        "counts": {
            "documents": total["documents"],
            "sentences": int(sum(np.sum(_column(each, "sentences").to_numpy()) for each in packed)),
            "tokens": total["tokens"],
            "blocks": total["blocks"],
            "fill": sum(part.tokens for part in parts.values()) / (total["blocks"] * packing.block),
            **counts_of,
        },
        "files": {
            f"{name}/00000.arrow": {**entry(folder / name / "00000.arrow"), "rows": part.blocks}
            for name, part in parts.items()
        }
        | saved,
        "key": xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    }


class _Part:
    """One part of a corpus, `train` or `validation`, as an Arrow stream that `datasets` maps into memory.

    Attributes:
        chosen: [documents] bool, the part's documents.
        blocks: number of blocks written.
        tokens: number of tokens in them, with the special ones.
    """

    def __init__(self, chosen: np.ndarray, schema: pa.Schema):
        self.chosen, self.schema = chosen, schema
        self.blocks = self.tokens = 0
        # one for each array, so that the division into batches does not count
        self._digests = [xxhash.xxh3_128() for _ in range(3)]

    def open(self, stack: contextlib.ExitStack, path: Path) -> None:
        """Opens the file, until the stack ends."""
        file = stack.enter_context(whole_file(path))
        self._writer = stack.enter_context(pa.ipc.new_stream(file, self.schema))

    def write(self, blocks: Any, documents: np.ndarray) -> None:
        """Appends those blocks (a list array) that belong to chosen documents."""
        mask = self.chosen[documents]
        blocks, documents = blocks.filter(pa.array(mask)), documents[mask]
        if not len(blocks):
            return
        values, lengths = blocks.flatten().to_numpy(), blocks.value_lengths().to_numpy()
        for digest, array in zip(self._digests, (values, lengths, documents), strict=True):
            digest.update(np.ascontiguousarray(array).data)
        self._writer.write_batch(
            pa.RecordBatch.from_arrays([blocks, pa.array(documents)], schema=self.schema)
        )
        self.blocks += len(blocks)
        self.tokens += len(values)

    def digest(self) -> str:
        """Returns the digest of the blocks."""
        return "-".join(digest.hexdigest() for digest in self._digests)


def choose_validation(hashes: np.ndarray, blocks: np.ndarray, share: float) -> np.ndarray:
    """Chooses whole documents, by the hashes of their texts: the same ones for every tokenizer and block length.

    Args:
        hashes: [documents] uint64, of the seed and the text; equal documents stay together.
        blocks: [documents] number of blocks.
        share: of the documents, about; 0 for none. At most `MOST_HELD_OUT` blocks; with two documents or more at least
            one document, and never all.

    Returns:
        [documents] bool.
    """
    held = np.zeros(len(hashes), dtype=bool)
    if len(hashes) < 2 or share <= 0:
        return held
    order = np.argsort(hashes, kind="stable")
    below = int(np.searchsorted(hashes[order], np.uint64(min(share * 2**64, 2**64 - 1024)), side="left"))
    total = 0
    for document in order[: min(below, len(order) - 1)]:
        if total + blocks[document] <= MOST_HELD_OUT:
            held[document] = True
            total += int(blocks[document])
            if total == MOST_HELD_OUT:
                break
    if not held.any():
        fitting = order[blocks[order] <= min(MOST_HELD_OUT, int(blocks.sum()) // 2)]
        held[fitting[0] if len(fitting) else np.argmin(blocks)] = True
    return held
