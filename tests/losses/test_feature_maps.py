"""Feature map transfer and the cosine of [CLS] against plain loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from codir.losses.distances import cosine_distance, feature_map_mse, feature_map_parts

MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_mse(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> float:
    """MobileBERT: 1 / (T N) sum_t sum_n (H_tr - H_st)^2, for each example; mean over the examples."""
    total = 0.0
    for b in range(student.shape[0]):
        real = [t for t in range(student.shape[1]) if mask[b, t]]
        summed = sum(
            (teacher[b, t, n].item() - student[b, t, n].item()) ** 2
            for t in real
            for n in range(student.shape[2])
        )
        total += summed / (len(real) * student.shape[2]) if real else 0.0
    return total / student.shape[0]


def naive_parts(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """MobileBERT's code: layer norm without parameters (epsilon 1e-12), squared means, absolute variances."""

    def statistics(state: list[float]) -> tuple[list[float], float, float]:
        mean = sum(state) / len(state)
        variance = sum((value - mean) ** 2 for value in state) / len(state)
        return [(value - mean) / math.sqrt(variance + 1e-12) for value in state], mean, variance

    totals = [0.0, 0.0, 0.0]
    for b in range(student.shape[0]):
        real = [t for t in range(student.shape[1]) if mask[b, t]]
        for t in real:
            own, mean, variance = statistics(student[b, t].tolist())
            other, wanted_mean, wanted_variance = statistics(teacher[b, t].tolist())
            found = (
                sum((x - y) ** 2 for x, y in zip(own, other, strict=True)) / len(own),
                (mean - wanted_mean) ** 2,
                abs(variance - wanted_variance),
            )
            for part in range(3):
                totals[part] += found[part] / len(real) / student.shape[0]
    return totals


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 2), (1, 1, 1)])
def test_parts_of_feature_maps_against_plain_loops(shape: tuple[int, int, int]) -> None:
    student, teacher = draw(*shape, seed=0) * 3 + 1, draw(*shape, seed=1)
    mask = MASK[: shape[0], : shape[1]]
    found = [part.item() for part in feature_map_parts(student, teacher, mask)]
    assert found == pytest.approx(naive_parts(student, teacher, mask), rel=1e-9, abs=1e-15)


def test_parts_know_shift_and_scale_apart() -> None:
    student = draw(2, 3, 8, seed=0)
    mask = torch.ones(2, 3)
    shifted = feature_map_parts(student + 2, student, mask)
    assert [part.item() for part in shifted] == pytest.approx([0, 4, 0], abs=1e-9)
    scaled = feature_map_parts(student * 2, student, mask)
    assert scaled.maps.item() == pytest.approx(0, abs=1e-9)
    variance = student.var(dim=2, correction=0)
    assert scaled.variances.item() == pytest.approx(3 * variance.mean().item())


def test_gradients_of_the_parts() -> None:
    student, teacher = draw(3, 4, 5, seed=0).requires_grad_(), draw(3, 4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: sum(feature_map_parts(value, teacher.detach(), MASK)), (student,)
    )
    torch.stack([*feature_map_parts(student, teacher, MASK)]).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[~MASK].abs().max() == 0


def test_parts_of_padding_and_of_infinite_padding() -> None:
    student = draw(2, 3, 4, seed=0)
    student[1] = float("inf")
    student.requires_grad_()
    parts = feature_map_parts(student, draw(2, 3, 4, seed=1), torch.tensor([[1, 1, 1], [0, 0, 0]]))
    torch.stack([*parts]).sum().backward()
    assert all(torch.isfinite(part) for part in parts)
    assert student.grad is not None
    assert student.grad[1].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_in_half_precision(dtype: torch.dtype) -> None:
    student, teacher = draw(3, 4, 5, seed=0).to(dtype) * 300, draw(3, 4, 5, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = feature_map_parts(student, teacher, MASK)
    assert all(part.dtype == torch.float32 for part in parts)
    assert [part.item() for part in parts] == pytest.approx(naive_parts(student, teacher, MASK), rel=1e-4)


def naive_cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        product = sum(a * b for a, b in zip(s, t, strict=True))
        total += 1 - product / (math.sqrt(sum(a * a for a in s)) * math.sqrt(sum(b * b for b in t)))
    return total / len(student)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 2), (1, 1, 1)])
def test_feature_maps_against_plain_loops(shape: tuple[int, int, int]) -> None:
    student, teacher = draw(*shape, seed=0), draw(*shape, seed=1)
    mask = MASK[: shape[0], : shape[1]]
    assert feature_map_mse(student, teacher, mask).item() == pytest.approx(
        naive_mse(student, teacher, mask), rel=1e-12
    )


def test_padding_on_either_side_counts_nothing() -> None:
    student, teacher = draw(1, 3, 4, seed=0), draw(1, 3, 4, seed=1)
    alone = feature_map_mse(student, teacher, torch.ones(1, 3)).item()
    for left, right in ((0, 2), (2, 0)):
        padded = [
            torch.nn.functional.pad(side, (0, 0, left, right), value=9.0) for side in (student, teacher)
        ]
        mask = torch.nn.functional.pad(torch.ones(1, 3), (left, right))
        assert feature_map_mse(padded[0] + 1 - mask[..., None], padded[1], mask).item() == pytest.approx(
            alone
        )


def test_examples_count_alike_whatever_their_length() -> None:
    student = torch.zeros(2, 4, 3)
    teacher = torch.ones(2, 4, 3)
    teacher[1] = 3.0
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert feature_map_mse(student, teacher, mask).item() == pytest.approx((1 + 9) / 2)


def test_a_row_of_padding_alone_is_zero_and_differentiable() -> None:
    student = draw(2, 3, 4, seed=0).requires_grad_()
    loss = feature_map_mse(student, draw(2, 3, 4, seed=1), torch.tensor([[1, 1, 1], [0, 0, 0]]))
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad[1].abs().max() == 0


def test_gradients_reach_only_the_student() -> None:
    student, teacher = draw(3, 4, 5, seed=0).requires_grad_(), draw(3, 4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: feature_map_mse(value, teacher.detach(), MASK), (student,))
    feature_map_mse(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[~MASK].abs().max() == 0
    one, other = draw(3, 5, seed=2).requires_grad_(), draw(3, 5, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: cosine_distance(value, other.detach()), (one,))
    cosine_distance(one, other).backward()
    assert other.grad is None


@pytest.mark.parametrize("batch", [1, 4])
def test_cosine_against_plain_loops(batch: int) -> None:
    student, teacher = draw(batch, 5, seed=0), draw(batch, 5, seed=1)
    assert cosine_distance(student, teacher).item() == pytest.approx(
        naive_cosine_distance(student, teacher), rel=1e-12
    )
    assert cosine_distance(student, 3 * student).item() == pytest.approx(0, abs=1e-12)
    assert cosine_distance(student, -student).item() == pytest.approx(2)
    assert cosine_distance(torch.zeros(1, 5), torch.ones(1, 5)).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype: torch.dtype) -> None:
    student, teacher = draw(3, 4, 5, seed=0).to(dtype) * 300, draw(3, 4, 5, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_map_mse(student, teacher, MASK)  # squares are beyond half precision
        cosine = cosine_distance(student[:, 0], teacher[:, 0])
    assert loss.dtype == cosine.dtype == torch.float32
    assert loss.item() == pytest.approx(naive_mse(student, teacher, MASK), rel=1e-5)
    assert cosine.item() == pytest.approx(naive_cosine_distance(student[:, 0], teacher[:, 0]), rel=1e-5)
