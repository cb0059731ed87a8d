"""Linear CKA: how alike two models represent the same examples, whatever their widths (Kornblith et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

# A representation whose spread is this small beside its size is constant up to rounding.
_CONSTANT = 1e-12


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Compares every layer of one model with every layer of another, on the same n examples.

    With centred columns, CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), the same as HSIC(K, L) over the root of
    HSIC(K, K) HSIC(L, L) with the Gram matrices K = X X^T and L = Y Y^T (section 3). It does not change with rotations
    and scaling of either side, nor with an order of the examples, but it does with other invertible maps. Each layer's
    Gram matrix is computed once, so that the pairs cost n^2 each whatever the widths.

    Args:
        x: [n, a, p] representations of n examples by a layers, of any floating type; computed in fp64.
        y: [n, b, q].

    Returns:
        [a, b] in fp64, 0 to 1. A representation that is the same for every example has no spread to compare: 0.

    Raises:
        ValueError: fewer than two examples, other shapes, or values that are not finite.
    """
    if x.dim() != 3 or y.dim() != 3 or x.shape[0] != y.shape[0]:
        raise ValueError(f"CKA compares [n, a, p] with [n, b, q], not {tuple(x.shape)} with {tuple(y.shape)}")
    if x.shape[0] < 2:
        raise ValueError(f"CKA needs at least two examples, and there are {x.shape[0]}")
    return (_unit_grams(x) @ _unit_grams(y).T).clamp(0.0, 1.0)


def _unit_grams(layers: Tensor) -> Tensor:
    """[layers, n * n]: the Gram matrices of the centred layers, each scaled to length one (zero if constant)."""
    grams = []
    for layer in layers.detach().cpu().double().unbind(dim=1):
        if not torch.isfinite(layer).all():
            raise ValueError("CKA needs finite representations")
        centred = layer - layer.mean(dim=0)
        spread = torch.linalg.vector_norm(centred)
        if spread <= _CONSTANT * torch.linalg.vector_norm(layer):
            grams.append(layer.new_zeros(len(layer) ** 2))
            continue
        centred = centred / spread  # first, so that no product can overflow or vanish
        gram = (centred @ centred.T).flatten()
        grams.append(gram / torch.linalg.vector_norm(gram))
    return torch.stack(grams)
