"""What the objectives that compare the attention of matched blocks, head by head, have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.losses.matched_states import Pairs, matched
from codir.losses.token_checks import check_tokens, equal_heads
from codir.models.matching import Matching
from codir.models.representations import EncoderShape, Representations, TokenKind, TokenView

_KINDS: tuple[TokenKind, ...] = ("query", "key")
Attention = tuple[Tensor, Tensor]
"""Queries and keys of one block, each [B, L, heads * d_h]."""


class MatchedAttention(Objective):
    """Base of objectives that compare two blocks' attention; a subclass gives `matching_of` and `compare`.

    The term is the sum over the matched blocks. Both models must have the same heads.
    Metrics `block_S`: the term of each of the student's blocks.
    """

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        assert context.teacher is not None, "checked before"
        self.pairs: Pairs = matched(self.name, self.matching_of(settings), context.student, context.teacher)
        self.heads = equal_heads(self.name, context)

    @classmethod
    def matching_of(cls, settings: ObjectiveSettings) -> Matching:
        """Returns which blocks are matched."""
        raise NotImplementedError

    def compare(self, student: Attention, teacher: Attention, mask: Tensor) -> Tensor:
        """Returns the scalar loss of one block; `mask` [B, L] is True at real tokens."""
        raise NotImplementedError

    def counted(self, progress: float) -> Sequence[tuple[int, int]]:
        """Returns the pairs that count at this moment of the training."""
        return self.pairs

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """Queries and keys of the matched blocks."""
        pairs = matched(cls.name, cls.matching_of(settings), student, teacher)
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
        losses = {
            f"block_{own}": self.compare(
                _attention(step.student, own, mask.device), _attention(teacher, other, mask.device), mask
            )
            for own, other in self.counted(step.progress)
        }
        total = torch.stack([*losses.values()]).sum()
        return Term(total, {name: loss.detach() for name, loss in losses.items()})


def _attention(side: Representations, block: int, device: torch.device) -> Attention:
    query, key = (side.tokens[TokenView(kind, block)] for kind in _KINDS)
    return query.to(device), key.to(device)
