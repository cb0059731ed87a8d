"""Losses over the self-attention of matched layers: its matrices (TinyBERT, MobileBERT, SID), relations (MiniLM)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor

from codir.errors import ConfigError
from codir.losses.attention_distances import attention_mse, relation_divergence
from codir.losses.base import Needs, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.layerwise import LayerwiseLoss, ProgressiveSettings
from codir.models.layers import MATCHING_HELP, Matching
from codir.models.representations import Representations, TokenKind, TokenView

Vectors = tuple[Tensor, Tensor]
"""Two kinds of vectors of one layer, queries and keys say, each [B, L, heads * d_h]."""


def _vectors(side: Representations, kinds: tuple[TokenKind, TokenKind], layer: int, like: Tensor) -> Vectors:
    left, right = (side.tokens[TokenView(kind, layer)].to(like.device) for kind in kinds)
    return left, right


class AttentionLoss(LayerwiseLoss):
    """Base of the losses that compare attention head by head, so that both models must have the same heads.

    A subclass gives `compare`.
    """

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
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in needs"
        assert mask is not None, "there with the tokens"
        return self.summed(
            {
                own: self.compare(
                    _vectors(step.student, ("query", "key"), own, mask),
                    _vectors(teacher, ("query", "key"), other, mask),
                    mask,
                )
                for _, own, other in self.counted(step.progress)
            }
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
        advice = f"that divides both widths ({student.width} and {teacher.width})."
        if wanted is None and student.heads != teacher.heads:
            raise ConfigError(
                f"The student has {student.heads} heads and the teacher {teacher.heads}: set relations.relation_heads "
                f"to a number {advice}"
            )
        for side, shape in (("student", student), ("teacher", teacher)):
            if wanted is not None and shape.width % wanted:
                raise ConfigError(
                    f"relations.relation_heads={wanted} does not divide the {side}'s width of {shape.width}: choose a "
                    f"number {advice}"
                )

    def forward(self, step: Step) -> Term:
        """Reads queries, keys and values [B, L, heads * d_h]."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in needs"
        assert mask is not None, "there with the tokens"
        losses: dict[str, Tensor] = {}
        for kinds in self._kinds:
            of_layers = [
                relation_divergence(
                    _vectors(step.student, kinds, own, mask),
                    _vectors(teacher, kinds, other, mask),
                    mask,
                    self._heads,
                )
                for own, other in self.pairs
            ]
            losses["_".join(kinds)] = torch.stack(of_layers).sum()
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def describe(self) -> list[str]:
        """The relations, the heads and the layers."""
        kinds = ", ".join("-".join(pair) for pair in self._kinds)
        return [self.say_pairs(f" ({kinds} in {self._heads} heads)")]
