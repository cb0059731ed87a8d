"""embedding_mse as an objective: what it reads of real models, and its map."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext, Step, Views
from codir.losses.embedding_mse import EmbeddingMSE, EmbeddingMSESettings
from codir.models.representations import TokenView, represent

VIEW = TokenView("hidden", 0)


def settings(**values) -> EmbeddingMSESettings:
    return EmbeddingMSESettings.model_validate(values)


def make_step(context: ObjectiveContext, dtype: torch.dtype = torch.float32) -> Step:
    assert context.teacher is not None
    step, generator = token_step(context), torch.Generator().manual_seed(9)
    assert step.teacher is not None
    for side, width in ((step.student, context.student.width), (step.teacher, context.teacher.width)):
        side.tokens[VIEW] = torch.randn(3, 5, width, generator=generator).to(dtype)
    step.student.tokens[VIEW].requires_grad_()
    return step


def naive(step: Step, matrix: torch.Tensor | None = None) -> float:
    """TinyBERT: MSE(E_S W_e, E_T) of one text's real tokens; mean over the texts."""
    assert step.teacher is not None
    mask = step.student.mask
    assert mask is not None
    student, teacher = step.student.tokens[VIEW].double(), step.teacher.tokens[VIEW].double()
    total = 0.0
    for b in range(len(mask)):
        squares = []
        for t in (t for t in range(mask.shape[1]) if mask[b, t]):
            state = student[b, t].tolist()
            if matrix is not None:
                state = [
                    sum(x * matrix[n, m].item() for n, x in enumerate(state)) for m in range(matrix.shape[1])
                ]
            squares += [(x - y) ** 2 for x, y in zip(state, teacher[b, t].tolist(), strict=True)]
        total += sum(squares) / len(squares)
    return total / len(mask)


def test_against_plain_loops() -> None:
    equal, narrow = token_context(), token_context((2, 6, 2), (4, 8, 2))
    step = make_step(equal)
    term = EmbeddingMSE(settings(), equal)(step)
    assert term.loss.item() == pytest.approx(naive(step), rel=1e-5)
    assert term.metrics == {}
    step = make_step(narrow)
    objective = EmbeddingMSE(settings(), narrow)
    (weight,) = objective.parameters()
    loss = objective(step).loss
    assert loss.item() == pytest.approx(naive(step, weight.detach().double().T), rel=1e-5)
    loss.backward()
    gradient = step.student.tokens[VIEW].grad
    assert gradient is not None
    assert not gradient[~MASK].any()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype: torch.dtype) -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    step = make_step(context, dtype)
    objective = EmbeddingMSE(settings(), context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(step).loss
    weight = next(objective.parameters()).detach().double().T
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(step, weight), rel=1e-5)


def test_it_reads_what_goes_into_the_first_block(tiny_classifier) -> None:
    student, teacher = tiny_classifier(layers=1, seed=1), tiny_classifier(layers=2, seed=2)
    inputs = {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    step = Step(
        torch.arange(2),
        None,
        represent(student, inputs, tokens=[VIEW]),
        represent(teacher, inputs, tokens=[VIEW]),
    )
    own, other = (model.bert.embeddings(inputs["input_ids"]) for model in (student, teacher))
    torch.testing.assert_close(step.student.tokens[VIEW], own)
    squares = (own - other).square().mean(dim=2)
    expected = (squares[0].mean() + squares[1, :3].mean()) / 2
    term = EmbeddingMSE(settings(), token_context((1, 32, 2), (2, 32, 2)))(step)
    torch.testing.assert_close(term.loss, expected)


def test_its_map_is_not_the_one_of_hidden_mse() -> None:
    from codir.losses.hidden_mse import HiddenMSE, HiddenMSESettings

    context = token_context((2, 6, 2), (4, 8, 2))
    (own,) = EmbeddingMSE(settings(), context).parameters()
    (other,) = HiddenMSE(HiddenMSESettings(), context).parameters()
    assert not torch.equal(own, other)


def test_views_description_and_refusals() -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    assert context.teacher is not None
    assert EmbeddingMSE.views(settings(), context.student, context.teacher) == Views(
        frozenset({VIEW}), frozenset({VIEW})
    )
    assert EmbeddingMSE(settings(), context).describe() == [
        "embedding_mse: the student's embedding layer learns from the teacher's, through one learned map from 6 to 8"
    ]
    EmbeddingMSE.check(settings(), context)
    with pytest.raises(ConfigError, match="needs a teacher"):
        EmbeddingMSE.check(settings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match="tokenise differently"):
        EmbeddingMSE.check(settings(), replace(context, aligned=False))
    with pytest.raises(ConfigError, match=r"embedding_mse\.projection to auto"):
        EmbeddingMSE.check(settings(projection="never"), context)
