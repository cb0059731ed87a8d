"""Uniform draws of K out of n, for many rows at once, at a cost that does not depend on n."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MAX = 2**63 - 1


def draw_indices(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draws K of 0..n-1 for each row, uniformly: without replacement where n >= K, with replacement where n < K.

    Rows with n > 4K draw one number after the other and skip those they already have, which is exactly uniform (every
    ordered choice of K different numbers has the same probability) and costs O(K log K) at every n. For smaller n the
    first K of a permutation are taken, O(n) = O(K).

    Args:
        counts: [G] n of each row, int64, at least 1.
        k: how many to draw.
        generator: on the device of `counts`.

    Returns:
        [G, K] int64.
    """
    few, dense = counts < k, (counts >= k) & (counts <= 4 * k)
    sparse = ~(few | dense)
    some = torch.stack([few.any(), dense.any(), sparse.any()]).tolist()  # one synchronisation, not three
    if not (some[0] or some[1]):
        return _reject_repeats(counts, k, generator)
    result = counts.new_empty(counts.shape[0], k)
    if some[0]:
        result[few] = _uniform(counts[few], k, generator)
    if some[1]:
        for row in dense.nonzero().flatten().tolist():
            order = torch.randperm(int(counts[row]), generator=generator, device=counts.device)
            result[row] = order[:k]
    if some[2]:
        result[sparse] = _reject_repeats(counts[sparse], k, generator)
    return result


def draw_allowed(allowed: Tensor, k: int, shared: bool, generator: torch.Generator) -> Tensor:
    """Leaves K of the allowed columns of each row, uniformly without replacement; all of them where there are fewer.

    For small numbers of columns: it costs O(B n).

    Args:
        allowed: [B, n] True where a column may be drawn.
        k: how many to leave.
        shared: rows draw in the same order, so that those with the same columns allowed keep the same ones. (Where one
            column is forbidden in each row, the rows take theirs out of one pool of K + 1.)
        generator: on the device of `allowed`.

    Returns:
        [B, n] with at most K True in a row.
    """
    rows, columns = allowed.shape
    if k >= columns:
        return allowed
    order = torch.rand(1 if shared else rows, columns, generator=generator, device=allowed.device)
    first = order.expand(rows, columns).masked_fill(~allowed, 2.0).topk(k, dim=1, largest=False).indices
    return allowed & torch.zeros_like(allowed).scatter_(1, first, True)


def _uniform(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    # 63 random bits modulo n: the bias is below n / 2^63, and the bound may differ from row to row.
    bits = torch.randint(_MAX, (counts.shape[0], k), generator=generator, device=counts.device)
    return bits.remainder_(counts.unsqueeze(1))


def _reject_repeats(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The first K different numbers of an endless sequence of independent uniform ones; needs n > K."""
    smallest = int(counts.min())
    # To see K different ones takes n log(n / (n - K)) draws on average; the margin makes a second round rare.
    expected = smallest * -math.log1p(-k / smallest)
    drawn = _uniform(counts, k + math.ceil(expected - k + 4 * math.sqrt(max(expected - k, 0.0)) + 4), generator)
    while True:
        # Sorting (number, position) puts equal numbers side by side in the order they were drawn: all but the first
        # are repeats. Both go into one integer, since a sort without indices is several times as fast.
        shift = drawn.shape[1].bit_length()
        keys = (drawn << shift) | torch.arange(drawn.shape[1], device=drawn.device)
        if keys.device.type == "cpu":
            keys.numpy().sort(axis=1)  # numpy's vectorised sort took a tenth of the time of torch's
        else:
            keys = keys.sort(dim=1).values
        ordered, position = keys >> shift, keys & ((1 << shift) - 1)
        repeat = torch.zeros_like(drawn, dtype=torch.bool)
        repeat.scatter_(1, position[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        rank = (~repeat).cumsum(dim=1)  # [G, D] how many different ones there are up to here
        if bool((rank[:, -1] >= k).all()):
            break
        drawn = torch.cat([drawn, _uniform(counts, max(8, k // 8), generator)], dim=1)
    keep = ~repeat & (rank <= k)
    return drawn[keep].view(counts.shape[0], k)
