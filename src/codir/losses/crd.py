"""Contrastive distillation of intermediate representations, as the paper defines it (Eq. 3 to 5)."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from codir.contrast.bank import Bank
from codir.contrast.draws import draw_allowed
from codir.contrast.infonce import group_similarity, info_nce
from codir.contrast.negatives import NegativeSampler
from codir.errors import ConfigError
from codir.gather import gather_rows, gather_with_grad
from codir.losses.base import ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.contrastive import (
    ContrastiveLoss,
    ContrastiveSettings,
    check_contrastive,
    make_sampler,
    negatives_of,
)

SOURCES = ("in-batch-bank", "in-batch")
"""Negatives beside those that a sampler draws from the whole bank: the mini-batch's other examples."""


class CRDSettings(ContrastiveSettings):
    """Settings of the loss `crd`."""

    negatives_gradient: bool = Field(
        default=False, description="in-batch: whether the student is also trained through the negatives"
    )


class CRD(ContrastiveLoss):
    """InfoNCE between the teacher's and the student's representation of an example (Eq. 4).

    The anchor is the teacher's representation, the positive the live student's, the negatives are the student's
    representations of other examples: rows of the memory bank, or the other examples of the mini-batch. A
    representation is the concatenation of all chosen layers (Eq. 3), projected; both projections are trained. Rows are
    written (Eq. 5) once the optimiser has stepped, from training batches only. Everything from the projections on is
    fp32: exp(cos / 0.07) overflows half precision.

    Metrics: `accuracy`, how often the positive ranks before every negative; `positive` and `negative`, the mean cosine
    of an anchor with its positive and with the negatives that count for it (a loss that falls while both rise tells no
    examples apart: the representations drift to one point); `negatives`, where their number is not fixed: how many an
    anchor has on average.
    """

    name = "crd"
    Settings = CRDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        chosen = self.chosen
        self.bank: Bank | None = None
        self.sampler: NegativeSampler | None = None
        if self.negatives != "in-batch":
            stays = chosen.bank_storage == "cpu"
            self.bank = Bank(
                context.examples,
                chosen.dim,
                chosen.momentum,
                context.seed + 3,
                torch.device("cpu") if stays else context.device,
                torch.float16 if chosen.bank_dtype == "float16" else torch.float32,
                stays=stays,
            )
        if self.negatives not in SOURCES:
            self.sampler = make_sampler(chosen, context, self.generator)
        # in-batch-bank: the ids of the step's mini-batch as they came, each of them once, and their rows. The
        # accumulated batches of one step read the same rows, and no row changes before its end.
        self._read: tuple[Tensor, Tensor, Tensor] | None = None
        self.to(context.device)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit each other, the models or the data."""
        settings = cast(CRDSettings, settings)
        check_contrastive(cls.name, settings, context, SOURCES)
        negatives, _ = negatives_of(settings, context)
        if settings.negatives_gradient and negatives != "in-batch":
            raise ConfigError(
                f"crd.negatives_gradient=True with negatives: {negatives}: only live representations have a gradient; "
                "use negatives: in-batch, or drop it."
            )
        together = context.micro_batch if context.micro_batch is not None else context.batch
        if negatives == "in-batch-bank" and context.batch is not None and context.batch < 2:
            raise ConfigError(
                f"crd.negatives='in-batch-bank' with {context.batch} example in a mini-batch: there is no other one to "
                "be a negative. Use batches of 2 or more, or negatives: any."
            )
        if negatives == "in-batch" and together is not None and together < 2:
            raise ConfigError(
                f"crd.negatives='in-batch' with {together} example computed at a time: there is no other one to be a "
                "negative. Use micro-batches of 2 or more (accumulated ones do not see each other), or negatives: "
                "in-batch-bank."
            )

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The student's; none where the negatives are live."""
        return (self.bank,) if self.bank is not None else ()

    def forward(self, step: Step) -> Term:
        """Reads the pooled layers of both sides; in training the student's are kept for later steps."""
        with torch.autocast(self.context.device.type, enabled=False):
            anchor, live = self.project(step)
            term = self.contrast(step, anchor, live)
        self.queue(step.ids, live)
        return term

    def contrast(self, step: Step, anchor: Tensor, live: Tensor) -> Term:
        """InfoNCE (Eq. 4) of the anchors [B, m] and the student's live representations [B, m], their positives.

        Both are unit vectors in fp32, in the order of `step.ids`. Called by every process, outside of autocast.
        """
        more: dict[str, Tensor] = {}
        if self.sampler is not None:
            similarity, allowed = self._with_draws(step, anchor)
        else:
            rows, allowed = (self._of_bank if self.bank is not None else self._live)(step, anchor, live)
            if self.k != "all":
                allowed = draw_allowed(allowed, self.k, self.chosen.sharing == "shared", self.generator)
            similarity = anchor @ rows.T
            more["negatives"] = allowed.sum(dim=1, dtype=torch.float32).mean()
        found = info_nce((anchor * live).sum(dim=1), similarity, self.chosen.temperature, allowed)
        measured = {"accuracy": found.accuracy, "positive": found.positive, "negative": found.negative}
        return Term(found.loss, {**measured, **more})

    def _with_draws(self, step: Step, anchor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Similarities [B, K] with rows of the whole bank that a sampler chose: the paper's in fine-tuning."""
        assert self.bank is not None
        assert self.sampler is not None
        if self.k == "all":
            return anchor @ self.bank.data.to(anchor).T, self.sampler.admissible(step.ids).to(anchor.device)
        ids, group, mask = self.sampler.draw(step.ids, self.k)
        return group_similarity(anchor, self.bank.rows(ids), group), None if mask is None else mask[group]

    def _of_bank(self, step: Step, anchor: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Bank rows [G, m] of the optimiser step's mini-batch, and which are an anchor's: the paper's in pre-training.

        Section 3.3. An example that occurs twice in it counts once.
        """
        assert self.bank is not None
        given = step.batch_ids
        if given is None or self._read is None or self._read[0] is not given:
            batch = gather_rows(step.ids)[0] if given is None else given
            unique = torch.unique(batch.to(anchor.device))
            self._read = batch, unique, self.bank.rows(unique).to(anchor)
        _, batch, rows = self._read
        return rows, batch != step.ids.to(anchor.device).unsqueeze(1)

    def _live(self, step: Step, anchor: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Live representations [G, m] of all that the processes compute at this time, and which are an anchor's.

        Of an example that occurs twice the last representation counts, as in the bank. (A process left without an
        example at the end of an epoch computes a copy of another's.)
        """
        own = step.ids.to(anchor.device)
        if cast(CRDSettings, self.chosen).negatives_gradient:
            rows, (ids,) = gather_with_grad(live), gather_rows(own)
        else:
            ids, rows = gather_rows(own, live.detach())
        again = (ids.unsqueeze(1) == ids).triu(diagonal=1).any(dim=1)  # [G] occurs once more, further on
        return rows, (ids != own.unsqueeze(1)) & ~again

    def after_step(self, stepped: bool) -> None:
        """As in the base class; what was read for the step is forgotten."""
        self._read = None
        super().after_step(stepped)

    def describe(self) -> list[str]:
        """The chosen layers, the negatives and what they take of memory."""
        count = f"K = {self.k}"
        batch = self.context.batch if self.bank is not None else self.context.micro_batch
        if self.k != "all":
            count += f", {self.chosen.sharing}"
        elif batch is not None and self.sampler is None:
            count += f" {batch - 1:,}"
        if self.sampler is not None:
            said = f"negatives: {self.sampler.name}, {count}"
        elif self.bank is not None:
            said = f"negatives: bank rows of the other examples of the mini-batch, {count}"
        else:
            how = "with" if cast(CRDSettings, self.chosen).negatives_gradient else "without"
            said = f"negatives: live ones of the other examples computed at the same time, {count}, {how} gradient"
        return [*super().describe(), said, *(f"memory bank: {bank.describe()}" for bank in self.banks)]
