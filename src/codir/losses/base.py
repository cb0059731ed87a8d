"""What a loss is: a module that turns one step's representations into one named, weighted term of the sum (Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from codir.errors import ConfigError
from codir.kinds import kind_named
from codir.kinds.base import Kind
from codir.models.layers import Matching, match_layers
from codir.models.representations import EncoderShape, Pooling, Representations, TokenKind, TokenView
from codir.settings import Section

TokenPositions = Literal["masked", "all"]
"""Where predictions of tokens are compared: at the masked ones, or at all that are no padding."""
Pairs = tuple[tuple[int, int], ...]
"""Matched layers (student's, teacher's), counted from 1; 0 is the embedding layer."""


class ObjectiveSettings(Section):
    """Settings that every loss has; each extends them with its own, typed and range-checked."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=False, validate_assignment=False)

    weight: float = Field(default=1.0, ge=0.0, le=1e6, description="weight of the term in the sum (Eq. 1)")
    start: float = Field(default=0.0, ge=0, lt=1, description="share of the training after which the term counts")
    end: float = Field(default=1.0, gt=0, le=1, description="share of the training after which it no longer counts")

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start}) must be smaller than end ({self.end})")
        return self

    def counts_at(self, progress: float) -> bool:
        """Whether the term is part of the sum once the share `progress` of the optimiser steps is done."""
        return self.start <= progress < self.end or (progress >= 1.0 and self.end == 1.0)


@dataclass(frozen=True)
class ObjectiveContext:
    """What is known before training starts, handed to every loss when it is built."""

    student: EncoderShape
    teacher: EncoderShape | None  # None in plain fine-tuning
    examples: int  # N; example ids are 0..N-1
    # [N] class ids (int64) or scores (float), None if the data is unlabelled; of single examples without a label they
    # are the teacher's class or score
    labels: Tensor | None
    kind: Kind  # what is predicted; its name will do
    num_classes: int  # C: 1 for regression, the size of the vocabulary for masked tokens
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # gives the teacher's pooled representations of all N examples, [N, T*d] in half precision (a memory map), for
    # samplers that look for neighbours; None where they cannot be had
    teacher_space: Callable[[Pooling], Any] | None = None
    batch: int | None = None  # examples of one optimiser step, over all accumulated batches and processes
    micro_batch: int | None = None  # examples that all processes together compute at a time
    aligned: bool = True  # teacher and student see the same tokens, so that single tokens can be compared
    unlabeled: int = 0  # how many examples have no label

    def __post_init__(self) -> None:
        if isinstance(self.kind, str):
            object.__setattr__(self, "kind", kind_named(self.kind))


@dataclass(frozen=True)
class Views:
    """Vectors of single tokens that are read of each side; only those are kept, and cached of the teacher."""

    student: frozenset[TokenView] = frozenset()
    teacher: frozenset[TokenView] = frozenset()


@dataclass(frozen=True)
class Needs:
    """What a loss reads; only that is computed and cached."""

    teacher_logits: bool = False
    pooled: frozenset[Pooling] = frozenset()  # poolings of all layers, on both sides
    # kinds of vectors of every token, of the matched layers of both sides
    tokens: frozenset[TokenKind] = frozenset()
    layers: Matching | Literal["embeddings"] | None = None  # which layers are matched (`Objective.pairs`)
    positions: TokenPositions = "masked"  # of a loss over masked tokens: which positions its mean is over

    @property
    def teacher(self) -> bool:
        """Whether anything of a teacher is read."""
        return bool(self.teacher_logits or self.pooled or self.tokens)

    def pairs(self, name: str, student: EncoderShape, teacher: EncoderShape) -> Pairs:
        """The matched layers; raises `ConfigError` in the name of the loss for layers that the models do not have."""
        if self.layers is None or self.layers == "embeddings":
            return ((0, 0),) if self.layers else ()
        try:
            return match_layers(self.layers, student.layers, teacher.layers)
        except ConfigError as error:
            raise ConfigError(f"{name}.matching: {error}") from None


