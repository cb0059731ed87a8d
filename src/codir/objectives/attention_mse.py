"""Mean squared error between attention matrices of matched blocks (TinyBERT)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from codir.functional.attention_mse import attention_mse
from codir.models.matching import MATCHING_HELP, Matching
from codir.models.representations import EncoderShape, Representations, TokenView
from codir.objectives.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.objectives.matched_states import matched, say_pairs
from codir.objectives.token_checks import check_tokens, equal_heads


class AttentionMSESettings(ObjectiveSettings):
    """Settings of the objective `attention_mse`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    normalised: bool = Field(
        default=False,
        description="compare the probabilities; TinyBERT compares the scores before the softmax",
    )


class AttentionMSE(Objective):
    """MSE between attention matrices, summed over the matched blocks (TinyBERT, Jiao et al. 2020, L_attn).

    Of a block: the mean over heads and pairs of real tokens of an example, then over the examples.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    name = "attention_mse"
    Settings = AttentionMSESettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(AttentionMSESettings, settings)
        assert context.teacher is not None, "checked before"
        self.pairs = matched(self.name, self._settings.matching, context.student, context.teacher)
        self.heads = equal_heads(self.name, context)

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """Queries and keys of the matched blocks."""
        pairs = matched(cls.name, cast(AttentionMSESettings, settings).matching, student, teacher)
        return Views(
            frozenset(TokenView(kind, own) for own, _ in pairs for kind in ("query", "key")),
            frozenset(TokenView(kind, other) for _, other in pairs for kind in ("query", "key")),
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with other tokens or heads, or blocks that do not exist."""
        cls.views(settings, context.student, check_tokens(cls.name, context))
        equal_heads(cls.name, context)

    def forward(self, step: Step) -> Term:
        """Reads queries and keys [B, L, heads * d_h] of the matched blocks."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in views"
        assert mask is not None, "declared in views"
        losses = {
            f"block_{own}": attention_mse(
                _queries_and_keys(step.student, own, mask.device),
                _queries_and_keys(teacher, other, mask.device),
                mask,
                self.heads,
                self._settings.normalised,
            )
            for own, other in self.pairs
        }
        total = torch.stack([*losses.values()]).sum()
        return Term(total, {name: loss.detach() for name, loss in losses.items()})

    def describe(self) -> list[str]:
        """The matched blocks, and what of the attention is compared."""
        what = "probabilities" if self._settings.normalised else "scores before the softmax"
        return [f"{say_pairs(self.name, self.pairs)} (attention of {self.heads} heads, {what})"]


def _queries_and_keys(side: Representations, block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    query, key = (side.tokens[TokenView(kind, block)] for kind in ("query", "key"))
    return query.to(device), key.to(device)
