"""Eq. 4 against plain loops, and the products of anchors with the rows of their groups."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from codir.contrast.infonce import group_similarity, info_nce


def naive_info_nce(positive: torch.Tensor, negatives: torch.Tensor, tau: float, mask=None) -> tuple[float, float]:
    loss, first = 0.0, 0
    for b, s in enumerate(positive.tolist()):
        others = [v for j, v in enumerate(negatives[b].tolist()) if mask is None or mask[b, j]]
        loss -= math.log(math.exp(s / tau) / (math.exp(s / tau) + sum(math.exp(v / tau) for v in others)))
        first += all(s > v for v in others)
    return loss / len(positive), first / len(positive)


@pytest.mark.parametrize(("batch", "k", "tau"), [(1, 1, 0.07), (4, 9, 0.07), (6, 3, 1.0)])
def test_against_plain_loops(batch: int, k: int, tau: float) -> None:
    positive = torch.rand(batch, dtype=torch.float64) * 2 - 1
    negatives = torch.rand(batch, k, dtype=torch.float64) * 2 - 1
    mask = torch.rand(batch, k) < 0.5
    for used in (None, mask):
        loss, accuracy = naive_info_nce(positive, negatives, tau, used)
        result = info_nce(positive, negatives, tau, used)
        assert result.loss.item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
        assert result.accuracy.item() == pytest.approx(accuracy)
        mean = 0.0
        for b, row in enumerate(negatives.tolist()):
            counted = [value for j, value in enumerate(row) if used is None or used[b, j]]
            mean += sum(counted) / max(len(counted), 1) / batch
        assert result.negative.item() == pytest.approx(mean, rel=1e-9, abs=1e-12)
        assert result.positive.item() == pytest.approx(sum(positive.tolist()) / batch, rel=1e-9)


def test_collapsed_representations_do_not_look_perfect() -> None:
    result = info_nce(torch.ones(3), torch.ones(3, 4), 0.07)
    assert result.accuracy.item() == 0.0
    assert result.loss.item() == pytest.approx(math.log(5), rel=1e-6)


def test_gradients_with_mask_and_without_any_negative() -> None:
    positive = torch.randn(3, dtype=torch.float64, requires_grad=True)
    negatives = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    assert torch.autograd.gradcheck(lambda p, n: info_nce(p, n, 0.5, mask).loss, (positive, negatives))
    info_nce(positive, negatives, 0.5, mask).loss.backward()
    assert positive.grad is not None
    assert negatives.grad is not None
    assert positive.grad[2] == 0
    assert negatives.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_overflow_in_half_precision(dtype: torch.dtype) -> None:
    assert torch.exp(torch.tensor(0.9 / 0.07, dtype=torch.float16)).isinf()  # what the released code runs into
    positive, negatives = torch.tensor([0.9], dtype=dtype), torch.tensor([[0.95, 1.0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = info_nce(positive, negatives, 0.07)
    assert result.loss.dtype == torch.float32
    expected, _ = naive_info_nce(positive.double(), negatives.double(), 0.07)
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)


def test_against_constant_rows_the_student_is_only_pulled_and_within_the_batch_a_constant_does_not_win() -> None:
    """What research/pages/negatives.md says of a bank and of the batch, with teacher and student at one point c."""
    generator = torch.Generator().manual_seed(0)
    anchor = normalize(torch.randn(8, 16, generator=generator), dim=1)
    live = normalize(torch.randn(8, 16, generator=generator), dim=1).requires_grad_()
    rows = normalize(torch.randn(50, 16, generator=generator), dim=1)
    positive = (anchor * live).sum(dim=1)
    info_nce(positive, anchor @ rows.T, 0.07).loss.backward()
    shares = torch.softmax(torch.cat([positive[:, None], anchor @ rows.T], dim=1) / 0.07, dim=1)[:, :1]
    # no part of it points away from another example
    pull = -(1 - shares.detach()) * anchor / 0.07 / len(anchor)
    torch.testing.assert_close(live.grad, pull, rtol=1e-4, atol=1e-6)

    constant = anchor[:1].expand(8, -1)
    ones = torch.ones(8)
    away = rows - (rows @ anchor[0])[:, None] * anchor[:1]  # what stays behind: rows at right angles to c
    assert info_nce(ones, constant @ away.T, 0.07).loss < 1e-4
    others = ~torch.eye(8, dtype=torch.bool)
    assert info_nce(ones, constant @ constant.T, 0.07, others).loss.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    "group",
    [
        [0],
        [0, 0, 0],
        [2, 0, 1],  # as many groups as anchors, not in order
        [1, 0, 1, 1, 2],
        [*range(9), 3, 3, 0],
        [8, 7, 6, 5, 4, 3, 2, 1, 0, 0],
    ],
)
def test_products_of_groups_against_plain_loops(group: list[int]) -> None:
    groups = max(group) + 1
    anchor = torch.randn(len(group), 4, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(groups, 6, 4, dtype=torch.float64)
    result = group_similarity(anchor, rows, torch.tensor(group))
    assert result.shape == (len(group), 6)
    for b, g in enumerate(group):
        for j in range(6):
            expected = sum(float(anchor.detach()[b, i]) * float(rows[g, j, i]) for i in range(4))
            assert result[b, j].item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda a: group_similarity(a, rows, torch.tensor(group)), (anchor,))
