"""Runs a model over an encoded data set: batches of similar length, no gradient, eval mode.

A model whose answers padding changes (`codir.models.probe`) gets batches of one length, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from codir.models.modes import evaluation_mode
from codir.models.padding import Padding, pad_batch
from codir.models.probe import behaviour
from codir.models.representations import Pooling, Representations, TokenView, represent
from codir.models.tokens import TokenColumns
from codir.models.unpadded import padding_for

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
        poolings: poolings of the blocks to compute.
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
