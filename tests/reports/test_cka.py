"""Linear CKA against its HSIC form in plain loops, its invariances, and the edges where it has no value."""

from __future__ import annotations

import math

import pytest
import torch

from codir.reports.outputs import linear_cka as of_layers


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


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Compares two representations [n, p] and [n, q] of one layer each."""
    return float(of_layers(x.unsqueeze(1), y.unsqueeze(1)))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "p", "q"), [(7, 3, 5), (5, 9, 2), (2, 3, 1)])
def test_both_forms_of_the_definition(n: int, p: int, q: int) -> None:
    x, y = draw(n, p) + 3.0, draw(n, q, seed=1) - 1.0
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-10)
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)  # ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred columns
    features = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y) == pytest.approx(float(features), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)


def test_layers_are_compared_pair_by_pair() -> None:
    x, y = draw(9, 3, 4).requires_grad_(), draw(9, 2, 6, seed=1)
    values = of_layers(x, y)
    assert (values.shape, values.dtype, values.requires_grad) == ((3, 2), torch.float64, False)
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
    for other in (x @ draw(6, 6, seed=4), x[order]):  # another map it does see
        assert linear_cka(other, y) != pytest.approx(expected, rel=1e-3)


def test_a_representation_is_like_itself_and_noise_is_like_nothing() -> None:
    x = draw(400, 4)
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, x) <= 1.0
    assert linear_cka(x, draw(400, 4, seed=1)) < 0.05


def test_scales_far_from_one_and_narrow_types_cost_nothing() -> None:
    x, y = draw(10, 3), draw(10, 3, seed=1)
    for scale in (1e-150, 1e150):
        assert linear_cka(scale * x, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = (10 * x).to(dtype), (10 * y).to(dtype)
        assert linear_cka(*narrow) == pytest.approx(naive_cka(*narrow), rel=1e-10)


def test_a_constant_column_changes_nothing_and_a_constant_side_is_like_nothing() -> None:
    x, y = draw(8, 3), draw(8, 2, seed=1)
    wider = torch.cat([x, torch.full((8, 1), 0.1, dtype=torch.float64)], dim=1)
    assert linear_cka(wider, y) == pytest.approx(linear_cka(x, y), rel=1e-12)
    # 0.1 has no exact sum: what is left after centring is rounding, not a representation
    for constant in (torch.full((8, 3), 0.1, dtype=torch.float64), torch.zeros(8, 3)):
        assert linear_cka(constant, y) == linear_cka(constant, constant) == 0.0


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
