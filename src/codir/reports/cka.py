"""Linear CKA: how alike two models represent the same examples, whatever their widths (Kornblith et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

# A representation whose spread is this small beside its size is constant up to rounding.
_CONSTANT = 1e-12


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> float:
    """Compares two representations of the same n examples.

    With centred columns, CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), the same as HSIC(K, L) over the root of
    HSIC(K, K) HSIC(L, L) with the Gram matrices K = X X^T and L = Y Y^T (Kornblith et al. 2019, section 3). It does
    not change with rotations, reflections and scaling of either side, nor with an order of the examples, but it does
    with other invertible maps.

    Args:
        x: [n, p] of any floating type; computed in fp64.
        y: [n, q].

    Returns:
        0 to 1. A representation that is the same for every example has no spread to compare: 0.

    Raises:
        ValueError: fewer than two examples, other shapes, or values that are not finite.
    """
    if x.dim() != 2 or y.dim() != 2:
        raise ValueError(f"CKA compares [n, p] with [n, q], not {tuple(x.shape)} with {tuple(y.shape)}")
    return float(linear_cka_of_blocks(x.unsqueeze(1), y.unsqueeze(1)))


@torch.no_grad()
def linear_cka_of_blocks(x: Tensor, y: Tensor) -> Tensor:
    """Compares every block of one model with every block of another, see `linear_cka`.

    Each block's centred Gram matrix is computed once, so that the pairs cost n^2 each whatever the widths.

    Args:
        x: [n, a, p] representations of n examples by a blocks.
        y: [n, b, q].

    Returns:
        [a, b] in fp64, on the CPU.

    Raises:
        ValueError: as `linear_cka`.
    """
    if x.dim() != 3 or y.dim() != 3 or x.shape[0] != y.shape[0]:
        raise ValueError(f"CKA compares [n, a, p] with [n, b, q], not {tuple(x.shape)} with {tuple(y.shape)}")
    if x.shape[0] < 2:
        raise ValueError(f"CKA needs at least two examples, and there are {x.shape[0]}")
    ours, theirs = _unit_grams(x), _unit_grams(y)
    return (ours @ theirs.T).clamp(0.0, 1.0)


def _unit_grams(blocks: Tensor) -> Tensor:
    """[blocks, n * n]: the Gram matrices of the centred blocks, each scaled to length one (zero if constant)."""
    grams = []
    for block in blocks.detach().cpu().unbind(dim=1):
        wide = block.double()
        if not torch.isfinite(wide).all():
            raise ValueError("CKA needs finite representations")
        size = torch.linalg.vector_norm(wide)
        centred = wide - wide.mean(dim=0)
        spread = torch.linalg.vector_norm(centred)
        if spread <= _CONSTANT * size:
            grams.append(wide.new_zeros(wide.shape[0] ** 2))
            continue
        centred = centred / spread  # first, so that no product can overflow or vanish
        gram = (centred @ centred.T).flatten()
        grams.append(gram / torch.linalg.vector_norm(gram))
    return torch.stack(grams) if grams else blocks.new_zeros(0, blocks.shape[0] ** 2, dtype=torch.float64)
