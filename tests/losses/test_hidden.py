"""The losses over hidden states as rows of one family: layers, learned maps, stages, precision, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import naive_losses as naive
import pytest
import torch
from token_world import MASK, token_context, token_step
from torch import Tensor

from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext, Step
from codir.losses.hidden import EmbeddingMSE, HiddenLoss
from codir.losses.registry import build_objectives, check_objectives, needs_of, settings_for, views_of
from codir.models.representations import Representations, TokenView, represent


class Row(NamedTuple):
    """A loss with settings, what it computes, and what it matches by default for 2 layers of 4."""

    name: str
    settings: dict[str, Any]
    distance: Any
    pooling: str | None = None
    pairs: tuple[tuple[int, int], ...] = ((1, 2), (2, 4))
    factor: float = 1.0


def parts(student: naive.Rows, teacher: naive.Rows) -> float:
    maps, means, variances = (naive.part(which)(student, teacher) for which in range(3))
    return maps + 0.5 * means + 0.25 * variances


NORMALISED = {"normalised": True, "mean_weight": 0.5, "variance_weight": 0.25, "averaged": True}
ROWS = {
    "hidden_mse": Row("hidden_mse", {}, naive.mse),
    "hidden_mse-maps": Row("hidden_mse", {"shared_projection": False}, naive.mse),
    "hidden_mse-chosen": Row("hidden_mse", {"matching": [[2, 3]]}, naive.mse, pairs=((2, 3),)),
    "embedding_mse": Row("embedding_mse", {}, naive.mse, pairs=((0, 0),)),
    "hidden_cosine": Row("hidden_cosine", {"projection": "auto"}, naive.cosine, pairs=((2, 4),)),
    "feature_map_mse": Row("feature_map_mse", {}, naive.mse),
    "feature_map_mse-code": Row("feature_map_mse", NORMALISED, parts, factor=0.5),
    "pooled_cosine": Row("pooled_cosine", {}, naive.cosine, "mean"),
    "pooled_cosine-cls": Row("pooled_cosine", {"pooling": "cls"}, naive.cosine, "cls"),
    "cls_cosine": Row("cls_cosine", {"projection": "auto"}, naive.cosine, "cls"),
    "pkd": Row("pkd", {"projection": "auto"}, naive.patience, "cls", ((1, 2),)),
    "pkd-all": Row("pkd", {"projection": "auto", "matching": "spread"}, naive.patience, "cls"),
    "pkd-code": Row("pkd", {"projection": "auto", "averaged": True}, naive.patience, "cls", ((1, 2),), 1 / 8),
}
every = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
NARROW = token_context((2, 6, 2), (4, 8, 2))


def build(row: Row, context: ObjectiveContext, **more: Any) -> HiddenLoss:
    objective = build_objectives({"task": {}, row.name: {**row.settings, **more}}, context)[row.name]
    assert isinstance(objective, HiddenLoss)
    return objective


def states(side: Representations, layer: int, pooling: str | None) -> Tensor:
    """[B, L, d]; of a pooled layer L is 1."""
    if pooling is None:
        return side.tokens[TokenView("hidden", layer)].detach().double()
    return side.pooled[pooling][:, layer - 1 : layer].detach().double()  # type: ignore[index]


def expected(row: Row, objective: HiddenLoss, step: Step) -> dict[int, float]:
    """The loss of each of the student's layers; the learned maps are h W, one for all pairs or one for each."""
    weights = [parameter.detach().double().T for parameter in objective.parameters()]
    mask = step.student.mask if row.pooling is None else torch.ones(len(step.ids), 1)
    assert mask is not None
    assert step.teacher is not None
    found = {}
    for position, (own, other) in enumerate(row.pairs):
        student = states(step.student, own, row.pooling)
        if weights:
            student = student @ weights[position if len(weights) > 1 else 0]
        teacher = states(step.teacher, other, row.pooling)
        found[own] = row.factor * naive.over_batch(row.distance, student, teacher, mask)
    return found


