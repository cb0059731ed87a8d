"""What stands in the place of labels that some training examples do not have: the teacher's answers."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from codir.gather import from_first, processes, wire
from codir.models.inference import predict_logits
from codir.models.labels import has_label
from codir.teacher.frozen import FrozenTeacher


def without_gaps(labels: Tensor) -> tuple[Tensor | None, int]:
    """Puts some label that occurs in the place of those that are missing: for checks before the teacher is asked.

    Args:
        labels: [N] class ids or scores, -100 or NaN where there is none.

    Returns:
        [N] labels, None if there is not a single one; how many are missing.
    """
    known = has_label(labels)
    missing = int((~known).sum())
    if not missing:
        return labels, 0
    return (torch.where(known, labels, labels[known][0]) if missing < len(labels) else None), missing


def filled(labels: Tensor, logits: Tensor) -> Tensor:
    """Puts the teacher's class, or its score, in the place of labels that are missing; the same in every process.

    Args:
        labels: [N] class ids or scores, -100 or NaN where there is none.
        logits: [N, C] of the teacher.
    """
    known = has_label(labels)
    answers = logits[:, 0] if labels.is_floating_point() else logits.argmax(dim=1)
    found = torch.where(known, labels, answers.to(labels))
    # processes on unlike hardware may round a tie between two classes differently
    return from_first(found.to(wire())).cpu() if processes() > 1 else found


def live_logits(teacher: FrozenTeacher, encoded: Dataset, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Returns the logits [N, C] of a teacher without a cache for the examples without a label; 0 for the others."""
    missing = np.flatnonzero(~has_label(torch.tensor(encoded["labels"][:])).numpy())
    prefix = "teacher_" if "teacher_input_ids" in encoded.column_names else ""
    raw = predict_logits(
        teacher.model, encoded.select(missing), tokenizer, prefix=prefix, autocast=teacher.autocast
    )
    found = torch.zeros(len(encoded), raw.shape[1])
    found[missing] = torch.from_numpy(raw[:, list(teacher.logit_order)])
    return found
