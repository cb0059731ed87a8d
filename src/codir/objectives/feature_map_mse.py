"""Mean squared error between feature maps of matched blocks (MobileBERT)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from codir.errors import ConfigError
from codir.functional.feature_maps import feature_map_mse
from codir.models.matching import MATCHING_HELP, Matching, match_blocks
from codir.models.representations import EncoderShape, TokenView
from codir.objectives import progressive
from codir.objectives.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.objectives.token_checks import check_tokens


class FeatureMapMSESettings(progressive.ProgressiveSettings):
    """Settings of the objective `feature_map_mse`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    project: bool | None = Field(
        default=None,
        description="map the student's states to the teacher's width by a learned linear map, one for each block "
        "(null: only where the widths differ)",
    )


class FeatureMapMSE(Objective):
    """Mean squared error between the states of matched blocks, summed over the blocks.

    Of a block: the mean over dimensions and real tokens of an example, then over the examples (MobileBERT, Sun et al.
    2020, feature map transfer). MobileBERT's blocks have the teacher's width; others are mapped to it linearly.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "feature_map_mse"
    Settings = FeatureMapMSESettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks and draws the projections from the context's seed alone."""
        super().__init__(settings, context)
        self._settings = cast(FeatureMapMSESettings, settings)
        assert context.teacher is not None, "checked before"
        own, other = context.student, context.teacher
        self._pairs = match_blocks(self._settings.matching, own.blocks, other.blocks)
        projected = own.width != other.width if self._settings.project is None else self._settings.project
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed + 4)
            maps = [nn.Linear(own.width, other.width) for _ in self._pairs] if projected else []
        self.projections = nn.ModuleList(maps).to(context.device)

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """The outputs of the matched blocks."""
        pairs = match_blocks(cast(FeatureMapMSESettings, settings).matching, student.blocks, teacher.blocks)
        return Views(
            frozenset(TokenView("hidden", own) for own, _ in pairs),
            frozenset(TokenView("hidden", other) for _, other in pairs),
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with other tokens or widths, or blocks that do not exist."""
        check_tokens(cls.name, context)
        assert context.teacher is not None, "checked above"
        cls.views(settings, context.student, context.teacher)
        own, other = context.student.width, context.teacher.width
        if cast(FeatureMapMSESettings, settings).project is False and own != other:
            raise ConfigError(
                f"feature_map_mse.project is false, and the student's states have {own} numbers, the teacher's "
                f"{other}: leave it out, and they are mapped to the teacher's width."
            )

    def forward(self, step: Step) -> Term:
        """Reads the outputs [B, L, d] of the blocks that count at this moment."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in views"
        assert mask is not None, "there with the tokens"
        losses = {}
        for position in progressive.counted(self._settings, self._pairs, step.progress):
            own, other = self._pairs[position]
            live = self._project(step.student.tokens[TokenView("hidden", own)], position)
            still = teacher.tokens[TokenView("hidden", other)].to(live.device)
            losses[f"block_{own}"] = feature_map_mse(live, still, mask)
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def _project(self, states: Tensor, position: int) -> Tensor:
        """Maps [B, L, d_student] to [B, L, d_teacher] in fp32, also inside autocast."""
        if not len(self.projections):
            return states
        linear = cast(nn.Linear, self.projections[position])
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), linear.weight.float(), linear.bias.float())

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._settings, self._pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks, their order, and the projections."""
        lines = [progressive.describe(self._settings, self._pairs)]
        if len(self.projections):
            assert self.context.teacher is not None
            own, other = self.context.student.width, self.context.teacher.width
            lines.append(
                f"student's states mapped from {own} to {other} by {len(self.projections)} linear maps"
            )
        return lines
