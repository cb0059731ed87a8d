"""Holds documents out for validation and writes the two parts of a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Features, List, Value

from codir.corpora.shards import ShardFiles
from codir.manifest import entry

MOST_BLOCKS = 2000
"""Blocks held out at most: an evaluation has to stay cheap."""

FILE_BYTES = 1 << 30
FEATURES = Features({"input_ids": List(Value("int32")), "document": Value("int64")})


def choose_validation(hashes: np.ndarray, blocks: np.ndarray, share: float) -> np.ndarray:
    """Chooses whole documents, by the hashes of their texts: the same ones for every tokenizer and block length.

    Args:
        hashes: [documents] uint64, of the seed and the text; equal documents stay together.
        blocks: [documents] number of blocks.
        share: of the documents, about; 0 for none. At most `MOST_BLOCKS` blocks; with two documents or more at least
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
        if total + blocks[document] <= MOST_BLOCKS:
            held[document] = True
            total += int(blocks[document])
            if total == MOST_BLOCKS:
                break
    if not held.any():
        fitting = order[blocks[order] <= min(MOST_BLOCKS, int(blocks.sum()) // 2)]
        held[fitting[0] if len(fitting) else np.argmin(blocks)] = True
    return held


@dataclass
class PartWriter:
    """Writes one part (`train` or `validation`) as Arrow streams that `datasets` maps into memory.

    Attributes:
        folder: `train/` or `validation/`.
        blocks, tokens, documents: what was written; tokens with the special ones.
        files: by name, bytes, digest and rows.
    """

    folder: Path
    blocks: int = 0
    tokens: int = 0
    documents: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        # one for each array, so that the division into batches does not count
        self._digests = [xxhash.xxh3_128() for _ in range(3)]
        self._path: Path | None = None
        self._open()

    def write(self, batch: pa.RecordBatch) -> None:
        """Appends blocks (columns `input_ids`, `document`)."""
        if not batch.num_rows:
            return
        if self._bytes > FILE_BYTES:
            self._close()
            self._open()
        column: Any = batch.column(0)
        values, lengths = column.flatten(), column.value_lengths()
        for digest, array in zip(self._digests, (values, lengths, batch.column(1)), strict=True):
            digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).data)
        self._writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=FEATURES.arrow_schema))
        self._bytes += batch.nbytes
        self._rows += batch.num_rows
        self.blocks += batch.num_rows
        self.tokens += len(values)

    def finish(self) -> str:
        """Closes the last file; returns the digest of the blocks."""
        self._close()
        return "-".join(digest.hexdigest() for digest in self._digests)

    def _open(self) -> None:
        self._path = self.folder / f"{len(self.files):05d}.arrow"
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, FEATURES.arrow_schema)
        self._bytes = self._rows = 0

    def _close(self) -> None:
        assert self._path is not None
        self._writer.close()
        self._sink.close()
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())
        facts = {**entry(self._path), "rows": self._rows}
        self.files[f"{self.folder.name}/{self._path.name}"] = facts


def document_tables(shards: Iterable[ShardFiles]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns hashes [documents], blocks [documents], and the first document's number of each shard and the end."""
    tables = [np.load(shard.documents, allow_pickle=False) for shard in shards]
    starts = np.cumsum([0, *(len(table) for table in tables)])
    table = np.concatenate(tables) if tables else np.zeros((0, 2), dtype=np.uint64)
    return table[:, 0], table[:, 1].astype(np.int64), starts.tolist()


def write_parts(
    shards: Iterable[ShardFiles],
    starts: list[int],
    held: np.ndarray,
    train: PartWriter,
    validation: PartWriter,
) -> None:
    """Copies the blocks of all shards into the two parts, with documents numbered through the whole corpus."""
    for shard, start in zip(shards, starts[:-1], strict=True):
        with pa.memory_map(str(shard.blocks)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                documents = batch.column(1).to_numpy() + start
                numbered = pa.record_batch([batch.column(0), pa.array(documents)], schema=batch.schema)
                chosen = held[documents]
                if not chosen.any():
                    train.write(numbered)
                    continue
                train.write(numbered.filter(pa.array(~chosen)))
                validation.write(numbered.filter(pa.array(chosen)))
    validation.documents = int(held.sum())
    train.documents = len(held) - validation.documents
