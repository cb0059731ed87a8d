"""Eq. 1 against plain numbers."""

from __future__ import annotations

import pytest
import torch

from codir.losses.base import Term
from codir.losses.weighted_sum import metrics, weighted_sum


def test_sum_and_gradients() -> None:
    leaves = {
        name: torch.tensor(value, requires_grad=True) for name, value in [("a", 1.5), ("b", -2.0), ("c", 7.0)]
    }
    weights = {"a": 1.0, "b": 0.7, "c": 0.1, "unused": 5.0}
    loss = weighted_sum({name: Term(leaf * 1) for name, leaf in leaves.items()}, weights)
    assert loss.item() == pytest.approx(1.5 * 1.0 - 2.0 * 0.7 + 7.0 * 0.1)
    loss.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(weights[name])


def test_a_term_of_weight_zero_cannot_spoil_the_sum() -> None:
    good, bad = torch.tensor(2.0, requires_grad=True), torch.tensor(torch.nan, requires_grad=True)
    loss = weighted_sum({"good": Term(good * 1), "bad": Term(bad * 1)}, {"good": 3.0, "bad": 0.0})
    loss.backward()
    assert loss.item() == 6.0
    assert bad.grad is None
    assert weighted_sum({"good": Term(good * 1)}, {"good": 0.0}).requires_grad


def test_missing_weight_and_no_terms() -> None:
    with pytest.raises(KeyError):
        weighted_sum({"a": Term(torch.tensor(1.0))}, {})
    with pytest.raises(ValueError, match="no term"):
        weighted_sum({}, {})


def test_metrics_are_named_and_detached() -> None:
    leaf = torch.tensor(1.0, requires_grad=True)
    logged = metrics({"kd": Term(leaf * 2, {"agreement": torch.tensor(0.5)}), "task": Term(leaf * 3)})
    assert {key: value.item() for key, value in logged.items()} == {
        "kd/loss": 2,
        "kd/agreement": 0.5,
        "task/loss": 3,
    }
    assert not any(value.requires_grad for value in logged.values())
