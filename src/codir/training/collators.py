"""From examples, or blocks of a corpus, to a batch: tokens padded or masked, labels, ids, the teacher's cached rows."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from codir.errors import DataError
from codir.models.inference import Padding, pad_batch
from codir.models.representations import Representations, TokenKind, TokenView
from codir.teacher.cache import TeacherOutputs
from codir.training.masking import EVALUATION_EPOCH, IGNORED, TokenMasking

TEACHER_PREFIX = "teacher_"


class DistillationCollator:
    """Pads examples for the student and adds what the step needs of the teacher.

    A batch is a dict: `inputs` (the student's keyword arguments), `labels` [B], `example_id` [B], and either `teacher`
    (its cached outputs, see `teacher_of`) or, with a `live_teacher` that is run in the step, `teacher_inputs`: those of
    `teacher_tokenizer` where the examples have `teacher_` columns of their own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        teacher: TeacherOutputs | None = None,
        live_teacher: bool = False,
    ):
        self.tokenizer, self.teacher_tokenizer = tokenizer, teacher_tokenizer
        self.teacher, self.live_teacher = teacher, live_teacher

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes one batch of examples."""
        batch: dict[str, Any] = {"inputs": pad_batch(rows, self.tokenizer, prefix="")}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        ids = torch.tensor([row["example_id"] for row in rows])
        batch["example_id"] = ids
        if self.teacher is not None:
            mask, side = batch["inputs"]["attention_mask"], Padding.of(self.tokenizer).side
            outputs = self.teacher.rows(ids, mask.shape[1] if self.teacher.views else None, side)
            batch["teacher"] = {"logits": outputs.logits, "pooled": outputs.pooled}
            if self.teacher.views:  # padded as the student's inputs are
                # named by strings: the Trainer moves what it finds in dicts to the device
                tokens = {str(view): vectors for view, vectors in outputs.tokens.items()}
                batch["teacher"] |= {"tokens": tokens, "mask": mask != 0}
        elif self.live_teacher:
            batch["teacher_inputs"] = batch["inputs"]
            if self.teacher_tokenizer is not None and f"{TEACHER_PREFIX}input_ids" in rows[0]:
                batch["teacher_inputs"] = pad_batch(rows, self.teacher_tokenizer, prefix=TEACHER_PREFIX)
        return batch

    def evaluation(self) -> DistillationCollator:
        """Returns a collator without the teacher, whose cache numbers the training examples and no others."""
        return DistillationCollator(self.tokenizer, self.teacher_tokenizer)


def teacher_of(batch: dict[str, Any]) -> Representations | None:
    """Takes the cached teacher's outputs out of a batch, moved to the device by now, or None."""
    found = batch.get("teacher")
    if found is None:
        return None
    tokens = {}
    for name, vectors in found.get("tokens", {}).items():
        kind, _, layer = name.partition(".")
        tokens[TokenView(cast(TokenKind, kind), int(layer))] = vectors
    return Representations(found["logits"], found["pooled"], tokens=tokens, mask=found.get("mask"))


class MaskedBlockCollator:
    """Masks the blocks of a batch and pads them to the longest.

    A batch is a dict: `inputs` (`input_ids`, `attention_mask` and, if the tokenizer names them, `token_type_ids`, each
    [B, L]), `labels` [B, L] with -100 where nothing is predicted, `example_id` [B]; all int64.

    The only thing it remembers is the epoch, which decides on the masks; `set_epoch` reaches data loader workers that
    are already running, because the number lies in shared memory.

    Args:
        tokenizer: the model's.
        masking: chooses the tokens.
        max_length: longest block the model can read; None does not check.
        pad_to_multiple_of: rounds the length up, for tensor cores (8).
        first_epoch: what the first epoch counts as, see `NeighbourSampler`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        masking: TokenMasking,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        first_epoch: int = 0,
    ):
        self.tokenizer, self.masking = tokenizer, masking
        self.max_length, self.pad_to_multiple_of = max_length, pad_to_multiple_of
        self._padding = Padding.of(tokenizer)
        self._label_padding = Padding(IGNORED, side=self._padding.side)
        self.first_epoch = first_epoch
        self._epoch = torch.tensor([first_epoch]).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose masks the next batches get, also in running workers."""
        self._epoch.fill_(self.first_epoch + epoch)

    def evaluation(self) -> MaskedBlockCollator:
        """Returns a collator like this one whose masks are always the same and hide something, for validation."""
        fixed = copy.copy(self)
        fixed.masking = self.masking.hiding()
        fixed._epoch = torch.tensor([EVALUATION_EPOCH])
        return fixed

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes one batch of blocks with `input_ids` and `example_id`; other columns are ignored.

        Raises:
            DataError: a block is longer than `max_length`, or holds a token the tokenizer does not know.
        """
        epoch = int(self._epoch)
        inputs: list[dict[str, np.ndarray]] = []
        labels: list[dict[str, np.ndarray]] = []
        for row in rows:
            ids, number = np.asarray(row["input_ids"], dtype=np.int64), int(row["example_id"])
            if self.max_length is not None and ids.size > self.max_length:
                raise DataError(
                    f"Block {number} has {ids.size} tokens and the model takes at most {self.max_length}: prepare the "
                    f"corpus again with --block {self.max_length}."
                )
            masked, predicted = self.masking.mask(ids, number, epoch)
            inputs.append({"input_ids": masked})
            labels.append({"input_ids": predicted})
        batch = pad_batch(inputs, self._padding, pad_to_multiple_of=self.pad_to_multiple_of)
        if "token_type_ids" in self.tokenizer.model_input_names:
            types = torch.zeros_like(batch["input_ids"])
            padding = batch["attention_mask"] == 0
            batch["token_type_ids"] = types.masked_fill_(padding, self._padding.token_type_id)
        padded = pad_batch(labels, self._label_padding, pad_to_multiple_of=self.pad_to_multiple_of)
        ids = torch.tensor([int(row["example_id"]) for row in rows])
        return {"inputs": batch, "labels": padded["input_ids"], "example_id": ids}
