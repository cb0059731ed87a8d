"""What an objective is: a module that turns one step's representations into one named, weighted loss term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from codir.kinds import kind_named
from codir.kinds.base import Kind
from codir.models.representations import EncoderShape, Pooling, Representations, TokenView
from codir.settings import Section

TokenPositions = Literal["masked", "all"]
"""Where predictions of tokens are compared: at the masked ones, or at all that are no padding."""


class ObjectiveSettings(Section):
    """Settings every objective has; each objective extends them with its own, typed and range-checked."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=False, validate_assignment=False)

    weight: float = Field(default=1.0, ge=0.0, le=1e6, description="weight of the term in the sum (Eq. 1)")
    start: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training after which the term counts"
    )
    end: float = Field(
        default=1.0, gt=0, le=1, description="share of the training after which it no longer counts"
    )

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
    """What is known before training starts, handed to every objective when it is built.

    Attributes:
        student: depth and width of the student.
        teacher: depth and width of the teacher, or None when there is none (plain fine-tuning).
        examples: N, the number of training examples; example ids are 0..N-1.
        labels: [N] class ids (int64) or scores (float), or None if the data is unlabelled. Of single examples without
            a label they are the teacher's class or score.
        unlabeled: how many examples have no label.
        kind: What is predicted.
        num_classes: C (1 for regression, the size of the vocabulary for masked tokens).
        seed: seeds whatever the objective draws.
        device: where the bank and the projections live.
        teacher_space: gives the teacher's pooled representations of all N examples, [N, T*d] in half precision
            (a memory map), for samplers that look for neighbours; None where they cannot be had.
        folder: where an objective may keep files of this run (a bank on disk); None where nothing may be kept.
        data_key: fingerprint of the training data, by which such a file is known to belong to it.
        batch: examples of one optimiser step, over all accumulated batches and processes; None where not known.
        micro_batch: examples that all processes together compute at a time; None where not known.
        aligned: whether teacher and student see the same tokens, so that single tokens can be compared.
    """

    student: EncoderShape
    teacher: EncoderShape | None
    examples: int
    labels: Tensor | None
    kind: Kind
    num_classes: int
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    teacher_space: Callable[[Pooling], Any] | None = None
    folder: Path | None = None
    data_key: str | None = None
    batch: int | None = None
    micro_batch: int | None = None
    aligned: bool = True
    unlabeled: int = 0

    def __post_init__(self) -> None:
        """Takes the kind by its name, too."""
        if isinstance(self.kind, str):
            object.__setattr__(self, "kind", kind_named(self.kind))


@dataclass(frozen=True)
class Needs:
    """What an objective reads of logits and pooled blocks; only that is computed and cached. See `Views` for tokens.

    Attributes:
        teacher_logits: reads the teacher's logits.
        pooled: poolings of the blocks that it reads on both sides.
    """

    teacher_logits: bool = False
    pooled: frozenset[Pooling] = frozenset()


@dataclass(frozen=True)
class Views:
    """Vectors of single tokens that an objective reads; only those are kept, and cached of the teacher.

    Attributes:
        student: views of the student.
        teacher: views of the teacher.
    """

    student: frozenset[TokenView] = frozenset()
    teacher: frozenset[TokenView] = frozenset()

    def __or__(self, other: Views) -> Views:
        return Views(self.student | other.student, self.teacher | other.teacher)


@dataclass
class Step:
    """One training step as the objectives see it.

    Attributes:
        ids: [B] ids of the examples.
        labels: [B] class ids or scores, None if unlabelled; -100, or NaN as a score, of single examples without one.
        student: live, with gradient.
        teacher: frozen, without gradient; None where no objective needs it.
        batch_ids: [G] ids of the whole mini-batch of the optimiser step, over all accumulated batches and all
            processes, the same in each of them; None where `ids` is all there is.
        progress: share of the optimiser steps that are done, in [0, 1); the same for all batches of one step.
        labelled: labelled examples that a sum over those of this batch is divided by: the number in the whole
            mini-batch of the optimiser step times this batch's share of it, so that the sum over all its parts is the
            mean over the labelled examples; 0 in a step without any. None: the batch's own number.
    """

    ids: Tensor
    labels: Tensor | None
    student: Representations
    teacher: Representations | None
    batch_ids: Tensor | None = None
    progress: float = 0.0
    labelled: float | None = None


