"""Squared error between the logits of student and teacher (Distilled BiLSTM)."""

from __future__ import annotations

from codir.errors import ConfigError
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.kd import logit_mse
from codir.losses.token_checks import check_teacher


class LogitMSE(Objective):
    """||z_teacher - z_student||^2 between the logits before the softmax, or between scores; mean over the examples.

    Distilled BiLSTM, Tang et al. 2019: the squared norm, summed over the classes.
    Metric `agreement`: the share of examples for which both choose the same class.
    """

    name = "logit_mse"
    of_corpora = False

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The teacher's logits."""
        return Needs(teacher_logits=True)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, or in pre-training."""
        check_teacher(cls.name, context)
        if context.kind.per_token:
            raise ConfigError(
                "The objective 'logit_mse' compares the logits of a task, and this is a pre-training: use 'kd'."
            )

    def forward(self, step: Step) -> Term:
        """Reads the logits [B, C] of both sides."""
        if step.teacher is None:
            raise ConfigError(
                "The objective 'logit_mse' needs the teacher's logits, and this batch comes without them."
            )
        student, teacher = step.student.logits, step.teacher.logits.detach().to(step.student.logits.device)
        loss = logit_mse(student, teacher)
        if not self.context.kind.has_classes:
            return Term(loss)
        agreement = (student.detach().argmax(dim=1) == teacher.argmax(dim=1)).float().mean()
        return Term(loss, {"agreement": agreement})
