"""Cosine of the [CLS] states of matched blocks (SID)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field

from codir.errors import ConfigError
from codir.functional.feature_maps import cosine_distance
from codir.models.matching import MATCHING_HELP, Matching, match_blocks
from codir.objectives import progressive
from codir.objectives.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term


class ClsCosineSettings(progressive.ProgressiveSettings):
    """Settings of the objective `cls_cosine`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)


class ClsCosine(Objective):
    """One minus the cosine of the first tokens' states, mean over examples, summed over the matched blocks.

    SID, Aguilar et al. 2020; with `progressive: unlock` its stacked internal distillation. Widths must agree.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "cls_cosine"
    Settings = ClsCosineSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(ClsCosineSettings, settings)
        assert context.teacher is not None, "checked before"
        self._pairs = match_blocks(self._settings.matching, context.student.blocks, context.teacher.blocks)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The first token's state of every block."""
        return Needs(pooled=frozenset({"cls"}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with another width, or blocks that do not exist."""
        if context.teacher is None:
            raise ConfigError(
                "The objective 'cls_cosine' needs a teacher and there is none: name one, or drop 'cls_cosine'."
            )
        if context.student.width != context.teacher.width:
            raise ConfigError(
                f"The objective 'cls_cosine' compares states of the same width, and the student's have "
                f"{context.student.width} numbers, the teacher's {context.teacher.width}: use 'crd', 'hidden_mse' or "
                "'feature_map_mse', which learn a projection."
            )
        match_blocks(
            cast(ClsCosineSettings, settings).matching, context.student.blocks, context.teacher.blocks
        )

    def forward(self, step: Step) -> Term:
        """Reads pooled `cls` [B, blocks, d] of both sides."""
        assert step.teacher is not None, "declared in needs"
        student, teacher = step.student.pooled["cls"], step.teacher.pooled["cls"]
        teacher = teacher.to(student.device)
        losses = {
            f"block_{own}": cosine_distance(student[:, own - 1], teacher[:, other - 1])
            for own, other in (
                self._pairs[position]
                for position in progressive.counted(self._settings, self._pairs, step.progress)
            )
        }
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._settings, self._pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks and their order."""
        return [progressive.describe(self._settings, self._pairs)]
