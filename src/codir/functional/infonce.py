"""InfoNCE (Eq. 4): a (K+1)-way cross-entropy whose right answer is the positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

# Given (start, stop), says which of the bank's rows start..stop-1 each anchor may be compared with: [B, stop-start].
Admissible = Callable[[int, int], Tensor]


class Rows(Protocol):
    """Rows that are read a chunk at a time: a bank of any kind (`codir.functional.bank`)."""

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
    """

    loss: Tensor
    accuracy: Tensor


def info_nce(
    positive: Tensor, negatives: Tensor, temperature: float, mask: Tensor | None = None
) -> ContrastiveResult:
    """InfoNCE on similarities (Eq. 4), with log-sum-exp in fp32 also inside autocast.

    -log exp(s_0 / tau) / (exp(s_0 / tau) + sum_j exp(s_j / tau)), mean over the batch. In half precision
    exp(cos / 0.07) would overflow above a cosine of 0.776.

    Args:
        positive: [B] similarity s_0 of each anchor and its positive.
        negatives: [B, K] similarities s_1..s_K of each anchor and its negatives, K >= 1.
        temperature: tau > 0.
        mask: [B, K] True where a negative counts; all count by default. An anchor without any has loss 0.
    """
    with torch.autocast(positive.device.type, enabled=False):
        wide = torch.promote_types(positive.dtype, torch.float32)
        right = positive.to(wide) / temperature  # [B]
        wrong = negatives.to(wide) / temperature  # [B, K]
        if mask is not None:
            wrong = wrong.masked_fill(~mask, -torch.inf)
        loss = (torch.logaddexp(right, torch.logsumexp(wrong, dim=1)) - right).mean()
        accuracy = (right.detach() > wrong.detach().amax(dim=1)).to(wide).mean()
    return ContrastiveResult(loss, accuracy)


def streamed_info_nce(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor | Rows,
    admissible: Admissible,
    temperature: float,
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
        temperature: tau > 0.
        chunk: rows at a time; the memory needed is a few times B * chunk numbers.
    """
    with torch.autocast(anchor.device.type, enabled=False):
        wide = torch.promote_types(anchor.dtype, torch.float32)
        right = positive.to(wide) / temperature
        wrong, hardest = _StreamedLogSumExp.apply(anchor.to(wide), bank, admissible, temperature, chunk)
        loss = (torch.logaddexp(right, wrong) - right).mean()
        accuracy = (right.detach() > hardest).to(wide).mean()
    return ContrastiveResult(loss, accuracy)


class _StreamedLogSumExp(torch.autograd.Function):
    """[B] log sum_j exp(<a_b, m_j> / tau) over the admissible rows, and [B] the largest <a_b, m_j> / tau."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, bank: Tensor | Rows, admissible: Admissible, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        top = anchor.new_full((anchor.shape[0],), -torch.inf)
        total = torch.zeros_like(top)
        weighted = torch.zeros_like(anchor)  # sum_j exp(s_j / tau - top) m_j
        size = bank.shape[0] if isinstance(bank, Tensor) else bank.size
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            rows = (bank[start:stop] if isinstance(bank, Tensor) else bank.chunk(start, stop)).to(anchor)
            logits = (anchor @ rows.T).div_(temperature)
            logits.masked_fill_(~admissible(start, stop), -torch.inf)
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
        ctx.mark_non_differentiable(top)
        return top + torch.log(total), top

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * slope, None, None, None, None
