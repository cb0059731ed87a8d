"""Mean squared error between feature maps of matched blocks, one block after another (MobileBERT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from codir.functional.feature_maps import feature_map_mse
from codir.objectives import progressive
from codir.objectives.matched_states import MatchedStates, MatchedStatesSettings


class FeatureMapMSESettings(MatchedStatesSettings, progressive.ProgressiveSettings):
    """Settings of the objective `feature_map_mse`."""


class FeatureMapMSE(MatchedStates):
    """Mean squared error between the states of matched blocks, summed over the blocks that count at the moment.

    Of a block: the mean over dimensions and real tokens of an example, then over the examples (MobileBERT, Sun et al.
    2020, feature map transfer, with its progressive knowledge transfer as `progressive: transfer`). MobileBERT's blocks
    have the teacher's width; others go through a learned map, one for each pair.
    """

    name = "feature_map_mse"
    Settings = FeatureMapMSESettings
    seed_offset = 8

    def counted(self, progress: float) -> Sequence[int]:
        """See `progressive`."""
        return progressive.counted(cast(FeatureMapMSESettings, self.settings), self.pairs, progress)

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """See `codir.functional.feature_maps.feature_map_mse`."""
        return feature_map_mse(student, teacher, mask)

    def frozen_blocks(self, progress: float) -> frozenset[int]:
        """See `progressive`."""
        return progressive.frozen(cast(FeatureMapMSESettings, self.settings), self.pairs, progress)

    def describe(self) -> list[str]:
        """The matched blocks, the maps, and the order."""
        (line,) = super().describe()
        return [line + progressive.describe(cast(FeatureMapMSESettings, self.settings))]
