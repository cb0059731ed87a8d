"""Mean squared error between hidden states of matched blocks (TinyBERT; the hints of FitNets)."""

from __future__ import annotations

from typing import cast

from pydantic import Field
from torch import Tensor

from codir.losses.distances import feature_map_mse
from codir.losses.matched_states import MatchedStates, MatchedStatesSettings


class HiddenMSESettings(MatchedStatesSettings):
    """Settings of the objective `hidden_mse`."""

    shared_projection: bool = Field(
        default=True, description="one map for all matched blocks, as TinyBERT has it, or one for each"
    )


class HiddenMSE(MatchedStates):
    """MSE(H_student W_h, H_teacher), summed over the matched blocks (TinyBERT, Jiao et al. 2020, L_hidn).

    Of a block: the mean over the real tokens and dimensions of an example, then over the examples. W_h, one for all
    blocks and without bias, is learned; the paper always has it (`projection: always`), `auto` only where the widths
    differ. With one pair it is the hint of Romero et al. 2015, with a linear regressor.
    """

    name = "hidden_mse"
    Settings = HiddenMSESettings
    seed_offset = 5

    def maps_for(self, pairs: int) -> int:
        """One for all, unless told otherwise."""
        return 1 if cast(HiddenMSESettings, self.settings).shared_projection else pairs

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """See `feature_map_mse`."""
        return feature_map_mse(student, teacher, mask)
