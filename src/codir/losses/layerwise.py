"""What the losses over matched layers have in common, and in what order their layers come (progressive distillation).

With n matched pairs, sorted by the student's layer, a loss's window [start, end) of the optimiser steps is cut into n
stages of equal length. There are three ways to spend them:

`none`      all pairs count, all the time.
`transfer`  one pair at a time, from the bottom: in stage i only pair i counts, and the embeddings (layer 0) and the
            student's layers up to that of pair i - 1 are frozen, so that what has been learned stays. MobileBERT, Sun
            et al. 2020: progressive knowledge transfer; there the embeddings are copied from the teacher, as they are
            here unless the student starts at random.
`unlock`    pairs are unlocked one after another from the bottom and stay: in stage i the pairs 0..i count, and
            nothing is frozen. SID, Aguilar et al. 2020: stacked internal distillation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from codir.losses.base import Objective, ObjectiveSettings, Term

_ROUNDING = 1e-9  # a share such as 0.2 + 0.3 may lie a rounding error before its boundary
_ORDER = {
    "none": "",
    "transfer": "; one layer at a time, those below frozen",
    "unlock": "; one layer after another, and they stay",
}


class ProgressiveSettings(ObjectiveSettings):
    """Settings of a loss whose layers can come one after another."""

    progressive: Literal["none", "transfer", "unlock"] = Field(
        default="none",
        description="`none`: all matched layers at once; `transfer`: one at a time from the bottom, those below it "
        "frozen; `unlock`: one after another from the bottom, and they stay",
    )


class LayerwiseLoss(Objective):
    """Base of the losses over matched layers: the term is the sum over the pairs that count at the moment.

    Metrics `layer_S`, where there are several: the term of each of the student's layers.
    """

    @property
    def _progressive(self) -> str:
        return self.settings.progressive if isinstance(self.settings, ProgressiveSettings) else "none"

    def _stage(self, progress: float) -> int | None:
        """The stage of the window, counted from 0; None outside of the window."""
        if not self.settings.counts_at(progress):
            return None
        stages = len(self.pairs)
        done = (progress - self.settings.start) / (self.settings.end - self.settings.start)
        return min(stages - 1, max(0, math.floor(done * stages + _ROUNDING)))

    def counted(self, progress: float) -> Iterator[tuple[int, int, int]]:
        """Gives (position in `pairs`, student's layer, teacher's) of each pair that counts at this moment."""
        now, last = self._stage(progress), len(self.pairs) - 1
        if now is None:
            return
        first, last = {"none": (0, last), "transfer": (now, now), "unlock": (0, now)}[self._progressive]
        for position in range(first, last + 1):
            yield position, *self.pairs[position]

    def frozen_layers(self, progress: float) -> frozenset[int]:
        """See the module; 0 is the embedding layer."""
        now = self._stage(progress)
        if now is None or self._progressive != "transfer":
            return frozenset()
        return frozenset(range((self.pairs[now - 1][0] if now else 0) + 1))

    def summed(self, losses: Mapping[int, Tensor]) -> Term:
        """Sums the losses of the student's layers."""
        metrics = {f"layer_{own}": loss.detach() for own, loss in losses.items()}
        return Term(torch.stack([*losses.values()]).sum(), metrics if len(self.pairs) > 1 else {})

    def say_pairs(self, details: str = "") -> str:
        """Names the layers: `pkd: student layers 1, 2 learn from the teacher's 2, 4`."""
        own, other = (", ".join(map(str, side)) for side in zip(*self.pairs, strict=True))
        what = f"layer {own} learns" if len(self.pairs) == 1 else f"layers {own} learn"
        return f"{self.name}: student {what} from the teacher's {other}{details}{_ORDER[self._progressive]}"
