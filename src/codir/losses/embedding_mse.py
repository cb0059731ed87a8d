"""Mean squared error between the outputs of the embedding layers (TinyBERT)."""

from __future__ import annotations

from typing import cast

from pydantic import Field
from torch import Tensor

from codir.losses.base import ObjectiveSettings
from codir.losses.distances import feature_map_mse
from codir.losses.matched_states import MatchedStates, Pairs
from codir.losses.state_projections import PROJECTING_HELP, Projecting
from codir.models.representations import EncoderShape


class EmbeddingMSESettings(ObjectiveSettings):
    """Settings of the objective `embedding_mse`."""

    projection: Projecting = Field(default="auto", description=PROJECTING_HELP)


class EmbeddingMSE(MatchedStates):
    """MSE(E_student W_e, E_teacher) (TinyBERT, Jiao et al. 2020, L_embd).

    The mean over the real tokens and dimensions of an example, then over the examples. W_e is learned, without bias,
    and not shared with `hidden_mse`; the paper always has it (`projection: always`). E is what goes into block 1.
    """

    name = "embedding_mse"
    Settings = EmbeddingMSESettings
    seed_offset = 6

    @classmethod
    def pairs_of(cls, settings: ObjectiveSettings, student: EncoderShape, teacher: EncoderShape) -> Pairs:
        """The embedding layers, number 0 on both sides."""
        return ((0, 0),)

    @classmethod
    def projection_of(cls, settings: ObjectiveSettings) -> Projecting:
        """As set."""
        return cast(EmbeddingMSESettings, settings).projection

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """See `feature_map_mse`."""
        return feature_map_mse(student, teacher, mask)

    def describe(self) -> list[str]:
        """The embedding layers and the map."""
        return [
            f"{self.name}: the student's embedding layer learns from the teacher's{self.projections.describe()}"
        ]
