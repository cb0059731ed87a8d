"""A prepared corpus on disk: packed blocks, memory-mapped, with the tokenizer they were made with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from codir.data.packing import Packing, tokenizer_digest
from codir.errors import DataError, RunError, nearest
from codir.files import read_json, whole_file
from codir.manifest import checked, fault

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
_FACTS = {"tokenizer": dict, "options": dict, "counts": dict, "block": int, "vocab_size": int, "key": str}


class Corpus:
    """A corpus folder that is whole, with the content of its `corpus.json`; `open_corpus` makes one."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        self.name: str = path.resolve().name
        self.block: int = manifest["block"]
        """The most tokens a block has, special tokens included."""
        self.vocab_size: int = manifest["vocab_size"]
        """Number of tokens the tokenizer knows, added ones included."""
        self.key: str = manifest["key"]
        """Fingerprint of the blocks and their tokenizer."""

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

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
        """Raises `DataError` if a model's tokenizer is not the blocks' own; `whose` it is, the message says."""
        if tokenizer_digest(tokenizer) != self.manifest["tokenizer"]["digest"]:
            raise DataError(
                f"The corpus {self.path} was prepared with the tokenizer of {self.manifest['tokenizer']['name']} "
                f"({self.vocab_size:,} tokens), which is not that of {whose} ({len(tokenizer):,} tokens): prepare one "
                "for it with `codir corpus --tokenizer`."
            )

    def _part(self, name: str) -> Dataset:
        from datasets import Dataset, Split
        from datasets.table import MemoryMappedTable

        table = MemoryMappedTable.from_file(str(self.path / name / "00000.arrow"))
        return Dataset(table, split=Split(name), fingerprint=f"{self.key}-{name}")


def open_corpus(path: str | Path, *, digests: bool | None = None) -> Corpus:
    """Opens a corpus folder; raises `DataError` unless it is a whole corpus.

    Args:
        path: the folder.
        digests: compare every file's digest, not its size alone; None: up to 1 GB in all (a second).
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        near = nearest(path.name, [e.name for e in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"The corpus {path} does not exist{near}. Prepare one with `codir corpus`.")
    if not (path / MANIFEST).is_file():
        if (path / WORK).is_dir():
            raise DataError(f"The corpus {path} is unfinished: give its `codir corpus` command again with --resume.")
        raise DataError(f"{path} is no corpus: {MANIFEST} is missing. Prepare one with `codir corpus`.")
    again = "Prepare the corpus again with `codir corpus`."
    try:
        manifest = read_json(path / MANIFEST)
        files = checked(manifest)
        if manifest.get("format") != FORMAT:
            raise ValueError(f"its format is {manifest.get('format')}, not {FORMAT}")
        if wrong := [name for name, kind in _FACTS.items() if not isinstance(manifest.get(name), kind)]:
            raise ValueError(f"it does not say its {wrong[0]}")
    except RunError as error:
        raise DataError(f"{error} {again}") from error
    except ValueError as error:
        raise DataError(f"{path / MANIFEST} is damaged: {error}. {again}") from error
    if digests is None:
        digests = sum(facts["bytes"] for facts in files.values()) <= _DIGESTS_UP_TO
    # the blocks may be too many to be read each time, the tokenizer never is
    found = fault(path, files, digest=lambda name: bool(digests) or name.startswith("tokenizer/"))
    if found is not None:
        raise DataError(f"The corpus {path} is damaged: {found}. {again}")
    return Corpus(path, manifest)


# --- writing one


def blocks_of(packed: Dataset) -> np.ndarray:
    """Returns the number of blocks of each document."""
    return packed.data.column("blocks").combine_chunks().value_lengths().to_numpy(zero_copy_only=False)


def write_parts(packed: Sequence[Dataset], packing: Packing, validation: float, folder: Path) -> dict[str, Any]:
    """Writes train and validation as Arrow streams that `datasets` maps into memory; returns counts for the manifest.

    Documents are numbered through the whole corpus, but for those without a token.
    """
    from datasets import Features, List, Value

    blocks = np.concatenate([blocks_of(each) for each in packed])
    hashes = np.concatenate([each.data.column("hash").to_numpy() for each in packed])
    held = choose_validation(hashes[blocks > 0], blocks[blocks > 0], validation)
    schema = Features({"input_ids": List(Value("int32")), "document": Value("int64")}).arrow_schema
    special = len(packing.encoder.prefix) + len(packing.encoder.suffix)
    parts: dict[str, Counter[str]] = {}
    for name, chosen in (("train", ~held), ("validation", held)):
        count = parts[name] = Counter(documents=int(chosen.sum()), tokens=0, blocks=0)
        start = 0
        with whole_file(folder / name / "00000.arrow") as file, pa.ipc.new_stream(file, schema) as writer:
            for each in packed:
                of_document = blocks_of(each)
                of_document = of_document[of_document > 0]
                owners = np.repeat(np.arange(start, start + len(of_document)), of_document)
                start += len(of_document)
                mask = chosen[owners]
                rows = each.data.column("blocks").combine_chunks().flatten().filter(pa.array(mask))
                if len(rows):
                    writer.write_batch(pa.RecordBatch.from_arrays([rows, pa.array(owners[mask])], schema=schema))
                    count["blocks"] += len(rows)
                    count["tokens"] += len(rows.flatten()) - special * len(rows)
    total = parts["train"] + parts["validation"]
    return {
        **total,
        "sentences": int(sum(each.data.column("sentences").to_numpy().sum() for each in packed)),
        "fill": (total["tokens"] + special * total["blocks"]) / (total["blocks"] * packing.block),
        **parts,
    }


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
