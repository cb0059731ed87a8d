"""Cosine of the [CLS] states of matched blocks (SID)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field

from codir.functional.feature_maps import cosine_distance
from codir.models.matching import MATCHING_HELP, Matching
from codir.objectives import progressive
from codir.objectives.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.objectives.matched_states import matched, say_pairs
from codir.objectives.state_projections import PROJECTING_HELP, Projecting, StateProjections, check_widths
from codir.objectives.token_checks import check_teacher


class ClsCosineSettings(progressive.ProgressiveSettings):
    """Settings of the objective `cls_cosine`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    projection: Projecting = Field(default="never", description=PROJECTING_HELP)


class ClsCosine(Objective):
    """One minus the cosine of the first tokens' states, mean over examples, summed over the matched blocks.

    SID, Aguilar et al. 2020; with `progressive: unlock` its stacked internal distillation. Its widths agree; others
    need a `projection`.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "cls_cosine"
    Settings = ClsCosineSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(ClsCosineSettings, settings)
        assert context.teacher is not None, "checked before"
        self._pairs = matched(self.name, self._settings.matching, context.student, context.teacher)
        self.projections = StateProjections(
            self._settings.projection, context, len(self._pairs), context.seed + 9
        )

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The first token's state of every block."""
        return Needs(pooled=frozenset({"cls"}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with another width, or blocks that do not exist."""
        chosen = cast(ClsCosineSettings, settings)
        matched(cls.name, chosen.matching, context.student, check_teacher(cls.name, context))
        check_widths(cls.name, chosen.projection, context)

    def forward(self, step: Step) -> Term:
        """Reads pooled `cls` [B, blocks, d] of both sides."""
        assert step.teacher is not None, "declared in needs"
        student, teacher = step.student.pooled["cls"], step.teacher.pooled["cls"]
        teacher = teacher.to(student.device)
        losses = {}
        for position in progressive.counted(self._settings, self._pairs, step.progress):
            own, other = self._pairs[position]
            live = self.projections(student[:, own - 1], position)
            losses[f"block_{own}"] = cosine_distance(live, teacher[:, other - 1])
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._settings, self._pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks and their order."""
        line = f"{say_pairs(self.name, self._pairs)} ([CLS] states){self.projections.describe()}"
        return [line + progressive.describe(self._settings)]
