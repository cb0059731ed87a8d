"""A temperature that is trained with the rest, as in CLIP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = 0.01, 1.0


class LearnedTemperature(nn.Module):
    """tau = exp(-x) with x = log(1/tau) trained and kept in [log(1/1), log(1/0.01)] (Radford et al. 2021, Section 2.5).

    What the optimiser holds is `shift`, with x = log(1/start) + rate * shift: Adam moves a parameter by about one
    learning rate a step, and at the learning rates of a fine-tuning x would hardly move at all. Its gradient is that of
    x, not `rate` times that, so that it does not take over the norm by which all gradients are clipped. With any
    optimiser x then moves as if its learning rate were `rate` times the others'.

    It is a scalar, and weight decay leaves scalars alone (`DistillationTrainer`).
    """

    def __init__(self, start: float, rate: float):
        """Starts at tau = `start`, which lies in [0.01, 1]."""
        super().__init__()
        self.start, self.rate = start, rate
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """Returns tau, a scalar in fp32."""
        shift = self.shift.float()
        moved = shift + (self.rate - 1.0) * shift.detach()  # the value rate * shift, the derivative 1
        return self.start * torch.exp(-moved)

    @torch.no_grad()
    def clamp(self) -> None:
        """Brings tau back into its range, after a step: clamped in `forward` it would have no gradient out there."""
        low, high = (math.log(self.start / bound) / self.rate for bound in (HIGHEST, LOWEST))
        self.shift.clamp_(low, high)

    def describe(self) -> str:
        """Start, range and rate: `temperature: learned, from 0.07, within [0.01, 1], at 100 learning rates`."""
        within = f"within [{LOWEST:g}, {HIGHEST:g}]"
        return f"temperature: learned, from {self.start:g}, {within}, at {self.rate:g} learning rates"
