"""Eq. 3 against plain loops, with both sides of padding, empty rows, half precision and gradients."""

from __future__ import annotations

import pytest
import torch

from codir.models.representations import first_token, masked_mean, pool_layers


def naive_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    result = torch.zeros(hidden.shape[0], hidden.shape[2], dtype=torch.float64)
    for b in range(hidden.shape[0]):
        count = 0
        for position in range(hidden.shape[1]):
            if mask[b, position]:
                result[b] += hidden[b, position].double()
                count += 1
        if count:
            result[b] /= count
    return result


def naive_first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = []
    for b in range(hidden.shape[0]):
        real = [p for p in range(hidden.shape[1]) if mask[b, p]]
        rows.append(hidden[b, real[0] if real else 0].double())
    return torch.stack(rows)


# right, left, empty
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.float()])
def test_against_plain_loops(mask: torch.Tensor) -> None:
    hidden = torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(masked_mean(hidden, mask), naive_mean(hidden, mask))
    torch.testing.assert_close(first_token(hidden, mask), naive_first(hidden, mask))


def test_padding_has_no_influence_and_gets_no_gradient() -> None:
    hidden = torch.randn(4, 5, 3, requires_grad=True)
    masked_mean(hidden, MASK).sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[1, :2], torch.full((2, 3), 0.5))
    assert not hidden.grad[MASK == 0].any()
    changed = hidden.detach().clone()
    changed[MASK == 0] = 1e6
    torch.testing.assert_close(masked_mean(changed, MASK), masked_mean(hidden, MASK))
    torch.testing.assert_close(first_token(changed, MASK)[:3], first_token(hidden, MASK)[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_fp32(dtype: torch.dtype) -> None:
    hidden = (torch.randn(2, 512, 4) * 10 + 300).to(dtype)  # the sum is beyond what fp16 holds
    mask = torch.ones(2, 512, dtype=torch.long)
    mask[0, 37:] = 0
    mean = masked_mean(hidden, mask)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean.double(), naive_mean(hidden, mask), rtol=1e-6, atol=0)
    assert first_token(hidden, mask).dtype == torch.float32


def test_autocast_does_not_lower_the_precision() -> None:
    hidden = torch.randn(4, 5, 3) + 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean = masked_mean(hidden, MASK)
    torch.testing.assert_close(mean.double(), naive_mean(hidden, MASK), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [masked_mean, first_token])
def test_gradients(function) -> None:
    hidden = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: function(value, MASK), (hidden,))


def test_pool_layers_keeps_the_order_of_the_layers() -> None:
    layers = [torch.randn(4, 5, 3) for _ in range(3)]
    pooled = pool_layers(layers, MASK, "mean")
    assert pooled.shape == (4, 3, 3)
    for index, hidden in enumerate(layers):
        torch.testing.assert_close(pooled[:, index].double(), naive_mean(hidden, MASK), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pool_layers(layers, MASK, "cls")[:, index], first_token(hidden, MASK))


def test_smallest_sizes() -> None:
    hidden = torch.randn(1, 1, 2)
    torch.testing.assert_close(pool_layers([hidden], torch.ones(1, 1), "mean"), hidden)
    torch.testing.assert_close(pool_layers([hidden], torch.ones(1, 1), "cls"), hidden)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="max"):
        pool_layers([torch.zeros(1, 1, 1)], torch.ones(1, 1), "max")  # pyright: ignore[reportArgumentType]
