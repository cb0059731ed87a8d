"""Losses over the self-attention of matched layers: its matrices (TinyBERT, MobileBERT, SID), relations (MiniLM).

A relation of two kinds of vectors, say queries and keys, is for each head and token the distribution
softmax(q k^T / sqrt(d_h)) over all tokens. Queries with keys give the attention.

Both distances take two kinds of vectors of each side, [B, L, heads * d_h] (the teacher's d_h may be another one, and no
gradient reaches it), and a mask [B, L], True at real tokens on whichever side the padding is; a row that is all padding
counts as zero. They are computed in fp32, also inside autocast. Heads that do not divide a width raise `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from codir.errors import ConfigError
from codir.losses.base import Needs, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.layerwise import LayerwiseLoss, ProgressiveSettings
from codir.models.layers import MATCHING_HELP, Matching
from codir.models.representations import TokenKind, TokenView

# ---- distances -----------------------------------------------------------------------------------------------------


def _split_heads(vectors: Tensor, heads: int) -> Tensor:
    """Cuts vectors into heads: [B, L, heads * d_h] to [B, heads, L, d_h]."""
    batch, length, width = vectors.shape
    if width % heads:
        raise ValueError(f"Vectors of {width} numbers cannot be cut into {heads} heads of the same size.")
    return vectors.view(batch, length, heads, width // heads).transpose(1, 2)


def relation_log_probabilities(left: Tensor, right: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Logarithms of softmax(left right^T / sqrt(d_h)), [B, heads, L, L], padding left out of the distributions.

    At padding the numbers are finite and mean nothing.
    """
    with torch.autocast(left.device.type, enabled=False):
        wide = torch.promote_types(left.dtype, torch.float32)
        first, second = _split_heads(left.to(wide), heads), _split_heads(right.to(wide), heads)
        scores = (first / math.sqrt(first.shape[-1])) @ second.transpose(-1, -2)
        # Not -inf: the log of a masked key has to be a number, because zero times infinity is none.
        hidden = (mask == 0)[:, None, None, :]
        return torch.log_softmax(scores.masked_fill(hidden, torch.finfo(wide).min / 4), dim=-1)


def relation_divergence(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int) -> Tensor:
    """KL divergence of the student's relations from the teacher's.

    For one example 1 / (A |x|) * sum_a sum_t KL(R_teacher[a, t] || R_student[a, t]) over the A heads and the |x| real
    tokens (MiniLM, Wang et al. 2020, MiniLMv2, Wang et al. 2021; with queries and keys also the attention transfer of
    MobileBERT and SID); then the mean over the examples.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        with torch.no_grad():
            wanted = relation_log_probabilities(teacher[0], teacher[1], mask, heads)
        given = relation_log_probabilities(student[0], student[1], mask, heads)
        each = functional.kl_div(given, wanted.to(given.dtype), reduction="none", log_target=True)
        real = mask != 0
        rows = each.sum(dim=-1).mean(dim=1).masked_fill(~real, 0.0)  # [B, L]
        return (rows.sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()


def attention_mse(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int, normalised: bool = False
) -> Tensor:
    """Mean squared error between attention matrices (TinyBERT, Jiao et al. 2020, L_attn).

    For one example 1 / (h T^2) * sum_a || A_student[a] - A_teacher[a] ||_F^2 over the h heads, A[a] being the T x T
    matrix of its real tokens; then the mean over the examples. `normalised` compares softmax(q k^T / sqrt(d_h)); the
    paper compares the scores q k^T / sqrt(d_h) themselves.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        real = mask != 0
        if normalised:
            with torch.no_grad():
                wanted = relation_log_probabilities(teacher[0], teacher[1], real, heads).exp()
            given = relation_log_probabilities(student[0], student[1], real, heads).exp()
            difference = (given - wanted.to(given.dtype)).masked_fill(~real[:, None, :, None], 0.0)
        else:
            # One product gives the difference, [q_s/sqrt(d_s), -q_t/sqrt(d_t)] [k_s, k_t]^T; padding is zero in it.
            wide = torch.promote_types(student[0].dtype, torch.float32)
            (own_query, own_key), (other_query, other_key) = (
                [_split_heads(each.to(wide).masked_fill(~real.unsqueeze(2), 0.0), heads) for each in side]
                for side in (student, [each.detach() for each in teacher])
            )
            scaled = (
                own_query / math.sqrt(own_query.shape[-1]),
                -other_query / math.sqrt(other_query.shape[-1]),
            )
            difference = torch.cat(scaled, dim=-1) @ torch.cat([own_key, other_key], dim=-1).transpose(-1, -2)
        cells = real.sum(dim=1).clamp_min(1).square() * heads
        return (difference.square().sum(dim=(1, 2, 3)) / cells).mean()


