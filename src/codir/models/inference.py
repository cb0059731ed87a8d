"""Runs a batch without its padding: for models whose answers padding changes (`codir.models.probe`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from codir.models.batches import Padding, TokenColumns, pad_batch
from codir.models.probe import behaviour, evaluation_mode
from codir.models.representations import Pooling, Representations, TokenView, represent
from codir.models.vocabulary import MaskedPredictions


def padding_for(model: Any, padding: Padding) -> Padding:
    """Returns how a model's batches are to be padded: on the side where that changes nothing."""
    return Padding(padding.pad_token_id, padding.token_type_id, behaviour(model, padding.pad_token_id).side)


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
    whole: Representations | None = None
    # the place of each chosen position among all of the batch's, in row-major order
    order = None if positions is None else positions.long().flatten().cumsum(0).view(positions.shape) - 1
    for rows, part in parts_of_one_length(inputs):
        of_rows = mask[rows]
        length = part["attention_mask"].shape[1]
        chosen = None if positions is None else positions[rows][of_rows].view(len(rows), length)
        found = represent(model, part, poolings, chosen, tokens)
        if whole is None:
            whole = Representations(found.logits.new_zeros(len(mask), *found.logits.shape[1:]))
            whole.mask = mask if tokens else None
            for how, pooled in found.pooled.items():
                whole.pooled[how] = pooled.new_zeros(len(mask), *pooled.shape[1:])
            for view, vectors in found.tokens.items():
                whole.tokens[view] = vectors.new_zeros(*mask.shape, vectors.shape[2])
            if found.masked is not None and positions is not None:
                count = int(positions.sum())
                hidden = found.masked.hidden.new_zeros(count, found.masked.hidden.shape[1])
                whole.masked = MaskedPredictions(hidden, found.masked.weight, found.masked.bias)
        if positions is None:
            whole.logits[rows] = found.logits
        for how, pooled in found.pooled.items():
            whole.pooled[how][rows] = pooled
        place = torch.zeros_like(mask)
        place[rows] = of_rows
        for view, vectors in found.tokens.items():
            whole.tokens[view][place] = vectors.flatten(0, 1)
        if whole.masked is not None and found.masked is not None and order is not None and chosen is not None:
            whole.masked.hidden[order[rows][of_rows].view(len(rows), length)[chosen]] = found.masked.hidden
    assert whole is not None
    return whole


Progress = Callable[[int, int], None]


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
    if not isinstance(padding, Padding):
        padding = Padding.of(padding)
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
    *,
    batch_size: int = 32,
    prefix: str = "",
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Returns the logits for every example, [N, C] fp32, in the order of the ids 0..N-1; arguments as above."""
    batches = forward_dataset(
        model,
        encoded,
        padding,
        batch_size=batch_size,
        prefix=prefix,
        device=device,
        autocast=autocast,
        progress=progress,
    )
    found = [(ids, outputs.logits.cpu().numpy()) for ids, outputs in batches]
    ids = np.concatenate([ids for ids, _ in found])
    return np.concatenate([logits for _, logits in found])[np.argsort(ids)]
