"""A compact index of the teacher's space, for samplers that look for neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_CENTRE_ROWS = 50_000  # rows the mean is taken over, evenly spaced


def neighbour_index(space: Any, dim: int = 256, seed: int = 0, chunk: int = 8192) -> Tensor:
    """Makes unit vectors of at most `dim` numbers whose products approximate cosines in the teacher's space.

    The representations are centred (those of a transformer share one large direction, which would make every cosine
    near 1), projected by a seeded Gaussian matrix if they are wider than `dim` (Johnson and Lindenstrauss: the error
    of a cosine is about 1 / sqrt(dim)), and scaled to length one. `space` is read a chunk at a time.

    Args:
        space: [N, D] array-like, for example a half-precision memory map.
        dim: the largest width of the index.
        seed: seeds the projection.
        chunk: rows at a time.

    Returns:
        [N, min(D, dim)] half precision. A row that equals the mean is all zeros.
    """
    count, width = space.shape
    step = max(1, -(-count // _CENTRE_ROWS))
    centre = torch.zeros(width, dtype=torch.float64)
    for start in range(0, count, chunk * step):
        centre += _float(space[start : start + chunk * step : step]).sum(dim=0, dtype=torch.float64)
    centre = (centre / -(-count // step)).float()
    projection = None
    if width > dim:
        generator = torch.Generator().manual_seed(seed)
        projection = torch.randn(width, dim, generator=generator) / dim**0.5
    index = torch.empty(count, min(width, dim), dtype=torch.float16)
    for start in range(0, count, chunk):
        rows = _float(space[start : start + chunk]) - centre
        rows = rows if projection is None else rows @ projection
        index[start : start + chunk] = torch.nn.functional.normalize(rows, dim=1)
    return index


def _float(rows: Any) -> Tensor:
    # A copy: torch must not be handed the read-only memory of a map.
    return (
        rows.to("cpu", torch.float32)
        if isinstance(rows, Tensor)
        else torch.from_numpy(np.array(rows, np.float32))
    )
