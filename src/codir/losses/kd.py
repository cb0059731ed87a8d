"""Distillation of the teacher's logits: divergence of softened predictions (Eq. 2), or squared error (BiLSTM)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from codir.errors import ConfigError
from codir.kinds.base import Kind
from codir.losses.base import Needs, Objective, ObjectiveSettings, Step, Term, TokenChunk, TokenPositions
from codir.models.vocabulary import token_divergence


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """|| z_t - z_s ||^2 of logits or scores [B, C], summed over the classes, mean over the batch.

    A scalar, at least fp32, also inside autocast; no gradient reaches the teacher's.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        wide = torch.promote_types(student_logits.dtype, torch.float32)
        student = student_logits.to(wide).flatten(1)
        teacher = teacher_logits.detach().to(wide).flatten(1)
        return (student - teacher).square().sum(dim=1).mean()


class KDSettings(ObjectiveSettings):
    """Settings of the loss `kd`."""

    temperature: float = Field(default=2.0, gt=0.0, le=1e4, description="rho: softens both distributions (Eq. 2)")
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
        return Needs(teacher_logits=True, positions=cast(KDSettings, settings).positions)

    def token_loss(self, chunk: TokenChunk) -> Term:
        """Reads the logits [c, V] of both sides."""
        if chunk.teacher is None:
            raise _without_logits(self.name)
        settings = cast(KDSettings, self.settings)
        loss = token_divergence(chunk.student, chunk.teacher, settings.temperature, settings.squared, settings.averaged)
        same = chunk.student.detach().argmax(dim=1) == chunk.teacher.argmax(dim=1)
        return Term(loss.sum(), {"agreement": same.sum()})

    def forward(self, step: Step) -> Term:
        """Reads the logits [B, C] of both sides."""
        student, teacher = logits_of(self.name, step)
        settings, kind = cast(KDSettings, self.settings), self.context.kind
        loss = kind.distance(student, teacher, settings.temperature, settings.squared, settings.averaged)
        return Term(loss, _agreement(kind, student, teacher))


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

    def forward(self, step: Step) -> Term:
        """Reads the logits [B, C] of both sides."""
        student, teacher = logits_of(self.name, step)
        return Term(logit_mse(student, teacher), _agreement(self.context.kind, student, teacher))


def logits_of(name: str, step: Step) -> tuple[Tensor, Tensor]:
    """Returns the student's and the teacher's logits [B, C]; raises `ConfigError` for a batch without the latter."""
    if step.teacher is None:
        raise _without_logits(name)
    return step.student.logits, step.teacher.logits.detach().to(step.student.logits.device)


def _without_logits(name: str) -> ConfigError:
    return ConfigError(f"The objective {name!r} needs the teacher's logits, and this batch comes without them.")


def _agreement(kind: Kind, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    if not kind.has_classes:
        return {}
    return {"agreement": (kind.answers(student.detach()) == kind.answers(teacher)).float().mean()}
