"""The loss of a step: the weighted sum of its terms (Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codir.losses.base import Term


def weighted_sum(terms: Mapping[str, Term], weights: Mapping[str, float]) -> Tensor:
    """Sums weight * loss over the terms (Eq. 1).

    A term of weight 0 is left out, so that a NaN in it cannot reach the sum; it is still measured and logged.

    Args:
        terms: by name.
        weights: of at least those names.

    Returns:
        Scalar, fp32.

    Raises:
        KeyError: a term has no weight.
        ValueError: there are no terms.
    """
    if not terms:
        raise ValueError("There is no term to sum: a run needs at least one objective.")
    parts = [term.loss * weights[name] for name, term in terms.items() if weights[name] != 0]
    if not parts:  # nothing has a weight: a zero that can still be differentiated
        parts = [term.loss * 0.0 for term in terms.values()]
    return torch.stack(parts).sum()


def metrics(terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """Collects what a step logs: `NAME/loss` (not weighted) and `NAME/METRIC`, without gradient."""
    result: dict[str, Tensor] = {}
    for name, term in terms.items():
        result[f"{name}/loss"] = term.loss.detach()
        result.update({f"{name}/{key}": value.detach() for key, value in term.metrics.items()})
    return result
