"""Runs a batch without its padding: for models whose answers padding changes (`codir.models.probe`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codir.models.padding import Padding
from codir.models.probe import behaviour
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
