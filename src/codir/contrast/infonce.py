"""InfoNCE (Eq. 4): a (K+1)-way cross-entropy whose right answer is the positive."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ContrastiveResult(NamedTuple):
    """What a contrastive loss returns, scalars: the mean loss, at least fp32, and without gradient what is logged."""

    loss: Tensor
    # How often the positive ranks before every negative. A tie counts as lost, so that representations that have
    # collapsed to one point do not look perfect.
    accuracy: Tensor
    positive: Tensor  # mean similarity of the anchors and their positives
    negative: Tensor  # mean of an anchor's mean similarity to the negatives that count; 0 for one without any


def info_nce(positive: Tensor, negatives: Tensor, temperature: float, mask: Tensor | None = None) -> ContrastiveResult:
    """InfoNCE on similarities (Eq. 4), with log-sum-exp in fp32 also inside autocast.

    -log exp(s_0 / tau) / (exp(s_0 / tau) + sum_j exp(s_j / tau)), mean over the batch. In half precision
    exp(cos / 0.07) would overflow above a cosine of 0.776.

    Args:
        positive: [B] the similarity s_0 of each anchor and its positive.
        negatives: [B, K] the similarities s_1..s_K of each anchor and its negatives, K >= 1.
        temperature: tau > 0.
        mask: [B, K] True where a negative counts; all count by default. An anchor without any has loss 0.
    """
    with torch.autocast(positive.device.type, enabled=False):
        wide = torch.promote_types(positive.dtype, torch.float32)
        positive, negatives = positive.to(wide), negatives.to(wide)
        right = positive / temperature  # [B]
        wrong = negatives / temperature  # [B, K]
        if mask is not None:
            wrong = wrong.masked_fill(~mask, -torch.inf)
        loss = (torch.logaddexp(right, torch.logsumexp(wrong, dim=1)) - right).mean()
        accuracy = (right.detach() > wrong.detach().amax(dim=1)).to(wide).mean()
        if mask is None:
            similarity = negatives.detach().mean()
        else:
            counted = mask.expand_as(negatives)
            similarity = ((negatives.detach() * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)).mean()
    return ContrastiveResult(loss, accuracy, positive.detach().mean(), similarity)


def group_similarity(anchor: Tensor, rows: Tensor, group: Tensor) -> Tensor:
    """Products of each anchor with the rows of its group: [B, K].

    Args:
        anchor: [B, m].
        rows: [G, K, m].
        group: [B] which of the G groups an anchor belongs to; every group has an anchor.
    """
    batch, groups = anchor.shape[0], rows.shape[0]
    if groups == 1:
        return anchor @ rows[0].T
    if groups == batch:  # a permutation, since every group has an anchor
        # The anchor as a row on the left: on a CPU this form is ten times as fast as [K, m] @ [m, 1], backward too.
        return torch.bmm(anchor[group.argsort()].unsqueeze(1), rows.transpose(1, 2)).squeeze(1)[group]
    if groups <= 8:  # every anchor with every group is less work than taking the batch apart
        every = (anchor @ rows.flatten(0, 1).T).view(batch, groups, rows.shape[1])
        return every[torch.arange(batch, device=anchor.device), group]
    order = group.argsort()
    members = anchor[order].split(torch.bincount(group, minlength=groups).tolist())
    products = torch.cat([part @ rows[index].T for index, part in enumerate(members)])
    return products[order.argsort()]
