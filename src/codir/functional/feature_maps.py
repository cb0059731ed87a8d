"""Comparison of two models' states: of every token (MobileBERT) or of the first one (SID)."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_map_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error between the feature maps of two blocks (MobileBERT, Sun et al. 2020, feature map transfer).

    For one example 1 / (T N) * sum_t sum_n (H_teacher[t, n] - H_student[t, n])^2 over its T real tokens and the N
    dimensions; then the mean over the examples, however long each of them is. In fp32, also inside autocast.

    Args:
        student: [B, L, d].
        teacher: [B, L, d]; no gradient reaches it.
        mask: [B, L] True at real tokens, on whichever side the padding is. A row that is all padding counts as zero.

    Returns:
        Scalar, at least fp32.
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        squares = (student.to(wide) - teacher.detach().to(wide)).square().mean(dim=2)  # [B, L]
        real = mask != 0
        tokens = real.sum(dim=1).clamp_min(1)
        return (squares.masked_fill(~real, 0.0).sum(dim=1) / tokens).mean()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of two vectors, mean over the examples (SID, Aguilar et al. 2020, on [CLS]).

    In fp32, also inside autocast. A vector of zeros has the cosine 0 with everything.

    Args:
        student: [B, d].
        teacher: [B, d]; no gradient reaches it.

    Returns:
        Scalar in [0, 2], at least fp32.
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        cosine = torch.nn.functional.cosine_similarity(student.to(wide), teacher.detach().to(wide), dim=1)
        return (1 - cosine).mean()
