"""Cosine distance between two models' states of every token (DistilBERT)."""

from __future__ import annotations

import torch
from torch import Tensor


def token_cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """One minus the cosine of the states of each real token (DistilBERT, Sanh et al. 2019).

    For one example 1 / T * sum_t (1 - cos(h_student[t], h_teacher[t])) over its T real tokens; then the mean over the
    examples, however long each of them is (the released code takes the mean over all tokens of the batch). In fp32,
    also inside autocast. A state of zeros has the cosine 0 with everything.

    Args:
        student: [B, L, d].
        teacher: [B, L, d]; no gradient reaches it.
        mask: [B, L] True at real tokens, on whichever side the padding is. A row that is all padding counts as zero.

    Returns:
        Scalar in [0, 2], at least fp32.
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        real = mask != 0
        # Whatever stands at padding, an infinity included, must not reach the gradient as 0 * NaN.
        own, other = (
            states.to(wide).masked_fill(~real.unsqueeze(2), 0.0) for states in (student, teacher.detach())
        )
        cosine = torch.nn.functional.cosine_similarity(own, other, dim=2)  # [B, L]
        distance = (1 - cosine).masked_fill(~real, 0.0)
        return (distance.sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()
