"""Eq. 2 against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from codir.kinds.classification import softened_divergence as kd_loss


def naive_kd(student: torch.Tensor, teacher: torch.Tensor, rho: float) -> float:
    def softened(row: list[float]) -> list[float]:
        powers = [math.exp(value / rho) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(s_row), softened(t_row)
        total += sum(p_c * math.log(p_c / q_c) for p_c, q_c in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("batch", "classes", "rho"), [(1, 2, 1.0), (5, 3, 2.0), (3, 7, 0.5)])
def test_against_plain_loops(batch: int, classes: int, rho: float) -> None:
    student, teacher = (torch.randn(batch, classes, dtype=torch.float64) * 3 for _ in range(2))
    expected = naive_kd(student, teacher, rho)
    assert kd_loss(student, teacher, rho).item() == pytest.approx(expected, rel=1e-9)
    assert kd_loss(student, teacher, rho, squared=True).item() == pytest.approx(expected * rho**2, rel=1e-9)


def naive_mean_over_classes(student: torch.Tensor, teacher: torch.Tensor, rho: float) -> float:
    """BERT-PKD's code: the mean of p log(p / q) over all cells of the batch, times rho squared."""
    cells = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(value / rho) for value in row] for row in (s_row, t_row))
        cells += [
            (p_c / sum(p)) * math.log((p_c / sum(p)) / (q_c / sum(q))) for p_c, q_c in zip(p, q, strict=True)
        ]
    return sum(cells) / len(cells) * rho**2


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (1, 2), (5, 3), (2, 7)])
def test_mean_over_the_classes(batch: int, classes: int) -> None:
    student, teacher = (torch.randn(batch, classes, dtype=torch.float64) * 3 for _ in range(2))
    expected = naive_mean_over_classes(student, teacher, 10.0)
    found = kd_loss(student, teacher, 10.0, squared=True, averaged=True)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda value: kd_loss(value, teacher, 10.0, True, True), (student,))


def test_direction_and_zero() -> None:
    a, b = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert kd_loss(a, a, 2.0).item() == pytest.approx(0.0, abs=1e-7)
    assert kd_loss(a, b, 2.0).item() != pytest.approx(kd_loss(b, a, 2.0).item(), rel=0.05)


def test_gradient_reaches_only_the_student() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: kd_loss(value, teacher.detach(), 2.0), (student,))
    kd_loss(student, teacher, 2.0).backward()
    assert teacher.grad is None
    # For one example the gradient is (softmax(z_s/rho) - softmax(z_t/rho)) / rho / B.
    expected = (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / 2 / 4
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_logits(dtype: torch.dtype) -> None:
    student, teacher = torch.tensor([[60.0, -60.0]], dtype=dtype), torch.tensor([[-60.0, 60.0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = kd_loss(student, teacher, 1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(120.0, rel=1e-4)