@dataclass
class Term:
    """One loss term.

    Attributes:
        loss: scalar, fp32, not yet weighted.
        metrics: detached scalars to log beside it, without prefix.
        empty: the optimiser step holds nothing to compute it from: it is zero, and the log's mean leaves the step out.
            The same for all parts of a step.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    empty: bool = False


@dataclass
class TokenChunk:
    """Some of the positions of a batch that an objective reads, with the logits of both sides.

    Attributes:
        labels: [c] the tokens that stood there; -100 where none is to be predicted (`Objective.positions` is `all`).
        student: [c, V] logits, fp32, with gradient.
        teacher: [c, V] logits, fp32; None where no objective needs them.
    """

    labels: Tensor
    student: Tensor
    teacher: Tensor | None

    def only(self, chosen: Tensor) -> TokenChunk:
        """Returns the positions where `chosen` [c] is True."""
        teacher = self.teacher[chosen] if self.teacher is not None else None
        return TokenChunk(self.labels[chosen], self.student[chosen], teacher)


class Objective(nn.Module):
    """Base class. A subclass is one file: its `Settings`, its `needs`, its `forward`.

    Trainable parts (projections) are ordinary submodules: they are trained with the student, saved in checkpoints
    and never exported. State that is not trained (a bank, a generator) goes through `extra_state`.
    """

    name: ClassVar[str]
    of_labels: ClassVar[bool] = True
    of_corpora: ClassVar[bool] = True
    """Whether it can learn from a task's examples, and from a corpus: another recipe is refused when it is read."""
    Settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__()
        self.settings = settings
        self.context = context

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """Says, from the settings alone, what the objective will read."""
        return Needs()

    @classmethod
    def views(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Views:
        """Says which tokens' vectors it will read; raises `ConfigError` for blocks that the models do not have."""
        return Views()

    @classmethod
    def needs_teacher(cls, settings: ObjectiveSettings) -> bool:
        """Says whether it reads anything of a teacher: logits, pooled blocks or, by `views`, vectors of single tokens.

        Which tokens' vectors these are depends on the models; that there are any does not.
        """
        needs = cls.needs(settings)
        return (
            needs.teacher_logits or bool(needs.pooled) or cls.views.__func__ is not Objective.views.__func__
        )

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for combinations that make no sense, before anything is computed."""

    @property
    def per_token(self) -> bool:
        """Whether the term is a mean over positions: then `token_loss` is called, and not `forward`."""
        return False

    @property
    def positions(self) -> TokenPositions:
        """Which positions that mean is over."""
        return "masked"

    def forward(self, step: Step) -> Term:
        """Computes the term for one batch."""
        raise NotImplementedError

    def token_loss(self, chunk: TokenChunk) -> Term:
        """Computes loss and metrics of one chunk of positions, as *sums* over them.

        The logits of a batch exist a chunk at a time only, and the gradient is computed with them.
        """
        raise NotImplementedError

    @classmethod
    def prefill_needs(cls, settings: ObjectiveSettings) -> frozenset[Pooling]:
        """Poolings that one pass of the student over all examples must give before training; empty for no pass."""
        return frozenset()

    def prefill(self, ids: Tensor, student: Representations) -> None:
        """Called for each batch of that pass (no gradient, the student in eval mode); every example comes once."""

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """Numbers of the student's blocks that are not trained at this moment; 0 are the embeddings."""
        return frozenset()

    def describe(self) -> list[str]:
        """Lines printed before training: chosen blocks, memory of the bank, warnings."""
        return []

    def after_step(self) -> None:
        """Called once after each optimiser step (not after each accumulated batch, never in evaluation)."""

    def discard_step(self) -> None:
        """Called when a step was abandoned: forget what `after_step` would have written."""

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """Called by every process once the checkpoint of `step` is whole; `kept` are the steps that can be resumed."""

    def rewind(self, step: int) -> None:
        """Called by every process before training goes on from the checkpoint of `step` (0: it starts anew).

        For state that is not in `extra_state` because it is too large to be copied into each checkpoint.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """Returns the untrained state a checkpoint must hold, as tensors."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `extra_state` returned, bit for bit."""

    def summary_tensors(self) -> dict[str, Tensor]:
        """Returns what is kept of the objective to be looked at once its training is done: a few megabytes at most.

        Called by the first process alone, after the last step. Nothing may be changed or drawn from torch's generators.
        """
        return {}
