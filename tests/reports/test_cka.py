"""Linear CKA against its HSIC form in plain loops, its invariances, and the edges where it has no value."""

from __future__ import annotations

import math

import pytest
import torch

from codir.reports.cka import linear_cka as of_layers


def naive_hsic(a: list[list[float]], b: list[list[float]]) -> float:
    """tr(K H L H) / (n - 1)^2 with the Gram matrices of the rows and H = I - 1/n (Kornblith et al., section 3)."""
    n = len(a)

    def gram(rows: list[list[float]]) -> list[list[float]]:
        return [[sum(x * y for x, y in zip(p, q, strict=True)) for q in rows] for p in rows]

    def times(p: list[list[float]], q: list[list[float]]) -> list[list[float]]:
        return [[sum(p[i][k] * q[k][j] for k in range(n)) for j in range(n)] for i in range(n)]

    centre = [[float(i == j) - 1 / n for j in range(n)] for i in range(n)]
    product = times(times(gram(a), centre), times(gram(b), centre))
    return sum(product[i][i] for i in range(n)) / (n - 1) ** 2


def naive_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = x.double().tolist(), y.double().tolist()
    return naive_hsic(a, b) / math.sqrt(naive_hsic(a, a) * naive_hsic(b, b))


def naive_features(x: torch.Tensor, y: torch.Tensor) -> float:
    """The form over features: ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred columns, with plain loops."""

    def centred(rows: list[list[float]]) -> list[list[float]]:
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]

    def squared(p: list[list[float]], q: list[list[float]]) -> float:
        columns = [(list(u), list(v)) for u in zip(*p, strict=True) for v in zip(*q, strict=True)]
        return sum(sum(s * t for s, t in zip(u, v, strict=True)) ** 2 for u, v in columns)

    a, b = centred(x.double().tolist()), centred(y.double().tolist())
    return squared(a, b) / math.sqrt(squared(a, a) * squared(b, b))


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Compares two representations [n, p] and [n, q] of one layer each."""
    return float(of_layers(x.unsqueeze(1), y.unsqueeze(1)))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "p", "q"), [(7, 3, 5), (12, 4, 4), (5, 9, 2), (2, 3, 1)])
def test_both_forms_of_the_definition(n: int, p: int, q: int) -> None:
    x, y = draw(n, p) + 3.0, draw(n, q, seed=1) - 1.0
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(naive_features(x, y), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)


def test_layers_are_compared_pair_by_pair() -> None:
    x, y = draw(9, 3, 4), draw(9, 2, 6, seed=1)
    values = of_layers(x, y)
    assert values.shape == (3, 2)
    assert values.dtype == torch.float64
    for a in range(3):
        for b in range(2):
            assert float(values[a, b]) == pytest.approx(naive_cka(x[:, a], y[:, b]), rel=1e-10)


def test_it_does_not_see_rotation_scale_shift_and_order() -> None:
    x, y = draw(30, 6), draw(30, 8, seed=1)
    rotation = torch.linalg.qr(draw(6, 6, seed=2)).Q
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    expected = linear_cka(x, y)
    assert linear_cka(7.5 * x @ rotation + 100.0, y) == pytest.approx(expected, rel=1e-9)
    assert linear_cka(x[order], y[order]) == pytest.approx(expected, rel=1e-10)
    assert linear_cka(x @ draw(6, 6, seed=4), y) != pytest.approx(
        expected, rel=1e-3
    )  # another map it does see
    assert linear_cka(x[order], y) != pytest.approx(expected, rel=1e-3)


def test_a_representation_is_like_itself_and_noise_is_like_nothing() -> None:
    x = draw(400, 4)
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, draw(400, 4, seed=1)) < 0.05
    values = of_layers(x.unsqueeze(1).repeat(1, 3, 1), x.unsqueeze(1))
    assert values.max() <= 1.0


def test_scales_far_from_one_neither_overflow_nor_vanish() -> None:
    x, y = draw(10, 3), draw(10, 3, seed=1)
    for scale in (1e-150, 1e150):
        assert linear_cka(scale * x, y) == pytest.approx(linear_cka(x, y), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_computed_in_fp64(dtype: torch.dtype) -> None:
    x, y = (10 * draw(20, 5)).to(dtype), (10 * draw(20, 7, seed=1)).to(dtype)
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-10)


def test_a_constant_column_changes_nothing_and_a_constant_side_is_like_nothing() -> None:
    x, y = draw(8, 3), draw(8, 2, seed=1)
    wider = torch.cat([x, torch.full((8, 1), 0.1, dtype=torch.float64)], dim=1)
    assert linear_cka(wider, y) == pytest.approx(linear_cka(x, y), rel=1e-12)
    # 0.1 has no exact sum: what is left after centring is rounding, not a representation
    constant = torch.full((7, 3), 0.1, dtype=torch.float64)
    assert linear_cka(constant, draw(7, 2)) == 0.0
    assert linear_cka(constant, constant) == 0.0
    assert linear_cka(torch.zeros(7, 3), draw(7, 2)) == 0.0


def test_no_gradient_is_kept() -> None:
    x = draw(5, 2, 3).requires_grad_()
    assert not of_layers(x, x).requires_grad


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (draw(1, 3), draw(1, 3), "at least two examples"),
        (draw(4, 3), draw(5, 3), "not \\(4, 1, 3\\) with \\(5, 1, 3\\)"),
        (draw(4, 3).fill_(math.nan), draw(4, 3), "finite"),
        (draw(4, 3), draw(4, 3) / 0.0, "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_cka(x, y)
