"""Knowledge distillation on the logits (Eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    squared: bool = False,
    averaged: bool = False,
) -> Tensor:
    """Divergence of the student's softened distribution from the teacher's (Eq. 2).

    KL( softmax(z_t / rho) || softmax(z_s / rho) ), summed over the classes, mean over the batch, in fp32 (also
    inside autocast).

    Args:
        student_logits: [B, C] z_s.
        teacher_logits: [B, C] z_t; no gradient reaches it.
        temperature: rho > 0.
        squared: multiply by rho squared, as Hinton et al. and the released code do; the paper does not.
        averaged: the mean over the classes instead of the sum, which is the divergence / C (the code of BERT-PKD).

    Returns:
        Scalar, at least fp32.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        wide = torch.promote_types(student_logits.dtype, torch.float32)
        student = torch.log_softmax(student_logits.to(wide) / temperature, dim=1)
        teacher = torch.log_softmax(teacher_logits.detach().to(wide) / temperature, dim=1)
        loss = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        if averaged:
            loss = loss / student_logits.shape[1]
        return loss * temperature**2 if squared else loss


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of the logits, || z_t - z_s ||^2 (Distilled BiLSTM, Tang et al. 2019), mean over the batch.

    Summed over the classes: the squared norm, not the mean of the squares. In fp32, also inside autocast.

    Args:
        student_logits: [B, C], or [B, 1] scores.
        teacher_logits: of the same shape; no gradient reaches it.

    Returns:
        Scalar, at least fp32.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        wide = torch.promote_types(student_logits.dtype, torch.float32)
        student = student_logits.to(wide).flatten(1)
        teacher = teacher_logits.detach().to(wide).flatten(1)
        return (student - teacher).square().sum(dim=1).mean()
