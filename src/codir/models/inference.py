"""Runs models on batches of examples: padded, or without padding where that would change the answers.

Padding goes to the right, whatever the tokenizer's own side is: positions are counted from the left, also by BERT and
its like, whose states would move with the texts beside them; and classifiers that read the last token (GPT-2, Qwen)
look for the last one that is no padding. The exception are models that answer right with padding on the left only
(XLNet reads the last place, whatever stands there); `codir.models.check` finds that out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from codir.errors import DataError, ModelError
from codir.models.check import Side, behaviour, evaluation_mode, side_of
from codir.models.representations import Pooling, Representations, TokenView, represent

INPUT_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@dataclass(frozen=True)
class Padding:
    """How a tokenizer pads."""

    pad_token_id: int
    token_type_id: int = 0
    side: Side = "right"

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Padding:
        """Reads it off a tokenizer; raises `ModelError` if that has no padding token."""
        if tokenizer.pad_token_id is None:
            raise ModelError(
                f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no padding token, so its "
                "texts cannot be batched. Set tokenizer.pad_token (for example to its end-of-text token) and save "
                "it again."
            )
        return cls(int(cast(int, tokenizer.pad_token_id)), int(tokenizer.pad_token_type_id), side_of(tokenizer))

    def value(self, column: str) -> int:
        """Returns what fills `column` (named without prefix); the attention mask's padding is always 0."""
        return {"input_ids": self.pad_token_id, "token_type_ids": self.token_type_id}.get(column, 0)


def padding_for(model: Any, padding: Padding) -> Padding:
    """Returns how a model's batches are to be padded: on the side where that changes nothing."""
    return replace(padding, side=behaviour(model, padding.pad_token_id).side)


def pad_batch(
    rows: Sequence[Mapping[str, Any]],
    padding: Padding | PreTrainedTokenizerBase,
    prefix: str = "",
    pad_to_multiple_of: int | None = None,
) -> dict[str, Tensor]:
    """Pads the token columns of `rows` to the longest one and drops all other columns.

    Args:
        rows: examples with `{prefix}input_ids` and, if the tokenizer makes them, `{prefix}attention_mask` and
            `{prefix}token_type_ids`, each a list or an array of integers.
        padding: a tokenizer, or what was read off one.
        prefix: `teacher_` to read the teacher's own columns; the result's keys are without it.
        pad_to_multiple_of: rounds the length up, for tensor cores.

    Returns:
        int64 tensors [B, L] by argument name. The attention mask is made if the rows bring none.

    Raises:
        DataError: there are no `{prefix}input_ids`, or one of the columns has another length.
    """
    padding = padding if isinstance(padding, Padding) else Padding.of(padding)
    if not rows or f"{prefix}input_ids" not in rows[0]:
        known = ", ".join(rows[0]) if rows else "none"
        raise DataError(f"A batch needs the column '{prefix}input_ids'; the columns there are: {known}.")
    lengths = [len(row[f"{prefix}input_ids"]) for row in rows]
    width = max(*lengths, 1)
    if pad_to_multiple_of:
        width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
    batch: dict[str, Tensor] = {}
    for column in INPUT_COLUMNS:
        key = f"{prefix}{column}"
        if key not in rows[0] and column != "attention_mask":
            continue
        padded = np.full((len(rows), width), padding.value(column), dtype=np.int64)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            values = row[key] if key in rows[0] else np.ones(length, dtype=np.int64)
            if len(values) != length:
                raise DataError(
                    f"Column '{key}' has {len(values)} entries where '{prefix}input_ids' has {length}: "
                    "encode the data again."
                )
            start = width - length if padding.side == "left" else 0
            padded[number, start : start + length] = values
        batch[column] = torch.from_numpy(padded)
    return batch


