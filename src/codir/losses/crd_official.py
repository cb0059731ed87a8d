"""Contrastive distillation as the authors' released code computes it, to be compared with `crd`."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from codir.contrast.bank import Bank
from codir.contrast.infonce import group_similarity
from codir.contrast.nce import binary_nce, nce_log_constant
from codir.contrast.negatives import Sharing
from codir.errors import ConfigError
from codir.files import human_bytes
from codir.gather import from_first
from codir.losses.base import ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.contrastive import ContrastiveLoss, ContrastiveSettings, check_contrastive, make_sampler
from codir.models.representations import Pooling


class OfficialCRDSettings(ContrastiveSettings):
    """Settings of the loss `crd_official`; the defaults are the released code's."""

    pooling: Pooling = Field(default="cls", description="how a layer's tokens become one vector (Eq. 3)")
    teacher_layers: str | list[int] = Field(
        default="odd", description="all, every-other, odd, or numbers counted from 1"
    )
    sharing: Sharing = Field(default="independent", description="the released code draws for each example")
    divide_by_batch: bool = Field(
        default=True,
        description="divide the term by the batch size, which is what the released code's sums and means amount to",
    )


class OfficialCRD(ContrastiveLoss):
    """Binary NCE with two banks, both directions averaged (see `codir.contrast.nce`).

    As in the released code: the student's live representation is compared with rows of the teacher's bank and the
    teacher's with rows of the student's; the positive is the example's *old* row, random in the first epoch; the
    constants Z come from the first training batch and stay; banks start with uniform entries.

    Two of its faults are not reproduced: the teacher does not run with dropout, and an evaluation does not write
    into the banks. Where it draws by permuting whole classes, the draw here has the same distribution and costs
    the same at every N.

    Metric `accuracy`: how often the student's live representation has its positive ranked first.
    """

    _log_constants: Tensor
    name = "crd_official"
    Settings = OfficialCRDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.sampler = make_sampler(self.chosen, context, self.generator)
        self.teacher_bank, self.student_bank = (
            Bank(context.examples, self.chosen.dim, self.chosen.momentum, seed, context.device, start="uniform")
            for seed in (context.seed + 3, context.seed + 4)
        )
        # log Z of the two directions; NaN until the first training batch has set them.
        self.register_buffer("_log_constants", torch.full((2,), torch.nan))
        self._frozen = False
        self.to(context.device)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data."""
        settings = cast(OfficialCRDSettings, settings)
        check_contrastive(cls.name, settings, context)
        if settings.k == "all":
            raise ConfigError("crd_official.k='all' has no meaning for the binary NCE: give a number.")
        if settings.bank_storage != "auto" or settings.bank_dtype != "float32":
            raise ConfigError(
                "crd_official keeps its two banks in fp32 where it trains, as the released code does: drop "
                "bank_storage and bank_dtype, or use the objective 'crd'."
            )
        if settings.negatives == "hard":
            raise ConfigError(
                "crd_official.negatives='hard' may leave fewer than K negatives, which the binary NCE cannot take: "
                "use different-label or any, or the objective 'crd'."
            )

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The student's and the teacher's."""
        return self.student_bank, self.teacher_bank

    def forward(self, step: Step) -> Term:
        """Reads the pooled layers [B, layers, d] of both sides; queues the banks' updates if training."""
        tau, examples = self.chosen.temperature, self.context.examples
        teacher, student = self.project(step)  # [B, m] each
        with torch.autocast(teacher.device.type, enabled=False):
            negatives = self.sampler.draw(step.ids, cast(int, self.k))
            similarities = []  # [B, 1 + K] of each direction, the positive first
            for live, bank in ((student, self.teacher_bank), (teacher, self.student_bank)):
                positive = (live * bank.rows(step.ids)).sum(dim=1, keepdim=True)
                others = group_similarity(live, bank.rows(negatives.ids), negatives.group)
                similarities.append(torch.cat([positive, others], dim=1))
            constants = self._constants(similarities)
            losses = [
                binary_nce(similarity, constant, tau, examples)
                for similarity, constant in zip(similarities, constants, strict=True)
            ]
        self.queue(step.ids, student, teacher)
        loss = (losses[0] + losses[1]) / 2
        if cast(OfficialCRDSettings, self.chosen).divide_by_batch:
            loss = loss / step.ids.numel()
        first = similarities[0].detach()
        return Term(loss, {"accuracy": (first[:, 0] > first[:, 1:].amax(dim=1)).float().mean()})

    def _constants(self, similarities: list[Tensor]) -> Tensor:
        if self._frozen:
            return self._log_constants
        tau, examples = self.chosen.temperature, self.context.examples
        constants = torch.stack([nce_log_constant(similarity, tau, examples) for similarity in similarities])
        if self.training:  # an evaluation before the first step must not decide them
            constants = from_first(constants)  # every process must freeze the same
            self._log_constants, self._frozen = constants, True
        return constants

    def describe(self) -> list[str]:
        """The chosen layers, the negatives and the banks' memory."""
        bank = self.student_bank
        return [
            *super().describe(),
            f"negatives: {self.sampler.name}, K = {self.k}, {self.chosen.sharing}",
            f"memory banks: 2 of {bank.size:,} x {bank.dim}, {human_bytes(2 * bank.nbytes)} on {bank.data.device}",
        ]

    def set_extra_state(self, state: Any) -> None:
        """See the base class; PyTorch has loaded the buffers before."""
        super().set_extra_state(state)
        self._frozen = bool(self._log_constants.isfinite().all())
