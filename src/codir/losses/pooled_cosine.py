"""Cosine of the pooled representations of matched blocks: the whole text, block by block."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field

from codir.losses import progressive
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.distances import cosine_distance
from codir.losses.matched_states import matched, say_pairs
from codir.losses.state_projections import PROJECTING_HELP, Projecting, StateProjections, check_widths
from codir.losses.token_checks import check_teacher
from codir.models.matching import MATCHING_HELP, Matching
from codir.models.representations import Pooling

_SAID = {"mean": "means over the tokens", "cls": "[CLS] states"}


class CosineSettings(progressive.ProgressiveSettings):
    """What `pooled_cosine` and `cls_cosine` have in common."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    projection: Projecting = Field(default="auto", description=PROJECTING_HELP)


class PooledCosineSettings(CosineSettings):
    """Settings of the objective `pooled_cosine`."""

    pooling: Pooling = Field(
        default="mean", description="what stands for a block: the `mean` of its tokens or `cls`"
    )


class PooledCosine(Objective):
    """One minus the cosine of two pooled representations, mean over examples, summed over the matched blocks.

    The representations are those that CoDIR contrasts (Section 3.2: h, the mean of a block's tokens), here without
    negatives. Both sides may have tokenizers of their own. Other widths go through a learned map.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "pooled_cosine"
    Settings = PooledCosineSettings
    seed_offset = 10

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(CosineSettings, settings)
        assert context.teacher is not None, "checked before"
        self._pairs = matched(self.name, self._settings.matching, context.student, context.teacher)
        self.projections = StateProjections(
            self._settings.projection, context, len(self._pairs), context.seed + self.seed_offset
        )

    @classmethod
    def pooling_of(cls, settings: ObjectiveSettings) -> Pooling:
        """Returns what stands for a block."""
        return cast(PooledCosineSettings, settings).pooling

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The pooled representation of every block."""
        return Needs(pooled=frozenset({cls.pooling_of(settings)}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with another width, or blocks that do not exist."""
        chosen = cast(CosineSettings, settings)
        matched(cls.name, chosen.matching, context.student, check_teacher(cls.name, context))
        check_widths(cls.name, chosen.projection, context)

    def forward(self, step: Step) -> Term:
        """Reads the pooled representations [B, blocks, d] of both sides."""
        assert step.teacher is not None, "declared in needs"
        pooling = self.pooling_of(self._settings)
        student, teacher = step.student.pooled[pooling], step.teacher.pooled[pooling]
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
        said = _SAID[self.pooling_of(self._settings)]
        line = f"{say_pairs(self.name, self._pairs)} ({said}){self.projections.describe()}"
        return [line + progressive.describe(self._settings)]
