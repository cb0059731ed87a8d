"""From encoded examples to a batch: each side's tokens padded, the labels, the ids and the teacher's cached rows."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.models.padding import Padding, pad_batch
from codir.models.representations import Representations, TokenKind, TokenView
from codir.teacher.cache import TeacherOutputs
from codir.teacher.token_cache import TokenOutputs

TEACHER_PREFIX = "teacher_"


class DistillationCollator:
    """Pads examples for the student and adds what the step needs of the teacher.

    Args:
        tokenizer: the student's, which knows how to pad.
        teacher_tokenizer: the teacher's, if the examples carry `teacher_` columns of their own.
        teacher: the teacher's cached outputs; without it a batch carries the teacher's inputs instead, if
            `live_teacher`.
        live_teacher: the teacher is run in the step, so its inputs must be in the batch.

    A batch is a dict: `inputs` (the student's keyword arguments), `labels` [B], `example_id` [B], and either
    `teacher` (a dict, see `teacher_of`) or `teacher_inputs`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        teacher: TeacherOutputs | None = None,
        live_teacher: bool = False,
    ):
        self.tokenizer = tokenizer
        self.teacher_tokenizer = teacher_tokenizer
        self.teacher = teacher
        self.live_teacher = live_teacher

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes one batch of examples."""
        batch: dict[str, Any] = {"inputs": pad_batch(rows, self.tokenizer, prefix="")}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        ids = torch.tensor([row["example_id"] for row in rows])
        batch["example_id"] = ids
        if self.teacher is not None:
            outputs = self.teacher.rows(ids)
            batch["teacher"] = {"logits": outputs.logits, "pooled": outputs.pooled}
            if self.teacher.tokens is not None:
                batch["teacher"] |= self._tokens(self.teacher.tokens, ids, batch["inputs"]["attention_mask"])
        elif self.live_teacher:
            own = f"{TEACHER_PREFIX}input_ids" in rows[0]
            if own and self.teacher_tokenizer is not None:
                batch["teacher_inputs"] = pad_batch(rows, self.teacher_tokenizer, prefix=TEACHER_PREFIX)
            else:
                batch["teacher_inputs"] = batch["inputs"]
        return batch

    def _tokens(self, outputs: TokenOutputs, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Reads the vectors of the teacher's tokens, padded as the student's inputs are."""
        rows = outputs.rows(ids, mask.shape[1], Padding.of(self.tokenizer).side)
        # named by strings: the Trainer moves what it finds in dicts to the device, and pickles it between processes
        return {"tokens": {str(view): vectors for view, vectors in rows.items()}, "mask": mask != 0}

    def evaluation(self) -> DistillationCollator:
        """Returns a collator without the teacher, whose cache numbers the training examples and no others."""
        plain = copy.copy(self)
        plain.teacher, plain.live_teacher = None, False
        return plain


def teacher_of(batch: dict[str, Any]) -> Representations | None:
    """Takes the cached teacher's outputs out of a batch, moved to the device by now, or None."""
    found = batch.get("teacher")
    if found is None:
        return None
    tokens = {_view(name): vectors for name, vectors in found.get("tokens", {}).items()}
    return Representations(found["logits"], found["pooled"], tokens=tokens, mask=found.get("mask"))


def _view(name: str) -> TokenView:
    kind, _, block = name.partition(".")
    return TokenView(cast(TokenKind, kind), int(block))
