"""Contrastive distillation of intermediate representations, as the paper defines it (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from codir.errors import ConfigError
from codir.functional.infonce import ContrastiveResult, info_nce, streamed_info_nce
from codir.functional.similarity import group_similarity
from codir.models.representations import Pooling, Representations
from codir.objectives.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.objectives.contrastive import (
    BlockProjection,
    ContrastiveSettings,
    PendingWrites,
    check_contrastive,
    make_bank,
    make_sampler,
    untouched,
)
from codir.storage import human_bytes


class CRDSettings(ContrastiveSettings):
    """Settings of the objective `crd`."""

    bank_init: Literal["random", "student"] = Field(
        default="random",
        description="bank rows at the start: random, or one pass of the student over the data",
    )


class CRD(Objective):
    """InfoNCE between the teacher's and the student's representation of an example (Eq. 4).

    The anchor is the teacher's representation, the positive the live student's, the negatives are rows of the
    memory bank. Both projections are trained. Rows are written (Eq. 5) once the optimiser has stepped, from training
    batches only. Everything from the projections on is fp32: exp(cos / 0.07) overflows half precision.

    Metric `accuracy`: how often the positive ranks before every negative.
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
        self.sampler = make_sampler(settings, context)
        self.bank = make_bank(settings, context)
        self._pending = PendingWrites(settings.dim, context.device)
        self.to(context.device)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """One pooling of all blocks."""
        return Needs(pooled=frozenset({cast(CRDSettings, settings).pooling}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data."""
        check_contrastive(cls.name, cast(CRDSettings, settings), context)

    def forward(self, step: Step) -> Term:
        """Reads the pooled blocks [B, blocks, d] of both sides; queues the bank's update if training."""
        if step.teacher is None:
            raise ConfigError(
                "The objective 'crd' needs the teacher's blocks, and this batch comes without them."
            )
        how = self._settings.pooling
        anchor = self.teacher_projection(step.teacher.pooled[how])  # [B, m]
        live = self.student_projection(step.student.pooled[how])  # [B, m]
        with torch.autocast(anchor.device.type, enabled=False), untouched(self.sampler, not self.training):
            result = self._contrast(step.ids, anchor, (anchor * live).sum(dim=1))
        if self.training:
            self._pending.add(step.ids, live)
        return Term(result.loss, {"accuracy": result.accuracy})

    def _contrast(self, ids: Tensor, anchor: Tensor, positive: Tensor) -> ContrastiveResult:
        tau, k = self._settings.temperature, self._settings.k
        if k == "all":
            return streamed_info_nce(anchor, positive, self.bank.data, self.sampler.admissible(ids), tau)
        negatives = self.sampler.draw(ids, k)
        similarity = group_similarity(anchor, self.bank.rows(negatives.ids), negatives.group)  # [B, K]
        mask = None if negatives.mask is None else negatives.mask[negatives.group]
        return info_nce(positive, similarity, tau, mask)

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
        self.bank.update(ids, self.student_projection(student.pooled[self._settings.pooling]), momentum=0.0)

    def describe(self) -> list[str]:
        """The chosen blocks, the negatives and the bank's memory."""
        return [
            f"teacher blocks: {self.teacher_projection.describe()} ({self._settings.pooling} pooling)",
            f"student blocks: {self.student_projection.describe()} ({self._settings.pooling} pooling)",
            f"negatives: {self.sampler.name}, K = {self._settings.k}, {self._settings.sharing}",
            f"memory bank: {self.bank.size:,} x {self.bank.dim}, {human_bytes(self.bank.nbytes)} on "
            f"{self.bank.data.device}",
        ]

    def after_step(self) -> None:
        """Writes the rows of the step's examples (Eq. 5)."""
        written = self._pending.take()
        if written is not None:
            ids, embeddings = written
            self.bank.update(ids, embeddings)

    def discard_step(self) -> None:
        """Forgets the step's rows."""
        self._pending.clear()

    def extra_state(self) -> dict[str, Tensor]:
        """The bank's rows and the sampler's generator."""
        return {"bank": self.bank.state()["rows"], "generator": self.sampler.state()}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores both; a bank of another size raises `RunError`."""
        self.bank.load_state({"rows": state["bank"]})
        self.sampler.load_state(state["generator"])
        self._pending.clear()
