"""The losses over self-attention: matrices, divergences and relations of matched layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import naive_losses as naive
import pytest
import torch
from token_world import MASK, token_context, token_step
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from codir.errors import ConfigError
from codir.losses.base import Objective, ObjectiveContext, Step
from codir.losses.registry import build_objectives, check_objectives, needs_of, settings_for, views_of
from codir.models.representations import TokenView, represent

MINILM = [["query", "key"], ["value", "value"]]
ATTENTION = [["query", "key"]]


def build(name: str, context: ObjectiveContext, **settings: Any) -> Objective:
    return build_objectives({"task": {}, name: settings}, context)[name]


def expected(distance: Any, step: Step, kinds: Any, pair: tuple[int, int]) -> float:
    assert step.teacher is not None
    assert step.student.mask is not None
    own, other = (
        [side.tokens[TokenView(kind, layer)].detach() for kind in kinds]
        for side, layer in ((step.student, pair[0]), (step.teacher, pair[1]))
    )
    return naive.over_batch_of_pairs(distance, own, other, step.student.mask)


CASES: dict[str, tuple[str, dict[str, Any], Any, float]] = {
    "scores": ("attention_mse", {}, naive.attention_mse(2, soft=False), 1.0),
    "probabilities": ("attention_mse", {"normalised": True}, naive.attention_mse(2, soft=True), 1.0),
    "divergence": ("attention_kl", {}, naive.relation(2), 1.0),
    "divergence, averaged": ("attention_kl", {"averaged": True}, naive.relation(2), 0.5),
}
cases = pytest.mark.parametrize(("name", "settings", "distance", "factor"), CASES.values(), ids=CASES.keys())


@cases
@pytest.mark.parametrize("mask", [MASK, MASK[:1], MASK[:, :1] | True], ids=["batch", "one text", "one token"])
def test_against_plain_loops(name: str, settings: dict[str, Any], distance: Any, factor: float, mask: Tensor) -> None:
    for context in (token_context(), token_context((2, 4, 2), (4, 12, 2))):  # heads of other sizes
        step = token_step(context, mask)
        each = {
            f"layer_{pair[0]}": factor * expected(distance, step, ("query", "key"), pair) for pair in ((1, 2), (2, 4))
        }
        term = build(name, context, **settings)(step)
        assert {key: value.item() for key, value in term.metrics.items()} == pytest.approx(each, rel=1e-5, abs=1e-7)
        assert term.loss.item() == pytest.approx(sum(each.values()), rel=1e-5, abs=1e-7)
        term.loss.backward()
        read = {view.kind for view, value in step.student.tokens.items() if value.grad is not None}
        assert read == {"query", "key"}
    chosen = build(name, token_context(), **settings, matching=[[2, 3]])
    step = token_step(token_context(), mask)
    one = expected(distance, step, ("query", "key"), (2, 3))  # the mean over one layer is that layer
    assert chosen(step).loss.item() == pytest.approx(one, rel=1e-5, abs=1e-7)
    assert chosen(step).metrics == {}


@cases
def test_half_precision_inside_autocast(name: str, settings: dict[str, Any], distance: Any, factor: float) -> None:
    context = token_context()
    step = token_step(context, student_dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name, context, **settings)(step).loss
    assert loss.dtype == torch.float32
    both = sum(expected(distance, step, ("query", "key"), pair) for pair in ((1, 2), (2, 4)))
    assert loss.item() == pytest.approx(factor * both, rel=1e-4)


def test_stages_of_the_divergence() -> None:
    context = token_context()
    transfer = build("attention_kl", context, progressive="transfer", end=0.5)
    assert set(transfer(token_step(context)).metrics) == {"layer_1"}
    assert set(transfer(token_step(context, progress=0.25)).metrics) == {"layer_2"}
    assert [transfer.frozen_layers(progress) for progress in (0.0, 0.25, 0.5)] == [{0}, {0, 1}, set()]
    unlock = build("attention_kl", context, progressive="unlock", end=0.5)
    assert set(unlock(token_step(context, progress=0.25)).metrics) == {"layer_1", "layer_2"}
    assert "layers 1, 2 learn from the teacher's 2, 4; one layer after another" in unlock.describe()[0]


@pytest.mark.parametrize(
    ("kinds", "heads", "shapes", "matching", "pairs"),
    [
        (MINILM, None, ((2, 8, 2), (4, 8, 2)), "top", ((2, 4),)),
        (
            [["query", "query"], ["key", "key"], ["value", "value"]],
            4,
            ((2, 8, 2), (4, 12, 3)),
            [[2, 3]],
            ((2, 3),),
        ),
        ([["value", "value"]], None, ((2, 8, 2), (4, 8, 2)), "spread", ((1, 2), (2, 4))),
        (MINILM, None, ((1, 4, 2), (1, 8, 2)), "top", ((1, 1),)),
    ],
    ids=["minilm", "minilmv2, other heads", "several layers", "one layer"],
)
@pytest.mark.parametrize("mask", [MASK, MASK[:1], MASK[:, :1] | True], ids=["batch", "one text", "one token"])
def test_relations(kinds: Any, heads: int | None, shapes: Any, matching: Any, pairs: Any, mask: Tensor) -> None:
    context = token_context(*shapes)
    step = token_step(context, mask)
    objective = build("relations", context, pairs=kinds, relation_heads=heads, matching=matching)
    each = {
        f"{left}_{right}": sum(expected(naive.relation(heads or 2), step, (left, right), pair) for pair in pairs)
        for left, right in kinds
    }
    term = objective(step)
    assert {key: value.item() for key, value in term.metrics.items()} == pytest.approx(each, rel=1e-5, abs=1e-7)
    assert term.loss.item() == pytest.approx(sum(each.values()), rel=1e-5, abs=1e-7)
    term.loss.backward()
    read = {view.kind for view, value in step.student.tokens.items() if value.grad is not None}
    assert read == {kind for pair in kinds for kind in pair}
    assert f"in {heads or 2} heads" in objective.describe()[0]


@pytest.mark.parametrize(
    ("name", "settings", "kinds", "layers"),
    [
        ("attention_mse", {}, {"query", "key"}, ((1, 2), (2, 4))),
        ("attention_kl", {}, {"query", "key"}, ((1, 2), (2, 4))),
        ("relations", {"pairs": MINILM}, {"query", "key", "value"}, ((2, 4),)),
    ],
)
def test_it_says_what_it_needs(name: str, settings: dict[str, Any], kinds: set[str], layers: Any) -> None:
    context = token_context()
    views = views_of({name: settings}, context.student, context.teacher)
    assert {str(view) for view in views.student} == {f"{kind}.{own}" for kind in kinds for own, _ in layers}
    assert {str(view) for view in views.teacher} == {f"{kind}.{other}" for kind in kinds for _, other in layers}
    assert needs_of({name: settings}).pooled == frozenset()


@pytest.mark.parametrize("name", ["attention_mse", "attention_kl", "relations"])
def test_refusals(name: str) -> None:
    for context, settings, message in (
        (token_context(student=(2, 8, None)), {}, "the student has none"),
        (token_context(teacher=(4, 8, None)), {}, "the teacher has none"),
        (token_context(aligned=False), {}, "tokenise differently"),
        (token_context(student=(5, 8, 2)), {"matching": "spread"}, "5 layers"),
        (replace(token_context(), teacher=None), {}, "needs a teacher"),
        (token_context(), {"matching": [[3, 4]]}, r"layer 3.*student"),
        (token_context(teacher=(4, 8, 4)), {}, "relation_heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({name: settings}, context)


def test_refusals_of_relations() -> None:
    for context, values, message in (
        (token_context(teacher=(4, 12, 3)), {}, r"relation_heads to a number that divides both widths"),
        (token_context(), {"relation_heads": 3}, "does not divide the student's width of 8"),
        (
            token_context(teacher=(4, 10, 2)),
            {"relation_heads": 4},
            "does not divide the teacher's width of 10",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"relations": values}, context)
    for values, message in (
        ({"pairs": []}, "empty"),
        ({"pairs": [["value", "value"], ["value", "value"]]}, "named twice"),
        ({"pairs": [["value", "hidden"]]}, "value"),
        ({"relation_heads": 0}, "relation_heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_for("relations", values)


def test_it_is_the_attention_that_the_models_compute() -> None:
    """Of models that give out their attention: divergence and squared error of the matrices themselves."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    models = []
    for depth in (1, 2):
        config = BertConfig(**sizes, vocab_size=30, num_hidden_layers=depth, initializer_range=0.5)
        config._attn_implementation = "eager"
        models.append(BertForSequenceClassification(config).eval())
    inputs = {"input_ids": torch.randint(1, 30, (3, 5)), "attention_mask": MASK.long()}
    context = token_context((1, 16, 2), (2, 16, 2))
    views = views_of({"attention_kl": {}}, context.student, context.teacher)
    with torch.no_grad():
        seen = [
            represent(model, inputs, tokens=each)
            for model, each in zip(models, (views.student, views.teacher), strict=True)
        ]
        given = [model(**inputs, output_attentions=True).attentions for model in models]
    step = Step(torch.arange(3), None, seen[0], seen[1])
    q, p = given[0][0], given[1][1]  # [B, H, L, L]
    each = torch.where(p > 0, p * (p.clamp_min(1e-30) / q.clamp_min(1e-30)).log(), 0.0).sum(-1).mean(1)
    divergence = torch.stack([each[b][MASK[b]].mean() for b in range(3)]).mean()
    assert divergence > 0.01
    assert build("attention_kl", context)(step).loss.item() == pytest.approx(divergence.item(), rel=1e-4)
    squares = [(q - p)[b][:, MASK[b]][:, :, MASK[b]].square().mean() for b in range(3)]
    found = build("attention_mse", context, normalised=True)(step).loss
    assert found.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-4)
