"""Mean squared error between attention matrices of matched blocks (TinyBERT)."""

from __future__ import annotations

from typing import cast

from pydantic import Field
from torch import Tensor

from codir.losses.attention_distances import attention_mse
from codir.losses.base import ObjectiveSettings
from codir.losses.matched_attention import Attention, MatchedAttention
from codir.losses.matched_states import say_pairs
from codir.models.matching import MATCHING_HELP, Matching


class AttentionMSESettings(ObjectiveSettings):
    """Settings of the objective `attention_mse`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    normalised: bool = Field(
        default=False,
        description="compare the probabilities; TinyBERT compares the scores before the softmax",
    )


class AttentionMSE(MatchedAttention):
    """MSE between attention matrices, summed over the matched blocks (TinyBERT, Jiao et al. 2020, L_attn).

    Of a block: the mean over heads and pairs of real tokens of an example, then over the examples.
    """

    name = "attention_mse"
    Settings = AttentionMSESettings

    @classmethod
    def matching_of(cls, settings: ObjectiveSettings) -> Matching:
        """As set."""
        return cast(AttentionMSESettings, settings).matching

    def compare(self, student: Attention, teacher: Attention, mask: Tensor) -> Tensor:
        """See `functional.attention_mse`."""
        return attention_mse(student, teacher, mask, self.heads, self._normalised)

    @property
    def _normalised(self) -> bool:
        return cast(AttentionMSESettings, self.settings).normalised

    def describe(self) -> list[str]:
        """The matched blocks, and what of the attention is compared."""
        what = "probabilities" if self._normalised else "scores before the softmax"
        return [f"{say_pairs(self.name, self.pairs)} (attention of {self.heads} heads, {what})"]
