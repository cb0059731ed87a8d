"""Cosine of the hidden states of every token (DistilBERT)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from codir.losses.distances import token_cosine_distance
from codir.losses.matched_states import MatchedStates, MatchedStatesSettings
from codir.losses.state_projections import PROJECTING_HELP, Projecting
from codir.models.matching import MATCHING_HELP, Matching


class HiddenCosineSettings(MatchedStatesSettings):
    """Settings of the objective `hidden_cosine`."""

    matching: Matching = Field(default="top", description=MATCHING_HELP)
    projection: Projecting = Field(default="never", description=PROJECTING_HELP)


class HiddenCosine(MatchedStates):
    """1 - cos(h_student, h_teacher) of every real token, summed over the matched blocks (DistilBERT, Sanh et al. 2019).

    Of a block: the mean over the real tokens of an example, then over the examples. The paper compares the last blocks
    (`matching: top`) of models of one width, in pre-training; it works the same in fine-tuning.
    """

    name = "hidden_cosine"
    Settings = HiddenCosineSettings
    seed_offset = 8

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """See `token_cosine_distance`."""
        return token_cosine_distance(student, teacher, mask)