@dataclass
class Step:
    """One training step as the losses see it."""

    ids: Tensor  # [B] of the examples
    labels: Tensor | None  # [B] class ids or scores; -100, or NaN as a score, of single examples without one
    student: Representations  # live, with gradient
    teacher: Representations | None  # frozen; None where no loss needs it
    # [G] ids of the whole mini-batch of the optimiser step, over all accumulated batches and all processes, the same
    # in each of them; None where `ids` is all there is
    batch_ids: Tensor | None = None
    progress: float = 0.0  # share of the optimiser steps that are done, the same for all batches of one step
    # What a sum over this batch's labelled examples is divided by: their number in the whole mini-batch times this
    # batch's share of it, so that the sum over all its parts is the mean over them. None: the batch's own number.
    labelled: float | None = None


@dataclass
class Term:
    """One loss term: a scalar in fp32, not yet weighted, and detached scalars to log beside it.

    It is `empty` where the whole optimiser step holds nothing to compute it from: the log's mean leaves the step out.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    empty: bool = False


@dataclass
class TokenChunk:
    """Some of the positions of a batch that a loss reads, with the logits of both sides."""

    labels: Tensor  # [c] the tokens that stood there; -100 where none is to be predicted (`Needs.positions` is `all`)
    student: Tensor  # [c, V] logits, fp32, with gradient
    teacher: Tensor | None

    def only(self, chosen: Tensor) -> TokenChunk:
        """Returns the positions where `chosen` [c] is True."""
        teacher = self.teacher[chosen] if self.teacher is not None else None
        return TokenChunk(self.labels[chosen], self.student[chosen], teacher)


class Objective(nn.Module):
    """Base class of the losses: a subclass gives its `name`, its `Settings`, what it `needs`, and `forward`.

    Trainable parts (projections) are ordinary submodules: they are trained with the student, saved in checkpoints and
    never exported. State that is not trained (a bank) is an ordinary buffer.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    # Whether it can learn from a task's examples, and from a corpus: another recipe is refused when it is read.
    of_labels: ClassVar[bool] = True
    of_corpora: ClassVar[bool] = True

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__()
        self.settings, self.context, self.reads = settings, context, self.needs(settings)
        self.pairs: Pairs = ()  # the matched layers, where `needs` says which
        if context.teacher is not None:
            self.pairs = self.reads.pairs(self.name, context.student, context.teacher)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """What the loss reads, from the settings alone."""
        return Needs()

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for combinations that make no sense, before anything is computed.

        That there is what `needs` names has been checked.
        """

    def forward(self, step: Step) -> Term:
        """Computes the term for one batch."""
        raise NotImplementedError

    def token_loss(self, chunk: TokenChunk) -> Term:
        """In pre-training, of a loss that has it: computes loss and metrics of some positions, as *sums* over them.

        The logits of a batch exist a chunk at a time only, and the gradient is computed with them. The term is the
        mean over all positions; `forward` is not called.
        """
        raise NotImplementedError

    def after_step(self, stepped: bool) -> None:
        """Called after each optimiser step (not after each accumulated batch, never in evaluation).

        Where the step was abandoned `stepped` is False: forget what would have been written.
        """

    def frozen_layers(self, progress: float) -> frozenset[int]:
        """The student's layers that are not trained at this moment; 0 is the embedding layer."""
        return frozenset()

    def describe(self) -> list[str]:
        """Lines printed before training: chosen layers, memory of the bank, warnings."""
        return []

    def summary(self) -> dict[str, Tensor]:
        """What is kept for the report once the training is done: a few megabytes at most, nothing drawn or changed."""
        return {}

    @property
    def per_token(self) -> bool:
        """Whether `token_loss` is called, and not `forward`."""
        return self.context.kind.per_token and type(self).token_loss is not Objective.token_loss


def weighted_sum(terms: Mapping[str, Term], weights: Mapping[str, float]) -> Tensor:
    """Sums weight * loss over the terms (Eq. 1), of which there is one at least; a scalar in fp32.

    A term of weight 0 is left out, so that a NaN in it cannot reach the sum; it is still measured and logged.
    """
    parts = [term.loss * weights[name] for name, term in terms.items() if weights[name] != 0]
    if not parts:  # nothing has a weight: a zero that can still be differentiated
        parts = [term.loss * 0.0 for term in terms.values()]
    return torch.stack(parts).sum()
