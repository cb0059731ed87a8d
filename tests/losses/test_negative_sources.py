"""Negatives of the mini-batch and of the queue, against plain loops in float64, and everything around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from codir.errors import ConfigError, DataError, RunError
from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD, CRDSettings
from codir.losses.crd_official import OfficialCRDSettings
from codir.losses.negative_sources.bank import MiniBatchBank
from codir.losses.negative_sources.batch import LiveMiniBatch
from codir.losses.negative_sources.queue import QueueSource
from codir.losses.registry import build_objectives, check_objectives

MakeStep = Callable[..., Step]


@pytest.fixture
def corpus(context: ObjectiveContext) -> ObjectiveContext:
    return replace(context, labels=None, kind="masked-lm", num_classes=100, teacher_space=None)


def build(context: ObjectiveContext, **settings: Any) -> CRD:
    objective = build_objectives({"crd": {"dim": 4, **settings}}, context)["crd"]
    assert isinstance(objective, CRD)
    return objective


class Naive:
    """The definitions of the three sources, with the rows as lists and one anchor at a time."""

    def __init__(self, objective: CRD, negatives: str, gradient: bool = False, queue_size: int = 0):
        self.negatives, self.gradient, self.size = negatives, gradient, queue_size
        self.weights = {
            name: parameter.detach().double().requires_grad_()
            for name, parameter in objective.named_parameters()
        }
        self.bank: dict[int, Tensor] = {}
        if negatives == "in-batch-bank":
            self.bank = dict(enumerate(objective.bank.rows(torch.arange(24)).double()))
        self.queue: list[tuple[int, Tensor]] = []
        self.kept: list[tuple[int, Tensor]] = []

    def project(self, side: str, pooled: Tensor) -> Tensor:
        weight, bias = (self.weights[f"{side}_projection.linear.{part}"] for part in ("weight", "bias"))
        return normalize(weight @ pooled.flatten() + bias, dim=0)

    def loss(self, step: Step) -> tuple[Tensor, dict[str, float], Tensor]:
        """Loss, metrics, and the leaf of the student's blocks in float64."""
        assert step.teacher is not None
        ids = step.ids.tolist()
        whole = ids if step.batch_ids is None else step.batch_ids.tolist()
        leaf = step.student.pooled["mean"].detach().double().requires_grad_()
        student = [self.project("student", row) for row in leaf]
        teacher = [self.project("teacher", row.double()) for row in step.teacher.pooled["mean"]]
        losses, first, counts, right, wrong = [], 0, 0, 0.0, 0.0
        for b, own in enumerate(ids):
            if self.negatives == "in-batch-bank":
                rows = [self.bank[i] for i in sorted(set(whole)) if i != own]
            elif self.negatives == "in-batch":
                last = dict(zip(ids, student, strict=True))
                rows = [h if self.gradient else h.detach() for i, h in last.items() if i != own]
            else:
                rows = [h for i, h in self.queue if i != own]
            positive = torch.exp(teacher[b] @ student[b] / 0.07)
            others = [torch.exp(teacher[b] @ row / 0.07) for row in rows]
            losses.append(-torch.log(positive / sum(others, positive)))
            first += all(bool(positive > value) for value in others)
            counts += len(rows)
            right += (teacher[b] @ student[b]).item()
            wrong += sum((teacher[b] @ row).item() for row in rows) / max(len(rows), 1)
        self.kept += [(i, h.detach()) for i, h in zip(ids, student, strict=True)]
        metrics = {
            "accuracy": first / len(ids),
            "negatives": counts / len(ids),
            "positive": right / len(ids),
            "negative": wrong / len(ids),
        }
        return torch.stack(losses).mean(), metrics, leaf

    def after_step(self) -> None:
        last = dict(self.kept)
        for i, h in last.items():
            if i in self.bank:
                self.bank[i] = normalize(0.5 * self.bank[i] + 0.5 * h, dim=0)
        self.queue = (self.queue + sorted(last.items(), key=lambda item: item[0]))[
            -self.size or len(self.queue) :
        ]
        self.kept = []


# Steps of micro-batches: plain, accumulated, with an example twice, of one example, and a large one.
STEPS = [[[0, 1, 5, 6]], [[7, 1], [2, 0]], [[3, 8, 3, 9]], [[23]], [[0, 1, 2, 3, 4, 5]], [[2, 2]]]


