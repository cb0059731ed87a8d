"""Distillation of the teacher's logits (Eq. 2)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from codir.errors import ConfigError
from codir.losses.base import (
    Needs,
    Objective,
    ObjectiveContext,
    ObjectiveSettings,
    Step,
    Term,
    TokenChunk,
    TokenPositions,
)
from codir.models.vocabulary import token_divergence


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of the logits, || z_t - z_s ||^2 (Distilled BiLSTM, Tang et al. 2019), mean over the batch.

    Summed over the classes: the squared norm, not the mean of the squares. In fp32, also inside autocast.

    Args:
        student_logits: [B, C], or [B, 1] scores.
        teacher_logits: of the same shape; no gradient reaches it.

    Returns:
        Scalar, at least fp32.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        wide = torch.promote_types(student_logits.dtype, torch.float32)
        student = student_logits.to(wide).flatten(1)
        teacher = teacher_logits.detach().to(wide).flatten(1)
        return (student - teacher).square().sum(dim=1).mean()


class KDSettings(ObjectiveSettings):
    """Settings of the objective `kd`."""

    temperature: float = Field(
        default=2.0, gt=0.0, le=1e4, description="rho: softens both distributions (Eq. 2)"
    )
    squared: bool = Field(
        default=False, description="multiply by rho squared: the released code does, the paper does not"
    )
    averaged: bool = Field(
        default=False,
        description="take the mean over the classes, not their sum: the code of BERT-PKD does, and the weights that "
        "its authors searched belong to it",
    )
    positions: TokenPositions = Field(
        default="masked",
        description="in pre-training: compare predictions at the `masked` tokens, or at `all` that are no padding, as "
        "the code of DistilBERT does",
    )


class KD(Objective):
    """KL divergence of the student's softened classes from the teacher's; squared error between scores.

    In pre-training the classes are the tokens of the vocabulary, and the mean is over the masked positions, or over all
    that are no padding (`positions: all`).
    Metric `agreement`: the share of examples (or positions) for which teacher and student choose the same class.
    """

    name = "kd"
    Settings = KDSettings

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The teacher's logits."""
        return Needs(teacher_logits=True)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher."""
        if context.teacher is None:
            raise ConfigError("The objective 'kd' needs a teacher and there is none: name one, or drop 'kd'.")

    @property
    def per_token(self) -> bool:
        """In pre-training."""
        return self.context.kind.per_token

    @property
    def positions(self) -> TokenPositions:
        """As set."""
        return cast(KDSettings, self.settings).positions

    def token_loss(self, chunk: TokenChunk) -> Term:
        """Reads the logits [c, V] of both sides."""
        if chunk.teacher is None:
            raise ConfigError(
                "The objective 'kd' needs the teacher's logits, and this batch comes without them."
            )
        settings = cast(KDSettings, self.settings)
        loss = token_divergence(
            chunk.student, chunk.teacher, settings.temperature, settings.squared, settings.averaged
        )
        same = chunk.student.detach().argmax(dim=1) == chunk.teacher.argmax(dim=1)
        return Term(loss.sum(), {"agreement": same.sum()})

    def forward(self, step: Step) -> Term:
        """Reads the logits [B, C] of both sides."""
        if step.teacher is None:
            raise ConfigError(
                "The objective 'kd' needs the teacher's logits, and this batch comes without them."
            )
        settings = cast(KDSettings, self.settings)
        student, teacher = step.student.logits, step.teacher.logits.detach().to(step.student.logits.device)
        kind = self.context.kind
        loss = kind.distance(student, teacher, settings.temperature, settings.squared, settings.averaged)
        if not kind.has_classes:
            return Term(loss)
        same = kind.answers(student.detach()) == kind.answers(teacher)
        return Term(loss, {"agreement": same.float().mean()})
