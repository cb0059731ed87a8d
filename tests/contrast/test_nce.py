"""The released code's loss against its formula with plain exponentials."""

from __future__ import annotations

import math

import pytest
import torch

from codir.contrast.nce import binary_nce, nce_log_constant


def naive_constant(similarities: torch.Tensor, tau: float, examples: int) -> float:
    powers = [math.exp(value / tau) for row in similarities.tolist() for value in row]
    return sum(powers) / len(powers) * examples


def naive_nce(similarities: torch.Tensor, z: float, tau: float, examples: int) -> float:
    k = similarities.shape[1] - 1
    total = 0.0
    for row in similarities.tolist():
        p = [math.exp(value / tau) / z for value in row]
        total += math.log(p[0] / (p[0] + k / examples + 1e-7))
        total += sum(math.log((k / examples) / (value + k / examples + 1e-7)) for value in p[1:])
    return -total / len(similarities)


@pytest.mark.parametrize(("batch", "k", "examples"), [(1, 1, 10), (4, 20, 1000), (3, 5, 5)])
def test_against_plain_loops(batch: int, k: int, examples: int) -> None:
    similarities = torch.rand(batch, 1 + k, dtype=torch.float64) * 2 - 1
    log_z = nce_log_constant(similarities, 0.07, examples)
    z = naive_constant(similarities, 0.07, examples)
    assert log_z.item() == pytest.approx(math.log(z), rel=1e-9)
    other = torch.rand(batch, 1 + k, dtype=torch.float64) * 2 - 1  # a later batch meets the frozen Z
    assert binary_nce(other, log_z, 0.07, examples).item() == pytest.approx(
        naive_nce(other, z, 0.07, examples), rel=1e-9
    )


def test_gradients() -> None:
    similarities = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    log_z = nce_log_constant(similarities, 0.07, 50)
    assert not log_z.requires_grad
    assert torch.autograd.gradcheck(lambda value: binary_nce(value, log_z, 0.07, 50), (similarities,))


def test_low_temperature_in_half_precision_stays_finite() -> None:
    similarities = torch.tensor([[1.0, -1.0, 0.9]], dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = binary_nce(similarities, nce_log_constant(similarities, 0.005, 100), 0.005, 100)
    loss.backward()
    assert loss.isfinite()
    assert similarities.grad is not None
    assert similarities.grad.isfinite().all()
