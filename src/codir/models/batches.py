"""Pads examples of different lengths into the tensors a model takes; the collator and inference share it.

Padding goes to the right, whatever the tokenizer's own side is: positions are counted from the left, also by BERT and
its like, whose states would move with the texts beside them; and classifiers that read the last token (GPT-2, Qwen)
look for the last one that is no padding. The exception are models that answer right with padding on the left only
(XLNet reads the last place, whatever stands there); `codir.models.probe` finds that out and `settle_side` notes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.errors import DataError, ModelError

INPUT_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
Side = Literal["left", "right"]
_LEFT = "_codir_left"


@dataclass(frozen=True)
class Padding:
    """How a tokenizer pads.

    Attributes:
        pad_token_id: fills `input_ids`.
        token_type_id: fills `token_type_ids`.
        side: where the padding goes.
    """

    pad_token_id: int
    token_type_id: int = 0
    side: Side = "right"

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Padding:
        """Reads it off a tokenizer; raises `ModelError` if that has no padding token."""
        if tokenizer.pad_token_id is None:
            raise ModelError(
                f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no padding token, so its "
                "texts cannot be batched. Set tokenizer.pad_token (for example to its end-of-text token) and save "
                "it again."
            )
        side: Side = "left" if tokenizer.__dict__.get(_LEFT) else "right"
        return cls(int(cast(int, tokenizer.pad_token_id)), int(tokenizer.pad_token_type_id), side)

    def value(self, column: str) -> int:
        """Returns what fills `column` (named without prefix); the attention mask's padding is always 0."""
        return {"input_ids": self.pad_token_id, "token_type_ids": self.token_type_id}.get(column, 0)


def pad_batch(
    rows: Sequence[Mapping[str, Any]],
    padding: Padding | PreTrainedTokenizerBase,
    prefix: str = "",
    pad_to_multiple_of: int | None = None,
) -> dict[str, Tensor]:
    """Pads the token columns of `rows` to the longest one and drops all other columns.

    Args:
        rows: examples with `{prefix}input_ids` and, if the tokenizer makes them, `{prefix}attention_mask` and
            `{prefix}token_type_ids`, each a list or an array of integers.
        padding: a tokenizer, or what was read off one.
        prefix: `teacher_` to read the teacher's own columns; the result's keys are without it.
        pad_to_multiple_of: rounds the length up, for tensor cores.

    Returns:
        int64 tensors [B, L] by argument name. The attention mask is made if the rows bring none.

    Raises:
        DataError: there are no `{prefix}input_ids`, or one of the columns has another length.
    """
    if not isinstance(padding, Padding):
        padding = Padding.of(padding)
    if not rows or f"{prefix}input_ids" not in rows[0]:
        known = ", ".join(rows[0]) if rows else "none"
        raise DataError(f"A batch needs the column '{prefix}input_ids'; the columns there are: {known}.")
    lengths = [len(row[f"{prefix}input_ids"]) for row in rows]
    width = max(*lengths, 1) if len(lengths) > 1 else max(lengths[0], 1)
    if pad_to_multiple_of:
        width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
    batch: dict[str, Tensor] = {}
    for column in INPUT_COLUMNS:
        key = f"{prefix}{column}"
        given = key in rows[0]
        if not given and column != "attention_mask":
            continue
        padded = np.full((len(rows), width), padding.value(column), dtype=np.int64)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            values: Any = row[key] if given else 1
            if given and (entries := len(row[key])) != length:
                raise DataError(
                    f"Column '{key}' has {entries} entries where '{prefix}input_ids' has {length}: "
                    "encode the data again."
                )
            start = width - length if padding.side == "left" else 0
            padded[number, start : start + length] = values
        batch[column] = torch.from_numpy(padded)
    return batch


def settle_side(tokenizer: PreTrainedTokenizerBase, side: Side) -> None:
    """Notes on a tokenizer, in what is saved of it, too, on which side its model is to have the padding."""
    tokenizer.padding_side = side
    if "padding_side" in tokenizer.init_kwargs:  # what is saved
        tokenizer.init_kwargs["padding_side"] = side
    tokenizer.__dict__[_LEFT] = side == "left"


@dataclass(frozen=True)
class TokenColumns:
    """Token columns of N examples.

    Attributes:
        ids: [N] int64, the column `example_id`, or 0..N-1 where there is none.
        offsets: [N+1] int64; example n's tokens are `values[column][offsets[n]:offsets[n + 1]]`.
        values: flat arrays by column, named without prefix.
    """

    ids: np.ndarray
    offsets: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def read(cls, encoded: Dataset, prefix: str = "") -> TokenColumns:
        """Reads the columns `{prefix}input_ids`, `{prefix}attention_mask`, `{prefix}token_type_ids`.

        Raises:
            DataError: `{prefix}input_ids` is missing, or columns differ in their lengths.
        """
        if f"{prefix}input_ids" not in encoded.column_names:
            raise DataError(
                f"The data set has no column '{prefix}input_ids' but {', '.join(encoded.column_names)}: "
                "tokenise it first."
            )
        found = [column for column in INPUT_COLUMNS if f"{prefix}{column}" in encoded.column_names]
        extra = ["example_id"] if "example_id" in encoded.column_names else []
        chosen = encoded.select_columns([*(prefix + column for column in found), *extra])
        table = cast(pa.Table, chosen.with_format("arrow")[:])
        offsets: np.ndarray | None = None
        values: dict[str, np.ndarray] = {}
        for column in found:
            starts, values[column] = _flat(table.column(prefix + column))
            if offsets is None:
                offsets = starts
            elif not np.array_equal(offsets, starts):
                raise DataError(
                    f"The columns '{prefix}input_ids' and '{prefix}{column}' differ in length: "
                    "encode the data again."
                )
        assert offsets is not None
        ids = table.column("example_id").to_numpy() if extra else np.arange(len(encoded))
        return cls(ids.astype(np.int64), offsets, values)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Returns the [N] token counts."""
        return np.diff(self.offsets)

    def row(self, number: int) -> dict[str, Any]:
        """Returns the arrays of one example, as `pad_batch` takes them."""
        start, end = self.offsets[number], self.offsets[number + 1]
        return {column: flat[start:end] for column, flat in self.values.items()}

    def batches(self, size: int, one_length: bool = False) -> Iterator[np.ndarray]:
        """Yields row numbers in batches of similar length, the longest first (so memory peaks at once).

        `one_length`: rows of different lengths are never in one batch, so that none is padded.
        """
        order = np.argsort(-self.lengths, kind="stable")
        ends = np.flatnonzero(np.diff(self.lengths[order])) + 1 if one_length else []
        for group in np.split(order, ends):
            for start in range(0, len(group), size):
                yield group[start : start + size]


def _flat(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets [N+1], starting at 0, and the flat values of an Arrow list column."""
    offsets = [np.zeros(1, dtype=np.int64)]
    values: list[np.ndarray] = []
    total = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if not len(chunk):
            continue
        starts = np.asarray(chunk.offsets.to_numpy(), dtype=np.int64)
        # a slice keeps its parent's buffers, hence the subtraction; flatten() takes only the slice's values
        offsets.append(starts[1:] - starts[0] + total)
        values.append(chunk.flatten().to_numpy(zero_copy_only=False))
        total += len(values[-1])
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int64)
    return np.concatenate(offsets), flat
