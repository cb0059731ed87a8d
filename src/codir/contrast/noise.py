"""Random unit vectors that are a function of (seed, row) alone: computed when they are read, never stored."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_BITS = 16  # of a hash make one number: four numbers a hash
_QUANTUM = 4096  # a standard deviation in units of the table


def unit_noise(rows: Tensor, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Makes one unit vector for each row number, of random direction (uniform on the sphere).

    Counter-based: a 64-bit hash (the finaliser of splitmix64) of row, position and seed gives four numbers of 16 bits,
    a table turns each into a quantile of the normal distribution, and the vector is scaled to length one. The table
    holds whole numbers, so that the sum of squares is exact in double precision whatever the order, and root and
    quotient are rounded as IEEE 754 says: the result is the same bit for bit on every machine, CPU or GPU, and for
    any selection of rows.

    Args:
        rows: [...] row numbers, int64.
        dim: m, the length of a vector.
        seed: another seed gives other vectors.
        dtype: of the result; all are rounded from the one in fp32.

    Returns:
        [..., m] on the device of `rows`.
    """
    per_hash = 64 // _BITS
    key = _mix(rows * _signed(_GOLDEN) + _signed(_mix_int(seed)))  # [...]
    steps = torch.arange(1, -(-dim // per_hash) + 1, device=rows.device) * _signed(_GOLDEN)
    hashes = _mix(key.unsqueeze(-1) + steps)  # [..., dim / 4]
    shifts = torch.arange(0, 64, _BITS, device=rows.device)
    fields = (hashes.unsqueeze(-1) >> shifts) & ((1 << _BITS) - 1)  # [..., dim / 4, 4]
    values = _quantiles(rows.device)[fields.flatten(-2)[..., :dim]].double()
    # No entry of the table is 0, so that no vector is.
    return (values / values.square().sum(dim=-1, keepdim=True).sqrt()).float().to(dtype)


@lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    """[65536] quantiles of the normal distribution in the middle of as many equal shares, as whole numbers."""
    count = 1 << _BITS
    normal = NormalDist()
    upper = [
        round(normal.inv_cdf((index + 0.5) / count) * _QUANTUM) or 1 for index in range(count // 2, count)
    ]
    return torch.tensor([-value for value in reversed(upper)] + upper, dtype=torch.float32, device=device)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64, on int64 taken as 64 bits (products wrap around)."""
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _mix_int(value: int) -> int:
    return int(_mix(torch.tensor(_signed(value & (2**64 - 1)) ^ _signed(_GOLDEN)))) & (2**64 - 1)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shifts right and fills with zeros, as int64's own shift does not."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
