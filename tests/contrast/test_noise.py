"""The hash, the moments, independence of rows and seeds, and bits that are the same everywhere."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import pytest
import torch

from codir.contrast.noise import unit_noise

WORD = 2**64


def naive_mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def naive_noise(row: int, dim: int, seed: int) -> list[float]:
    golden = 0x9E3779B97F4A7C15
    key = naive_mix((row * golden + naive_mix(seed ^ golden)) % WORD)
    values: list[int] = []
    for step in range(1, -(-dim // 4) + 1):
        word = naive_mix((key + step * golden) % WORD)
        for _ in range(4):
            # the middle of one of 65,536 equal shares, in units of 1/4096
            share = min(word % 65536, 65535 - word % 65536)
            value = -round(NormalDist().inv_cdf(1 - (share + 0.5) / 65536) * 4096) or -1
            values.append(value if word % 65536 < 32768 else -value)
            word //= 65536
    values = values[:dim]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


@pytest.mark.parametrize("dim", [1, 3, 4, 7, 128])
def test_against_python_integers(dim: int) -> None:
    rows = torch.tensor([[0, 1], [17, 2**40]])
    for seed in (0, 3, -1):
        expected = [[naive_noise(int(row), dim, seed % WORD) for row in line] for line in rows]
        assert unit_noise(rows, dim, seed).tolist() == torch.tensor(expected).tolist()  # to the last bit


def test_moments_are_those_of_the_sphere() -> None:
    dim, count = 16, 40_000
    noise = unit_noise(torch.arange(count), dim, seed=5).double()
    torch.testing.assert_close(noise.norm(dim=1), torch.ones(count, dtype=torch.float64), atol=1e-6, rtol=0)
    error = 5 / math.sqrt(count)  # five standard errors of a standardised mean
    assert noise.mean(dim=0).abs().max() * math.sqrt(dim) < error
    second = (noise.T @ noise) / count * dim  # the identity
    assert (second - torch.eye(dim, dtype=torch.float64)).abs().max() < 1.5 * error
    # E x^4 = 3 / (m (m + 2)), E x_i^2 x_j^2 = 1 / (m (m + 2)): no axis is preferred
    scale = dim * (dim + 2)
    assert abs(float(noise.pow(4).mean()) * scale - 3) < 0.05
    assert abs(float((noise[:, 0] * noise[:, 1]).square().mean()) * scale - 1) < 0.06


def test_rows_and_seeds_are_independent() -> None:
    dim, count = 64, 2000
    noise = unit_noise(torch.arange(count), dim, seed=1)
    cosines = (noise @ noise.T)[~torch.eye(count, dtype=torch.bool)] * math.sqrt(dim)
    assert abs(float(cosines.mean())) < 0.01
    assert abs(float(cosines.std()) - 1) < 0.01
    assert cosines.abs().max() < 6.5  # 4 million pairs of normal numbers
    for other in (0, 2, 2**31):
        between = (noise * unit_noise(torch.arange(count), dim, other)).sum(dim=1) * math.sqrt(dim)
        assert abs(float(between.std()) - 1) < 0.08
        assert between.abs().max() < 6
    # rows that differ in one high bit only
    far = unit_noise(torch.arange(count) + 2**50, dim, seed=1)
    assert abs(float(((noise * far).sum(dim=1) * math.sqrt(dim)).std()) - 1) < 0.08


def test_a_row_does_not_depend_on_its_company_or_type() -> None:
    rows = torch.tensor([9, 3, 3, 700])
    together = unit_noise(rows, 10, 2)
    assert torch.equal(together, torch.stack([unit_noise(row, 10, 2) for row in rows]))
    assert torch.equal(together[1], together[2])
    assert torch.equal(unit_noise(rows, 10, 2, torch.float16), together.half())
    assert torch.equal(unit_noise(rows, 10, 2, torch.float64), together.double())
    assert unit_noise(rows[:0], 10, 2).shape == (0, 10)


def test_the_bits_are_those_of_every_machine() -> None:
    noise = unit_noise(torch.arange(1000) * 50_021, 128, seed=3)
    digest = hashlib.sha256(noise.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest[:16] == "58e728eb4c6394a3"
    if torch.cuda.is_available():
        assert torch.equal(unit_noise(torch.arange(1000).cuda() * 50_021, 128, seed=3).cpu(), noise)
