"""Negatives out of the mini-batch itself: the student's live representations of its other examples."""

from __future__ import annotations

from torch import Tensor

from codir.gather import gather_rows, gather_with_grad
from codir.losses.base import Step, Term
from codir.losses.negative_sources.base import NegativeSource


class LiveMiniBatch(NegativeSource):
    """Live representations of the other examples that all processes compute at the same time; there is no bank.

    Of an example that occurs twice the last representation counts, as in the bank. (A process left without an example
    at the end of an epoch computes a copy of another's.)
    """

    name = "in-batch"

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class."""
        own = step.ids.to(anchor.device)
        if self.settings.negatives_gradient:
            rows, (ids,) = gather_with_grad(live), gather_rows(own)
        else:
            ids, rows = gather_rows(own, live.detach())
        again = (ids.unsqueeze(1) == ids).triu(diagonal=1).any(dim=1)  # [G] occurs once more, further on
        return self._nce(anchor, live, rows, (ids != own.unsqueeze(1)) & ~again, temperature)

    def describe(self) -> list[str]:
        """How many, and whether they are trained."""
        how = "with" if self.settings.negatives_gradient else "without"
        return [
            "negatives: live representations of the other examples computed at the same time, "
            f"{self._counted(self.context.micro_batch)}, {how} gradient"
        ]
