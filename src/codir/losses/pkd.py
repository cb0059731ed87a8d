"""Patient knowledge distillation: normalised [CLS] states of matched blocks (BERT-PKD)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field

from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.distances import patient_distance
from codir.losses.matched_states import matched, say_pairs
from codir.losses.state_projections import PROJECTING_HELP, Projecting, StateProjections, check_widths
from codir.losses.token_checks import check_teacher
from codir.models.matching import MATCHING_HELP, Matching


class PKDSettings(ObjectiveSettings):
    """Settings of the objective `pkd`."""

    matching: Matching = Field(default="skip", description=MATCHING_HELP)
    projection: Projecting = Field(default="never", description=PROJECTING_HELP)
    averaged: bool = Field(
        default=False,
        description="take the mean over blocks and dimensions: the released code does, the paper's equation does not, "
        "and the weights that the paper searched belong to the mean",
    )


class PKD(Objective):
    """|| s / |s| - t / |t| ||_2^2 of the [CLS] states, summed over matched blocks, mean over the examples (L_PT).

    BERT-PKD, Sun et al. 2019; PKD-Skip (`matching: skip`) is the default, PKD-Last is `last`. Neither matches the last
    block, which is left to the loss on the predictions. The paper sums over the examples; its released code also takes
    the mean over blocks and dimensions (`averaged`).
    Metric `cosine`: mean cosine of the matched states, 1 - loss / (2 * blocks).
    """

    name = "pkd"
    Settings = PKDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks; maps, if wanted, are drawn from the context's seed alone."""
        super().__init__(settings, context)
        settings = cast(PKDSettings, settings)
        assert context.teacher is not None, "checked before"
        self.pairs = matched(self.name, settings.matching, context.student, context.teacher)
        self.projections = StateProjections(settings.projection, context, len(self.pairs), context.seed + 7)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """[CLS] of all blocks."""
        return Needs(pooled=frozenset({"cls"}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, for blocks that do not exist, or other widths."""
        settings = cast(PKDSettings, settings)
        matched(cls.name, settings.matching, context.student, check_teacher(cls.name, context))
        check_widths(cls.name, settings.projection, context)

    def forward(self, step: Step) -> Term:
        """Reads pooled `cls` [B, blocks, d] of both sides."""
        assert step.teacher is not None, "declared in needs"
        student, teacher = step.student.pooled["cls"], step.teacher.pooled["cls"]
        # A stack of the teacher's float16 rows is not possible under autocast on every device; indexing is.
        still = teacher[:, [other - 1 for _, other in self.pairs]].to(student.device)
        with torch.autocast(student.device.type, enabled=False):
            live = torch.stack(
                [
                    self.projections(student[:, own - 1], position)
                    for position, (own, _) in enumerate(self.pairs)
                ],
                dim=1,
            )
        loss = patient_distance(live, still)
        cosine = 1 - loss.detach() / (2 * len(self.pairs))
        if cast(PKDSettings, self.settings).averaged:
            loss = loss / (live.shape[1] * live.shape[2])
        return Term(loss, {"cosine": cosine})

    def describe(self) -> list[str]:
        """The matched blocks and the maps."""
        return [f"{say_pairs(self.name, self.pairs)} ([CLS] states){self.projections.describe()}"]
