"""Distances of one example in plain loops and double precision, written from the papers.

A side is a list of vectors, one for each real token; for attention and relations two such lists. Of a whole batch the
distance is the mean over the examples, and 0 for one without a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

Rows = Sequence[Sequence[float]]


def mse(student: Rows, teacher: Rows) -> float:
    """TinyBERT, MobileBERT: 1 / (T N) sum_t sum_n (H_teacher - H_student)^2."""
    squares = [
        (x - y) ** 2 for own, other in zip(student, teacher, strict=True) for x, y in zip(own, other, strict=True)
    ]
    return sum(squares) / len(squares)


def _statistics(state: Sequence[float]) -> tuple[list[float], float, float]:
    mean = sum(state) / len(state)
    variance = sum((value - mean) ** 2 for value in state) / len(state)
    return [(value - mean) / math.sqrt(variance + 1e-12) for value in state], mean, variance


def part(which: int) -> Callable[[Rows, Rows], float]:
    """MobileBERT's code: layer norm without parameters (epsilon 1e-12), squared means, absolute variances."""

    def distance(student: Rows, teacher: Rows) -> float:
        total = 0.0
        for own_state, other_state in zip(student, teacher, strict=True):
            own, mean, variance = _statistics(own_state)
            other, wanted_mean, wanted_variance = _statistics(other_state)
            total += (
                sum((x - y) ** 2 for x, y in zip(own, other, strict=True)) / len(own),
                (mean - wanted_mean) ** 2,
                abs(variance - wanted_variance),
            )[which]
        return total / len(student)

    return distance


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(dot(vector, vector))
    return [value / length for value in vector]


def cosine(student: Rows, teacher: Rows) -> float:
    """DistilBERT, SID: 1 - cos of each token (or of the one vector), the mean over them."""
    return sum(1 - dot(unit(s), unit(t)) for s, t in zip(student, teacher, strict=True)) / len(student)


def patience(student: Rows, teacher: Rows) -> float:
    """BERT-PKD: sum_j || s_j / |s_j| - t_j / |t_j| ||_2^2; a row is a layer."""
    return sum(
        (x - y) ** 2 for s, t in zip(student, teacher, strict=True) for x, y in zip(unit(s), unit(t), strict=True)
    )


def scores(left: Rows, right: Rows, head: int, heads: int) -> list[list[float]]:
    """One head's q k^T / sqrt(d_h), [T][T]."""
    size = len(left[0]) // heads
    span = range(head * size, (head + 1) * size)
    return [[sum(q[n] * k[n] for n in span) / math.sqrt(size) for k in right] for q in left]


def softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def attention_mse(heads: int, soft: bool) -> Callable[[Sequence[Rows], Sequence[Rows]], float]:
    """TinyBERT: 1/h sum_i MSE(A_i^S, A_i^T), A_i = Q_i K_i^T / sqrt(d_k), or its softmax."""

    def distance(student: Sequence[Rows], teacher: Sequence[Rows]) -> float:
        total = 0.0
        for head in range(heads):
            own, other = (scores(side[0], side[1], head, heads) for side in (student, teacher))
            if soft:
                own, other = [softmax(row) for row in own], [softmax(row) for row in other]
            total += mse(own, other) / heads
        return total

    return distance


def relation(heads: int) -> Callable[[Sequence[Rows], Sequence[Rows]], float]:
    """MobileBERT, MiniLM: 1 / (A |x|) sum_a sum_t KL(R_teacher[a, t] || R_student[a, t])."""

    def distance(student: Sequence[Rows], teacher: Sequence[Rows]) -> float:
        total = 0.0
        for head in range(heads):
            own, other = (scores(side[0], side[1], head, heads) for side in (student, teacher))
            for given, wanted in zip(own, other, strict=True):
                total += sum(p * math.log(p / q) for p, q in zip(softmax(wanted), softmax(given), strict=True))
        return total / heads / len(student[0])

    return distance


def over_batch(distance: Callable[..., float], student: Tensor, teacher: Tensor, mask: Tensor) -> float:
    """The mean over the examples of [B, L, d]."""
    total = 0.0
    for own, other, real in zip(student.double(), teacher.double(), mask != 0, strict=True):
        total += distance(own[real].tolist(), other[real].tolist()) if real.any() else 0.0
    return total / len(mask)


def over_batch_of_pairs(
    distance: Callable[..., float], student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor
) -> float:
    """The mean over the examples, of two kinds of vectors [B, L, d] of each side."""
    total = 0.0
    for b, real in enumerate(mask != 0):
        own, other = ([kind[b].double()[real].tolist() for kind in side] for side in (student, teacher))
        total += distance(own, other) if real.any() else 0.0
    return total / len(mask)
