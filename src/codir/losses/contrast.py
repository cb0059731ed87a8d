"""One contrast of `crd`: two projections and where its negatives come from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codir.contrast.negatives import NegativeSampler
from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext, Step, Term
from codir.losses.contrastive import BlockProjection, untouched
from codir.losses.negative_sources import make_source
from codir.losses.negative_sources.base import SourceSettings
from codir.models.representations import Pooling, Representations


class Contrast:
    """InfoNCE (Eq. 4) between chosen blocks of the teacher and of the student.

    No module: the objective that has it registers both projections, under names of its own.

    Attributes:
        teacher_projection: gives the anchors.
        student_projection: gives the positives.
        source: gives the negatives, and remembers the student's representations.
    """

    def __init__(
        self,
        settings: SourceSettings,
        context: ObjectiveContext,
        teacher_blocks: str | list[int],
        student_blocks: str | list[int],
        sampler: NegativeSampler | None = None,
    ):
        """Draws the projections from the context's seed alone; `sampler` is one that several contrasts share."""
        if context.teacher is None:
            raise ConfigError("The objective 'crd' needs a teacher and there is none.")
        self._pooling: Pooling = settings.pooling
        self.teacher_projection = BlockProjection(teacher_blocks, context.teacher, settings.dim, context.seed)
        self.student_projection = BlockProjection(
            student_blocks, context.student, settings.dim, context.seed + 1
        )
        self.source = make_source(settings, context, sampler)

    def __call__(self, step: Step, temperature: float | Tensor, training: bool) -> Term:
        """Reads the pooled blocks [B, blocks, d] of both sides; in training the student's are kept for later steps."""
        if step.teacher is None:
            raise ConfigError(
                "The objective 'crd' needs the teacher's blocks, and this batch comes without them."
            )
        anchor = self.teacher_projection(step.teacher.pooled[self._pooling])  # [B, m]
        live = self.student_projection(step.student.pooled[self._pooling])  # [B, m]
        with untouched(self.source.generator, not training):
            term = self.source.contrast(step, anchor, live, temperature)
        if training:
            self.source.remember(step.ids, live)
        return term

    def prefill(self, ids: Tensor, student: Representations) -> None:
        """Sets rows of the bank to the student's projected representations, without momentum."""
        self.source.prefill(ids, self.student_projection(student.pooled[self._pooling]))

    def summary(self) -> dict[str, Tensor]:
        """Both projections, and some rows of the bank or the queue."""
        return {
            **self.teacher_projection.summary("teacher"),
            **self.student_projection.summary("student"),
            **self.source.summary(),
        }


def mean_term(terms: Mapping[str, Term]) -> Term:
    """Takes the mean of several contrasts' losses and of each of their metrics.

    Args:
        terms: by the name under which the loss of one is logged.
    """
    loss = torch.stack([term.loss for term in terms.values()]).mean()
    names = next(iter(terms.values())).metrics
    metrics = {name: torch.stack([term.metrics[name] for term in terms.values()]).mean() for name in names}
    return Term(loss, {**metrics, **{name: term.loss.detach() for name, term in terms.items()}})
