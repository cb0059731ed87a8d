"""Mean squared error between two models' attention matrices (TinyBERT)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from codir.functional.relations import relation_log_probabilities, split_heads


def attention_mse(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int, normalised: bool = False
) -> Tensor:
    """Mean squared error between attention matrices (TinyBERT, Jiao et al. 2020, L_attn).

    For one example 1 / (h T^2) * sum_a || A_student[a] - A_teacher[a] ||_F^2 over the h heads, A[a] being the T x T
    matrix of its real tokens; then the mean over the examples. In fp32, also inside autocast.

    Args:
        student: queries and keys, each [B, L, heads * d_h].
        teacher: likewise; their d_h may be another one. No gradient reaches them.
        mask: [B, L] True at real tokens, on whichever side the padding is. A row that is all padding counts as zero.
        heads: h, the same on both sides.
        normalised: compare softmax(q k^T / sqrt(d_h)); the paper compares the scores q k^T / sqrt(d_h) themselves.

    Returns:
        Scalar, at least fp32.

    Raises:
        ValueError: the heads do not divide a width.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        real = mask != 0
        difference = (_of_probabilities if normalised else _of_scores)(student, teacher, real, heads)
        cells = real.sum(dim=1).clamp_min(1).square() * heads
        return (difference.square().sum(dim=(1, 2, 3)) / cells).mean()


def _of_probabilities(
    student: Sequence[Tensor], teacher: Sequence[Tensor], real: Tensor, heads: int
) -> Tensor:
    with torch.no_grad():
        wanted = relation_log_probabilities(teacher[0], teacher[1], real, heads).exp()
    given = relation_log_probabilities(student[0], student[1], real, heads).exp()
    return (given - wanted.to(given.dtype)).masked_fill(~real[:, None, :, None], 0.0)


def _of_scores(student: Sequence[Tensor], teacher: Sequence[Tensor], real: Tensor, heads: int) -> Tensor:
    """One product gives the difference: [q_s/sqrt(d_s), -q_t/sqrt(d_t)] [k_s, k_t]^T; padding is zero in it."""
    wide = torch.promote_types(student[0].dtype, torch.float32)
    (own_query, own_key), (other_query, other_key) = (
        [split_heads(vectors.to(wide).masked_fill(~real.unsqueeze(2), 0.0), heads) for vectors in side]
        for side in (student, [vectors.detach() for vectors in teacher])
    )
    queries = torch.cat(
        [own_query / math.sqrt(own_query.shape[-1]), -other_query / math.sqrt(other_query.shape[-1])], dim=-1
    )
    return queries @ torch.cat([own_key, other_key], dim=-1).transpose(-1, -2)