# ---- losses --------------------------------------------------------------------------------------------------------

Vectors = tuple[Tensor, Tensor]
"""Two kinds of vectors of one layer, queries and keys say, each [B, L, heads * d_h]."""


def vectors_of(step: Step, kinds: tuple[TokenKind, TokenKind], own: int, other: int) -> tuple[Vectors, Vectors, Tensor]:
    """Takes the vectors of a student's and a teacher's layer out of a step, with its mask [B, L]."""
    mask = step.student.mask
    assert step.teacher is not None, "declared in needs"
    assert mask is not None, "there with the tokens"
    student, teacher = (
        cast(Vectors, tuple(side.tokens[TokenView(kind, layer)].to(mask.device) for kind in kinds))
        for side, layer in ((step.student, own), (step.teacher, other))
    )
    return student, teacher, mask


class AttentionLoss(LayerwiseLoss):
    """Base of the losses that compare attention head by head, so that both models must have the same heads."""

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.chosen: Any = settings  # of the subclass's own type
        self.heads = context.student.heads or 0

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """Queries and keys of the matched layers."""
        return Needs(tokens=frozenset({"query", "key"}), layers=cast(Any, settings).matching)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` if the numbers of heads differ."""
        assert context.teacher is not None, "checked before"
        own, other = context.student.heads, context.teacher.heads
        if own != other:
            raise ConfigError(
                f"The objective {cls.name!r} compares head by head, and the student has {own} heads, the teacher "
                f"{other}: choose a student with the teacher's heads (student.width takes heads away, "
                "student.intermediate does not), or use 'relations' with relation_heads, which cuts both into the same "
                "number."
            )

    def compare(self, student: Vectors, teacher: Vectors, mask: Tensor) -> Tensor:
        """Returns the scalar loss of one layer from queries and keys; `mask` [B, L] is True at real tokens."""
        raise NotImplementedError

    def forward(self, step: Step) -> Term:
        """Reads queries and keys of the layers that count at this moment."""
        counted = self.counted(step.progress)
        return self.summed(
            {own: self.compare(*vectors_of(step, ("query", "key"), own, other)) for _, own, other in counted}
        )


class AttentionMSESettings(ObjectiveSettings):
    """Settings of the loss `attention_mse`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    normalised: bool = Field(
        default=False,
        description="compare the probabilities; TinyBERT compares the scores before the softmax",
    )


class AttentionMSE(AttentionLoss):
    """MSE between attention matrices, summed over the matched layers (TinyBERT, Jiao et al. 2020, L_attn).

    Of a layer: the mean over heads and pairs of real tokens of an example, then over the examples.
    """

    name, Settings = "attention_mse", AttentionMSESettings

    def compare(self, student: Vectors, teacher: Vectors, mask: Tensor) -> Tensor:
        """See `attention_mse`."""
        return attention_mse(student, teacher, mask, self.heads, self.chosen.normalised)

    def describe(self) -> list[str]:
        """The matched layers, and what of the attention is compared."""
        what = "probabilities" if self.chosen.normalised else "scores before the softmax"
        return [self.say_pairs(f" (attention of {self.heads} heads, {what})")]


class AttentionKLSettings(ProgressiveSettings):
    """Settings of the loss `attention_kl`."""

    matching: Matching = Field(default="spread", description=MATCHING_HELP)
    averaged: bool = Field(
        default=False,
        description="divide by the number of matched layers: the released code of MobileBERT does",
    )


class AttentionKL(AttentionLoss):
    """KL( teacher's attention || student's ) of every token, summed over the matched layers.

    Of a layer: the mean over heads and real tokens of an example, then over the examples (MobileBERT, Sun et al. 2020,
    attention transfer; SID, Aguilar et al. 2020, on self-attention).
    """

    name, Settings = "attention_kl", AttentionKLSettings

    def compare(self, student: Vectors, teacher: Vectors, mask: Tensor) -> Tensor:
        """See `relation_divergence`."""
        loss = relation_divergence(student, teacher, mask, self.heads)
        return loss / len(self.pairs) if self.chosen.averaged else loss

    def describe(self) -> list[str]:
        """The matched layers and their order."""
        return [self.say_pairs()]


Vector = Literal["query", "key", "value"]


class RelationsSettings(ObjectiveSettings):
    """Settings of the loss `relations`."""

    pairs: list[tuple[Vector, Vector]] = Field(
        default=[("query", "query"), ("key", "key"), ("value", "value")],
        description="kinds of vectors whose relations are compared: [[query, query], [key, key], [value, value]] is "
        "MiniLMv2, [[query, key], [value, value]] MiniLM",
    )
    relation_heads: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="into how many heads both models' vectors are cut (null: the models' own, which must agree)",
    )
    matching: Matching = Field(default="top", description=MATCHING_HELP)

    @field_validator("pairs")
    @classmethod
    def _some_and_none_twice(cls, value: list[tuple[Vector, Vector]]) -> list[tuple[Vector, Vector]]:
        if not value:
            raise ValueError("the list of relations is empty: name at least one, such as [value, value]")
        if len(set(value)) < len(value):
            raise ValueError("a relation is named twice")
        return value


class Relations(LayerwiseLoss):
    """KL( teacher's relations || student's ), summed over the kinds of relations and the matched layers.

    A relation is softmax(x y^T / sqrt(d_h)) within each head, d_h being the length of a head of that model, so that
    widths may differ. Of one kind and layer: the mean over heads and real tokens of an example (the papers'
    1 / (A |x|) sum), then over the examples. MiniLM, Wang et al. 2020; MiniLMv2, Wang et al. 2021.
    Metrics `query_key` and so on: the term of each kind.
    """

    name, Settings = "relations", RelationsSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self._kinds = cast(RelationsSettings, settings).pairs
        self._heads = cast(RelationsSettings, settings).relation_heads or context.student.heads or 0

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """The kinds of vectors that the relations name, of the matched layers."""
        chosen = cast(RelationsSettings, settings)
        kinds: set[TokenKind] = {kind for pair in chosen.pairs for kind in pair}
        return Needs(tokens=frozenset(kinds), layers=chosen.matching)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` for heads that do not fit."""
        assert context.teacher is not None, "checked before"
        student, teacher = context.student, context.teacher
        wanted = cast(RelationsSettings, settings).relation_heads
        advice = f"a number that divides both widths ({student.width} and {teacher.width})."
        if wanted is None and student.heads != teacher.heads:
            raise ConfigError(
                f"The student has {student.heads} heads and the teacher {teacher.heads}: set relations.relation_heads "
                f"to {advice}"
            )
        for side, shape in (("student", student), ("teacher", teacher)):
            if wanted is not None and shape.width % wanted:
                raise ConfigError(
                    f"relations.relation_heads={wanted} does not divide the {side}'s width of {shape.width}: choose "
                    f"{advice}"
                )

    def forward(self, step: Step) -> Term:
        """Reads queries, keys and values [B, L, heads * d_h]."""
        losses: dict[str, Tensor] = {}
        for kinds in self._kinds:
            of_layers = [
                relation_divergence(*vectors_of(step, kinds, own, other), self._heads) for own, other in self.pairs
            ]
            losses["_".join(kinds)] = torch.stack(of_layers).sum()
        metrics = {name: loss.detach() for name, loss in losses.items()}
        return Term(torch.stack([*losses.values()]).sum(), metrics)

    def describe(self) -> list[str]:
        """The relations, the heads and the layers."""
        kinds = ", ".join("-".join(pair) for pair in self._kinds)
        return [self.say_pairs(f" ({kinds} in {self._heads} heads)")]
