"""TinyBERT's L_attn against plain loops in double precision, for scores and for probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from codir.losses.attention_distances import attention_mse

# padding right, padding left, none, nothing but padding
MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)

Side = tuple[torch.Tensor, torch.Tensor]


def draw(batch: int, length: int, width: int, seed: int) -> Side:
    generator = torch.Generator().manual_seed(seed)
    query, key = (
        torch.randn(batch, length, width, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return query, key


def attention(side: Side, b: int, head: int, heads: int, t: int, real: list[int], soft: bool) -> list[float]:
    query, key = (tensor.double() for tensor in side)
    size = query.shape[2] // heads
    span = range(head * size, (head + 1) * size)
    scores = [sum(query[b, t, n].item() * key[b, u, n].item() for n in span) / math.sqrt(size) for u in real]
    powers = [math.exp(score) for score in scores] if soft else []
    return [power / sum(powers) for power in powers] if soft else scores


def naive(student: Side, teacher: Side, mask: torch.Tensor, heads: int, soft: bool) -> float:
    """1/h sum_i MSE(A_i^S, A_i^T), A_i = Q_i K_i^T / sqrt(d_k) of one text; mean over the texts."""
    total = 0.0
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        of_heads = []
        for head in range(heads):
            squares = [
                (s - w) ** 2
                for t in real
                for s, w in zip(
                    attention(student, b, head, heads, t, real, soft),
                    attention(teacher, b, head, heads, t, real, soft),
                    strict=True,
                )
            ]
            of_heads.append(sum(squares) / len(squares) if squares else 0.0)
        total += sum(of_heads) / heads
    return total / len(mask)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("batch", "length", "heads"), [(4, 4, 2), (1, 4, 1), (2, 1, 2), (1, 1, 1)])
def test_against_plain_loops(batch: int, length: int, heads: int, soft: bool) -> None:
    student, teacher = draw(batch, length, 4, 0), draw(batch, length, 12, 1)  # the heads' sizes differ
    mask = MASK[:batch, :length]
    assert attention_mse(student, teacher, mask, heads, soft).item() == pytest.approx(
        naive(student, teacher, mask, heads, soft), rel=1e-12, abs=1e-15
    )


@pytest.mark.parametrize("soft", [False, True])
def test_padding_on_either_side_counts_nothing(soft: bool) -> None:
    student, teacher = draw(1, 3, 4, 0), draw(1, 3, 4, 1)
    alone = attention_mse(student, teacher, torch.ones(1, 3), 2, soft).item()
    assert alone > 0
    for left, right in ((0, 2), (2, 0), (1, 1)):
        own, other = (
            [torch.nn.functional.pad(tensor, (0, 0, left, right), value=value) for tensor in side]
            for side, value in ((student, 50.0), (teacher, -7.0))
        )
        mask = torch.nn.functional.pad(torch.ones(1, 3), (left, right))
        assert attention_mse(own, other, mask, 2, soft).item() == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_reach_only_the_student_and_no_padding(soft: bool) -> None:
    student, teacher = draw(4, 4, 4, 0), draw(4, 4, 4, 1)
    for tensor in (*student, *teacher):
        tensor.requires_grad_()
    still = [tensor.detach() for tensor in teacher]
    assert torch.autograd.gradcheck(
        lambda query, key: attention_mse((query, key), still, MASK, 2, soft), student
    )
    attention_mse(student, teacher, MASK, 2, soft).backward()
    for tensor in student:
        assert tensor.grad is not None
        assert tensor.grad[~MASK].abs().max() == 0
        assert tensor.grad[MASK].abs().max() > 0
    assert all(tensor.grad is None for tensor in teacher)


@pytest.mark.parametrize("soft", [False, True])
def test_equal_attention_costs_nothing(soft: bool) -> None:
    student = draw(3, 4, 4, 0)
    assert attention_mse(student, student, MASK[:3], 2, soft).item() == pytest.approx(0, abs=1e-15)


def test_probabilities_do_not_see_what_shifts_all_scores_of_a_row_and_scores_do() -> None:
    student = draw(1, 3, 4, 0)
    shifted = (student[0], student[1] + torch.ones(4, dtype=torch.float64))  # adds q.1/sqrt(d) to each score
    mask = torch.ones(1, 3)
    assert attention_mse(student, shifted, mask, 1, normalised=True).item() == pytest.approx(0, abs=1e-15)
    assert attention_mse(student, shifted, mask, 1).item() > 0.01


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype: torch.dtype, soft: bool) -> None:
    student, teacher = (
        [tensor.to(dtype) * (2 if soft else 20) for tensor in draw(4, 4, 4, seed)] for seed in (0, 1)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = attention_mse(student, teacher, MASK, 2, soft)  # squares of the scores are beyond fp16
    assert loss.dtype == torch.float32
    expected = naive((student[0], student[1]), (teacher[0], teacher[1]), MASK, 2, soft)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads"):
        attention_mse(draw(1, 2, 4, 0), draw(1, 2, 4, 1), MASK[:1, :2], 3)
