"""Divergence of the student's self-attention from the teacher's (MobileBERT, SID)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field

from codir.functional.relations import relation_divergence
from codir.models.matching import MATCHING_HELP, Matching
from codir.models.representations import EncoderShape, TokenKind, TokenView
from codir.objectives import progressive
from codir.objectives.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.objectives.matched_states import matched, say_pairs
from codir.objectives.token_checks import check_tokens, equal_heads

_KINDS: tuple[TokenKind, ...] = ("query", "key")


class AttentionKLSettings(progressive.ProgressiveSettings):
    """Settings of the objective `attention_kl`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)


class AttentionKL(Objective):
    """KL( teacher's attention || student's ) of every token, summed over the matched blocks.

    Of a block: the mean over heads and real tokens of an example, then over the examples (MobileBERT, Sun et al. 2020,
    attention transfer; SID, Aguilar et al. 2020, on self-attention). Both models must have the same heads.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "attention_kl"
    Settings = AttentionKLSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(AttentionKLSettings, settings)
        assert context.teacher is not None, "checked before"
        self._pairs = matched(self.name, self._settings.matching, context.student, context.teacher)
        self._heads = equal_heads(self.name, context)

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """Queries and keys of the matched blocks."""
        pairs = matched(cls.name, cast(AttentionKLSettings, settings).matching, student, teacher)
        return Views(
            frozenset(TokenView(kind, own) for own, _ in pairs for kind in _KINDS),
            frozenset(TokenView(kind, other) for _, other in pairs for kind in _KINDS),
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with other tokens or heads, or blocks that do not exist."""
        cls.views(settings, context.student, check_tokens(cls.name, context))
        equal_heads(cls.name, context)

    def forward(self, step: Step) -> Term:
        """Reads queries and keys [B, L, heads * d_h] of the blocks that count at this moment."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in views"
        assert mask is not None, "there with the tokens"
        losses = {}
        for position in progressive.counted(self._settings, self._pairs, step.progress):
            own, other = self._pairs[position]
            live = (step.student.tokens[TokenView("query", own)], step.student.tokens[TokenView("key", own)])
            still = (
                teacher.tokens[TokenView("query", other)].to(mask.device),
                teacher.tokens[TokenView("key", other)].to(mask.device),
            )
            losses[f"block_{own}"] = relation_divergence(live, still, mask, self._heads)
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._settings, self._pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks and their order."""
        return [say_pairs(self.name, self._pairs) + progressive.describe(self._settings)]
