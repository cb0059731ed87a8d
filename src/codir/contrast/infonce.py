"""InfoNCE (Eq. 4): a (K+1)-way cross-entropy whose right answer is the positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

# Given (start, stop), says which of the bank's rows start..stop-1 each anchor may be compared with: [B, stop-start].
Admissible = Callable[[int, int], Tensor]


class Rows(Protocol):
    """Rows that are read a chunk at a time: a bank of any kind (`codir.contrast.bank`)."""

    @property
    def size(self) -> int:
        """N, the number of rows."""
        ...

    def chunk(self, start: int, stop: int) -> Tensor:
        """[stop - start, m] rows start..stop-1."""
        ...


class ContrastiveResult(NamedTuple):
    """What a contrastive loss returns.

    Attributes:
        loss: scalar, mean over the batch, at least fp32.
        accuracy: scalar without gradient: how often the positive ranks before every negative. A tie counts as
            lost, so that representations that have collapsed to one point do not look perfect.
        positive: scalar without gradient: mean similarity of the anchors and their positives.
        negative: scalar without gradient: mean over the batch of an anchor's mean similarity to the negatives that
            count; 0 for one without any.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor
    negative: Tensor


def info_nce(
    positive: Tensor, negatives: Tensor, temperature: float | Tensor, mask: Tensor | None = None
) -> ContrastiveResult:
    """InfoNCE on similarities (Eq. 4), with log-sum-exp in fp32 also inside autocast.

    -log exp(s_0 / tau) / (exp(s_0 / tau) + sum_j exp(s_j / tau)), mean over the batch. In half precision
    exp(cos / 0.07) would overflow above a cosine of 0.776.

    Args:
        positive: [B] similarity s_0 of each anchor and its positive.
        negatives: [B, K] similarities s_1..s_K of each anchor and its negatives, K >= 1.
        temperature: tau > 0; a scalar tensor gets a gradient.
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


def streamed_info_nce(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor | Rows,
    admissible: Admissible,
    temperature: float | Tensor,
    chunk: int = 16384,
) -> ContrastiveResult:
    """InfoNCE with every admissible row of the bank as a negative: the exact softmax, a chunk at a time.

    One pass over the bank gives the loss and the gradient of the anchor together (the softmax-weighted mean of the
    rows, kept as a running sum that is rescaled whenever a larger similarity turns up), so that nothing of size
    [B, N] exists and the backward pass does not read the bank, which may have changed by then.

    Args:
        anchor: [B, m] unit vectors.
        positive: [B] similarity of each anchor and its live positive. Gradient goes to `anchor` and `positive` only.
        bank: [N, m] unit vectors, of any type and on any device, or something that gives them a chunk at a time.
        admissible: says which rows of a chunk count for each anchor.
        temperature: tau > 0; a scalar tensor gets a gradient, through the anchor and the positive that it divides.
        chunk: rows at a time; the memory needed is a few times B * chunk numbers.
    """
    with torch.autocast(anchor.device.type, enabled=False):
        wide = torch.promote_types(anchor.dtype, torch.float32)
        anchor, positive = anchor.to(wide), positive.to(wide)
        right = positive / temperature
        if isinstance(temperature, Tensor):  # <a, m> / tau is <a / tau, m>, and autograd does the rest
            anchor, divisor, unit = anchor / temperature, 1.0, temperature.detach().to(wide)
        else:
            divisor = unit = temperature
        wrong, hardest, similarity = _StreamedLogSumExp.apply(anchor, bank, admissible, divisor, chunk)
        loss = (torch.logaddexp(right, wrong) - right).mean()
        accuracy = (right.detach() > hardest).to(wide).mean()
    return ContrastiveResult(loss, accuracy, positive.detach().mean(), similarity.mean() * unit)


class _StreamedLogSumExp(torch.autograd.Function):
    """Of <a_b, m_j> / tau over the admissible rows: [B] log-sum-exp, [B] the largest, [B] the mean."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, bank: Tensor | Rows, admissible: Admissible, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        top = anchor.new_full((anchor.shape[0],), -torch.inf)
        total = torch.zeros_like(top)
        weighted = torch.zeros_like(anchor)  # sum_j exp(s_j / tau - top) m_j
        summed = torch.zeros_like(top)
        refusals = torch.zeros_like(top, dtype=torch.long)
        size = bank.shape[0] if isinstance(bank, Tensor) else bank.size
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            rows = (bank[start:stop] if isinstance(bank, Tensor) else bank.chunk(start, stop)).to(anchor)
            logits = (anchor @ rows.T).div_(temperature)
            refused = ~admissible(start, stop)
            summed += logits.masked_fill_(refused, 0.0).sum(dim=1)
            refusals += refused.sum(dim=1)
            logits.masked_fill_(refused, -torch.inf)
            top, before = torch.maximum(top, logits.amax(dim=1)), top
            finite = torch.where(top.isfinite(), top, torch.zeros_like(top))  # no admissible row so far: -inf
            rescale = torch.exp(before - finite)
            weights = logits.sub_(finite.unsqueeze(1)).exp_()
            total = total * rescale + weights.sum(dim=1)
            if ctx.needs_input_grad[0]:
                weighted = torch.addmm(weighted * rescale.unsqueeze(1), weights, rows)
        ctx.save_for_backward(
            weighted / (total.clamp_min(torch.finfo(total.dtype).tiny) * temperature).unsqueeze(1)
        )
        mean = summed / (size - refusals).clamp_min(1)
        ctx.mark_non_differentiable(top, mean)
        return top + torch.log(total), top, mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * slope, None, None, None, None
