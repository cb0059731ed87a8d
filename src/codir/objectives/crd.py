"""Contrastive distillation of intermediate representations, as the paper defines it (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from codir.errors import ConfigError
from codir.functional.bank import Bank
from codir.functional.negatives import NegativeSampler
from codir.models.representations import Pooling, Representations
from codir.objectives.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.objectives.contrastive import BlockProjection, untouched
from codir.objectives.negative_sources import BankDraws, BankSource, SourceSettings, check_source, make_source
from codir.objectives.temperature import LearnedTemperature


class CRDSettings(SourceSettings):
    """Settings of the objective `crd`."""


class CRD(Objective):
    """InfoNCE between the teacher's and the student's representation of an example (Eq. 4).

    The anchor is the teacher's representation, the positive the live student's, the negatives are the student's
    representations of other examples: rows of the memory bank, or what `codir.objectives.negative_sources` offers
    beside it. Both projections are trained. Rows are written (Eq. 5) once the optimiser has stepped, from training
    batches only. Everything from the projections on is fp32: exp(cos / 0.07) overflows half precision.

    Metrics: `accuracy`, how often the positive ranks before every negative; `positive` and `negative`, the mean cosine
    of anchors with their positives and with the negatives that count (a loss that falls while both rise tells no
    examples apart: the representations drift to one point); `negatives`, where their number is not fixed: how many an
    anchor has on average; `temperature`, where it is learned.
    """

    name = "crd"
    Settings = CRDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self._settings = settings = cast(CRDSettings, settings)
        if context.teacher is None:
            raise ConfigError("The objective 'crd' needs a teacher and there is none.")
        self.teacher_projection = BlockProjection(
            settings.teacher_blocks, context.teacher, settings.dim, context.seed
        )
        self.student_projection = BlockProjection(
            settings.student_blocks, context.student, settings.dim, context.seed + 1
        )
        self.source = make_source(settings, context)
        self.learned_temperature = None
        if settings.learn_temperature:
            self.learned_temperature = LearnedTemperature(settings.temperature, settings.temperature_rate)
        self.to(context.device)

    @property
    def bank(self) -> Bank:
        """The memory bank; `ConfigError` if the negatives need none."""
        if not isinstance(self.source, BankSource):
            raise ConfigError(f"crd.negatives={self._settings.negatives!r} has no memory bank.")
        return self.source.bank

    @property
    def sampler(self) -> NegativeSampler:
        """The sampler of bank rows; `ConfigError` if the negatives are not drawn from the whole bank."""
        if not isinstance(self.source, BankDraws):
            raise ConfigError(f"crd.negatives={self._settings.negatives!r} has no sampler of bank rows.")
        return self.source.sampler

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """One pooling of all blocks."""
        return Needs(pooled=frozenset({cast(CRDSettings, settings).pooling}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data."""
        check_source(cls.name, cast(CRDSettings, settings), context)

    def forward(self, step: Step) -> Term:
        """Reads the pooled blocks [B, blocks, d] of both sides; in training the student's are kept for later steps."""
        if step.teacher is None:
            raise ConfigError(
                "The objective 'crd' needs the teacher's blocks, and this batch comes without them."
            )
        how = self._settings.pooling
        anchor = self.teacher_projection(step.teacher.pooled[how])  # [B, m]
        live = self.student_projection(step.student.pooled[how])  # [B, m]
        with (
            torch.autocast(anchor.device.type, enabled=False),
            untouched(self.source.generator, not self.training),
        ):
            tau = (
                self._settings.temperature if self.learned_temperature is None else self.learned_temperature()
            )
            term = self.source.contrast(step, anchor, live, tau)
        if self.training:
            self.source.remember(step.ids, live)
        if isinstance(tau, Tensor):
            term.metrics["temperature"] = tau.detach()
        return term

    @classmethod
    def prefill_needs(cls, settings: ObjectiveSettings) -> frozenset[Pooling]:
        """A pass of the student if `bank_init` is `student`."""
        settings = cast(CRDSettings, settings)
        return frozenset({settings.pooling}) if settings.bank_init == "student" else frozenset()

    @torch.no_grad()
    def prefill(self, ids: Tensor, student: Representations) -> None:
        """Sets rows to the student's projected representations, without momentum, if `bank_init` is `student`."""
        if self._settings.bank_init != "student":  # the pass is made for another objective
            return
        self.source.prefill(ids, self.student_projection(student.pooled[self._settings.pooling]))

    def describe(self) -> list[str]:
        """The chosen blocks, the negatives and what they take of memory; the temperature if it is learned."""
        learned = [] if self.learned_temperature is None else [self.learned_temperature.describe()]
        return [
            f"teacher blocks: {self.teacher_projection.describe()} ({self._settings.pooling} pooling)",
            f"student blocks: {self.student_projection.describe()} ({self._settings.pooling} pooling)",
            *self.source.describe(),
            *learned,
        ]

    def after_step(self) -> None:
        """Writes the rows of the step's examples (Eq. 5) and keeps a learned temperature in its range."""
        if self.learned_temperature is not None:
            self.learned_temperature.clamp()
        self.source.after_step()

    def discard_step(self) -> None:
        """Forgets the step's rows."""
        self.source.discard()

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """For a bank that is not part of checkpoints."""
        self.source.checkpoint_saved(step, kept)

    def rewind(self, step: int) -> None:
        """For a bank that is not part of checkpoints."""
        self.source.rewind(step)

    def extra_state(self) -> dict[str, Tensor]:
        """The bank's rows or the queue, and the generator of the draws."""
        return self.source.state()

    def summary_tensors(self) -> dict[str, Tensor]:
        """Both projections, and some rows of the bank or the queue."""
        return {
            **self.teacher_projection.summary("teacher"),
            **self.student_projection.summary("student"),
            **self.source.summary(),
        }

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores them; those of another size or of other negatives raise `RunError`."""
        self.source.load_state(state)
