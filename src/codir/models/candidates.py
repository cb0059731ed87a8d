"""What a masked language model would put in the place of each word of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ConfigError, ModelError
from codir.models.batches import Padding, pad_batch
from codir.models.config_file import position_limit
from codir.models.inference import precision
from codir.models.probe import evaluation_mode
from codir.models.representations import represent
from codir.models.words import Texts, WholeWords, find_words


class WordCandidates:
    """Proposes other words for each word of a text: the most probable at its place (Jiao et al. 2020, Algorithm 1).

    The word is masked, as one token however many pieces it has, and the model says what may stand there; of a pair, the
    other text is context, too. Only whole words are candidates (`WholeWords`), and never the word itself.

    Args:
        model: a masked language model, on the device to compute on.
        tokenizer: its tokenizer.
        most: K, candidates of a word.
        together: share of an example's words that are masked in one pass, evenly spread. 0 masks one at a time, as the
            paper; with 0.15, what the model saw in its training, about seven passes do for any length.
        max_length: longer inputs are cut to this many tokens, and the words cut off have no candidates; None: only at
            what the model has positions for.
        batch_size: inputs run at a time.
        autocast: `torch.bfloat16` for mixed precision; None computes in fp32.

    Raises:
        ModelError: the tokenizer has no mask token, or too few whole words.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        most: int = 15,
        together: float = 0.0,
        max_length: int | None = None,
        batch_size: int = 64,
        autocast: torch.dtype | None = None,
    ) -> None:
        if most < 1:
            raise ConfigError(f"{most} candidates for a word are too few: give at least 1.")
        if not 0.0 <= together <= 0.5:
            raise ConfigError(
                f"The share of words masked together must lie between 0 (one at a time) and 0.5, not {together}."
            )
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"The tokenizer {name} has no mask token, so no word can be masked. Take a masked language model and "
                "its own tokenizer."
            )
        self.model, self.tokenizer = model, tokenizer
        self.most, self.together, self.batch_size = most, together, batch_size
        self.words = WholeWords.of(tokenizer)
        if len(self.words.ids) <= most:
            raise ModelError(
                f"The tokenizer {name} has {len(self.words.ids)} whole words, too few for {most} candidates each. Ask "
                "for fewer, or take another model."
            )
        limits = [limit for limit in (max_length, position_limit(model.config)) if limit is not None]
        self.max_length = min(limits) if limits else None
        self.autocast = autocast
        self._padding = Padding.of(tokenizer)
        self._mask, self._mask_id = str(tokenizer.mask_token), int(cast(int, tokenizer.mask_token_id))

    @torch.no_grad()
    def propose(
        self, examples: Sequence[Texts], progress: Callable[[int, int], Any] = lambda done, in_all: None
    ) -> np.ndarray:
        """Returns the candidates of all words, [W, K] int32: numbers in `self.words`, the most probable first.

        The rows are the words of all examples in the order of the examples, of their texts and of `find_words`; -1
        fills what there is not (a word that was cut off has none). Equal calls on one machine give equal results.

        Args:
            examples: all single texts, or all pairs.
            progress: called with (words done, words in all) after each batch.

        Raises:
            ModelError: the model predicts NaN or infinity.
        """
        words = [
            each[start:end].casefold()
            for texts in examples
            for each in texts
            for start, end in find_words(each)
        ]
        result = np.full((len(words), self.most), -1, dtype=np.int32)
        queries = self._queries(examples)
        order = sorted(range(len(queries)), key=lambda number: -len(queries[number][0]["input_ids"]))
        weight, bias = self._output_rows()
        done = 0
        with evaluation_mode(self.model):
            for start in range(0, len(order), self.batch_size):
                batch = [queries[number] for number in order[start : start + self.batch_size]]
                rows = [row for _, asked in batch for row in asked]
                with precision(self.model.device, self.autocast):
                    hidden = self._at_masks([tokens for tokens, _ in batch])  # [words of the batch, d]
                    logits = functional.linear(
                        hidden, weight, bias
                    ).float()  # [words of the batch, whole words]
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError("The masked language model predicts NaN or infinity. Take another one.")
                for row, best in zip(rows, self._best(logits), strict=True):
                    self._fill(result[row], best, words[row])
                done += len(rows)
                progress(done, len(words))
        return result

    def _best(self, logits: Tensor) -> list[list[int]]:
        # more than K: the word itself may be among them, in a cased vocabulary in several spellings
        asked = min(self.most + 4, logits.shape[1])
        return logits.topk(asked, dim=1).indices.tolist()

    def _fill(self, row: np.ndarray, best: list[int], word: str) -> None:
        others = [number for number in best if self.words.folded[number] != word][: self.most]
        row[: len(others)] = others

    def _at_masks(self, tokens: list[dict[str, Any]]) -> Tensor:
        """Returns what the head multiplies with the vocabulary, at the masks only."""
        inputs = {
            name: tensor.to(self.model.device) for name, tensor in pad_batch(tokens, self._padding).items()
        }
        positions = torch.eq(inputs["input_ids"], self._mask_id)
        masked = represent(self.model, inputs, (), positions).masked
        assert masked is not None
        return masked.hidden

    def _output_rows(self) -> tuple[Tensor, Tensor | None]:
        """Returns the rows of the output embedding that belong to whole words, and their biases."""
        head: Any = self.model.get_output_embeddings()
        ids = torch.tensor(self.words.ids, device=head.weight.device)
        dtype = self.autocast or head.weight.dtype  # once, not in each batch
        return head.weight[ids].to(dtype), None if head.bias is None else head.bias[ids].to(dtype)

    def _queries(self, examples: Sequence[Texts]) -> list[tuple[dict[str, Any], list[int]]]:
        """Returns the masked inputs, each with the rows of the words it asks for, in the order of its masks."""
        masked: list[Texts] = []
        asked: list[list[list[int]]] = []  # of each masked input, for each of its texts
        before = 0
        for texts in examples:
            places = [(number, place) for number, each in enumerate(texts) for place in find_words(each)]
            passes = math.ceil(len(places) / max(1, math.floor(self.together * len(places))))
            for first in range(passes):
                chosen = [(row, *places[row]) for row in range(first, len(places), passes)]
                masked.append(
                    tuple(
                        self._hide(each, [place for _, of, place in chosen if of == number])
                        for number, each in enumerate(texts)
                    )
                )
                asked.append(
                    [[before + row for row, of, _ in chosen if of == number] for number in range(len(texts))]
                )
            before += len(places)
        if not masked:
            return []
        columns = [list(column) for column in zip(*masked, strict=True)]
        encoded = self.tokenizer(
            columns[0],
            columns[1] if len(columns) > 1 else None,
            truncation=self.max_length is not None,
            max_length=self.max_length,
        )
        queries: list[tuple[dict[str, Any], list[int]]] = []
        for number, rows in enumerate(asked):
            tokens = {name: values[number] for name, values in encoded.items()}
            kept = self._kept(rows, tokens["input_ids"], partial(_sequences, encoded, number))
            if kept:
                queries.append((tokens, kept))
        return queries

    def _hide(self, text: str, places: list[tuple[int, int]]) -> str:
        """Puts the mask in the place of words. A mask that the text itself spells out is none."""
        parts: list[str] = []
        last = 0
        for start, end in places:
            parts += [text[last:start], self._mask]
            last = end
        parts.append(text[last:])
        return "".join(
            part if number % 2 else part.replace(self._mask, self._mask.strip("[]<>"))
            for number, part in enumerate(parts)
        )

    def _kept(
        self, rows: list[list[int]], ids: list[int], sequences: Callable[[], list[int | None]]
    ) -> list[int]:
        """Returns the rows whose masks are still there after cutting."""
        found = [position for position, token in enumerate(ids) if token == self._mask_id]
        if len(found) == sum(map(len, rows)):
            return [row for each in rows for row in each]
        of = [0] * len(ids) if len(rows) == 1 else sequences()
        kept: list[int] = []
        for number, each in enumerate(rows):
            count = sum(of[position] == number for position in found)
            kept += each[:count] if self.tokenizer.truncation_side == "right" else each[len(each) - count :]
        return kept


def _sequences(encoded: BatchEncoding, number: int) -> list[int | None]:
    """Returns which text each token of an input comes from; nothing is known of a tokenizer written in Python."""
    return encoded.sequence_ids(number) if encoded.is_fast else [None] * len(encoded["input_ids"][number])
