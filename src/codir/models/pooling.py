"""One vector for each example out of the hidden states of a block (Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALF else dtype


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns [B, L] weights that sum to one over the real tokens of each row (all zero for an empty row)."""
    weights = (mask != 0).to(dtype)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1.0)


def _first_positions(mask: Tensor) -> Tensor:
    """Returns [B] the first real position of each row; 0 for a row that is all padding."""
    return (mask != 0).to(torch.int32).argmax(dim=1)


def _weighted_sum(hidden: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    if hidden.dtype in _HALF:
        # The sum converts while it reads: fp32 accumulation without an fp32 copy of [B, L, d]. A half-precision
        # product would be shorter but rounds its output, and a sum of 512 large numbers is beyond fp16.
        total = hidden.masked_fill((mask == 0).unsqueeze(2), 0).sum(dim=1, dtype=torch.float32)
        return total * weights.amax(dim=1, keepdim=True)
    # [B, 1, L] x [B, L, d]: one batched product reads the hidden states once, without a masked copy of them.
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.bmm(weights.unsqueeze(1), hidden).squeeze(1)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the real tokens' hidden states.

    Args:
        hidden: [B, L, d] hidden states.
        mask: [B, L] 1 (or True) for real tokens, 0 for padding, on whichever side the padding is.

    Returns:
        [B, d], fp32 for half-precision input and the input's type otherwise. A row that is all padding gives
        zeros.
    """
    return _weighted_sum(hidden, mask, _mean_weights(mask, _wide(hidden.dtype)))


def first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden state of the first real token (`[CLS]`), also where the padding is on the left.

    Args:
        hidden: [B, L, d] hidden states.
        mask: [B, L] 1 (or True) for real tokens, 0 for padding.

    Returns:
        [B, d], fp32 for half-precision input and the input's type otherwise. A row that is all padding gives
        its position 0.
    """
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    first = hidden[rows, _first_positions(mask)]
    return first.to(_wide(hidden.dtype))


def pool_blocks(hidden_states: Sequence[Tensor], mask: Tensor, how: Literal["mean", "cls"]) -> Tensor:
    """Pools every block's output into one vector for each example (Eq. 3, before the concatenation).

    Args:
        hidden_states: one [B, L, d] tensor for each block, the embedding layer already left out.
        mask: [B, L] 1 (or True) for real tokens, 0 for padding.
        how: `mean` over the real tokens, or `cls` for the first one.

    Returns:
        [B, blocks, d], fp32 for half-precision input. Index 0 is block 1.
    """
    if how == "mean":
        weights = _mean_weights(mask, _wide(hidden_states[0].dtype))
        return torch.stack([_weighted_sum(hidden, mask, weights) for hidden in hidden_states], dim=1)
    if how == "cls":
        return torch.stack([first_token(hidden, mask) for hidden in hidden_states], dim=1)
    raise ValueError(f"Unknown pooling {how!r}: choose 'mean' or 'cls'.")
