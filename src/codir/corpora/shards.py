"""Turns one shard of the inputs into blocks on disk; what a worker does, again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from codir.corpora.documents import Bad, Event, place, read_documents
from codir.corpora.encoder import Encoder
from codir.corpora.packing import BlockPacker
from codir.corpora.planning import Part
from codir.corpora.sentences import sentence_pieces
from codir.corpora.sources import Source
from codir.errors import RunError
from codir.storage import file_digest, read_json, write_json

_BATCH_CHARACTERS = 1 << 17
_FLUSH_TOKENS = 1 << 20
MOST_EXAMPLES = 5

SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("document", pa.int64())])


@dataclass
class Counts:
    """What was found in a shard; the counts of all shards add up.

    Attributes:
        documents, sentences, tokens: those that went into blocks; tokens without the special ones.
        blocks, filled: blocks and the tokens in them, with the special ones.
        skipped: number of rows left out, by reason.
        examples: the first few of those, with their places.
    """

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    blocks: int = 0
    filled: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def skip(self, reason: str, count: int = 1) -> None:
        """Counts rows that are left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def add(self, other: Counts) -> None:
        """Adds those of another shard."""
        for name in ("documents", "sentences", "tokens", "blocks", "filled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.skipped.items():
            self.skip(reason, count)
        self.examples = [*self.examples, *other.examples][:MOST_EXAMPLES]


@dataclass(frozen=True)
class ShardFiles:
    """The files of shard `number` in the folder of shards; the marker is written last and makes it whole."""

    folder: Path
    number: int

    @property
    def blocks(self) -> Path:
        """Arrow stream of `SCHEMA`; documents are numbered within the shard."""
        return self.folder / f"{self.number:06d}.arrow"

    @property
    def documents(self) -> Path:
        """[documents, 2] uint64: hash of the text, number of blocks."""
        return self.folder / f"{self.number:06d}.npy"

    @property
    def marker(self) -> Path:
        """Counts, and size and digest of the two others."""
        return self.folder / f"{self.number:06d}.json"

    def counts(self) -> Counts | None:
        """Returns the counts of a finished shard; None if it is not there or not whole."""
        if not self.marker.is_file():
            return None
        try:
            facts = read_json(self.marker)
            for path in (self.blocks, self.documents):
                if not path.is_file() or file_digest(path) != facts["files"][path.name]:
                    return None
            return Counts(**facts["counts"])
        except (RunError, KeyError, TypeError):
            return None


def build_shard(
    files: ShardFiles,
    parts: Sequence[Part],
    sources: Sequence[Source],
    encoder: Encoder,
    *,
    block: int,
    text: str,
    seed: int,
) -> Counts:
    """Reads, splits, encodes and packs the documents of a shard and writes its files, the marker last.

    The same parts give the same bytes, whoever does it. Memory: a segment of text and a million tokens.
    """
    temporary = files.blocks.with_suffix(f".tmp-{os.getpid()}")
    builder = _Builder(encoder, block, seed)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for part in parts:
                builder.read(sources[part.source], part, text, writer)
            builder.flush(writer)
        np.save(files.documents, np.array(builder.table, dtype=np.uint64).reshape(-1, 2))
        os.replace(temporary, files.blocks)
        facts = {path.name: file_digest(path) for path in (files.blocks, files.documents)}
        write_json(files.marker, {"counts": vars(builder.counts), "files": facts})
    finally:
        temporary.unlink(missing_ok=True)
    return builder.counts


@dataclass(frozen=True)
class _Finished:
    """The end of a document in the queue of pieces."""

    digest: int
    source: Source
    part: Part
    row: int


class _Segments:
    """The segments of one document of a stream of events; afterwards `row` says where it was."""

    def __init__(self, first: str, events: Iterator[Event]):
        self._first, self._events, self.row = first, events, 0

    def __iter__(self) -> Iterator[str]:
        yield self._first
        for event in self._events:
            if isinstance(event, str):
                yield event
            else:
                self.row = event.row
                return


class _Builder:
    """Documents in, record batches out."""

    def __init__(self, encoder: Encoder, block: int, seed: int):
        self.encoder, self.seed = encoder, seed
        self.packer = BlockPacker(encoder.prefix, encoder.suffix, block)
        self.counts = Counts()
        self.table: list[tuple[int, int]] = []  # hash and blocks of each document
        self._queue: list[tuple[str, bool] | _Finished] = []
        self._characters = 0

    def read(self, source: Source, part: Part, text: str, writer: Any) -> None:
        """Reads a part to its end."""
        events = read_documents(source, part, text)
        for event in events:
            if isinstance(event, str):
                self._document(_Segments(event, events), source, part, writer)
            elif isinstance(event, Bad):
                self._skip(event.reason, source, part, event.row)
        self._encode(writer)

    def _document(self, segments: _Segments, source: Source, part: Part, writer: Any) -> None:
        digest = xxhash.xxh3_64(seed=self.seed)
        for piece, begins in sentence_pieces(segments):
            digest.update(piece.encode())
            self._queue.append((piece, begins))
            self._characters += len(piece)
            if self._characters >= _BATCH_CHARACTERS:
                self._encode(writer)
        self._queue.append(_Finished(digest.intdigest(), source, part, segments.row))

    def _encode(self, writer: Any) -> None:
        """Encodes and packs what is queued."""
        queue, self._queue, self._characters = self._queue, [], 0
        ids = iter(self.encoder.encode([item[0] for item in queue if isinstance(item, tuple)]))
        for item in queue:
            if isinstance(item, tuple):
                tokens = next(ids)
                self.counts.tokens += len(tokens)
                self.counts.sentences += item[1]
                self.packer.add(tokens, item[1])
            else:
                self._finish(item)
        if self.packer.closed_tokens >= _FLUSH_TOKENS:
            self.flush(writer)

    def _finish(self, item: _Finished) -> None:
        blocks = self.packer.end_document()
        if blocks:
            self.table.append((item.digest, blocks))
            self.counts.documents += 1
            self.counts.blocks += blocks
        else:
            self._skip("no tokens", item.source, item.part, item.row)

    def flush(self, writer: Any) -> None:
        """Writes the closed blocks."""
        values, offsets, documents = self.packer.take()
        if len(documents):
            self.counts.filled += len(values)
            column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            writer.write_batch(pa.record_batch([column, pa.array(documents)], schema=SCHEMA))

    def _skip(self, reason: str, source: Source, part: Part, row: int) -> None:
        self.counts.skip(reason)
        if len(self.counts.examples) < MOST_EXAMPLES:
            self.counts.examples.append(f"{place(source, part, row)}: {reason}")
