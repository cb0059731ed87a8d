"""Labels of examples of which some have none."""

from __future__ import annotations

from torch import Tensor

UNLABELED = -100
"""Class id of an example without a label, as transformers and PyTorch have it; a score without one is NaN."""


def has_label(labels: Tensor) -> Tensor:
    """Returns [N], True where `labels` [N] (class ids, or scores as floats) hold one."""
    return ~labels.isnan() if labels.is_floating_point() else labels != UNLABELED
