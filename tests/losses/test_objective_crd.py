"""CRD against a naive version in float64 over several steps, and everything around it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from codir.errors import ConfigError, DataError, RunError
from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD, CRDSettings
from codir.losses.registry import build_objectives


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def project(pooled: torch.Tensor, blocks: list[int], linear: torch.nn.Linear) -> list[float]:
    """phi of one example: [blocks, d] to a unit vector, with plain loops."""
    flat = [value for block in blocks for value in pooled[block - 1].tolist()]
    weight, bias = linear.weight.tolist(), linear.bias.tolist()
    return unit(
        [sum(w * x for w, x in zip(row, flat, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    )


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def build(context: ObjectiveContext, **settings: Any) -> CRD:
    objective = build_objectives({"crd": {"dim": 4, "k": 5, **settings}}, context)["crd"]
    assert isinstance(objective, CRD)
    return objective


def negatives_of(objective: CRD, step: Step) -> list[list[int]]:
    """What the next forward pass will draw."""
    if objective.settings.model_dump()["k"] == "all":
        allowed = objective.sampler.admissible(step.ids)(0, objective.bank.size)
        return [row.nonzero().flatten().tolist() for row in allowed]
    state = objective.sampler.state()
    drawn = objective.sampler.draw(step.ids, objective.settings.model_dump()["k"])
    objective.sampler.load_state(state)
    rows = [drawn.ids[g].tolist() for g in drawn.group.tolist()]
    if drawn.mask is None:
        return rows
    return [
        [i for i, keep in zip(row, drawn.mask[g].tolist(), strict=True) if keep]
        for row, g in zip(rows, drawn.group.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sharing": "independent", "negatives": "any", "momentum": 0.9},
        {"k": "all", "pooling": "cls"},
        {"k": "all", "negatives": "any", "teacher_blocks": "every-other", "student_blocks": [2]},
        {"negatives": "hard", "teacher_blocks": [4, 1], "max_similarity": 0.4},
    ],
)
def test_several_steps_against_plain_loops(context, make_step, settings: dict[str, Any]) -> None:
    objective = build(context, **settings)
    how, beta = settings.get("pooling", "mean"), settings.get("momentum", 0.5)
    chosen = settings.get("teacher_blocks", [1, 2, 3, 4])
    t_blocks = [2, 4] if chosen == "every-other" else chosen
    s_blocks = settings.get("student_blocks", [1, 2])
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.5)
    bank = objective.bank.data.double().tolist()
    for number, ids in enumerate([[0, 1, 5, 6], [7, 1, 2, 0], [23], [0, 1, 2, 3, 4]]):
        step = make_step(ids, seed=number)
        negatives = negatives_of(objective, step)
        teacher = [
            project(row.double(), t_blocks, objective.teacher_projection.linear)
            for row in step.teacher.pooled[how]
        ]
        student = [
            project(row.detach().double(), s_blocks, objective.student_projection.linear)
            for row in step.student.pooled[how]
        ]
        loss, first, right, wrong = 0.0, 0, [], []
        for b in range(len(ids)):
            positive = dot(teacher[b], student[b])
            others = [dot(teacher[b], bank[i]) for i in negatives[b]]
            total = math.exp(positive / 0.07) + sum(math.exp(value / 0.07) for value in others)
            loss -= math.log(math.exp(positive / 0.07) / total) / len(ids)
            first += all(positive > value for value in others)
            right.append(positive)
            wrong.append(sum(others) / max(len(others), 1))
        before = objective.bank.data.clone()
        term = objective(step)
        assert term.loss.item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
        assert term.metrics["accuracy"].item() == pytest.approx(first / len(ids))
        assert term.metrics["positive"].item() == pytest.approx(sum(right) / len(right), rel=1e-4, abs=1e-5)
        assert term.metrics["negative"].item() == pytest.approx(sum(wrong) / len(wrong), rel=1e-4, abs=1e-5)
        assert set(term.metrics) == {"accuracy", "positive", "negative"}
        term.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(objective.bank.data, before)  # not yet written
        objective.after_step()
        for b, i in enumerate(ids):
            bank[i] = unit(
                [beta * old + (1 - beta) * new for old, new in zip(bank[i], student[b], strict=True)]
            )
        torch.testing.assert_close(
            objective.bank.data.double(), torch.tensor(bank, dtype=torch.float64), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("k", [5, "all"])
def test_gradient_reaches_both_projections_and_the_student_only(context, make_step, k) -> None:
    objective, step = build(context, k=k), make_step([0, 1, 2, 3])
    step.teacher.pooled["mean"] = step.teacher.pooled["mean"].float().requires_grad_(False)
    objective(step).loss.backward()
    for parameter in objective.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert step.student.pooled["mean"].grad.abs().sum() > 0
    assert step.student.pooled["cls"].grad is None
    assert not objective.bank.data.requires_grad


def test_live_positive_gradient_by_finite_differences(context, make_step) -> None:
    objective, step = build(context, k="all"), make_step([0, 4])
    leaf = step.student.pooled["mean"]
    objective(step).loss.backward()
    with torch.no_grad():
        for index in [(0, 0, 0), (1, 1, 2)]:
            values = []
            for sign in (1, -1):
                moved = leaf.clone()
                moved[index] += sign * 1e-2
                step.student.pooled["mean"] = moved
                values.append(objective(step).loss.item())
            assert (values[0] - values[1]) / 2e-2 == pytest.approx(
                leaf.grad[index].item(), rel=2e-2, abs=2e-3
            )


def test_accumulated_batches_are_written_together(context, make_step) -> None:
    objective = build(context)
    before = objective.bank.data.clone()
    for ids in ([0, 1], [2, 1]):
        objective(make_step(ids, seed=ids[0])).loss.backward()
        assert torch.equal(objective.bank.data, before)
    objective.after_step()
    assert (objective.bank.data != before).any(dim=1).nonzero().flatten().tolist() == [0, 1, 2]
    once = objective.bank.data.clone()
    objective.after_step()  # nothing is pending any more
    assert torch.equal(objective.bank.data, once)


def test_discarded_steps_and_evaluation_write_nothing(context, make_step) -> None:
    objective = build(context)
    before, generator = objective.bank.data.clone(), objective.sampler.state()
    objective.eval()
    with torch.no_grad():
        objective(make_step([0, 1]))
    assert torch.equal(objective.sampler.state(), generator)  # nor does it move the draws of the training
    objective.after_step()
    objective.train()
    objective(make_step([0, 1]))
    assert not torch.equal(objective.sampler.state(), generator)
    objective.discard_step()
    objective.after_step()
    assert torch.equal(objective.bank.data, before)


def run(objective: CRD, make_step, start: int, stop: int) -> list[float]:
    losses = []
    for number in range(start, stop):
        term = objective(make_step([number, (3 * number + 1) % 24, 11], seed=number))
        objective.after_step()
        losses.append(term.loss.item())
    return losses


@pytest.mark.parametrize("negatives", ["different-label", "any", "hard"])
def test_restored_state_goes_on_bit_for_bit(context, make_step, negatives: str) -> None:
    objective = build(context, negatives=negatives)
    run(objective, make_step, 0, 4)
    state = {key: value.clone() for key, value in objective.extra_state().items()}
    parameters = {key: value.clone() for key, value in objective.state_dict().items()}
    expected = run(objective, make_step, 4, 8)
    restored = build(replace(context, seed=77), negatives=negatives)
    restored.load_state_dict(parameters)
    restored.load_extra_state(state)
    if negatives != "hard":  # the index of the teacher's space belongs to the seed
        assert run(restored, make_step, 4, 8) == expected
    same = build(context, negatives=negatives)
    same.load_extra_state(state)
    assert run(same, make_step, 4, 8) == expected
    assert torch.equal(same.bank.data, objective.bank.data)


def test_state_is_not_in_the_module_and_another_size_is_refused(context) -> None:
    objective = build(context)
    assert set(objective.state_dict()) == {
        f"{side}_projection.linear.{part}" for side in ("teacher", "student") for part in ("weight", "bias")
    }
    with pytest.raises(RunError, match=r"\(24, 4\).*\(24, 8\)"):
        build(context, dim=8).load_extra_state(objective.extra_state())


def test_same_seed_same_start_whatever_happened_before(context) -> None:
    first = build(context)
    torch.randn(7)
    state = torch.get_rng_state()
    second = build(context)
    assert torch.equal(torch.get_rng_state(), state)  # and the global generator is left alone
    assert torch.equal(first.teacher_projection.linear.weight, second.teacher_projection.linear.weight)
    assert torch.equal(first.bank.data, second.bank.data)
    other = build(replace(context, seed=2))
    assert not torch.equal(first.student_projection.linear.weight, other.student_projection.linear.weight)


def test_prefill_sets_rows_without_momentum(context, make_step) -> None:
    assert CRD.prefill_needs(CRDSettings()) == frozenset()
    assert CRD.prefill_needs(CRDSettings(bank_init="student", pooling="cls")) == {"cls"}
    objective, step = build(context), make_step([3, 8])
    before = objective.bank.data.clone()
    objective.prefill(step.ids, step.student)  # the pass was made for another objective
    assert torch.equal(objective.bank.data, before)
    objective = build(context, bank_init="student")
    objective.prefill(step.ids, step.student)
    expected = [
        project(row.detach().double(), [1, 2], objective.student_projection.linear)
        for row in step.student.pooled["mean"]
    ]
    torch.testing.assert_close(objective.bank.data[[3, 8]], torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [5, "all"])
def test_half_precision_and_autocast_change_nothing_but_rounding(context, make_step, dtype, k) -> None:
    plain, mixed = build(context, k=k), build(context, k=k)
    # Representations so alike that every cosine is near 1, where exp(cos / 0.07) is beyond half precision.
    for objective in (plain, mixed):
        objective.bank.data[:] = torch.nn.functional.normalize(torch.tensor([1.0, 0.01, 0.0, 0.0]), dim=0)
        for projection in (objective.teacher_projection, objective.student_projection):
            projection.linear.bias.data = torch.tensor([100.0, 1.0, 0.0, 0.0])
    step, half = make_step([0, 1, 2]), make_step([0, 1, 2])
    half.student.pooled["mean"] = half.student.pooled["mean"].detach().to(dtype)
    expected = plain(step).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixed(half).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_regression_uses_any(regression, make_step) -> None:
    objective = build(regression)
    assert objective.sampler.name == "any"
    step = make_step([0, 1], outputs=1, labels=regression.labels)
    assert objective(step).loss.isfinite()


def test_smallest_sizes(context, make_step) -> None:
    objective = build(context, k=1, dim=1, teacher_blocks=[4], student_blocks="1")
    term = objective(make_step([0]))
    term.loss.backward()
    objective.after_step()
    assert term.loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "change", "kind", "message"),
    [
        ({"k": 0}, {}, ConfigError, r"crd\.k=0 .*N=24"),
        ({"k": 25}, {}, ConfigError, r"crd\.k=25 .*N=24"),
        ({}, {"labels": torch.ones(24, dtype=torch.long)}, DataError, "any"),
        ({}, {"labels": None}, DataError, "any"),
        (
            {"negatives": "different-label"},
            {"kind": "regression", "labels": torch.rand(24)},
            ConfigError,
            "negatives: any",
        ),
        ({"teacher_blocks": [5]}, {}, ConfigError, r"crd\.teacher_blocks: Block 5 .*counted from 1"),
        ({"student_blocks": [0]}, {}, ConfigError, r"crd\.student_blocks: Block 0 .*embedding"),
        ({}, {"teacher": None}, ConfigError, "needs a teacher"),
        ({"negatives": "hrd"}, {}, ConfigError, "did you mean 'hard'"),
        ({"negatives": "hard", "k": "all"}, {}, ConfigError, "nothing to choose"),
        ({"negatives": "hard"}, {"teacher_space": None}, ConfigError, "--no-cache"),
        ({"k": 1, "negatives": "any"}, {"examples": 1}, DataError, "more data"),
    ],
)
def test_refusals(context, settings, change, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        build(replace(context, **change), **settings)


def test_describe_names_blocks_and_memory(context) -> None:
    text = "\n".join(build(context, teacher_blocks="every-other").describe())
    assert "teacher blocks: 2, 4 of 1..4, embeddings excluded" in text
    assert "student blocks: 1, 2 of 1..2" in text
    assert "24 x 4, 384 B" in text


@pytest.mark.parametrize("negatives", ["different-label", "in-batch-bank", "queue", "in-batch"])
def test_what_is_kept_to_be_looked_at(context: ObjectiveContext, make_step: Any, negatives: str) -> None:
    objective = build(context, negatives=negatives, **({"queue_size": 8} if negatives == "queue" else {}))
    objective.train()
    for ids in ([0, 1, 2, 3], [4, 5]):
        step = make_step(ids, seed=ids[0])
        objective(step)
        objective.after_step()
    before = torch.random.get_rng_state(), objective.extra_state()
    before = before[0].clone(), {name: value.clone() for name, value in before[1].items()}
    kept = objective.summary_tensors()
    assert torch.equal(before[0], torch.random.get_rng_state())
    for name, value in objective.extra_state().items():
        assert torch.equal(value, before[1][name])
    for side, projection, blocks in (
        ("teacher", objective.teacher_projection, [1, 2, 3, 4]),
        ("student", objective.student_projection, [1, 2]),
    ):
        assert torch.equal(kept[f"{side}.weight"], projection.linear.weight)
        assert torch.equal(kept[f"{side}.bias"], projection.linear.bias)
        assert kept[f"{side}.blocks"].tolist() == blocks
    if negatives == "in-batch":
        assert "rows" not in kept
        return
    assert context.labels is not None
    ids = kept["ids"]
    assert torch.equal(kept["labels"], context.labels[ids])
    if negatives == "queue":
        assert sorted(ids.tolist()) == [0, 1, 2, 3, 4, 5]
        assert torch.allclose(kept["rows"].norm(dim=1), torch.ones(6))
    else:
        assert ids.tolist() == list(range(context.examples))
        assert torch.equal(kept["rows"], objective.bank.rows(ids))


def test_of_a_large_bank_few_rows_are_kept_and_none_that_was_never_visited(
    context: ObjectiveContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.contrast.bank import MemoryBank
    from codir.losses import contrastive

    monkeypatch.setattr(contrastive, "SUMMARY_ROWS", 10)
    whole = MemoryBank(200, 4, seed=1)
    kept = contrastive.bank_summary(whole, None)
    assert kept["rows"].shape == (10, 4)
    assert len(set(kept["ids"].tolist())) == 10
    assert torch.equal(kept["ids"], contrastive.bank_summary(whole, None)["ids"])
    assert torch.equal(kept["rows"], whole.rows(kept["ids"]))
    assert "labels" not in kept
    lazy = MemoryBank(50, 4, seed=1, start="lazy")
    assert contrastive.bank_summary(lazy, None)["rows"].shape == (0, 4)
    lazy.update(torch.tensor([3, 7]), torch.nn.functional.normalize(torch.ones(2, 4), dim=1))
    assert contrastive.bank_summary(lazy, None)["ids"].tolist() == [3, 7]
