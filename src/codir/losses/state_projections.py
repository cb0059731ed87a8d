"""Learned linear maps from the student's states to the teacher's width."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext

Projecting = Literal["auto", "always", "never"]

PROJECTING_HELP = (
    "a learned linear map from the student's states to the teacher's width: `auto` where the widths differ, `always`, "
    "or `never`"
)


def check_widths(name: str, projection: Projecting, context: ObjectiveContext) -> None:
    """Raises `ConfigError` if `projection` is `never` and student and teacher are not of the same width."""
    if context.teacher is None:
        return
    own, other = context.student.width, context.teacher.width
    if projection == "never" and own != other:
        raise ConfigError(
            f"The objective {name!r} compares states of one width, and the student's have {own} numbers, the teacher's "
            f"{other}: set {name}.projection to auto, which learns a map from {own} to {other}, or choose a student "
            f"of width {other}."
        )


class StateProjections(nn.Module):
    """Maps h -> h W, W in R^{d_student x d_teacher}, without bias as TinyBERT's equations have it; in fp32.

    One map for all matched pairs, or one for each. They are trained with the student and never exported.
    """

    def __init__(self, projection: Projecting, context: ObjectiveContext, count: int, seed: int):
        """Draws `count` maps from `seed` alone, or none where none is wanted."""
        super().__init__()
        assert context.teacher is not None, "checked before"
        own, other = context.student.width, context.teacher.width
        wanted = projection == "always" or (projection == "auto" and own != other)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            maps = [nn.Linear(own, other, bias=False) for _ in range(count)] if wanted else []
        self.maps = nn.ModuleList(maps)
        self.to(context.device)

    def forward(self, states: Tensor, position: int) -> Tensor:
        """Maps the states [..., d_student] of the pair at `position` to [..., d_teacher], also inside autocast."""
        if not len(self.maps):
            return states
        weight = cast(nn.Linear, self.maps[position if len(self.maps) > 1 else 0]).weight
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.to(weight.dtype), weight)

    def describe(self) -> str:
        """Says what is mapped: `, through one learned map from 312 to 768`; empty where nothing is."""
        if not len(self.maps):
            return ""
        weight = cast(nn.Linear, self.maps[0]).weight
        number = "one learned map" if len(self.maps) == 1 else f"{len(self.maps)} learned maps"
        return f", through {number} from {weight.shape[1]} to {weight.shape[0]}"
