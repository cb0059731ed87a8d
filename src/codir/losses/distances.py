"""Distances between two models' states of one layer: of every token [B, L, d], or one vector a text [B, d].

All are computed in fp32, also inside autocast; no gradient reaches the teacher's. Where there is a mask [B, L], True at
real tokens on whichever side the padding is, a distance is the mean over the real tokens of an example, then over the
examples, however long each of them is; a row that is all padding counts as zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def _token_mean(each: Tensor, mask: Tensor) -> Tensor:
    """The mean of [B, L] over the real tokens of each example, then over the examples."""
    real = mask != 0
    return (each.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp_min(1)).mean()


def _wide(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Both sides in fp32, with zeros at padding: whatever stands there must not reach the gradient as 0 * NaN."""
    wide = torch.promote_types(student.dtype, torch.float32)
    own, other = student.to(wide), teacher.detach().to(wide)
    if mask is None:
        return own, other
    padding = (mask == 0).unsqueeze(2)
    return own.masked_fill(padding, 0.0), other.masked_fill(padding, 0.0)


def feature_map_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error between the states of every token (TinyBERT; MobileBERT's feature map transfer).

    For one example 1 / (T N) * sum_t sum_n (H_teacher[t, n] - H_student[t, n])^2 over its T real tokens and the N
    dimensions.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher)
        return _token_mean((own - other).square().mean(dim=2), mask)


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

    The variance gets 1e-12 added before it divides. The code compares a layer's means and variances with those of *all*
    the teacher's layers at once (its loop names the list where it should name the layer); here it is the matched layer,
    as for the maps.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher, mask)
        normal = [functional.layer_norm(states, states.shape[2:], eps=1e-12) for states in (own, other)]
        return FeatureMapParts(
            _token_mean((normal[0] - normal[1]).square().mean(dim=2), mask),
            _token_mean((own.mean(dim=2) - other.mean(dim=2)).square(), mask),
            _token_mean((own.var(dim=2, correction=0) - other.var(dim=2, correction=0)).abs(), mask),
        )


def cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the cosine, of every token (DistilBERT, Sanh et al. 2019), or without a mask of vectors [B, d] (SID).

    DistilBERT's released code takes the mean over all tokens of the batch. A vector of zeros has the cosine 0 with
    everything.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = _wide(student, teacher, mask)
        distance = 1 - functional.cosine_similarity(own, other, dim=-1)
        return distance.mean() if mask is None else _token_mean(distance, mask)


def patient_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance between `[CLS]` states brought to length one (BERT-PKD, Sun et al. 2019, L_PT).

    Takes the matched layers together, [B, layers, d]: for one example sum_j || s_j / |s_j| - t_j / |t_j| ||_2^2 over
    the layers j; then the mean over the examples. A vector of zeros stays zero.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, other = (functional.normalize(states, dim=2) for states in _wide(student, teacher))
        return (own - other).square().sum(dim=(1, 2)).mean()