@dataclass(frozen=True)
class TokenColumns:
    """Token columns of N examples."""

    ids: np.ndarray  # [N] int64, the column `example_id`, or 0..N-1 where there is none
    offsets: np.ndarray  # [N+1] int64; example n's tokens are `values[column][offsets[n]:offsets[n + 1]]`
    values: dict[str, np.ndarray]  # flat arrays by column, named without prefix

    @classmethod
    def read(cls, encoded: Dataset, prefix: str = "") -> TokenColumns:
        """Reads the columns `{prefix}input_ids`, `{prefix}attention_mask`, `{prefix}token_type_ids`.

        Raises:
            DataError: `{prefix}input_ids` is missing, or columns differ in their lengths.
        """
        if f"{prefix}input_ids" not in encoded.column_names:
            raise DataError(
                f"The data set has no column '{prefix}input_ids' but {', '.join(encoded.column_names)}: "
                "tokenise it first."
            )
        found = [column for column in INPUT_COLUMNS if f"{prefix}{column}" in encoded.column_names]
        extra = ["example_id"] if "example_id" in encoded.column_names else []
        chosen = encoded.select_columns([*(prefix + column for column in found), *extra])
        table = cast(pa.Table, chosen.with_format("arrow")[:])
        offsets: dict[str, np.ndarray] = {}
        values: dict[str, np.ndarray] = {}
        for column in found:
            lists: Any = table.column(prefix + column).combine_chunks()
            lists = pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists
            # a slice keeps its parent's buffers, hence the subtraction; flatten() takes only the slice's values
            starts = lists.offsets.to_numpy().astype(np.int64)
            offsets[column], values[column] = (
                starts - starts[0],
                lists.flatten().to_numpy(zero_copy_only=False),
            )
            if not np.array_equal(offsets["input_ids"], offsets[column]):
                raise DataError(
                    f"The columns '{prefix}input_ids' and '{prefix}{column}' differ in length: encode the data again."
                )
        ids = table.column("example_id").to_numpy() if extra else np.arange(len(encoded))
        return cls(ids.astype(np.int64), offsets["input_ids"], values)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Returns the [N] token counts."""
        return np.diff(self.offsets)

    def row(self, number: int) -> dict[str, Any]:
        """Returns the arrays of one example, as `pad_batch` takes them."""
        start, end = self.offsets[number], self.offsets[number + 1]
        return {column: flat[start:end] for column, flat in self.values.items()}

    def batches(self, size: int, one_length: bool = False) -> Iterator[np.ndarray]:
        """Yields row numbers in batches of similar length, the longest first (so memory peaks at once).

        `one_length`: rows of different lengths are never in one batch, so that none is padded.
        """
        order = np.argsort(-self.lengths, kind="stable")
        ends = np.flatnonzero(np.diff(self.lengths[order])) + 1 if one_length else []
        for group in np.split(order, ends):
            for start in range(0, len(group), size):
                yield group[start : start + size]


def parts_of_one_length(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Splits a padded batch into parts without padding.

    Args:
        batch: tensors [B, L], `attention_mask` among them, all padded on the same side.

    Returns:
        For each length, the longest first: the numbers of the rows [b], in increasing order, and their tensors [b, l].
    """
    mask = batch["attention_mask"]
    lengths = mask.sum(dim=1)
    parts = []
    for length in sorted(set(lengths.tolist()), reverse=True):
        rows = (lengths == length).nonzero().squeeze(1)
        place = slice(0, length) if bool(mask[:, 0].all()) else slice(mask.shape[1] - length, None)
        parts.append((rows, {name: tensor[rows, place] for name, tensor in batch.items()}))
    return parts


