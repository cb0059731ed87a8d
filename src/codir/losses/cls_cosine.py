"""Cosine of the [CLS] states of matched blocks (SID)."""

from __future__ import annotations

from pydantic import Field

from codir.losses.base import ObjectiveSettings
from codir.losses.pooled_cosine import CosineSettings, PooledCosine
from codir.losses.state_projections import PROJECTING_HELP, Projecting
from codir.models.representations import Pooling


class ClsCosineSettings(CosineSettings):
    """Settings of the objective `cls_cosine`."""

    projection: Projecting = Field(default="never", description=PROJECTING_HELP)


class ClsCosine(PooledCosine):
    """`PooledCosine` of the first tokens' states.

    SID, Aguilar et al. 2020; with `progressive: unlock` its stacked internal distillation. Its widths agree; others
    need a `projection`.
    """

    name = "cls_cosine"
    Settings = ClsCosineSettings
    seed_offset = 9

    @classmethod
    def pooling_of(cls, settings: ObjectiveSettings) -> Pooling:
        """[CLS]."""
        return "cls"
