"""Mean squared error between feature maps of matched blocks, one block after another (MobileBERT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

from pydantic import Field, model_validator
from torch import Tensor

from codir.losses import progressive
from codir.losses.distances import feature_map_mse, feature_map_parts
from codir.losses.matched_states import MatchedStates, MatchedStatesSettings


class FeatureMapMSESettings(MatchedStatesSettings, progressive.ProgressiveSettings):
    """Settings of the objective `feature_map_mse`."""

    normalised: bool = Field(
        default=False,
        description="compare layer-normalised maps (no learned scale), and their statistics by mean_weight and "
        "variance_weight: the released code of MobileBERT; its paper compares the maps themselves",
    )
    mean_weight: float = Field(
        default=0.0, ge=0, description="normalised: weight of the squared error of the tokens' means"
    )
    variance_weight: float = Field(
        default=0.0, ge=0, description="normalised: weight of the absolute error of the tokens' variances"
    )
    averaged: bool = Field(
        default=False, description="divide by the number of matched blocks: the released code does"
    )

    @model_validator(mode="after")
    def _statistics_of_normalised_maps(self) -> Self:
        if not self.normalised and (self.mean_weight or self.variance_weight):
            raise ValueError(
                "mean_weight and variance_weight are for normalised maps: set normalised to true"
            )
        return self


class FeatureMapMSE(MatchedStates):
    """Mean squared error between the states of matched blocks, summed over the blocks that count at the moment.

    Of a block: the mean over dimensions and real tokens of an example, then over the examples (MobileBERT, Sun et al.
    2020, feature map transfer, with its progressive knowledge transfer as `progressive: transfer`). The released code
    takes the maps apart, into normalised maps, means and variances (`normalised`), and divides by the number of blocks
    (`averaged`). MobileBERT's blocks have the teacher's width; others go through a learned map, one for each pair.
    """

    name = "feature_map_mse"
    Settings = FeatureMapMSESettings
    seed_offset = 8

    @property
    def _chosen(self) -> FeatureMapMSESettings:
        return cast(FeatureMapMSESettings, self.settings)

    def counted(self, progress: float) -> Sequence[int]:
        """See `progressive`."""
        return progressive.counted(self._chosen, self.pairs, progress)

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """See `codir.losses.distances`."""
        chosen = self._chosen
        if chosen.normalised:
            maps, means, variances = feature_map_parts(student, teacher, mask)
            loss = maps + chosen.mean_weight * means + chosen.variance_weight * variances
        else:
            loss = feature_map_mse(student, teacher, mask)
        return loss / len(self.pairs) if chosen.averaged else loss

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(self._chosen, self.pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks, the maps, and the order."""
        (line,) = super().describe()
        return [line + progressive.describe(self._chosen)]
