"""attention_mse as an objective; the mathematics itself is tested in tests/functional/test_attention_mse.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.attention_distances import attention_mse
from codir.losses.attention_mse import AttentionMSE, AttentionMSESettings
from codir.losses.base import Step, Views
from codir.models.representations import TokenView, represent


def settings(**values) -> AttentionMSESettings:
    return AttentionMSESettings.model_validate(values)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_sum_over_the_matched_blocks(normalised: bool) -> None:
    context = token_context()
    step = token_step(context)
    teacher = step.teacher
    assert teacher is not None

    def expected(own: int, other: int) -> float:
        sides = [
            [side.tokens[TokenView("query", block)], side.tokens[TokenView("key", block)]]
            for side, block in ((step.student, own), (teacher, other))
        ]
        return attention_mse(sides[0], sides[1], MASK, 2, normalised).item()

    term = AttentionMSE(settings(normalised=normalised), context)(step)
    blocks = {"block_1": expected(1, 2), "block_2": expected(2, 4)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(blocks)
    assert term.loss.item() == pytest.approx(sum(blocks.values()))
    term.loss.backward()
    read = {str(view) for view, tensor in step.student.tokens.items() if tensor.grad is not None}
    assert read == {"query.1", "key.1", "query.2", "key.2"}


@pytest.mark.parametrize("normalised", [False, True])
def test_against_the_attention_that_the_models_compute(tiny_classifier, normalised: bool) -> None:
    student = tiny_classifier(layers=1, seed=1)
    teacher = tiny_classifier(layers=2, seed=2)
    inputs = {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    context = token_context((1, 32, 2), (2, 32, 2))
    assert context.teacher is not None
    chosen = settings(normalised=normalised)
    views = AttentionMSE.views(chosen, context.student, context.teacher)
    step = Step(
        torch.arange(2),
        None,
        represent(student, inputs, tokens=views.student),
        represent(teacher, inputs, tokens=views.teacher),
    )
    probabilities = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            probabilities.append(model(**inputs, output_attentions=True).attentions[-1].double())
        model.set_attn_implementation("sdpa")
    expected = 0.0
    for b, length in enumerate((4, 3)):
        own, other = (side[b, :, :length, :length] for side in probabilities)
        if not normalised:
            # Scores are known from probabilities up to a constant for each row: compare what remains of both.
            own, other = (side.log() - side.log().mean(dim=2, keepdim=True) for side in (own, other))
        expected += (own - other).square().mean().item() / 2
    loss = AttentionMSE(chosen, context)(step).loss.item()
    if normalised:
        assert loss == pytest.approx(expected, rel=1e-4)
    else:  # the rows' constants differ, too
        assert loss > expected > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype: torch.dtype) -> None:
    context = token_context()
    step = token_step(context, student_dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AttentionMSE(settings(), context)(step).loss
    step.student.tokens = {view: tensor.float() for view, tensor in step.student.tokens.items()}
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, AttentionMSE(settings(), context)(step).loss)


def test_views_and_description() -> None:
    context = token_context((3, 8, 2), (6, 12, 2))
    assert context.teacher is not None
    assert AttentionMSE.views(settings(matching="top"), context.student, context.teacher) == Views(
        frozenset({TokenView("query", 3), TokenView("key", 3)}),
        frozenset({TokenView("query", 6), TokenView("key", 6)}),
    )
    assert AttentionMSE(settings(), context).describe() == [
        "attention_mse: student blocks 1, 2, 3 learn from the teacher's 2, 4, 6 (attention of 2 heads, scores before "
        "the softmax)"
    ]


def test_refusals() -> None:
    context = token_context((2, 8, 2), (4, 12, 2))
    AttentionMSE.check(settings(), context)  # other widths are no obstacle
    with pytest.raises(ConfigError, match="needs a teacher"):
        AttentionMSE.check(settings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match="tokenise differently"):
        AttentionMSE.check(settings(), replace(context, aligned=False))
    with pytest.raises(ConfigError, match="2 heads, the teacher 3"):
        AttentionMSE.check(settings(), token_context((2, 8, 2), (4, 12, 3)))
    with pytest.raises(ConfigError, match="student has none"):
        AttentionMSE.check(settings(), token_context((2, 8, None), (4, 12, 3)))
    with pytest.raises(ConfigError, match=r"attention_mse\.matching: .*block 5 of the student"):
        AttentionMSE.check(settings(matching=[[5, 1]]), context)
