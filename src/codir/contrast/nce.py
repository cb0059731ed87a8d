"""Binary noise-contrastive estimation, the loss of the released code (CRD, Tian et al. 2019); not the paper's Eq. 4.

Each similarity s gets the unnormalised probability P = exp(s / tau) / Z, and is classified as data or noise:
P / (P + K/N + eps) should be one for the positive, and the rest K/N / (P + K/N + eps) one for each of K negatives.
Everything is computed with logarithms, so that exp(s / tau) never appears on its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-7


def nce_log_constant(similarities: Tensor, temperature: float, examples: int) -> Tensor:
    """Estimates log Z from the first batch: Z = mean(exp(s / tau)) * N; the caller keeps it from then on.

    Args:
        similarities: [B, 1 + K] the positives' and the negatives'.
        temperature: tau > 0.
        examples: N, the number of rows of the bank.

    Returns:
        Scalar without gradient, at least fp32.
    """
    with torch.autocast(similarities.device.type, enabled=False):
        wide = torch.promote_types(similarities.dtype, torch.float32)
        logits = similarities.detach().to(wide).flatten() / temperature
        return torch.logsumexp(logits, dim=0) + math.log(examples / logits.numel())


def binary_nce(similarities: Tensor, log_constant: Tensor, temperature: float, examples: int) -> Tensor:
    """Binary NCE of one direction, summed over the positive and the negatives, mean over the batch.

    Args:
        similarities: [B, 1 + K] the positive's first.
        log_constant: scalar log Z, see `nce_log_constant`.
        temperature: tau > 0.
        examples: N, the number of rows of the bank; the noise has probability 1/N for each.

    Returns:
        Scalar, at least fp32.
    """
    with torch.autocast(similarities.device.type, enabled=False):
        wide = torch.promote_types(similarities.dtype, torch.float32)
        log_p = similarities.to(wide) / temperature - log_constant  # [B, 1 + K]
        noise = (similarities.shape[1] - 1) / examples
        log_sum = torch.logaddexp(log_p, log_p.new_tensor(math.log(noise + EPSILON)))
        data = log_p[:, 0] - log_sum[:, 0]
        rest = math.log(noise) - log_sum[:, 1:]
        return -(data + rest.sum(dim=1)).mean()
