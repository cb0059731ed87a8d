"""Cosine of [CLS] as an objective: blocks, stages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step
from codir.losses.cls_cosine import ClsCosine, ClsCosineSettings
from codir.losses.registry import check_objectives


def settings(**values) -> ClsCosineSettings:
    return ClsCosineSettings.model_validate(values)


def naive(step: Step, own: int, other: int) -> float:
    """SID: 1 - cos(h_teacher, h_student) of the first token, mean over the examples."""
    assert step.teacher is not None
    total = 0.0
    for s_blocks, t_blocks in zip(
        step.student.pooled["cls"].tolist(), step.teacher.pooled["cls"].tolist(), strict=True
    ):
        s, t = s_blocks[own - 1], t_blocks[other - 1]
        product = sum(a * b for a, b in zip(s, t, strict=True))
        total += 1 - product / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
    return total / len(step.ids)


@pytest.mark.parametrize("mask", [MASK, MASK[:1]])
def test_against_plain_loops(mask: torch.Tensor) -> None:
    context = token_context()
    step = token_step(context, mask)
    term = ClsCosine(settings(), context)(step)
    expected = {"block_1": naive(step, 1, 2), "block_2": naive(step, 2, 4)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    term.loss.backward()
    assert step.student.pooled["cls"].grad is not None


def test_one_block() -> None:
    context = token_context((1, 8, None), (1, 8, None))
    step = token_step(context)
    assert ClsCosine(settings(), context)(step).loss.item() == pytest.approx(naive(step, 1, 1), rel=1e-5)


def test_other_widths_need_a_projection() -> None:
    context = token_context((2, 8, None), (2, 12, None))
    step = token_step(context)
    objective = ClsCosine(settings(projection="auto", matching="top"), context)
    (linear,) = objective.projections.maps
    term = objective(step)
    step.student.pooled["cls"] = torch.stack(
        [linear(step.student.pooled["cls"][:, block]) for block in (0, 1)], dim=1
    )
    assert term.loss.item() == pytest.approx(naive(step, 2, 2), rel=1e-5)
    term.loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_blocks_are_unlocked_and_stay() -> None:
    context = token_context((3, 8, 2), (6, 8, 2))
    objective = ClsCosine(settings(progressive="unlock", end=0.6), context)
    for progress, blocks in ((0.0, (1,)), (0.2, (1, 2)), (0.4, (1, 2, 3)), (0.59, (1, 2, 3))):
        step = token_step(context, progress=progress)
        term = objective(step)
        assert set(term.metrics) == {f"block_{block}" for block in blocks}
        assert term.loss.item() == pytest.approx(
            sum(naive(step, block, 2 * block) for block in blocks), rel=1e-5
        )
        assert objective.frozen_blocks(progress) == set()


def test_half_precision_inside_autocast() -> None:
    context = token_context()
    step = token_step(context)
    step.student.pooled["cls"] = step.student.pooled["cls"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = ClsCosine(settings(), context)(step)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, 1, 2) + naive(step, 2, 4), rel=1e-5)


def test_it_reads_pooled_first_tokens_which_need_not_be_the_same_tokens() -> None:
    assert ClsCosine.needs(settings()).pooled == {"cls"}
    check_objectives({"cls_cosine": {}}, token_context(aligned=False))


def test_refusals() -> None:
    for context, values, message in (
        (token_context(teacher=(4, 12, 2)), {}, "8 numbers, the teacher's 12"),
        (replace(token_context(), teacher=None), {}, "needs a teacher"),
        (token_context(), {"matching": [[3, 4]]}, "block 3 of the student"),
        (token_context(), {"matching": "lst"}, "did you mean 'last'|last"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"cls_cosine": values}, context)