@pytest.mark.parametrize(
    "settings",
    [
        {},  # what `auto` is for masked language models
        {"negatives": "in-batch-bank", "k": 500},  # more than there are: all of them
        {"negatives": "in-batch"},
        {"negatives": "in-batch", "negatives_gradient": True},
        {"negatives": "queue", "queue_size": 7},
    ],
)
def test_several_steps_against_plain_loops(corpus, make_step: MakeStep, settings: dict[str, Any]) -> None:
    objective = build(corpus, **settings)
    naive = Naive(
        objective,
        settings.get("negatives", "in-batch-bank"),
        settings.get("negatives_gradient", False),
        settings.get("queue_size", 0),
    )
    optimizers = [
        torch.optim.SGD(values, lr=0.2) for values in (objective.parameters(), naive.weights.values())
    ]
    for number, micro in enumerate(STEPS * 2):
        batch_ids = torch.tensor([i for ids in micro for i in ids])
        for ids in micro:
            step = replace(make_step(ids, seed=number, labels=torch.zeros(24)), batch_ids=batch_ids)
            expected, metrics, leaf = naive.loss(step)
            term = objective(step)
            assert term.loss.dtype == torch.float32
            assert term.loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
            found = {name: value.item() for name, value in term.metrics.items()}
            assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)
            term.loss.backward()
            expected.backward()
            gradient = step.student.pooled["mean"].grad
            assert gradient is not None
            assert leaf.grad is not None
            torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-3, atol=1e-4)
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            torch.testing.assert_close(gradient, naive.weights[name].grad, rtol=1e-3, atol=1e-4)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        objective.after_step()
        naive.after_step()
    if naive.bank:
        bank = torch.stack([naive.bank[i] for i in range(24)])
        torch.testing.assert_close(objective.bank.rows(torch.arange(24)).double(), bank, atol=1e-4, rtol=1e-4)
    if naive.size:
        assert isinstance(objective.source, QueueSource)
        assert sorted(objective.source.queue.ids.tolist()) == sorted(i for i, _ in naive.queue)


def test_what_auto_means(context, regression, corpus) -> None:
    assert isinstance(build(corpus).source, MiniBatchBank)
    assert build(corpus).source.k == "all"
    assert CRDSettings().k == OfficialCRDSettings().k == "auto"
    large = replace(context, examples=600, labels=torch.arange(600) % 3)
    assert build(large).source.k == 500
    assert build(large).sampler.name == "different-label"
    assert build(replace(regression, examples=600, labels=torch.rand(600))).sampler.name == "any"
    with pytest.raises(ConfigError, match=r"crd\.k=500 .*N=24"):
        build(context)


@pytest.mark.parametrize("k", [1, 5, "all"])
def test_any_draws_from_the_whole_bank_of_a_corpus(corpus, make_step: MakeStep, k) -> None:
    objective = build(corpus, negatives="any", k=k)
    term = objective(make_step([0, 3], labels=torch.zeros(24)))
    term.loss.backward()
    assert term.loss > 0


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch", "queue"])
def test_k_of_them_at_random(context, make_step: MakeStep, negatives: str, sharing: str) -> None:
    objective = build(context, negatives=negatives, k=2, sharing=sharing, queue_size=16)
    every = build(context, negatives=negatives, queue_size=16)
    for each in (objective, every):
        each(make_step([4, 5, 6, 7, 4, 0]))
        each.after_step()
    step = make_step([0, 1, 2, 3, 3], seed=1)
    term, most = objective(step), every(step).loss
    assert term.metrics["negatives"] == 2
    assert every(step).metrics["negatives"] > 2
    losses = [objective(step).loss.item() for _ in range(20)]
    assert len(set(losses)) > 1  # drawn anew each time
    assert all(loss < most + 1e-6 for loss in losses)  # fewer of the same
    objective.eval()
    state = objective.source.generator.get_state()
    assert objective(step).metrics["negatives"] == 2
    assert torch.equal(objective.source.generator.get_state(), state)


def test_in_batch_needs_no_bank(context) -> None:
    objective = build(context, negatives="in-batch")
    assert set(objective.extra_state()) == {"generator"}
    assert isinstance(objective.source, LiveMiniBatch)
    for missing in ("bank", "sampler"):
        with pytest.raises(ConfigError, match="in-batch"):
            getattr(objective, missing)


