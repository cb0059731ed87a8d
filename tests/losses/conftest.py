"""A small world for losses: representations of random data, as the trainer would hand them over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from codir.losses.base import ObjectiveContext, Step
from codir.models.representations import EncoderShape, Representations

N = 24


@pytest.fixture
def context() -> ObjectiveContext:
    return ObjectiveContext(
        student=EncoderShape(layers=2, width=3),
        teacher=EncoderShape(layers=4, width=5),
        examples=N,
        labels=torch.arange(N) % 3,
        kind="classification",
        num_classes=3,
        seed=1,
        teacher_space=lambda pooling: torch.randn(N, 20, generator=torch.Generator().manual_seed(0)).numpy(),
    )


@pytest.fixture
def regression(context: ObjectiveContext) -> ObjectiveContext:
    return replace(context, labels=torch.linspace(0, 5, N), kind="regression", num_classes=1)


@pytest.fixture
def corpus(context: ObjectiveContext) -> ObjectiveContext:
    return replace(context, labels=None, kind="masked-lm", num_classes=100, teacher_space=None)


@pytest.fixture
def make_step(context: ObjectiveContext) -> Callable[..., Step]:
    def make(ids: Sequence[int], seed: int = 0, outputs: int = 3, labels: torch.Tensor | None = None) -> Step:
        generator = torch.Generator().manual_seed(seed)
        known = context.labels if labels is None else labels
        assert known is not None
        batch = len(ids)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        student = Representations(
            draw(batch, outputs).requires_grad_(),
            {"mean": draw(batch, 2, 3).requires_grad_(), "cls": draw(batch, 2, 3).requires_grad_()},
        )
        # The cache holds the teacher's layers in half precision.
        teacher = Representations(
            draw(batch, outputs), {"mean": draw(batch, 4, 5).half(), "cls": draw(batch, 4, 5).half()}
        )
        return Step(torch.tensor(ids), known[torch.tensor(ids)], student, teacher)

    return make
