"""Dynamic masking: which tokens of a block a masked language model must predict, anew in every epoch.

The choice is a function of (seed, epoch, block id) and of nothing else: not of the batch, the worker, the process or
what was drawn before. So any number of processes and data loader workers sees the same masks, and so does a resume.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from codir.errors import ConfigError, DataError, ModelError

EVALUATION_EPOCH = -1
"""The epoch of masks that never change, whatever the seed, for validation: losses of epochs and runs then compare."""

IGNORED = -100
"""The label of a position that is not predicted (what PyTorch's cross-entropy leaves out)."""

_WORD = 2**64


class TokenMasking:
    """Masks a share of a block's tokens, as BERT (Devlin et al., 2019, section 3.1) and RoBERTa (dynamic masking) do.

    Of a block with n ordinary tokens exactly `n * probability` are predicted, rounded up or down at random so that the
    mean is met for every n, but at least one (if n > 0). Why an exact number and not a coin for each token, as in
    transformers' collator: every batch then has nearly the same number P of predicted positions, so the steps cost the
    same, memory is known in advance, and no block teaches nothing; BERT's own data preparation and RoBERTa's do it too.

    Of the predicted tokens `masked` become the mask token, `random` become a token drawn uniformly, and the rest stay.
    Special tokens ([CLS], padding, unknown, ...) are never predicted, and never drawn; neither are drawn the tokens
    that were added to the vocabulary later. `masked=1, random=0` is what the CoDIR paper (section 4.2) words.

    Random bits come from Philox, whose key is (seed, block id) and whose counter starts at the epoch: no state, and no
    two blocks or epochs share a stream. They are read raw, because only those are the same in every numpy version.

    Raises:
        ModelError: the tokenizer has no mask token.
        ConfigError: a share is out of range.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probability: float = 0.15,
        masked: float = 0.8,
        random: float = 0.1,
        seed: int = 0,
    ):
        if not 0 < probability <= 1:
            raise ConfigError(
                f"The masking probability is {probability}; it must be above 0 and at most 1 (BERT: 0.15)."
            )
        # 0.8 + 0.2 may come out a rounding error above 1; NaN fails every comparison
        if not (masked >= 0 and random >= 0 and masked + random <= 1 + 1e-9):
            raise ConfigError(
                f"Of the predicted tokens {masked} are to be masked and {random} replaced at random: both must be at "
                "least 0 and their sum at most 1 (BERT: 0.8 and 0.1)."
            )
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"The tokenizer {name} has no mask token, so tokens cannot be masked: it belongs to a model that was "
                "not pre-trained by masking (GPT, for example). Take a masked language model such as BERT or RoBERTa, "
                "or set tokenizer.mask_token, save the tokenizer, and resize the model's embeddings."
            )
        self.probability = probability
        self.masked = masked
        self.random = random
        self.seed = seed
        self.name = name
        self.mask_id = int(cast(int, tokenizer.mask_token_id))
        # all_special_ids has the roles (padding, mask, ...) only, not special tokens that were added without one
        added: dict[int, Any] = cast(Any, tokenizer).added_tokens_decoder
        special = _ids({*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)})
        known = _ids({*tokenizer.get_vocab().values(), *special.tolist()})
        self.ordinary = np.setdiff1d(known, np.union1d(special, _ids(added)))
        if random > 0 and not self.ordinary.size:
            raise ModelError(f"The tokenizer {name} has no ordinary tokens to draw random ones from.")
        # a lookup is several times as fast as isin
        self._maskable = np.ones(int(known.max()) + 1, dtype=bool)
        self._maskable[special] = False

    def hiding(self) -> TokenMasking:
        """Returns a masking that hides what is to be predicted: this one, or with BERT's shares if it hides nothing.

        A training may want its blocks as they are (`masked=0`, `random=0`); for a score a token must not be seen.
        """
        if self.masked + self.random > 0:
            return self
        other = copy.copy(self)
        other.masked, other.random = 0.8, 0.1
        return other

    def mask(self, ids: np.ndarray, example_id: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks one block.

        Args:
            ids: [L] token ids, with or without special tokens and padding; not changed.
            example_id: the block's id, at least 0.
            epoch: from 0; `EVALUATION_EPOCH` for masks that never change.

        Returns:
            The inputs [L] and the labels [L], int64; a label is the original token where it is to be predicted and -100
            elsewhere.

        Raises:
            DataError: the block holds a token that the tokenizer does not know.
        """
        ids = np.asarray(ids, dtype=np.int64)
        inputs, labels = ids.copy(), np.full(ids.shape, IGNORED, dtype=np.int64)
        candidates = np.flatnonzero(self._is_maskable(ids, example_id))
        if not candidates.size:
            return inputs, labels
        seed = 0 if epoch == EVALUATION_EPOCH else self.seed
        stream = np.random.Philox(
            key=np.array([seed % _WORD, example_id % _WORD], dtype=np.uint64),
            counter=np.array([0, 0, 0, epoch % _WORD], dtype=np.uint64),
        )
        count = self._count(candidates.size, stream)
        # The k smallest of n random words are a uniform draw without replacement.
        words = stream.random_raw(candidates.size)
        chosen = candidates[np.sort(np.argpartition(words, count - 1)[:count])]
        labels[chosen] = ids[chosen]
        dice = _uniform(stream.random_raw(count))
        inputs[chosen[dice < self.masked]] = self.mask_id
        if self.random > 0:
            replaced = chosen[(dice >= self.masked) & (dice < self.masked + self.random)]
            # 64 random bits modulo the size of a vocabulary: the bias is below 1e-13
            drawn = stream.random_raw(replaced.size) % np.uint64(self.ordinary.size)
            inputs[replaced] = self.ordinary[drawn.astype(np.int64)]
        return inputs, labels

    def _is_maskable(self, ids: np.ndarray, example_id: int) -> np.ndarray:
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._maskable.size:
            wrong = int(ids.max()) if int(ids.min()) >= 0 else int(ids.min())
            raise DataError(
                f"Block {example_id} holds the token {wrong}, but the tokens of {self.name} are 0 to "
                f"{self._maskable.size - 1}: the corpus was prepared with another tokenizer. Prepare it again with "
                "this one."
            )
        return self._maskable[ids]

    def _count(self, candidates: int, stream: np.random.Philox) -> int:
        exact = candidates * self.probability
        up = _uniform(stream.random_raw(1))[0] < exact - int(exact)
        return min(max(int(exact) + int(up), 1), candidates)


def _ids(numbers: Iterable[int]) -> np.ndarray:
    return np.array(sorted(numbers), dtype=np.int64)


def _uniform(words: np.ndarray) -> np.ndarray:
    """Turns random 64-bit words into float64 in [0, 1), from their upper 53 bits."""
    return (words >> np.uint64(11)) * 2.0**-53
