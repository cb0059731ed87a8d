"""Eq. 4 against plain loops; the streamed form against the dense one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from codir.contrast.infonce import info_nce, streamed_info_nce


def naive_info_nce(
    positive: torch.Tensor, negatives: torch.Tensor, tau: float, mask=None
) -> tuple[float, float]:
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
    assert torch.exp(
        torch.tensor(0.9 / 0.07, dtype=torch.float16)
    ).isinf()  # what the released code runs into
    positive, negatives = torch.tensor([0.9], dtype=dtype), torch.tensor([[0.95, 1.0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = info_nce(positive, negatives, 0.07)
    assert result.loss.dtype == torch.float32
    expected, _ = naive_info_nce(positive.double(), negatives.double(), 0.07)
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("empty", [False, True])
def test_streamed_equals_dense(chunk: int, empty: bool) -> None:
    batch, size, dim = 5, 40, 6
    bank = normalize(torch.randn(size, dim, dtype=torch.float64), dim=1)
    allowed = torch.rand(batch, size) < 0.6
    allowed[:, 20:30] = False  # whole chunks without an admissible row
    allowed[0, :15] = False
    if empty:
        allowed[2] = False
    gradients, results = [], []
    raw_anchor, raw_live = torch.randn(2, batch, dim, dtype=torch.float64)
    for streamed in (False, True):
        anchor = raw_anchor.clone().requires_grad_()
        live = raw_live.clone().requires_grad_()
        a, h = normalize(anchor, dim=1), normalize(live, dim=1)
        positive = (a * h).sum(1)
        if streamed:
            result = streamed_info_nce(a, positive, bank, lambda i, j: allowed[:, i:j], 0.07, chunk)
        else:
            result = info_nce(positive, a @ bank.T, 0.07, allowed)
        (3 * result.loss).backward()
        results.append(result)
        gradients.append((anchor.grad, live.grad))
    torch.testing.assert_close(results[0].loss, results[1].loss)
    torch.testing.assert_close(results[0].accuracy, results[1].accuracy)
    for dense, other in zip(*gradients, strict=True):
        torch.testing.assert_close(dense, other)


def test_streamed_gradcheck() -> None:
    bank = normalize(torch.randn(11, 4, dtype=torch.float64), dim=1)
    allowed = torch.rand(3, 11) < 0.7
    anchor = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def loss(a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return streamed_info_nce(a, p, bank, lambda i, j: allowed[:, i:j], 0.3, chunk=4).loss

    assert torch.autograd.gradcheck(loss, (anchor, positive))


def test_the_gradient_of_the_temperature() -> None:
    bank = normalize(torch.randn(11, 4, dtype=torch.float64), dim=1)
    allowed = torch.rand(3, 11) < 0.7
    allowed[1] = False  # an anchor without any negative
    anchor = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.randn(3, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def dense(a: torch.Tensor, p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return info_nce(p, a @ bank.T, t, allowed).loss

    def streamed(a: torch.Tensor, p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return streamed_info_nce(a, p, bank, lambda i, j: allowed[:, i:j], t, chunk=4).loss

    for loss in (dense, streamed):
        assert torch.autograd.gradcheck(loss, (anchor, positive, tau))
        slopes = torch.autograd.grad(loss(anchor, positive, tau), (anchor, positive, tau))
        still = torch.autograd.grad(loss(anchor, positive, tau.detach()), (anchor, positive))
        for one, other in zip(slopes, still, strict=False):
            torch.testing.assert_close(one, other)
    fixed = streamed_info_nce(anchor, positive, bank, lambda i, j: allowed[:, i:j], 0.3, chunk=4)
    learned = streamed_info_nce(anchor, positive, bank, lambda i, j: allowed[:, i:j], tau, chunk=4)
    for one, other in zip(fixed, learned, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(each.requires_grad for each in learned[1:])


def test_streamed_backward_does_not_need_the_bank_any_more() -> None:
    bank = normalize(torch.randn(20, 4), dim=1)
    anchor = normalize(torch.randn(2, 4), dim=1)
    slopes = []
    for overwrite in (False, True):
        leaf, rows = anchor.clone().requires_grad_(), bank.clone()
        loss = streamed_info_nce(
            leaf, torch.zeros(2), rows, lambda i, j: torch.ones(2, j - i).bool(), 0.07, 8
        ).loss
        if overwrite:
            rows.zero_()
        loss.backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_streamed_takes_a_half_precision_bank_inside_autocast() -> None:
    bank = normalize(torch.randn(50, 4), dim=1).half()
    anchor = bank[:2].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = streamed_info_nce(
            anchor, torch.ones(2), bank, lambda i, j: torch.ones(2, j - i).bool(), 0.07
        )
    expected, _ = naive_info_nce(torch.ones(2), anchor.double() @ bank.double().T, 0.07)
    assert result.loss.item() == pytest.approx(expected, rel=1e-4)


def test_against_constant_rows_the_student_is_only_pulled_and_within_the_batch_a_constant_does_not_win() -> (
    None
):
    """What research/pages/negatives.md says of a bank and of the batch, with teacher and student at one point c."""
    generator = torch.Generator().manual_seed(0)
    anchor = normalize(torch.randn(8, 16, generator=generator), dim=1)
    live = normalize(torch.randn(8, 16, generator=generator), dim=1).requires_grad_()
    rows = normalize(torch.randn(50, 16, generator=generator), dim=1)
    positive = (anchor * live).sum(dim=1)
    info_nce(positive, anchor @ rows.T, 0.07).loss.backward()
    shares = torch.softmax(torch.cat([positive[:, None], anchor @ rows.T], dim=1) / 0.07, dim=1)[:, :1]
    pull = (
        -(1 - shares.detach()) * anchor / 0.07 / len(anchor)
    )  # no part of it points away from another example
    torch.testing.assert_close(live.grad, pull, rtol=1e-4, atol=1e-6)

    constant = anchor[:1].expand(8, -1)
    ones = torch.ones(8)
    away = rows - (rows @ anchor[0])[:, None] * anchor[:1]  # what stays behind: rows at right angles to c
    assert info_nce(ones, constant @ away.T, 0.07).loss < 1e-4
    others = ~torch.eye(8, dtype=torch.bool)
    assert info_nce(ones, constant @ constant.T, 0.07, others).loss.item() == pytest.approx(math.log(8))
