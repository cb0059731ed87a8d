"""The squared distance of logits (Distilled BiLSTM) against plain loops in double precision."""

from __future__ import annotations

import pytest
import torch

from codir.losses.kd import logit_mse


def naive(student: torch.Tensor, teacher: torch.Tensor) -> float:
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    norms = [sum((z_t - z_s) ** 2 for z_s, z_t in zip(s, t, strict=True)) for s, t in rows]
    return sum(norms) / len(norms)


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (1, 3), (4, 1), (5, 3)])
def test_against_plain_loops(batch: int, classes: int) -> None:
    student, teacher = (torch.randn(batch, classes, dtype=torch.float64) for _ in range(2))
    assert logit_mse(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-12)


def test_gradient_reaches_only_the_student() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: logit_mse(value, teacher.detach()), (student,))
    logit_mse(student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (2 * (student - teacher) / 4).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_large_logits(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = logit_mse(torch.tensor([[300.0, 0.0]], dtype=dtype), torch.tensor([[0.0, 0.0]], dtype=dtype))
    assert loss.dtype == torch.float32
    assert loss.item() == 90_000