@pytest.mark.parametrize(
    ("settings", "flows"),
    [
        ({"negatives": "in-batch"}, False),
        ({"negatives": "in-batch", "negatives_gradient": True}, True),
        ({"negatives": "in-batch-bank"}, False),
        ({"negatives": "queue"}, False),
    ],
)
def test_gradient_flows_through_negatives_only_if_asked_for(
    context, make_step: MakeStep, settings, flows
) -> None:
    objective, step = build(context, **settings), make_step([0, 1])
    objective(step)
    objective.after_step()  # now there is something in the queue
    live = normalize(torch.tensor([[-1.0, 0.2, 0, 0], [0.9, 0, 0.3, 0]]), dim=1)
    # Row 1 has no gradient as the positive of its own anchor, which is zero; it is the negative of the other one.
    anchor = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    live.requires_grad_()
    objective.source.contrast(step, anchor, live).loss.backward()
    assert live.grad is not None
    assert live.grad[0].abs().sum() > 0
    assert bool(live.grad[1].abs().sum() > 0) == flows
    for value in objective.extra_state().values():
        assert not value.requires_grad


@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch", "queue"])
def test_a_batch_of_one_has_loss_zero(corpus, make_step: MakeStep, negatives: str) -> None:
    objective = build(corpus, negatives=negatives)
    for ids in ([3], [3, 3]):  # an example twice is still one
        step = make_step(ids, labels=torch.zeros(24))
        term = objective(step)
        term.loss.backward()
        assert term.loss.item() == 0
        assert term.metrics["negatives"].item() == 0
        gradient = step.student.pooled["mean"].grad
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros(len(ids), 2, 3))
        assert all(bool((parameter.grad == 0).all()) for parameter in objective.parameters())
        objective.after_step()


@pytest.mark.parametrize("negatives", ["in-batch-bank", "queue"])
def test_only_whole_training_steps_write(corpus, make_step: MakeStep, negatives: str) -> None:
    objective = build(corpus, negatives=negatives)
    before = {key: value.clone() for key, value in objective.extra_state().items()}

    def unchanged() -> bool:
        return all(torch.equal(value, before[key]) for key, value in objective.extra_state().items())

    step = make_step([0, 1, 2], labels=torch.zeros(24))
    objective.eval()
    objective(step)
    objective.after_step()
    assert unchanged()
    objective.train()
    objective(step)
    assert unchanged()
    objective.discard_step()
    objective.after_step()
    assert unchanged()
    objective(step)
    objective.after_step()
    assert not unchanged()


def run(objective: CRD, make_step: MakeStep, start: int, stop: int) -> list[float]:
    losses = []
    for number in range(start, stop):
        step = make_step([number, (3 * number + 1) % 24, 11], seed=number, labels=torch.zeros(24))
        losses.append(objective(step).loss.item())
        objective.after_step()
    return losses


@pytest.mark.parametrize("k", ["auto", 1])
@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch", "queue"])
def test_restored_state_goes_on_bit_for_bit(corpus, make_step: MakeStep, negatives: str, k) -> None:
    settings: dict[str, Any] = {"negatives": negatives, "k": k, "queue_size": 7}
    objective = build(corpus, **settings)
    run(objective, make_step, 0, 4)
    state = {key: value.clone() for key, value in objective.extra_state().items()}
    parameters = {key: value.clone() for key, value in objective.state_dict().items()}
    expected = run(objective, make_step, 4, 9)
    # Of the bank of a corpus, rows never visited are computed from the seed, which belongs to the run.
    restored = build(corpus if negatives == "in-batch-bank" else replace(corpus, seed=77), **settings)
    run(restored, make_step, 2, 3)
    restored.load_state_dict(parameters)
    restored.load_extra_state(state)
    assert run(restored, make_step, 4, 9) == expected
    for key, value in restored.extra_state().items():
        assert torch.equal(value, objective.extra_state()[key])


def test_state_of_other_negatives_is_refused(corpus) -> None:
    queue, bank, live = (build(corpus, negatives=name) for name in ("queue", "in-batch-bank", "in-batch"))
    for objective, state in ((bank, queue), (queue, bank), (live, bank), (live, queue)):
        with pytest.raises(RunError, match="does not have"):
            objective.load_extra_state(state.extra_state())
    with pytest.raises(RunError, match=r"missing.*\(4096, 4\)"):
        queue.load_extra_state(live.extra_state())
    with pytest.raises(RunError, match=r"\(4096, 4\).*\(8, 4\)"):
        build(corpus, negatives="queue", queue_size=8).load_extra_state(queue.extra_state())


