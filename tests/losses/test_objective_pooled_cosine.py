"""Cosine of pooled blocks as an objective: against plain loops, for both poolings, other widths, other tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step
from codir.losses.pooled_cosine import PooledCosine, PooledCosineSettings
from codir.losses.registry import check_objectives
from codir.models.representations import Pooling


def settings(**values) -> PooledCosineSettings:
    return PooledCosineSettings.model_validate(values)


def naive(step: Step, own: int, other: int, pooling: Pooling = "mean") -> float:
    """1 - <s, t> / (|s| |t|), mean over the examples, in float64."""
    assert step.teacher is not None
    student, teacher = (side.pooled[pooling].double().tolist() for side in (step.student, step.teacher))
    total = 0.0
    for s_blocks, t_blocks in zip(student, teacher, strict=True):
        s, t = s_blocks[own - 1], t_blocks[other - 1]
        product = sum(a * b for a, b in zip(s, t, strict=True))
        total += 1 - product / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
    return total / len(student)


@pytest.mark.parametrize("mask", [MASK, MASK[:1]])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_against_plain_loops(mask: torch.Tensor, pooling: Pooling) -> None:
    context = token_context()
    step = token_step(context, mask)
    objective = PooledCosine(settings(pooling=pooling), context)
    assert objective.needs(objective.settings).pooled == {pooling}
    term = objective(step)
    expected = {"block_1": naive(step, 1, 2, pooling), "block_2": naive(step, 2, 4, pooling)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_the_gradient_against_differences() -> None:
    context = token_context()
    step = token_step(context)
    objective = PooledCosine(settings(), context)
    live = step.student.pooled["mean"].detach().double().requires_grad_()

    def loss(values: torch.Tensor) -> torch.Tensor:
        step.student.pooled["mean"] = values
        return objective(step).loss

    assert torch.autograd.gradcheck(loss, (live,), eps=1e-6, atol=1e-6)
    assert step.teacher is not None
    assert not step.teacher.pooled["mean"].requires_grad


def test_other_widths_go_through_learned_maps() -> None:
    context = token_context((2, 8, None), (2, 12, None))
    step = token_step(context)
    objective = PooledCosine(settings(), context)
    term = objective(step)
    step.student.pooled["mean"] = torch.stack(
        [
            linear(step.student.pooled["mean"][:, block])
            for block, linear in enumerate(objective.projections.maps)
        ],
        dim=1,
    )
    assert term.loss.item() == pytest.approx(naive(step, 1, 1) + naive(step, 2, 2), rel=1e-5)
    term.loss.backward()
    assert len(list(objective.parameters())) == 2
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_half_precision_inside_autocast() -> None:
    context = token_context()
    step = token_step(context)
    step.student.pooled["mean"] = step.student.pooled["mean"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = PooledCosine(settings(), context)(step)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, 1, 2) + naive(step, 2, 4), rel=1e-5)


def test_tokens_need_not_be_the_same() -> None:
    check_objectives({"pooled_cosine": {}}, token_context(aligned=False))


def test_refusals() -> None:
    for context, values, message in (
        (token_context(teacher=(4, 12, 2)), {"projection": "never"}, "8 numbers, the teacher's 12"),
        (replace(token_context(), teacher=None), {}, "needs a teacher"),
        (token_context(), {"matching": [[3, 4]]}, "block 3 of the student"),
        (token_context(), {"pooling": "max"}, "mean"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"pooled_cosine": values}, context)


def test_what_is_said() -> None:
    (line,) = PooledCosine(settings(), token_context()).describe()
    assert line == "pooled_cosine: student blocks 1, 2 learn from the teacher's 2, 4 (means over the tokens)"
