"""Divergence between two models' self-attention relations, and mean squared error between attention matrices.

A relation of two kinds of vectors, say queries and keys, is for each head and token the distribution
softmax(q k^T / sqrt(d_h)) over all tokens (MiniLM, MiniLMv2). Queries with keys give the attention.

Both distances take two kinds of vectors of each side, [B, L, heads * d_h] (the teacher's d_h may be another one, and no
gradient reaches it), and a mask [B, L], True at real tokens on whichever side the padding is; a row that is all padding
counts as zero. They are computed in fp32, also inside autocast. Heads that do not divide a width raise `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def _split_heads(vectors: Tensor, heads: int) -> Tensor:
    """Cuts vectors into heads: [B, L, heads * d_h] to [B, heads, L, d_h]."""
    batch, length, width = vectors.shape
    if width % heads:
        raise ValueError(f"Vectors of {width} numbers cannot be cut into {heads} heads of the same size.")
    return vectors.view(batch, length, heads, width // heads).transpose(1, 2)


def relation_log_probabilities(left: Tensor, right: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Logarithms of softmax(left right^T / sqrt(d_h)), [B, heads, L, L], padding left out of the distributions.

    At padding the numbers are finite and mean nothing.
    """
    with torch.autocast(left.device.type, enabled=False):
        wide = torch.promote_types(left.dtype, torch.float32)
        first, second = _split_heads(left.to(wide), heads), _split_heads(right.to(wide), heads)
        scores = (first / math.sqrt(first.shape[-1])) @ second.transpose(-1, -2)
        # Not -inf: the log of a masked key has to be a number, because zero times infinity is none.
        hidden = (mask == 0)[:, None, None, :]
        return torch.log_softmax(scores.masked_fill(hidden, torch.finfo(wide).min / 4), dim=-1)


def relation_divergence(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int
) -> Tensor:
    """KL divergence of the student's relations from the teacher's.

    For one example 1 / (A |x|) * sum_a sum_t KL(R_teacher[a, t] || R_student[a, t]) over the A heads and the |x| real
    tokens (MiniLM, Wang et al. 2020, MiniLMv2, Wang et al. 2021; with queries and keys also the attention transfer of
    MobileBERT and SID); then the mean over the examples.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        with torch.no_grad():
            wanted = relation_log_probabilities(teacher[0], teacher[1], mask, heads)
        given = relation_log_probabilities(student[0], student[1], mask, heads)
        each = functional.kl_div(given, wanted.to(given.dtype), reduction="none", log_target=True)
        real = mask != 0
        rows = each.sum(dim=-1).mean(dim=1).masked_fill(~real, 0.0)  # [B, L]
        return (rows.sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()


def attention_mse(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int, normalised: bool = False
) -> Tensor:
    """Mean squared error between attention matrices (TinyBERT, Jiao et al. 2020, L_attn).

    For one example 1 / (h T^2) * sum_a || A_student[a] - A_teacher[a] ||_F^2 over the h heads, A[a] being the T x T
    matrix of its real tokens; then the mean over the examples. `normalised` compares softmax(q k^T / sqrt(d_h)); the
    paper compares the scores q k^T / sqrt(d_h) themselves.
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
        [_split_heads(vectors.to(wide).masked_fill(~real.unsqueeze(2), 0.0), heads) for vectors in side]
        for side in (student, [vectors.detach() for vectors in teacher])
    )
    queries = torch.cat(
        [own_query / math.sqrt(own_query.shape[-1]), -other_query / math.sqrt(other_query.shape[-1])], dim=-1
    )
    return queries @ torch.cat([own_key, other_key], dim=-1).transpose(-1, -2)
