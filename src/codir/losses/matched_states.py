"""What the objectives that compare hidden states of matched blocks, token by token, have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from codir.errors import ConfigError
from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.losses.state_projections import PROJECTING_HELP, Projecting, StateProjections, check_widths
from codir.losses.token_checks import check_tokens
from codir.models.matching import MATCHING_HELP, Matching, match_blocks
from codir.models.representations import EncoderShape, TokenView

Pairs = tuple[tuple[int, int], ...]


class MatchedStatesSettings(ObjectiveSettings):
    """Settings of objectives over hidden states of single tokens."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    projection: Projecting = Field(default="auto", description=PROJECTING_HELP)


def matched(name: str, spec: Matching, student: EncoderShape, teacher: EncoderShape) -> Pairs:
    """Returns `match_blocks` of the two models; its `ConfigError` names the setting."""
    try:
        return match_blocks(spec, student.blocks, teacher.blocks)
    except ConfigError as error:
        raise ConfigError(f"{name}.matching: {error}") from None


def say_pairs(name: str, pairs: Sequence[tuple[int, int]]) -> str:
    """Names the blocks: `pkd: student blocks 1, 2 learn from the teacher's 2, 4`."""
    own, other = (", ".join(map(str, side)) for side in zip(*pairs, strict=True))
    if len(pairs) == 1:
        return f"{name}: student block {own} learns from the teacher's {other}"
    return f"{name}: student blocks {own} learn from the teacher's {other}"


class MatchedStates(Objective):
    """Base of objectives that compare two blocks' hidden states [B, L, d]; a subclass gives `compare`.

    The term is the sum over the matched pairs. The student's states may go through a learned map to the teacher's
    width. Metrics `block_S`, where there are several: the term of each of the student's blocks.
    """

    Settings = MatchedStatesSettings
    seed_offset: ClassVar[int]

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks and draws the maps from the context's seed alone."""
        super().__init__(settings, context)
        assert context.teacher is not None, "checked before"
        self.pairs = self.pairs_of(settings, context.student, context.teacher)
        self.projections = StateProjections(
            self.projection_of(settings),
            context,
            self.maps_for(len(self.pairs)),
            context.seed + self.seed_offset,
        )

    @classmethod
    def pairs_of(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Pairs:
        """Returns the matched pairs (block of the student, block of the teacher)."""
        assert isinstance(settings, MatchedStatesSettings)
        return matched(cls.name, settings.matching, student, teacher)

    @classmethod
    def projection_of(cls, settings: ObjectiveSettings) -> Projecting:
        """Returns when the student's states are mapped."""
        assert isinstance(settings, MatchedStatesSettings)
        return settings.projection

    def maps_for(self, pairs: int) -> int:
        """Returns how many maps there are for so many pairs."""
        return pairs

    def counted(self, progress: float) -> Sequence[int]:
        """Returns which pairs count at this moment of the training, as positions in `pairs`; here all of them."""
        return range(len(self.pairs))

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Computes the scalar of one pair of blocks from [B, L, d] of both sides and the mask [B, L]."""
        raise NotImplementedError

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """The outputs of the matched blocks."""
        pairs = cls.pairs_of(settings, student, teacher)
        return Views(
            frozenset(TokenView("hidden", own) for own, _ in pairs),
            frozenset(TokenView("hidden", other) for _, other in pairs),
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with other tokens, blocks that do not exist, or other widths."""
        cls.pairs_of(settings, context.student, check_tokens(cls.name, context))
        check_widths(cls.name, cls.projection_of(settings), context)

    def forward(self, step: Step) -> Term:
        """Reads the hidden states [B, L, d] of the matched blocks."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in views"
        assert mask is not None, "declared in views"
        losses: dict[str, Tensor] = {}
        for position in self.counted(step.progress):
            own, other = self.pairs[position]
            live = self.projections(step.student.tokens[TokenView("hidden", own)], position)
            still = teacher.tokens[TokenView("hidden", other)].to(live.device)
            losses[f"block_{own}"] = self.compare(live, still, mask)
        total = torch.stack([*losses.values()]).sum()
        several = len(self.pairs) > 1
        return Term(total, {name: loss.detach() for name, loss in losses.items()} if several else {})

    def describe(self) -> list[str]:
        """The matched blocks and the maps."""
        return [say_pairs(self.name, self.pairs) + self.projections.describe()]
