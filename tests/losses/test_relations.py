"""Relations of self-attention against plain loops in double precision, written from MiniLM and MiniLMv2."""

from __future__ import annotations

import math

import pytest
import torch

from codir.losses.attention_distances import relation_divergence, relation_log_probabilities, split_heads


def naive_relation(left, right, real: list[int], heads: int) -> list[list[list[float]]]:
    """[heads][real tokens][real tokens]: softmax(left right^T / sqrt(d_h)) of one example."""
    size = len(left[0]) // heads
    found = []
    for head in range(heads):
        span = range(head * size, (head + 1) * size)
        rows = []
        for t in real:
            scores = [sum(left[t][n] * right[u][n] for n in span) / math.sqrt(size) for u in real]
            top = max(scores)
            powers = [math.exp(score - top) for score in scores]
            rows.append([power / sum(powers) for power in powers])
        found.append(rows)
    return found


def naive_divergence(student, teacher, mask, heads: int) -> float:
    total = 0.0
    for example in range(mask.shape[0]):
        real = [t for t in range(mask.shape[1]) if mask[example, t]]
        p, q = (
            naive_relation(
                side[0][example].double().tolist(), side[1][example].double().tolist(), real, heads
            )
            for side in (teacher, student)
        )
        summed = 0.0
        for head in range(heads):
            for t in range(len(real)):
                summed += sum(
                    p_u * math.log(p_u / q_u) for p_u, q_u in zip(p[head][t], q[head][t], strict=True)
                )
        total += summed / (heads * len(real)) if real else 0.0
    return total / mask.shape[0]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sides(batch: int, length: int, width: int, seed: int, dtype=torch.float64):
    return draw(batch, length, width, seed=seed, dtype=dtype), draw(
        batch, length, width, seed=seed + 1, dtype=dtype
    )


MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_against_plain_loops_with_padding_on_both_sides_and_other_widths(heads: int) -> None:
    student, teacher = sides(3, 5, 8, 0), sides(3, 5, 12, 2)
    expected = naive_divergence(student, teacher, MASK, heads)
    assert expected > 0.1
    assert relation_divergence(student, teacher, MASK, heads).item() == pytest.approx(expected, rel=1e-10)


def test_probabilities_sum_to_one_over_the_real_tokens() -> None:
    left, right = sides(3, 5, 8, 0)
    found = relation_log_probabilities(left, right, MASK, 2).exp()
    assert found.shape == (3, 2, 5, 5)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 2, 5, dtype=torch.float64))
    assert found[0, :, :, 4].max() == 0
    assert found[1, :, :, :2].max() == 0


def test_heads_are_cut_in_the_order_of_the_numbers() -> None:
    vectors = torch.arange(12.0).view(1, 2, 6)
    assert split_heads(vectors, 3).tolist() == [
        [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]],
    ]
    with pytest.raises(ValueError, match="cannot be cut into 4 heads"):
        split_heads(vectors, 4)


def test_what_stands_at_padding_changes_nothing_nor_gets_a_gradient() -> None:
    student = tuple(side.requires_grad_() for side in sides(3, 5, 8, 0))
    teacher = sides(3, 5, 8, 2)
    loss = relation_divergence(student, teacher, MASK, 2)
    loss.backward()
    for side in student:
        assert side.grad is not None
        assert side.grad[~MASK].abs().max() == 0
        assert side.grad[MASK].abs().min() > 0
    noise = torch.where(MASK[..., None], 0.0, 1000.0)
    other = relation_divergence(
        tuple(side.detach() + noise for side in student), tuple(side - noise for side in teacher), MASK, 2
    )
    assert other.item() == loss.item()


def test_an_example_counts_the_same_with_padding_on_either_side_and_alone() -> None:
    student, teacher = sides(1, 3, 8, 0), sides(1, 3, 8, 2)
    alone = relation_divergence(student, teacher, torch.ones(1, 3), 2).item()

    def pad(pair, left: int, right: int):
        return tuple(torch.nn.functional.pad(side, (0, 0, left, right), value=7.0) for side in pair)

    for left, right in ((0, 2), (2, 0)):
        mask = torch.nn.functional.pad(torch.ones(1, 3), (left, right))
        padded = relation_divergence(pad(student, left, right), pad(teacher, left, right), mask, 2).item()
        assert padded == pytest.approx(alone, rel=1e-12)


def test_edges() -> None:
    one = sides(1, 1, 8, 0), sides(1, 1, 8, 2)
    assert relation_divergence(*one, torch.ones(1, 1), 2).item() == 0  # one token attends to itself
    same = sides(2, 4, 8, 0)
    assert relation_divergence(same, same, torch.ones(2, 4), 4).item() == pytest.approx(0, abs=1e-12)
    student = tuple(side.requires_grad_() for side in sides(2, 3, 8, 0))
    empty = torch.tensor([[1, 1, 1], [0, 0, 0]])
    loss = relation_divergence(student, sides(2, 3, 8, 2), empty, 2)
    loss.backward()
    assert loss.item() == pytest.approx(
        naive_divergence([s.detach() for s in student], sides(2, 3, 8, 2), empty, 2)
    )
    assert all(torch.isfinite(side.grad).all() for side in student if side.grad is not None)


def test_direction_and_gradient() -> None:
    student, teacher = sides(2, 3, 4, 0), sides(2, 3, 4, 2)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    there = relation_divergence(student, teacher, mask, 2).item()
    assert there != pytest.approx(relation_divergence(teacher, student, mask, 2).item(), rel=0.01)
    live = tuple(side.requires_grad_() for side in student)
    still = tuple(side.requires_grad_() for side in teacher)
    assert torch.autograd.gradcheck(lambda q, k: relation_divergence((q, k), teacher, mask, 2), live)
    relation_divergence(live, still, mask, 2).backward()
    assert all(side.grad is None for side in still)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype: torch.dtype) -> None:
    student, teacher = (sides(3, 5, 8, seed, dtype) for seed in (0, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = relation_divergence(student, teacher, MASK, 2)
        mixed = relation_divergence(tuple(s.float() for s in student), teacher, MASK, 2)
    assert loss.dtype == mixed.dtype == torch.float32
    expected = naive_divergence(student, teacher, MASK, 2)
    assert loss.item() == mixed.item() == pytest.approx(expected, rel=1e-4)


def test_attention_that_looks_at_one_token_only_stays_finite() -> None:
    student = (torch.eye(3)[None] * 200, torch.eye(3)[None] * 200)
    teacher = (torch.eye(3)[None] * 200, torch.eye(3).flip(0)[None] * 200)
    live = tuple(side.clone().requires_grad_() for side in student)
    loss = relation_divergence(live, teacher, torch.ones(1, 3), 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 1000
    assert all(torch.isfinite(side.grad).all() for side in live if side.grad is not None)
