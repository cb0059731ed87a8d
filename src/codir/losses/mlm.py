"""The loss of masked language modelling: L_CE of Eq. 1 in pre-training."""

from __future__ import annotations

from codir.errors import ConfigError
from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Term, TokenChunk
from codir.models.vocabulary import token_cross_entropy


class MLM(Objective):
    """Cross-entropy of the tokens that were masked, mean over the masked positions of the mini-batch.

    Metric `accuracy`: the share of masked positions whose token is the most probable one.
    """

    name = "mlm"
    of_labels = False

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` outside of pre-training."""
        if not context.kind.per_token:
            raise ConfigError(
                "The objective 'mlm' predicts masked tokens of a corpus; for labelled examples use 'task'."
            )

    @property
    def per_token(self) -> bool:
        """Always."""
        return True

    def token_loss(self, chunk: TokenChunk) -> Term:
        """Reads the student's logits [c, V] and the tokens [c]."""
        loss = token_cross_entropy(chunk.student, chunk.labels)
        right = chunk.student.detach().argmax(dim=1) == chunk.labels
        return Term(loss.sum(), {"accuracy": right.sum()})
