"""Divergence of the student's self-attention from the teacher's (MobileBERT, SID)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import Field
from torch import Tensor

from codir.losses import progressive
from codir.losses.attention_distances import relation_divergence
from codir.losses.base import ObjectiveSettings
from codir.losses.matched_attention import Attention, MatchedAttention
from codir.losses.matched_states import say_pairs
from codir.models.matching import MATCHING_HELP, Matching


class AttentionKLSettings(progressive.ProgressiveSettings):
    """Settings of the objective `attention_kl`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    averaged: bool = Field(
        default=False,
        description="divide by the number of matched blocks: the released code of MobileBERT does",
    )


class AttentionKL(MatchedAttention):
    """KL( teacher's attention || student's ) of every token, summed over the matched blocks.

    Of a block: the mean over heads and real tokens of an example, then over the examples (MobileBERT, Sun et al. 2020,
    attention transfer; SID, Aguilar et al. 2020, on self-attention).
    """

    name = "attention_kl"
    Settings = AttentionKLSettings

    @property
    def _progressive(self) -> AttentionKLSettings:
        return cast(AttentionKLSettings, self.settings)

    @classmethod
    def matching_of(cls, settings: ObjectiveSettings) -> Matching:
        """As set."""
        return cast(AttentionKLSettings, settings).matching

    def compare(self, student: Attention, teacher: Attention, mask: Tensor) -> Tensor:
        """See `relation_divergence`."""
        loss = relation_divergence(student, teacher, mask, self.heads)
        return loss / len(self.pairs) if self._progressive.averaged else loss

    def counted(self, progress: float) -> Sequence[tuple[int, int]]:
        """See `progressive`."""
        positions = progressive.counted(self._progressive, self.pairs, progress)
        return [self.pairs[position] for position in positions]

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._progressive, self.pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks and their order."""
        return [say_pairs(self.name, self.pairs) + progressive.describe(self._progressive)]
