"""Distances between two models' vectors: of every token, of the first one, or pooled."""

from __future__ import annotations

from typing import NamedTuple

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


class FeatureMapParts(NamedTuple):
    """The discrepancy of two feature maps in parts (MobileBERT, the released code), each a scalar.

    Attributes:
        maps: mean squared error of the maps brought to mean zero and variance one at each token (layer norm without
            scale and shift).
        means: mean squared error of the tokens' means over the dimensions.
        variances: mean absolute error of their variances over the dimensions (divisor d).
    """

    maps: Tensor
    means: Tensor
    variances: Tensor


def feature_map_parts(student: Tensor, teacher: Tensor, mask: Tensor) -> FeatureMapParts:
    """Compares feature maps as the released code of MobileBERT does: normalised maps and their statistics apart.

    Each part is the mean over the real tokens of an example (of the maps over the N dimensions, too), then over the
    examples, however long each of them is. The variance gets 1e-12 added before it divides. In fp32, also inside
    autocast.

    The code compares a block's means and variances with those of *all* the teacher's blocks at once (its loop names the
    list where it should name the block); here it is the matched block, as for the maps.

    Args:
        student: [B, L, d].
        teacher: [B, L, d]; no gradient reaches it.
        mask: [B, L] True at real tokens, on whichever side the padding is. A row that is all padding counts as zero.
    """
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        real = mask != 0
        # Whatever stands at padding, an infinity included, must not reach the gradient as 0 * NaN.
        own, other = (
            states.to(wide).masked_fill(~real.unsqueeze(2), 0.0) for states in (student, teacher.detach())
        )
        normal = [
            torch.nn.functional.layer_norm(states, states.shape[2:], eps=1e-12) for states in (own, other)
        ]
        squares = (normal[0] - normal[1]).square().mean(dim=2)  # [B, L]
        means = (own.mean(dim=2) - other.mean(dim=2)).square()
        variances = (own.var(dim=2, correction=0) - other.var(dim=2, correction=0)).abs()
        tokens = real.sum(dim=1).clamp_min(1)
        return FeatureMapParts(
            *(
                (part.masked_fill(~real, 0.0).sum(dim=1) / tokens).mean()
                for part in (squares, means, variances)
            )
        )


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
