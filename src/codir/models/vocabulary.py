"""Losses over a vocabulary at P positions, a chunk of positions at a time: nothing of size [P, V] exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codir.models.representations import MaskedPredictions

# Given a chunk's student logits [c, V] (fp32), the teacher's or None, and the rows start..stop-1 it covers, returns the
# chunk's loss: a scalar, the weighted sum over its positions.
ChunkLoss = Callable[[Tensor, Tensor | None, slice], Tensor]

# Of one fp32 chunk of logits; a loss holds about nine of them at a time. A processor is as fast with small chunks, an
# accelerator needs larger ones to be busy.
_CHUNK_BYTES = {"cpu": 1 << 24}
_CHUNK_BYTES_ELSEWHERE = 1 << 26


def chunk_of(vocabulary: int, device: str = "cpu") -> int:
    """Returns how many positions are computed at a time for a vocabulary of V on a type of device."""
    return max(16, _CHUNK_BYTES.get(device, _CHUNK_BYTES_ELSEWHERE) // (4 * vocabulary))


def chunked_loss(
    student: MaskedPredictions,
    loss: ChunkLoss,
    teacher: MaskedPredictions | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sums `loss` over chunks of positions, with gradient to the student's head.

    The gradient of a chunk is computed with it, while its logits exist, so that neither pass keeps or recomputes
    them: three products with the vocabulary for the student and one for the teacher, as without chunks. Matrix
    products run in autocast's type, where there is one; the logits that `loss` sees are fp32.

    Args:
        student: the student's; gradients reach `hidden`, `weight` and `bias`.
        loss: called once for each chunk, in order. It may sum up metrics on the side.
        teacher: the teacher's, whose logits go to `loss` as well; no gradient.
        chunk: positions at a time; by default as many as `chunk_of` says.

    Returns:
        Scalar, fp32: the sum over all positions; 0 if there are none. It can be differentiated once.
    """
    device = student.hidden.device.type
    enabled = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if enabled else None
    chunk = chunk or chunk_of(student.weight.shape[0], device)
    with torch.autocast(device, enabled=False):
        return _Chunked.apply(*student, teacher, loss, chunk, dtype)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: MaskedPredictions | None,
        loss: ChunkLoss,
        chunk: int,
        dtype: torch.dtype | None,
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        student = _cast(MaskedPredictions(hidden, weight, bias), dtype)
        if teacher is not None:
            teacher = _cast(teacher, dtype)
        total = hidden.new_zeros((), dtype=wide)
        to_hidden = torch.zeros_like(hidden, dtype=wide) if need_hidden else None
        to_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        to_bias = torch.zeros_like(bias, dtype=wide) if need_bias and bias is not None else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, min(start + chunk, hidden.shape[0]))
            logits = functional.linear(student.hidden[rows], student.weight, student.bias).to(wide)
            others = None
            if teacher is not None:
                others = functional.linear(teacher.hidden[rows], teacher.weight, teacher.bias).to(wide)
            if not (need_hidden or need_weight or need_bias):
                total += loss(logits, others, rows).detach()
                continue
            with torch.enable_grad():
                logits.requires_grad_()
                part = loss(logits, others, rows)
                (slope,) = torch.autograd.grad(part, logits)  # [c, V]
            total += part.detach()
            narrow = slope.to(student.weight.dtype)
            if to_hidden is not None:
                to_hidden[rows] = (narrow @ student.weight).to(wide)
            if to_weight is not None:
                if narrow.dtype == to_weight.dtype:  # without another tensor of its size
                    to_weight.addmm_(narrow.T, student.hidden[rows])
                else:
                    to_weight += narrow.T @ student.hidden[rows]
            if to_bias is not None:
                to_bias += slope.sum(dim=0)
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, bias.dtype if bias is not None else None)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        own = [
            None if slope is None else (slope * gradients[0]).to(dtype)
            for slope, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*own, None, None, None, None)


def _cast(head: MaskedPredictions, dtype: torch.dtype | None) -> MaskedPredictions:
    hidden, weight, bias = head
    dtype = dtype or weight.dtype  # without autocast the hidden states follow the weights
    return MaskedPredictions(
        hidden.detach().to(dtype),
        weight.detach().to(dtype),
        None if bias is None else bias.detach().to(dtype),
    )


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns -log softmax(z)[y] of each position, [c]; logits [c, V] fp32, labels [c]."""
    return functional.cross_entropy(logits, labels, reduction="none")


def token_divergence(
    student: Tensor, teacher: Tensor, temperature: float, squared: bool = False, averaged: bool = False
) -> Tensor:
    """Returns KL( softmax(z_t/rho) || softmax(z_s/rho) ) of each position (Eq. 2 over the vocabulary), [c].

    Args:
        student: [c, V] z_s.
        teacher: [c, V] z_t.
        temperature: rho.
        squared: multiply by rho squared.
        averaged: the mean over the V tokens instead of the sum.
    """
    own = torch.log_softmax(student / temperature, dim=1)
    others = torch.log_softmax(teacher / temperature, dim=1)
    loss = functional.kl_div(own, others, reduction="none", log_target=True).sum(dim=1)
    if averaged:
        loss = loss / student.shape[1]
    return loss * temperature**2 if squared else loss
