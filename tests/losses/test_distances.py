"""Every distance between two models' states against plain loops in double precision, at its edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import naive_losses as naive
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from codir.losses.attention import attention_mse, relation_divergence, relation_log_probabilities
from codir.losses.hidden import cosine_distance, feature_map_mse, feature_map_parts, patient_distance

# padding right, padding left, none, nothing but padding
MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


def part(which: int) -> Distance:
    return lambda student, teacher, mask: feature_map_parts(student, teacher, mask)[which]


def of_halves(distance: Callable[..., Tensor], *more: Any) -> Distance:
    """A distance over two kinds of vectors, from states that hold them side by side."""
    return lambda student, teacher, mask: distance(student.chunk(2, 2), teacher.chunk(2, 2), mask, 2, *more)


def naive_of_halves(distance: Callable[..., float]) -> Callable[..., float]:
    return lambda s, t, m: naive.over_batch_of_pairs(distance, s.chunk(2, 2), t.chunk(2, 2), m)


def naive_of_states(distance: Callable[..., float]) -> Callable[..., float]:
    return lambda s, t, m: naive.over_batch(distance, s, t, m)


DISTANCES: dict[str, tuple[Distance, Callable[..., float]]] = {
    "mse": (feature_map_mse, naive_of_states(naive.mse)),
    "maps": (part(0), naive_of_states(naive.part(0))),
    "means": (part(1), naive_of_states(naive.part(1))),
    "variances": (part(2), naive_of_states(naive.part(2))),
    "cosine": (cosine_distance, naive_of_states(naive.cosine)),
    "attention": (of_halves(attention_mse), naive_of_halves(naive.attention_mse(2, soft=False))),
    "probabilities": (of_halves(attention_mse, True), naive_of_halves(naive.attention_mse(2, soft=True))),
    "relation": (of_halves(relation_divergence), naive_of_halves(naive.relation(2))),
}
OTHER_WIDTHS = ("attention", "probabilities", "relation")
# What may stand at padding without reaching the loss or the gradient.
FILLINGS = {"cosine": math.inf, "maps": math.nan, "means": math.inf, "attention": math.inf}
every = pytest.mark.parametrize("name", DISTANCES)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every
@pytest.mark.parametrize("shape", [(4, 4, 8), (1, 4, 8), (3, 1, 4), (1, 1, 4)])
def test_against_plain_loops(name: str, shape: tuple[int, int, int]) -> None:
    distance, expected = DISTANCES[name]
    batch, length, width = shape
    student, mask = draw(*shape, seed=0) * 2 + 1, MASK[:batch, :length]
    for other in (width, 3 * width) if name in OTHER_WIDTHS else (width,):
        teacher = draw(batch, length, other, seed=1)
        assert distance(student, teacher, mask).item() == pytest.approx(
            expected(student, teacher, mask), rel=1e-9, abs=1e-14
        )


@every
def test_padding_on_either_side_counts_nothing(name: str) -> None:
    distance, _ = DISTANCES[name]
    student, teacher = draw(1, 3, 8, seed=0), draw(1, 3, 8, seed=1)
    alone = distance(student, teacher, torch.ones(1, 3)).item()
    assert alone > 0
    for left, right in ((0, 2), (2, 0), (1, 1)):
        own = pad(student, (0, 0, left, right), value=FILLINGS.get(name, 50.0)).requires_grad_()
        other = pad(teacher, (0, 0, left, right), value=-7.0)
        mask = pad(torch.ones(1, 3), (left, right))
        loss = distance(own, other, mask)
        assert loss.item() == pytest.approx(alone, rel=1e-9)
        loss.backward()
        assert own.grad is not None
        assert own.grad[mask == 0].abs().max() == 0
        assert own.grad[mask == 1].abs().max() > 0


@every
def test_gradients_reach_only_the_student(name: str) -> None:
    distance, _ = DISTANCES[name]
    student, teacher = draw(4, 4, 4, seed=0).requires_grad_(), draw(4, 4, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: distance(value, teacher.detach(), MASK), (student,))
    distance(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()  # the last row is all padding
    assert student.grad[~MASK].abs().max() == 0


def test_examples_count_alike_whatever_their_length() -> None:
    student, teacher = torch.zeros(2, 4, 3), torch.ones(2, 4, 3)
    teacher[1] = 3.0
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert feature_map_mse(student, teacher, mask).item() == pytest.approx((1 + 9) / 2)


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 5), (4, 1, 2), (1, 1, 1)])
def test_pooled_states_against_plain_loops(shape: tuple[int, int, int]) -> None:
    student, teacher = draw(*shape, seed=0).requires_grad_(), draw(*shape, seed=1).requires_grad_()
    everything = torch.ones(shape[:2])
    expected = naive.over_batch(naive.patience, student, teacher, everything)
    assert patient_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    one = naive.over_batch(naive.cosine, student[:, :1], teacher[:, :1], everything[:, :1])
    assert cosine_distance(student[:, 0], teacher[:, 0]).item() == pytest.approx(one, rel=1e-12)
    for distance in (patient_distance, cosine_distance):
        assert torch.autograd.gradcheck(lambda s: distance(s, teacher.detach()), (student,))  # noqa: B023
        distance(student, teacher).backward()
        half = (student.detach() * 300).half()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert distance(half, teacher).dtype == torch.float32
    assert teacher.grad is None


def test_lengths_do_not_count_and_directions_do() -> None:
    student = draw(3, 2, 5, seed=0)
    for distance, opposite in ((patient_distance, 4 * 2), (cosine_distance, 2)):
        assert distance(student, 7 * student).item() == pytest.approx(0, abs=1e-12)
        assert distance(student, -student).item() == pytest.approx(opposite)
        zeros = torch.zeros(1, 1, 3, requires_grad=True)
        loss = distance(zeros, torch.ones(1, 1, 3))
        loss.backward()
        assert loss.item() == pytest.approx(1)
        assert zeros.grad is not None
        assert torch.isfinite(zeros.grad).all()


def test_relations_are_distributions_over_the_real_tokens() -> None:
    left, right = draw(3, 4, 8, seed=0), draw(3, 4, 8, seed=1)
    found = relation_log_probabilities(left, right, MASK[:3], 2).exp()
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 2, 4, dtype=torch.float64))
    assert found[0, :, :, 3].max() == 0
    assert found[1, :, :, :2].max() == 0


def test_attention_that_looks_at_one_token_only_stays_finite() -> None:
    live = torch.cat([torch.eye(3), torch.eye(3)], dim=1)[None] * 200
    live.requires_grad_()
    still = (torch.eye(3)[None] * 200, torch.eye(3).flip(0)[None] * 200)
    loss = relation_divergence(live.chunk(2, 2), still, torch.ones(1, 3), 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 1000
    assert live.grad is not None
    assert torch.isfinite(live.grad).all()
