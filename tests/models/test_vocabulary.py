"""Losses over the vocabulary in chunks, against plain loops in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from codir.models.representations import MaskedPredictions
from codir.models.vocabulary import chunk_of, chunked_loss, token_cross_entropy, token_divergence


def head(
    positions: int, vocabulary: int, width: int, seed: int, dtype: torch.dtype = torch.float64
) -> Any:  # Any: its bias is never None
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return MaskedPredictions(draw(positions, width), draw(vocabulary, width), draw(vocabulary))


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    normaliser = top + math.log(sum(math.exp(value - top) for value in row))
    return [value - normaliser for value in row]


def naive_logits(predictions: MaskedPredictions) -> list[list[float]]:
    hidden, weight, bias = (tensor.tolist() for tensor in predictions if tensor is not None)
    return [
        [sum(a * b for a, b in zip(h, w, strict=True)) + offset for w, offset in zip(weight, bias, strict=True)]
        for h in hidden
    ]


def naive_sums(
    student: MaskedPredictions, teacher: MaskedPredictions, labels: list[int], rho: float
) -> tuple[float, float]:
    """-sum log p_s(y), and sum over positions of sum_v p_t(v) (log p_t(v) - log p_s(v)) at temperature rho (Eq. 2)."""
    cross_entropy = divergence = 0.0
    for z_s, z_t, label in zip(naive_logits(student), naive_logits(teacher), labels, strict=True):
        cross_entropy -= log_softmax(z_s)[label]
        own, others = log_softmax([z / rho for z in z_s]), log_softmax([z / rho for z in z_t])
        divergence += sum(math.exp(t) * (t - s) for s, t in zip(own, others, strict=True))
    return cross_entropy, divergence


def combined(labels: Tensor, rho: float, weight: float):
    def loss(student: Tensor, teacher: Tensor | None, rows: slice) -> Tensor:
        assert teacher is not None
        return (token_cross_entropy(student, labels[rows]) + weight * token_divergence(student, teacher, rho)).sum()

    return loss


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_equals_the_naive_sums_for_every_chunk(chunk: int) -> None:
    student, teacher = head(7, 11, 5, 0), head(7, 11, 4, 1)
    labels = torch.tensor([0, 3, 10, 3, 5, 9, 1])
    got = chunked_loss(student, combined(labels, 2.0, 0.1), teacher, chunk)
    cross_entropy, divergence = naive_sums(student, teacher, labels.tolist(), 2.0)
    assert got.item() == pytest.approx(cross_entropy + 0.1 * divergence, rel=1e-12)


@pytest.mark.parametrize("chunk", [2, 100])
def test_gradient_equals_autograd_over_whole_logits(chunk: int) -> None:
    student, teacher = head(7, 11, 5, 0), head(7, 11, 4, 1)
    labels = torch.tensor([0, 3, 10, 3, 5, 9, 1])
    loss = combined(labels, 2.0, 0.3)
    (3.0 * chunked_loss(student, loss, teacher, chunk)).backward()
    got = [tensor.grad.clone() for tensor in student if tensor is not None and tensor.grad is not None]
    whole = head(7, 11, 5, 0)
    with torch.no_grad():
        others = teacher.hidden @ teacher.weight.T + teacher.bias
    (3.0 * loss(whole.hidden @ whole.weight.T + whole.bias, others, slice(0, 7))).backward()
    for mine, theirs in zip(got, whole, strict=True):
        assert theirs is not None
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-10, atol=1e-12)
    assert all(tensor is None or tensor.grad is None for tensor in teacher)


def test_gradcheck() -> None:
    student, teacher = head(3, 5, 4, 0), head(3, 5, 2, 1)
    labels = torch.tensor([1, 4, 0])
    loss = combined(labels, 1.5, 0.5)
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_loss(MaskedPredictions(h, w, b), loss, teacher, 2), tuple(student)
    )


def test_tied_weights_add_up() -> None:
    """An output embedding that is the input embedding gets both gradients."""
    torch.manual_seed(0)
    table: Any = torch.nn.Embedding(9, 4)
    tokens, labels = torch.tensor([1, 2, 5]), torch.tensor([3, 3, 8])

    def loss(student: Tensor, teacher: Tensor | None, rows: slice) -> Tensor:
        return token_cross_entropy(student, labels[rows]).sum()

    chunked_loss(MaskedPredictions(table(tokens), table.weight, None), loss, None, 2).backward()
    got = table.weight.grad.clone()
    table.weight.grad = None
    loss(table(tokens) @ table.weight.T, None, slice(0, 3)).backward()
    torch.testing.assert_close(got, table.weight.grad)


def test_no_positions_give_zero_that_can_be_differentiated() -> None:
    student = head(0, 6, 3, 0)
    loss = chunked_loss(student, lambda z, t, rows: z.sum())
    assert loss.item() == 0.0
    loss.backward()
    assert student.weight.grad is not None
    assert not student.weight.grad.any()


def test_frozen_parts_get_no_gradient_and_evaluation_none_at_all() -> None:
    student = head(4, 6, 3, 0)
    frozen = MaskedPredictions(student.hidden, student.weight.detach(), None)
    chunked_loss(frozen, lambda z, t, rows: z.square().sum()).backward()
    assert student.hidden.grad is not None
    assert frozen.weight.grad is None
    with torch.no_grad():
        assert not chunked_loss(student, lambda z, t, rows: z.sum()).requires_grad


def test_autocast_multiplies_in_half_precision_and_loses_in_single() -> None:
    student = head(6, 50, 16, 0, torch.float32)
    seen = []

    def loss(z: Tensor, t: Tensor | None, rows: slice) -> Tensor:
        seen.append(z.dtype)
        return token_cross_entropy(z, torch.zeros(len(z), dtype=torch.long)).sum()

    exact = chunked_loss(student, loss)
    with torch.autocast("cpu", torch.bfloat16):
        half = chunked_loss(student, loss)
    half.backward()
    assert set(seen) == {torch.float32}
    assert half.dtype == torch.float32
    assert half.item() != exact.item()
    assert half.item() == pytest.approx(exact.item(), rel=2e-2)
    assert student.weight.grad is not None
    assert student.weight.grad.dtype == torch.float32


def test_chunks_never_hold_the_whole_batch_of_a_large_vocabulary() -> None:
    assert chunk_of(30522) * 30522 * 4 <= 1 << 24
    assert chunk_of(30522) < chunk_of(30522, "cuda") <= (1 << 26) / (4 * 30522)
    sizes = []
    chunked_loss(head(40, 5, 2, 0), lambda z, t, rows: sizes.append(len(z)) or z.sum(), None, 16)
    assert sizes == [16, 16, 8]


def test_rho_squared() -> None:
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    plain = token_divergence(student, teacher, 2.0)
    torch.testing.assert_close(token_divergence(student, teacher, 2.0, squared=True), 4 * plain)
    torch.testing.assert_close(token_divergence(student, student, 2.0), torch.zeros(3))
