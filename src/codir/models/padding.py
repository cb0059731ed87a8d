"""Pads examples of different lengths into the tensors a model takes; the collator and inference share it.

Padding goes to the right, whatever the tokenizer's own side is: positions are counted from the left, also by BERT and
its like, whose states would move with the texts beside them; and classifiers that read the last token (GPT-2, Qwen)
look for the last one that is no padding. The exception are models that answer right with padding on the left only
(XLNet reads the last place, whatever stands there); `codir.models.probe` finds that out and `settle_side` notes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
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
