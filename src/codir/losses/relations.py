"""Self-attention relations of one block, or several (MiniLM, MiniLMv2)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field, field_validator

from codir.errors import ConfigError
from codir.losses.attention_distances import relation_divergence
from codir.losses.base import Objective, ObjectiveContext, ObjectiveSettings, Step, Term, Views
from codir.losses.matched_states import matched, say_pairs
from codir.losses.token_checks import check_tokens, heads_of
from codir.models.matching import MATCHING_HELP, Matching
from codir.models.representations import EncoderShape, TokenView

Vector = Literal["query", "key", "value"]


class RelationsSettings(ObjectiveSettings):
    """Settings of the objective `relations`."""

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


class Relations(Objective):
    """KL( teacher's relations || student's ), summed over the kinds of relations and the matched blocks.

    A relation is softmax(x y^T / sqrt(d_h)) within each head, d_h being the length of a head of that model, so that
    widths may differ. Of one kind and block: the mean over heads and real tokens of an example (the papers'
    1 / (A |x|) sum), then over the examples. MiniLM, Wang et al. 2020; MiniLMv2, Wang et al. 2021.
    Metrics `query_key` and so on: the term of each kind.
    """

    name = "relations"
    Settings = RelationsSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        """Matches the blocks."""
        super().__init__(settings, context)
        self._settings = cast(RelationsSettings, settings)
        assert context.teacher is not None, "checked before"
        self._blocks = matched(self.name, self._settings.matching, context.student, context.teacher)
        self._heads = self._settings.relation_heads or heads_of(self.name, context)[0]

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """The kinds of vectors that the relations name, of the matched blocks."""
        chosen = cast(RelationsSettings, settings)
        kinds: set[Vector] = {kind for pair in chosen.pairs for kind in pair}
        blocks = matched(cls.name, chosen.matching, student, teacher)
        return Views(
            frozenset(TokenView(kind, own) for own, _ in blocks for kind in kinds),
            frozenset(TokenView(kind, other) for _, other in blocks for kind in kinds),
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` without a teacher, with other tokens, or heads or blocks that do not fit."""
        teacher = check_tokens(cls.name, context)
        cls.views(settings, context.student, teacher)
        own, other = heads_of(cls.name, context)
        wanted = cast(RelationsSettings, settings).relation_heads
        if wanted is None:
            if own != other:
                raise ConfigError(
                    f"The student has {own} heads and the teacher {other}: set relations.relation_heads to a number "
                    f"that divides both widths ({context.student.width} and {teacher.width})."
                )
            return
        for side, shape in (("student", context.student), ("teacher", teacher)):
            if shape.width % wanted:
                raise ConfigError(
                    f"relations.relation_heads={wanted} does not divide the {side}'s width of {shape.width}: choose a "
                    f"number that divides both widths ({context.student.width} and {teacher.width})."
                )

    def forward(self, step: Step) -> Term:
        """Reads queries, keys and values [B, L, heads * d_h]."""
        teacher, mask = step.teacher, step.student.mask
        assert teacher is not None, "declared in views"
        assert mask is not None, "there with the tokens"
        losses = {}
        for left, right in self._settings.pairs:
            of_blocks = [
                relation_divergence(
                    (
                        step.student.tokens[TokenView(left, own)],
                        step.student.tokens[TokenView(right, own)],
                    ),
                    (
                        teacher.tokens[TokenView(left, other)].to(mask.device),
                        teacher.tokens[TokenView(right, other)].to(mask.device),
                    ),
                    mask,
                    self._heads,
                )
                for own, other in self._blocks
            ]
            losses[f"{left}_{right}"] = torch.stack(of_blocks).sum()
        return Term(
            torch.stack([*losses.values()]).sum(), {name: loss.detach() for name, loss in losses.items()}
        )

    def describe(self) -> list[str]:
        """The relations, the heads and the blocks."""
        kinds = ", ".join(f"{left}-{right}" for left, right in self._settings.pairs)
        return [f"{say_pairs(self.name, self._blocks)} ({kinds} in {self._heads} heads)"]
