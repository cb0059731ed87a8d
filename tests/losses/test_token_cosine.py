"""DistilBERT's cosine of hidden states against plain loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from codir.losses.distances import token_cosine_distance

MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> float:
    total = 0.0
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        summed = 0.0
        for t in real:
            own, other = student[b, t].tolist(), teacher[b, t].tolist()
            product = sum(x * y for x, y in zip(own, other, strict=True))
            summed += 1 - product / math.sqrt(sum(x * x for x in own)) / math.sqrt(sum(y * y for y in other))
        total += summed / len(real) if real else 0.0
    return total / len(mask)


@pytest.mark.parametrize("shape", [(4, 4, 5), (1, 4, 5), (3, 1, 2), (1, 1, 1)])
def test_against_plain_loops(shape: tuple[int, int, int]) -> None:
    student, teacher, mask = draw(*shape, seed=0), draw(*shape, seed=1), MASK[: shape[0], : shape[1]]
    assert token_cosine_distance(student, teacher, mask).item() == pytest.approx(
        naive(student, teacher, mask), rel=1e-12
    )


def test_bounds() -> None:
    student, mask = draw(3, 4, 5, seed=0), MASK[:3]
    assert token_cosine_distance(student, 3 * student, mask).item() == pytest.approx(0, abs=1e-12)
    assert token_cosine_distance(student, -student, mask).item() == pytest.approx(2)
    assert token_cosine_distance(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1)).item() == 1


@pytest.mark.parametrize("filling", [9.0, float("inf"), float("nan")])
def test_padding_on_either_side_counts_nothing(filling: float) -> None:
    student, teacher = draw(1, 3, 4, seed=0), draw(1, 3, 4, seed=1)
    alone = token_cosine_distance(student, teacher, torch.ones(1, 3)).item()
    for left, right in ((0, 2), (2, 0)):
        own, other = (
            torch.nn.functional.pad(side, (0, 0, left, right), value=filling) for side in (student, teacher)
        )
        mask = torch.nn.functional.pad(torch.ones(1, 3), (left, right))
        loss = token_cosine_distance(own.requires_grad_(), other, mask)
        assert loss.item() == pytest.approx(alone)
        loss.backward()
        assert own.grad is not None
        assert own.grad[mask == 0].abs().max() == 0


def test_gradients_reach_only_the_student() -> None:
    student, teacher = draw(4, 4, 5, seed=0).requires_grad_(), draw(4, 4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: token_cosine_distance(value, teacher.detach(), MASK), (student,)
    )
    token_cosine_distance(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad[~MASK].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype: torch.dtype) -> None:
    student, teacher = (draw(4, 4, 5, seed=0) * 300).to(dtype), draw(4, 4, 5, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_cosine_distance(student, teacher, MASK)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(student, teacher, MASK), rel=1e-5)
