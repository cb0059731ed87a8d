"""The tokens behind the masks of a corpus: what an encoder is pre-trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codir.kinds import MASKED_LM
from codir.kinds.base import Kind

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class MaskedLanguageModel(Kind):
    """A token of the vocabulary at each masked position.

    The logits of a batch, [P, V], exist a chunk at a time only, so that the losses (`mlm`, `kd`) compute them by
    `codir.models.vocabulary`. A text has no label: negatives are the other blocks of the mini-batch (Section 3.3).
    """

    name = MASKED_LM
    negatives = "in-batch-bank"
    per_token = True

    def reads(self, config: PretrainedConfig) -> bool:
        """Never: whether a model is trained on a corpus is not in its config."""
        return False

    def match(self, labels: Sequence[str] | None, config: PretrainedConfig, model: str) -> tuple[int, ...]:
        """Never: outputs are tokens, matched by the tokenizer."""
        raise NotImplementedError