def logits_without_padding(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns a classifier's logits [B, C] for a padded batch, each text as it is answered without padding."""
    found = [(rows, model(**inputs).logits) for rows, inputs in parts_of_one_length(batch)]
    logits = torch.cat([part for _, part in found])
    return logits[torch.cat([rows for rows, _ in found]).argsort().to(logits.device)]


def represent_without_padding(
    model: nn.Module,
    inputs: dict[str, Any],
    poolings: Iterable[Pooling] = (),
    positions: Tensor | None = None,
    tokens: Iterable[TokenView] = (),
) -> Representations:
    """Returns what `represent` does, in the batch's places, computed on texts of one length at a time.

    Vectors of single tokens are zero at the padding. Arguments and errors as `represent`.
    """
    poolings, tokens = tuple(poolings), tuple(tokens)
    mask = inputs["attention_mask"] != 0
    carried = {"place": torch.arange(mask.numel(), device=mask.device).view(mask.shape)}  # of each token in the batch
    if positions is not None:
        carried["chosen"] = positions
    numbers, places, parts = [], [], []
    for rows, part in parts_of_one_length({**inputs, **carried}):
        place, chosen = part.pop("place"), part.pop("chosen", None)
        parts.append(represent(model, part, poolings, chosen, tokens))
        numbers.append(rows)
        places.append((place.flatten(), None if chosen is None else place[chosen]))
    order = torch.cat(numbers).argsort()
    whole = Representations(
        parts[0].logits if positions is not None else torch.cat([part.logits for part in parts])[order],
        {how: torch.cat([part.pooled[how] for part in parts])[order] for how in poolings},
        mask=mask if tokens else None,
    )
    for view in tokens:
        vectors = torch.cat([part.tokens[view].flatten(0, 1) for part in parts])
        spread = vectors.new_zeros(mask.numel(), vectors.shape[1])
        spread[torch.cat([place for place, _ in places])] = vectors
        whole.tokens[view] = spread.view(*mask.shape, -1)
    if (head := parts[0].masked) is not None:
        hidden = torch.cat([part.masked.hidden for part in parts if part.masked is not None])
        chosen_places = torch.cat([place for _, place in places if place is not None])
        whole.masked = head._replace(hidden=hidden[chosen_places.argsort()])
    return whole


def precision(device: torch.device, autocast: torch.dtype | None) -> torch.autocast:
    """Returns the autocast context for `autocast`; None switches off an autocast that surrounds the call."""
    return torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of the model's first parameter (the CPU if it has none)."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def forward_dataset(
    model: nn.Module,
    encoded: Dataset | TokenColumns,
    padding: Padding | PreTrainedTokenizerBase,
    *,
    poolings: Iterable[Pooling] = (),
    tokens: Iterable[TokenView] = (),
    batch_size: int = 32,
    prefix: str = "",
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[np.ndarray, Representations]]:
    """Yields the model's outputs for every example of a data set once, the longest examples first.

    While the iterator lives the model is in eval mode; once it ends (or is closed) every submodule has its mode back.
    Inference mode and autocast hold for the model's own pass only, not for the code between two batches.

    Args:
        model: any Hugging Face sequence classifier.
        encoded: data set with token columns, or columns already read.
        padding: the model's tokenizer, or what was read off it.
        poolings: poolings of the layers to compute.
        tokens: vectors of single tokens to give.
        batch_size: examples in a batch.
        prefix: `teacher_` to read the teacher's own token columns.
        device: moves the model and its inputs there; None leaves the model where it is.
        autocast: `torch.bfloat16` for mixed precision; None computes in the weights' own precision.
        progress: called with (examples done, examples in all) after each batch.

    Yields:
        ids: [B] int64, the batch's `example_id` (row numbers if there is no such column).
        representations: on the model's device, logits as fp32.
    """
    columns = encoded if isinstance(encoded, TokenColumns) else TokenColumns.read(encoded, prefix)
    padding = padding if isinstance(padding, Padding) else Padding.of(padding)
    poolings, tokens = tuple(poolings), tuple(tokens)
    if device is not None:
        model.to(device)
    place = torch.device(device) if device is not None else device_of(model)
    padding, exact = padding_for(model, padding), behaviour(model, padding.pad_token_id).padded
    done = 0
    with evaluation_mode(model):
        for numbers in columns.batches(batch_size, one_length=not exact):
            batch = pad_batch([columns.row(int(number)) for number in numbers], padding)
            inputs = {name: tensor.to(place) for name, tensor in batch.items()}
            with torch.inference_mode(), precision(place, autocast):
                outputs = represent(model, inputs, poolings, tokens=tokens)
                outputs.logits = outputs.logits.float()
            yield columns.ids[numbers], outputs
            done += len(numbers)
            if progress is not None:
                progress(done, len(columns))


def predict_logits(
    model: nn.Module,
    encoded: Dataset | TokenColumns,
    padding: Padding | PreTrainedTokenizerBase,
    **settings: Any,
) -> np.ndarray:
    """Returns the logits for every example, [N, C] fp32, in the order of the ids 0..N-1; see `forward_dataset`."""
    batches = forward_dataset(model, encoded, padding, **settings)
    found = [(ids, outputs.logits.cpu().numpy()) for ids, outputs in batches]
    ids = np.concatenate([ids for ids, _ in found])
    return np.concatenate([logits for _, logits in found])[np.argsort(ids)]
