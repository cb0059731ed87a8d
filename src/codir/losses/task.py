"""The loss of the task itself, L_CE of Eq. 1: of labelled examples, and of masked tokens in pre-training."""

from __future__ import annotations

import torch

from codir.errors import DataError
from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, TokenChunk
from codir.models.classes import has_label
from codir.models.vocabulary import token_cross_entropy


class Task(Objective):
    """Cross-entropy with the labels, or their mean squared error for a regression.

    Examples without a label do not count: the mean is over the labelled ones, and 0 where there are none.
    """

    name = "task"
    of_corpora = False

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `DataError` for data without labels."""
        if context.labels is None:
            raise DataError(
                "The objective 'task' needs labels, and this data has none: name the label column, or drop it."
            )

    def forward(self, step: Step) -> Term:
        """Reads the student's logits [B, C] and the labels [B]."""
        if step.labels is None:
            raise DataError("The objective 'task' needs labels, and this batch has none: name the label column.")
        labels, task_loss = step.labels.view(-1), self.context.kind.task_loss
        with torch.autocast(step.student.logits.device.type, enabled=False):
            logits = step.student.logits.float()
            if not self.context.unlabeled:
                return Term(task_loss(logits, labels, "mean"))
            loss = task_loss(logits, labels, "sum")
            if step.labelled is None:
                return Term(loss / has_label(labels).sum().clamp_min(1))
            return Term(loss / (step.labelled or 1.0), empty=step.labelled == 0)


class MLM(Objective):
    """Cross-entropy of the tokens that were masked, mean over the masked positions of the mini-batch.

    Metric `accuracy`: the share of masked positions whose token is the most probable one.
    """

    name = "mlm"
    of_labels = False

    def token_loss(self, chunk: TokenChunk) -> Term:
        """Reads the student's logits [c, V] and the tokens [c]."""
        loss = token_cross_entropy(chunk.student, chunk.labels)
        right = chunk.student.detach().argmax(dim=1) == chunk.labels
        return Term(loss.sum(), {"accuracy": right.sum()})