@every
@pytest.mark.parametrize("widths", ["equal", "narrow"])
@pytest.mark.parametrize("mask", [MASK, MASK[:1], MASK[:, :1] | True], ids=["batch", "one text", "one token"])
def test_against_plain_loops(row: Row, widths: str, mask: Tensor) -> None:
    context = token_context() if widths == "equal" else NARROW
    objective, step = build(row, context), token_step(context, mask)
    each, term = expected(row, objective, step), objective(step)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(sum(each.values()), rel=1e-5)
    if row.name == "pkd":
        cosine = 1 - sum(each.values()) / row.factor / 2 / len(row.pairs)
        assert term.metrics["cosine"].item() == pytest.approx(cosine, rel=1e-4, abs=1e-6)
    else:
        named = {f"layer_{own}": loss for own, loss in each.items()} if len(each) > 1 else {}
        assert {key: value.item() for key, value in term.metrics.items()} == pytest.approx(named, rel=1e-5)
    assert not any(value.requires_grad for value in term.metrics.values())


@every
def test_the_gradient_reaches_what_is_read_and_the_maps_only(row: Row) -> None:
    step = token_step(NARROW)
    objective = build(row, NARROW)
    assert step.teacher is not None
    for values in (step.teacher.tokens, step.teacher.pooled):
        values.update({key: value.float().requires_grad_() for key, value in values.items()})  # type: ignore[arg-type]
    objective(step).loss.backward()
    read = {str(view) for view, value in step.student.tokens.items() if value.grad is not None}
    assert read == ({f"hidden.{own}" for own, _ in row.pairs} if row.pooling is None else set())
    assert {how for how, value in step.student.pooled.items() if value.grad is not None} == {row.pooling} - {None}
    for values in (step.teacher.tokens, step.teacher.pooled):
        assert all(value.grad is None for value in values.values())
    assert all(weight.grad is not None and weight.grad.any() for weight in objective.parameters())


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(row: Row, dtype: torch.dtype) -> None:
    step, objective = token_step(NARROW, student_dtype=dtype), build(row, NARROW)
    step.student.pooled = {how: value.detach().to(dtype) for how, value in step.student.pooled.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(step).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum(expected(row, objective, step).values()), rel=1e-4)


@every
def test_it_says_what_it_needs(row: Row) -> None:
    given = {row.name: row.settings}
    context = token_context()
    views = views_of(given, context.student, context.teacher)
    if row.pooling is None:
        assert {str(view) for view in views.student} == {f"hidden.{own}" for own, _ in row.pairs}
        assert {str(view) for view in views.teacher} == {f"hidden.{other}" for _, other in row.pairs}
    else:
        assert not views.student
        assert needs_of(given).pooled == {row.pooling}
        check_objectives(given, replace(context, aligned=False))  # whole texts: any tokenizer does
    assert build(row, context).pairs == row.pairs


