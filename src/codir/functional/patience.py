"""Distance between normalised [CLS] states of matched blocks (BERT-PKD)."""

from __future__ import annotations

import torch
from torch import Tensor


def patient_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between vectors brought to length one (BERT-PKD, Sun et al. 2019, L_PT).

    For one example sum_j || s_j / |s_j| - t_j / |t_j| ||_2^2 over the matched blocks j; then the mean over the
    examples. In fp32, also inside autocast. A vector of zeros stays zero.

    Args:
        student: `[CLS]` states of the matched blocks, [B, blocks, d].
        teacher: likewise, [B, blocks, d], of the blocks matched with them; no gradient reaches it.

    Returns:
        Scalar in [0, 4 * blocks], at least fp32.
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        own = torch.nn.functional.normalize(student.to(wide), dim=2)
        other = torch.nn.functional.normalize(teacher.detach().to(wide), dim=2)
        return (own - other).square().sum(dim=(1, 2)).mean()
