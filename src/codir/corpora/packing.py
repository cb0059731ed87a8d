"""Packs the sentences of a document into blocks of tokens."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np


class BlockPacker:
    """Fills blocks of at most `size` tokens, special tokens included: whole sentences wherever one fits.

    A sentence that does not fit into what is left of a block starts the next one. One that is longer than a whole block
    fills up the current block and is cut where blocks are full. A block never holds tokens of two documents.
    Tokens are kept in one flat array; `take` hands out the closed blocks. Documents are numbered from 0; one without
    tokens has no number.

    Args:
        prefix: ids of the special tokens before the text of each block.
        suffix: likewise after it.
        size: the most tokens of a block.
    """

    def __init__(self, prefix: Sequence[int], suffix: Sequence[int], size: int):
        self.prefix, self.suffix = array("i", prefix), array("i", suffix)
        self.capacity = size - len(prefix) - len(suffix)
        self._values = array("i")
        self._ends: list[int] = []  # where in _values each closed block ends
        self._used = 0  # tokens of text in the open block
        self._sentence: list[int] = []
        self._cut = False  # whether the beginning of the sentence was placed already
        self._blocks = 0  # closed blocks of the current document
        self._document = 0
        self._owners = array("q")  # the document of each closed block

    def add(self, ids: list[int], begins: bool) -> None:
        """Takes the tokens of a sentence, or of a piece that goes on with the last one (`begins` False)."""
        if begins:
            self._place()
            self._sentence, self._cut = ids, False
        elif self._sentence:
            self._sentence = self._sentence + ids
        else:
            self._sentence = ids
        if len(self._sentence) > self.capacity:
            self._pour()

    def end_document(self) -> int:
        """Closes the open block; returns the number of blocks of the document (0 if it had no tokens)."""
        self._place()
        self._close()
        self._cut = False
        blocks, self._blocks = self._blocks, 0
        self._document += blocks > 0
        return blocks

    @property
    def closed_tokens(self) -> int:
        """Tokens in the closed blocks that `take` would hand out."""
        return self._ends[-1] if self._ends else 0

    def take(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns and forgets the closed blocks.

        Returns:
            values [tokens] int32, offsets [blocks + 1] int32 into them, documents [blocks] int64.
        """
        count = self.closed_tokens
        values = np.array(self._values[:count], dtype=np.int32)
        offsets = np.array([0, *self._ends], dtype=np.int32)
        documents = np.array(self._owners, dtype=np.int64)
        del self._values[:count]
        self._ends.clear()
        del self._owners[:]
        return values, offsets, documents

    def _place(self) -> None:
        """Puts the sentence (or what is left of one that was cut) into the open block or the next."""
        ids, self._sentence = self._sentence, []
        if not ids:
            return
        if self._cut:
            self._fill(ids)
            return
        if self._used + len(ids) > self.capacity:
            self._close()
        self._append(ids)

    def _pour(self) -> None:
        ids, self._sentence = self._sentence, []
        self._fill(ids)
        self._cut = True

    def _fill(self, ids: list[int]) -> None:
        start = 0
        while start < len(ids):
            if self._used == self.capacity:
                self._close()
            end = start + self.capacity - self._used
            self._append(ids[start:end])
            start = end

    def _append(self, ids: list[int]) -> None:
        if not self._used:
            self._values.extend(self.prefix)
        self._values.extend(ids)
        self._used += len(ids)

    def _close(self) -> None:
        if not self._used:
            return
        self._values.extend(self.suffix)
        self._ends.append(len(self._values))
        self._owners.append(self._document)
        self._used = 0
        self._blocks += 1
