"""BERT-PKD's L_PT against plain loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from codir.losses.distances import patient_distance


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """sum_i sum_j || h_s / ||h_s||_2 - h_t / ||h_t||_2 ||_2^2 over examples i and blocks j; divided by the examples."""
    total = 0.0
    for i in range(student.shape[0]):
        for j in range(student.shape[1]):
            own, other = student[i, j].tolist(), teacher[i, j].tolist()
            own_norm, other_norm = (math.sqrt(sum(x * x for x in side)) for side in (own, other))
            total += sum((x / own_norm - y / other_norm) ** 2 for x, y in zip(own, other, strict=True))
    return total / student.shape[0]


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 5), (4, 1, 2), (1, 1, 1)])
def test_against_plain_loops(shape: tuple[int, int, int]) -> None:
    student, teacher = draw(*shape, seed=0), draw(*shape, seed=1)
    assert patient_distance(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-12)


def test_lengths_do_not_count_and_directions_do() -> None:
    student = draw(3, 2, 5, seed=0)
    assert patient_distance(student, 7 * student).item() == pytest.approx(0, abs=1e-12)
    assert patient_distance(student, -student).item() == pytest.approx(4 * 2)
    assert patient_distance(torch.zeros(1, 1, 3), torch.ones(1, 1, 3)).item() == pytest.approx(1)


def test_gradients_reach_only_the_student() -> None:
    student, teacher = draw(3, 2, 5, seed=0).requires_grad_(), draw(3, 2, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: patient_distance(value, teacher.detach()), (student,))
    patient_distance(student, teacher).backward()
    assert teacher.grad is None
    zeros = torch.zeros(1, 1, 3, requires_grad=True)
    patient_distance(zeros, torch.ones(1, 1, 3)).backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype: torch.dtype) -> None:
    student, teacher = (draw(3, 2, 5, seed=0) * 300).to(dtype), draw(3, 2, 5, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = patient_distance(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(student, teacher), rel=1e-5)
