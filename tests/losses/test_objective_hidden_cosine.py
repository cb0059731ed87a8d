"""hidden_cosine as an objective: last blocks, maps, and masked language models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step
from transformers import BertConfig, BertForMaskedLM

from codir.errors import ConfigError
from codir.losses.base import Step, Views
from codir.losses.distances import token_cosine_distance
from codir.losses.hidden_cosine import HiddenCosine, HiddenCosineSettings
from codir.models.representations import TokenView, represent


def settings(**values) -> HiddenCosineSettings:
    return HiddenCosineSettings.model_validate(values)


def expected(step: Step, own: int, other: int, weight: torch.Tensor | None = None) -> float:
    """The function itself is tested against plain loops in tests/functional/test_token_cosine.py."""
    assert step.teacher is not None
    student = step.student.tokens[TokenView("hidden", own)].double()
    teacher = step.teacher.tokens[TokenView("hidden", other)].double()
    return token_cosine_distance(student if weight is None else student @ weight, teacher, MASK).item()


def test_last_blocks_are_the_default() -> None:
    context = token_context()
    step = token_step(context)
    assert context.teacher is not None
    assert HiddenCosine.views(settings(), context.student, context.teacher) == Views(
        frozenset({TokenView("hidden", 2)}), frozenset({TokenView("hidden", 4)})
    )
    objective = HiddenCosine(settings(), context)
    term = objective(step)
    assert term.loss.item() == pytest.approx(expected(step, 2, 4), rel=1e-5)
    assert term.metrics == {}
    term.loss.backward()
    assert [str(view) for view, tensor in step.student.tokens.items() if tensor.grad is not None] == [
        "hidden.2"
    ]
    assert objective.describe() == ["hidden_cosine: student block 2 learns from the teacher's 4"]


def test_several_blocks_and_maps() -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    step = token_step(context)
    objective = HiddenCosine(settings(matching="spread", projection="auto"), context)
    weights = [weight.detach().double().T for weight in objective.parameters()]
    assert len(weights) == 2
    term = objective(step)
    blocks = {"block_1": expected(step, 1, 2, weights[0]), "block_2": expected(step, 2, 4, weights[1])}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(blocks, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(blocks.values()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype: torch.dtype) -> None:
    context = token_context()
    step = token_step(context, student_dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = HiddenCosine(settings(), context)(step).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected(step, 2, 4), rel=1e-5)


def test_masked_language_models() -> None:
    def model(layers: int, seed: int) -> BertForMaskedLM:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return BertForMaskedLM(
                BertConfig(
                    vocab_size=40,
                    hidden_size=16,
                    num_hidden_layers=layers,
                    num_attention_heads=2,
                    intermediate_size=32,
                    max_position_embeddings=16,
                )
            ).eval()

    student, teacher = model(1, 1), model(2, 2)
    inputs = {
        "input_ids": torch.randint(5, 40, (2, 6), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    }
    positions = torch.zeros(2, 6, dtype=torch.bool)
    positions[0, 2] = positions[1, 1] = True
    context = token_context((1, 16, 2), (2, 16, 2), kind="masked-lm", labels=None, num_classes=40)
    HiddenCosine.check(settings(), context)
    own = represent(student, inputs, positions=positions, tokens=[TokenView("hidden", 1)])
    with torch.no_grad():
        other = represent(teacher, inputs, positions=positions, tokens=[TokenView("hidden", 2)])
        outputs = [model.bert(**inputs).last_hidden_state for model in (student, teacher)]
    cosine = torch.nn.functional.cosine_similarity(*outputs, dim=2)
    term = HiddenCosine(settings(), context)(Step(torch.arange(2), None, own, other))
    torch.testing.assert_close(term.loss, 1 - (cosine[0].mean() + cosine[1, :4].mean()) / 2)
    term.loss.backward()  # every token learns, not only the masked ones
    gradient = student.get_parameter("bert.encoder.layer.0.output.dense.weight").grad
    assert gradient is not None
    assert gradient.any()
    assert HiddenCosine.of_corpora


def test_refusals() -> None:
    context = token_context((2, 6, 2), (4, 8, 2))
    HiddenCosine.check(settings(projection="auto"), context)
    with pytest.raises(ConfigError, match=r"set hidden_cosine\.projection to auto"):
        HiddenCosine.check(settings(), context)
    with pytest.raises(ConfigError, match="needs a teacher"):
        HiddenCosine.check(settings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match="tokenise differently"):
        HiddenCosine.check(settings(), replace(context, aligned=False))
    with pytest.raises(ConfigError, match=r"hidden_cosine\.matching: .*block 7 of the teacher"):
        HiddenCosine.check(settings(matching=[[1, 7]]), context)