def test_accumulated_batches_read_the_bank_once(corpus, make_step: MakeStep) -> None:
    objective = build(corpus)
    reads = 0
    rows = objective.bank.rows

    def counted(ids: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        return rows(ids)

    objective.bank.rows = counted  # type: ignore[method-assign]
    for _ in range(2):
        batch_ids = torch.tensor([0, 1, 2, 3])
        for ids in ([0, 1], [2, 3]):
            objective(replace(make_step(ids, labels=torch.zeros(24)), batch_ids=batch_ids))
        objective.after_step()
    assert reads == 2  # once in each step: the rows have changed in between


@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch", "queue"])
def test_half_precision_and_autocast_change_nothing_but_rounding(corpus, make_step, negatives) -> None:
    losses = []
    for mixed in (False, True):
        objective = build(corpus, negatives=negatives)
        # Representations so alike that every cosine is near 1, where exp(cos / 0.07) is beyond half precision.
        for projection in (objective.teacher_projection, objective.student_projection):
            projection.linear.bias.data = torch.tensor([100.0, 1.0, 0.0, 0.0])
        for seed in range(2):
            step = make_step([0, 1, 2], seed=seed, labels=torch.zeros(24))
            if mixed:
                step.student.pooled["mean"] = step.student.pooled["mean"].detach().bfloat16()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                term = objective(step)
            objective.after_step()
            assert term.loss.dtype == torch.float32
            losses.append(term.loss.item())
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-2, abs=1e-3)


def test_prefill_of_the_bank_of_the_mini_batch(context, make_step: MakeStep) -> None:
    objective, step = build(context, negatives="in-batch-bank", bank_init="student"), make_step([3, 8])
    objective.prefill(step.ids, step.student)
    expected = objective.student_projection(step.student.pooled["mean"])
    torch.testing.assert_close(objective.bank.rows(step.ids), expected.detach())


def test_describe(corpus) -> None:
    known = replace(corpus, batch=16, micro_batch=8)
    assert "mini-batch, K = all 15" in "\n".join(build(known).describe())
    assert "memory bank: 24 x 4" in "\n".join(build(known).describe())
    text = "\n".join(build(known, negatives="in-batch", negatives_gradient=True).describe())
    assert "K = all 7, with gradient" in text
    text = "\n".join(build(known, negatives="queue", queue_size=100, k=9).describe())
    assert "the last 100 embeddings, K = 9, shared; 2.4 kB" in text


@pytest.mark.parametrize(
    ("settings", "change", "kind", "message"),
    [
        ({"negatives": "different-label"}, {}, ConfigError, "no labels in a corpus"),
        ({"negatives": "hard"}, {}, ConfigError, "a pre-training has none"),
        ({"negatives": "in-batchbank"}, {}, ConfigError, "did you mean 'in-batch-bank'"),
        ({"k": 0}, {}, ConfigError, r"crd\.k=0 "),
        ({}, {"batch": 1}, ConfigError, "1 example in a mini-batch"),
        (
            {"negatives": "in-batch"},
            {"batch": 8, "micro_batch": 1},
            ConfigError,
            "1 example computed at a time",
        ),
        ({"negatives": "in-batch"}, {"batch": 1}, ConfigError, "1 example computed at a time"),
        ({"negatives": "queue", "queue_size": 7}, {"batch": 8}, ConfigError, "queue_size=7 .* 8 examples"),
        ({"negatives_gradient": True}, {}, ConfigError, "negatives: in-batch-bank: only live"),
        ({"negatives": "queue", "bank_init": "student"}, {}, ConfigError, "queue has none"),
        (
            {"negatives": "in-batch", "bank_init": "student"},
            {"kind": "regression"},
            ConfigError,
            "in-batch has none",
        ),
        ({"bank_init": "student"}, {}, ConfigError, "not done with a corpus"),
        ({}, {"examples": 1}, DataError, "more data"),
    ],
)
def test_refusals(corpus, settings, change, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        check_objectives({"crd": settings}, replace(corpus, **change))


def test_what_is_not_refused(corpus) -> None:
    for settings, change in (
        ({}, {"batch": 2, "micro_batch": 1}),
        ({"negatives": "in-batch"}, {"batch": 8, "micro_batch": 2}),
        ({"negatives": "queue", "queue_size": 8}, {"batch": 8, "micro_batch": 1}),
        ({"negatives": "queue"}, {"batch": 1}),
        ({"k": 500}, {"batch": 8}),
    ):
        check_objectives({"crd": settings}, replace(corpus, **change))


def test_the_official_objective_has_none_of_them(corpus, context) -> None:
    with pytest.raises(ConfigError, match="'crd', or negatives: any"):
        check_objectives({"crd_official": {}}, corpus)
    with pytest.raises(ConfigError, match="no sampler of negatives"):
        check_objectives({"crd_official": {"negatives": "in-batch"}}, context)