@every
def test_maps_come_from_the_seed_alone(row: Row) -> None:
    def weights(seed: int) -> Tensor:
        torch.rand(seed)  # whatever was drawn before
        state = torch.get_rng_state()
        objective = build(row, replace(NARROW, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        return next(objective.parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@every
def test_when_there_is_a_map(row: Row) -> None:
    shared = row.name == "hidden_mse" and row.settings.get("shared_projection", True)
    count = 1 if shared else len(row.pairs)
    for projection, equal, narrow in (("auto", 0, count), ("always", count, count), ("never", 0, None)):
        made = build(row, token_context(), projection=projection)
        assert len(list(made.parameters())) == equal
        if narrow is not None:
            assert len(list(build(row, NARROW, projection=projection).parameters())) == narrow
    said = " ".join(build(row, NARROW, projection="always").describe())
    assert f"through {'one learned map' if count == 1 else f'{count} learned maps'} from 6 to 8" in said


@every
def test_refusals(row: Row) -> None:
    def refused(context: ObjectiveContext, message: str, **more: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            check_objectives({row.name: {**row.settings, **more}}, context)

    refused(NARROW, rf"6 numbers, the teacher's 8: set {row.name}\.projection to auto", projection="never")
    refused(replace(NARROW, teacher=None), "needs a teacher")
    refused(NARROW, rf"{row.name}\.projection='sometimes'", projection="sometimes")
    if row.pooling is None:
        refused(replace(NARROW, aligned=False), "tokenise differently")
    if row.name != "embedding_mse":
        refused(NARROW, rf"{row.name}\.matching: .*layer 9 of the teacher", matching=[[1, 9]])
        refused(NARROW, rf"{row.name}\.matching='sprea'.*did you mean 'spread'", matching="sprea")


def test_defaults_of_the_papers() -> None:
    defaults = {
        row.name: settings_for(row.name, {}).model_dump(include={"matching", "projection"}) for row in ROWS.values()
    }
    assert defaults == {
        "hidden_mse": {"matching": "spread", "projection": "auto"},
        "embedding_mse": {"projection": "auto"},
        "hidden_cosine": {"matching": "top", "projection": "never"},
        "feature_map_mse": {"matching": "spread", "projection": "auto"},
        "pooled_cosine": {"matching": "spread", "projection": "auto"},
        "cls_cosine": {"matching": "spread", "projection": "never"},
        "pkd": {"matching": "skip", "projection": "never"},
    }
    with pytest.raises(ConfigError, match="set normalised to true"):
        settings_for("feature_map_mse", {"mean_weight": 0.5})
    twelve = token_context((6, 8, 2), (12, 8, 2))
    skip, last = (build(ROWS["pkd"], twelve, matching=matching).pairs for matching in ("skip", "last"))
    assert skip == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    assert last == ((1, 7), (2, 8), (3, 9), (4, 10), (5, 11))


@pytest.mark.parametrize("name", ["feature_map_mse", "pooled_cosine", "cls_cosine"])
def test_layers_one_after_another(name: str) -> None:
    context = token_context((3, 8, 2), (6, 8, 2))
    row = ROWS[name]._replace(pairs=((1, 2), (2, 4), (3, 6)))
    for order, counted, frozen in (
        ("none", (1, 2, 3), set()),
        ("transfer", (2,), {0, 1}),
        ("unlock", (1, 2), set()),
    ):
        objective = build(row, context, progressive=order, end=0.6)
        step = token_step(context, progress=0.2)
        term, each = objective(step), expected(row, objective, step)
        assert set(term.metrics) == {f"layer_{own}" for own in counted}
        assert term.loss.item() == pytest.approx(sum(each[own] for own in counted), rel=1e-5)
        assert objective.frozen_layers(0.2) == frozen
        assert objective.frozen_layers(0.6) == set()


def test_embeddings_are_what_goes_into_the_first_layer(tiny_classifier) -> None:
    view = TokenView("hidden", 0)
    student, teacher = tiny_classifier(layers=1, seed=1), tiny_classifier(layers=2, seed=2)
    inputs = {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    seen = [represent(model, inputs, tokens=[view]) for model in (student, teacher)]
    own, other = (model.bert.embeddings(inputs["input_ids"]) for model in (student, teacher))
    torch.testing.assert_close(seen[0].tokens[view], own)
    squares = (own - other).square().mean(dim=2)
    objective = EmbeddingMSE(settings_for("embedding_mse", {}), token_context((1, 32, 2), (2, 32, 2)))
    loss = objective(Step(torch.arange(2), None, *seen)).loss
    torch.testing.assert_close(loss, (squares[0].mean() + squares[1, :3].mean()) / 2)
    said = "embedding_mse: the student's embedding layer learns from the teacher's"
    assert objective.describe() == [said]


def test_what_is_said() -> None:
    said = build(ROWS["pooled_cosine"], NARROW, progressive="unlock").describe()
    assert said == [
        "pooled_cosine: student layers 1, 2 learn from the teacher's 2, 4 (means over the tokens), through 2 learned "
        "maps from 6 to 8; one layer after another, and they stay"
    ]
    assert build(ROWS["pkd"], token_context()).describe() == [
        "pkd: student layer 1 learns from the teacher's 2 ([CLS] states)"
    ]
