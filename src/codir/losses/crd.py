"""Contrastive distillation of intermediate representations, as the paper defines it (Eq. 3 to 5)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from codir.losses.base import ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.contrastive import ContrastiveLoss
from codir.losses.sources import BankSource, CRDSettings, check_source, make_source


class CRD(ContrastiveLoss):
    """InfoNCE between the teacher's and the student's representation of an example (Eq. 4).

    The anchor is the teacher's representation, the positive the live student's, the negatives are the student's
    representations of other examples: rows of the memory bank, or what `codir.losses.sources` offers beside it. A
    representation is the concatenation of all chosen layers (Eq. 3), projected; both projections are trained. Rows are
    written (Eq. 5) once the optimiser has stepped, from training batches only. Everything from the projections on is
    fp32: exp(cos / 0.07) overflows half precision.

    Metrics: `accuracy`, how often the positive ranks before every negative; `positive` and `negative`, the mean cosine
    of an anchor with its positive and with the negatives that count for it (a loss that falls while both rise tells no
    examples apart: the representations drift to one point); `negatives`, where their number is not fixed: how many an
    anchor has on average.

    Attributes:
        source: gives the negatives, and remembers the student's representations.
    """

    name = "crd"
    Settings = CRDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.source = make_source(cast(CRDSettings, settings), context, self.generator)
        self.to(context.device)

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data."""
        check_source(cls.name, cast(CRDSettings, settings), context)

    def forward(self, step: Step) -> Term:
        """Reads the pooled layers of both sides; in training the student's are kept for later steps."""
        with torch.autocast(self.context.device.type, enabled=False):
            anchor, live = self.project(step)
            term = self.source(step, anchor, live)
        if self.training:
            self.source.remember(step.ids, live)
        return term

    def after_step(self, stepped: bool) -> None:
        """Writes the rows of the step's examples (Eq. 5), or forgets them."""
        self.source.after_step(stepped)

    def describe(self) -> list[str]:
        """The chosen layers, the negatives and what they take of memory."""
        return [*super().describe(), *self.source.describe()]

    def summary(self) -> dict[str, Tensor]:
        """Both projections, and some rows of the bank."""
        return self.keep(self.source.bank if isinstance(self.source, BankSource) else None)
