"""`crd` against a naive version in float64 over several steps, for every source of negatives, and all around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from codir.contrast.bank import Bank
from codir.errors import ConfigError, DataError
from codir.losses import contrastive
from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD, CRDSettings
from codir.losses.crd_official import OfficialCRDSettings
from codir.losses.registry import build_objectives, check_objectives, needs_of

MakeStep = Callable[..., Step]


def build(context: ObjectiveContext, **settings: Any) -> CRD:
    objective = build_objectives({"crd": {"dim": 4, "k": 5, **settings}}, context)["crd"]
    assert isinstance(objective, CRD)
    return objective


def bank_of(objective: CRD) -> Bank:
    assert objective.bank is not None
    return objective.bank


def drawn(objective: CRD, step: Step) -> list[list[int]]:
    """The rows that the next forward pass will draw for each anchor."""
    assert objective.sampler is not None
    if objective.k == "all":
        return [row.nonzero().flatten().tolist() for row in objective.sampler.admissible(step.ids)]
    state = objective.generator.get_state()
    ids, group, mask = objective.sampler.draw(step.ids, objective.k)
    objective.generator.set_state(state)
    keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return [ids[g][keep[g]].tolist() for g in group.tolist()]


class Naive:
    """The definitions, with the rows as lists and one anchor at a time, in float64."""

    def __init__(self, objective: CRD, settings: dict[str, Any]):
        self.objective, self.negatives = objective, settings.get("negatives", "")
        self.gradient, self.beta = settings.get("negatives_gradient", False), settings.get("momentum", 0.5)
        self.how = settings.get("pooling", "mean")
        self.weights = {
            name: parameter.detach().double().requires_grad_() for name, parameter in objective.named_parameters()
        }
        self.bank: dict[int, Tensor] = {}
        if self.negatives != "in-batch":
            self.bank = dict(enumerate(bank_of(objective).rows(torch.arange(24)).double()))
        self.kept: list[tuple[int, Tensor]] = []

    def project(self, side: str, pooled: Tensor) -> Tensor:
        layers = getattr(self.objective, f"{side}_projection").layers
        weight, bias = (self.weights[f"{side}_projection.linear.{part}"] for part in ("weight", "bias"))
        return normalize(weight @ torch.cat([pooled[layer - 1] for layer in layers]) + bias, dim=0)

    def rows(self, step: Step, student: list[Tensor]) -> list[list[Tensor]]:
        ids = step.ids.tolist()
        if self.negatives == "in-batch-bank":
            whole = ids if step.batch_ids is None else step.batch_ids.tolist()
            return [[self.bank[i] for i in sorted(set(whole)) if i != own] for own in ids]
        if self.negatives == "in-batch":
            last = dict(zip(ids, student, strict=True))
            return [[h if self.gradient else h.detach() for i, h in last.items() if i != own] for own in ids]
        return [[self.bank[i] for i in row] for row in drawn(self.objective, step)]

    def loss(self, step: Step) -> tuple[Tensor, dict[str, float], Tensor]:
        """Loss, metrics, and the leaf of the student's layers in float64."""
        assert step.teacher is not None
        ids = step.ids.tolist()
        leaf = step.student.pooled[self.how].detach().double().requires_grad_()
        student = [self.project("student", row) for row in leaf]
        teacher = [self.project("teacher", row.double()) for row in step.teacher.pooled[self.how]]
        losses, first, counts, right, wrong = [], 0, 0, 0.0, 0.0
        for b, rows in enumerate(self.rows(step, student)):
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
            "positive": right / len(ids),
            "negative": wrong / len(ids),
        }
        if self.negatives.startswith("in-batch"):
            metrics["negatives"] = counts / len(ids)
        return torch.stack(losses).mean(), metrics, leaf

    def after_step(self) -> None:
        for i, h in dict(self.kept).items():  # the last embedding of an example counts
            if i in self.bank:
                self.bank[i] = normalize(self.beta * self.bank[i] + (1 - self.beta) * h, dim=0)
        self.kept = []


# Steps of micro-batches: plain, accumulated, with an example twice, of one example, and a large one.
STEPS = [[[0, 1, 5, 6]], [[7, 1], [2, 0]], [[3, 8, 3, 9]], [[23]], [[0, 1, 2, 3, 4, 5]], [[2, 2]]]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sharing": "independent", "negatives": "any", "momentum": 0.9},
        {"k": "all", "pooling": "cls"},
        {"k": "all", "negatives": "any", "teacher_layers": "every-other", "student_layers": [2]},
        {"negatives": "hard", "teacher_layers": [4, 1], "max_similarity": 0.4},
        {"negatives": "in-batch-bank", "k": "auto"},
        {"negatives": "in-batch-bank", "k": 500},  # more than there are: all of them
        {"negatives": "in-batch", "k": "auto"},
        {"negatives": "in-batch", "k": "auto", "negatives_gradient": True},
    ],
    ids=str,
)
def test_several_steps_against_plain_loops(context, make_step: MakeStep, settings: dict[str, Any]) -> None:
    objective = build(context, **settings)
    naive = Naive(objective, settings)
    optimizers = [torch.optim.SGD(values, lr=0.2) for values in (objective.parameters(), naive.weights.values())]
    for number, micro in enumerate(STEPS * 2):
        batch_ids = torch.tensor([i for ids in micro for i in ids])
        for ids in micro:
            step = replace(make_step(ids, seed=number), batch_ids=batch_ids)
            expected, metrics, leaf = naive.loss(step)
            before = bank_of(objective).data.clone() if naive.bank else None
            term = objective(step)
            assert term.loss.dtype == torch.float32
            assert term.loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
            found = {name: value.item() for name, value in term.metrics.items()}
            assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)
            term.loss.backward()
            expected.backward()
            gradient = step.student.pooled[naive.how].grad
            assert gradient is not None
            assert leaf.grad is not None
            torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-3, atol=1e-4)
            if before is not None:
                assert torch.equal(bank_of(objective).data, before)  # not written before the optimiser's step
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad.double(), naive.weights[name].grad, rtol=1e-3, atol=1e-4)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        objective.after_step(True)
        naive.after_step()
    if naive.bank:
        bank = torch.stack([naive.bank[i] for i in range(24)])
        torch.testing.assert_close(bank_of(objective).data.double(), bank, atol=1e-4, rtol=1e-4)


SOURCES = [
    {"negatives": "different-label"},
    {"negatives": "different-label", "k": "all"},
    {"negatives": "in-batch-bank", "k": "all"},
    {"negatives": "in-batch", "k": "all"},
    {"negatives": "in-batch", "k": "all", "negatives_gradient": True},
]
each_source = pytest.mark.parametrize("settings", SOURCES, ids=str)


@each_source
def test_gradient_flows_through_negatives_only_if_asked_for(context, make_step: MakeStep, settings) -> None:
    objective, step = build(context, **settings), make_step([0, 1])
    # Row 1 has no gradient as the positive of its own anchor, which is zero; it is the negative of the other one.
    anchor = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    live = normalize(torch.tensor([[-1.0, 0.2, 0, 0], [0.9, 0, 0.3, 0]]), dim=1).requires_grad_()
    objective.contrast(step, anchor, live).loss.backward()
    assert live.grad is not None
    assert live.grad[0].abs().sum() > 0
    assert bool(live.grad[1].abs().sum() > 0) == settings.get("negatives_gradient", False)
    assert not any(buffer.requires_grad for buffer in objective.buffers())
    objective(step).loss.backward()
    assert step.student.pooled["cls"].grad is None


@each_source
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_change_nothing_but_rounding(context, make_step, settings, dtype) -> None:
    losses = []
    for mixed in (False, True):
        objective = build(context, **settings)
        # Representations so alike that every cosine is near 1, where exp(cos / 0.07) is beyond half precision.
        for projection in (objective.teacher_projection, objective.student_projection):
            projection.linear.bias.data = torch.tensor([100.0, 1.0, 0.0, 0.0])
        if objective.bank is not None:
            objective.bank.data[:] = normalize(torch.tensor([1.0, 0.01, 0.0, 0.0]), dim=0)
        step = make_step([0, 1, 2])
        if mixed:
            step.student.pooled["mean"] = step.student.pooled["mean"].detach().to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            term = objective(step)
        assert term.loss.dtype == torch.float32
        losses.append(term.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2, abs=1e-3)


@each_source
def test_only_whole_training_steps_write(context, make_step: MakeStep, settings) -> None:
    objective, step = build(context, **settings), make_step([0, 1, 2])
    before = [buffer.clone() for buffer in objective.buffers()]

    def unchanged() -> bool:
        return all(torch.equal(*each) for each in zip(objective.buffers(), before, strict=True))

    objective.eval()
    objective(step)
    objective.after_step(True)
    assert unchanged()
    objective.train()
    objective(step)
    assert unchanged()
    objective.after_step(False)  # the step was abandoned
    objective.after_step(True)
    assert unchanged()
    objective(step)
    objective.after_step(True)
    assert unchanged() == (settings["negatives"] == "in-batch")
    once = [buffer.clone() for buffer in objective.buffers()]
    objective.after_step(True)  # nothing is pending any more
    assert all(torch.equal(*each) for each in zip(objective.buffers(), once, strict=True))


def run(objective: CRD, make_step: MakeStep, start: int, stop: int) -> list[float]:
    losses = []
    for number in range(start, stop):
        term = objective(make_step([number, (3 * number + 1) % 24, 11], seed=number))
        objective.after_step(True)
        losses.append(term.loss.item())
    return losses


@pytest.mark.parametrize("k", [2, "all"])
@pytest.mark.parametrize("negatives", ["different-label", "any", "hard", "in-batch-bank", "in-batch"])
def test_restored_state_goes_on_bit_for_bit(context, make_step: MakeStep, negatives: str, k) -> None:
    if (negatives, k) == ("hard", "all"):
        return
    objective = build(context, negatives=negatives, k=k)
    run(objective, make_step, 0, 4)
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    expected = run(objective, make_step, 4, 9)
    # The index of hard negatives belongs to the seed; all else is in the state.
    restored = build(context if negatives == "hard" else replace(context, seed=77), negatives=negatives, k=k)
    restored(make_step([20, 21]))  # pending when the state is loaded
    restored.load_state_dict(state)
    assert run(restored, make_step, 4, 9) == expected
    for key, value in restored.state_dict().items():
        assert torch.equal(value, objective.state_dict()[key])


def test_the_bank_and_the_generator_are_in_the_modules_state(context) -> None:
    expected = {
        *(f"{side}_projection.linear.{part}" for side in ("teacher", "student") for part in ("weight", "bias")),
        "_extra_state",
    }
    assert set(build(context, negatives="in-batch").state_dict()) == expected
    objective = build(context)
    assert set(objective.state_dict()) == expected | {"bank.data"}
    with pytest.raises(RuntimeError, match=r"size mismatch for bank\.data"):
        build(replace(context, examples=23, labels=torch.arange(23) % 3)).load_state_dict(objective.state_dict())


def test_same_seed_same_start_whatever_happened_before(context) -> None:
    first = build(context)
    torch.randn(7)
    state = torch.get_rng_state()
    second = build(context)
    assert torch.equal(torch.get_rng_state(), state)  # and the global generator is left alone
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    other = build(replace(context, seed=2))
    assert not torch.equal(first.student_projection.linear.weight, other.student_projection.linear.weight)
    assert not torch.equal(bank_of(first).data, bank_of(other).data)


def test_what_auto_means(context, regression, corpus) -> None:
    assert (build(corpus, k="auto").negatives, build(corpus, k="auto").k) == ("in-batch-bank", "all")
    assert CRDSettings().k == OfficialCRDSettings().k == "auto"
    large = replace(context, examples=600, labels=torch.arange(600) % 3)
    for of, name in (
        (large, "different-label"),
        (replace(regression, examples=600, labels=torch.rand(600)), "any"),
    ):
        objective = build(of, k="auto")
        assert objective.sampler is not None
        assert (objective.k, objective.sampler.name) == (500, name)
    assert build(context, negatives="in-batch").bank is None
    with pytest.raises(ConfigError, match=r"crd\.k=500 .*N=24"):
        build(context, k="auto")
    assert needs_of({"crd": {"pooling": "cls"}}).pooled == {"cls"}


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch"])
def test_k_of_them_at_random(context, make_step: MakeStep, negatives: str, sharing: str) -> None:
    objective = build(context, negatives=negatives, k=2, sharing=sharing)
    step = make_step([0, 1, 2, 3, 3], seed=1)
    most = build(context, negatives=negatives, k="all")(step)
    assert most.metrics["negatives"] > 2
    losses = []
    for _ in range(20):
        term = objective(step)
        assert term.metrics["negatives"] == 2
        losses.append(term.loss.item())
    assert len(set(losses)) > 1  # drawn anew each time
    assert all(loss < most.loss.item() + 1e-6 for loss in losses)  # fewer of the same


@pytest.mark.parametrize("negatives", ["in-batch-bank", "in-batch"])
def test_a_batch_of_one_has_loss_zero(corpus, make_step: MakeStep, negatives: str) -> None:
    objective = build(corpus, negatives=negatives, k="all")
    for ids in ([3], [3, 3]):  # an example twice is still one
        step = make_step(ids, labels=torch.zeros(24))
        term = objective(step)
        term.loss.backward()
        assert term.loss.item() == 0
        assert term.metrics["negatives"].item() == 0
        gradient = step.student.pooled["mean"].grad
        assert gradient is not None
        assert not gradient.any()
        assert not any(bool(parameter.grad.any()) for parameter in objective.parameters())
        objective.after_step(True)


def test_accumulated_batches_read_the_bank_once(corpus, make_step: MakeStep) -> None:
    objective = build(corpus, k="all")
    reads, rows = 0, bank_of(objective).rows

    def counted(ids: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        return rows(ids)

    bank_of(objective).rows = counted  # type: ignore[method-assign]
    for _ in range(2):
        batch_ids = torch.tensor([0, 1, 2, 3])
        for ids in ([0, 1], [2, 3]):
            objective(replace(make_step(ids, labels=torch.zeros(24)), batch_ids=batch_ids))
        objective.after_step(True)
    assert reads == 2  # once in each step: the rows have changed in between


SCORES = {"kind": "regression", "labels": torch.rand(24)}


@pytest.mark.parametrize(
    ("where", "settings", "change", "kind", "message"),
    [
        ("context", {"k": 0}, {}, ConfigError, r"crd\.k=0 .*N=24"),
        ("context", {"k": 25}, {}, ConfigError, r"crd\.k=25 .*N=24"),
        ("context", {}, {"labels": torch.ones(24, dtype=torch.long)}, DataError, "any"),
        ("context", {}, {"labels": None}, DataError, "any"),
        ("context", {"negatives": "different-label"}, SCORES, ConfigError, "negatives: any"),
        (
            "context",
            {"teacher_layers": [5]},
            {},
            ConfigError,
            r"crd\.teacher_layers: Layer 5 .*counted from 1",
        ),
        ("context", {"student_layers": [0]}, {}, ConfigError, r"crd\.student_layers: Layer 0 .*embedding"),
        ("context", {}, {"teacher": None}, ConfigError, "needs a teacher"),
        ("context", {"negatives": "hrd"}, {}, ConfigError, "did you mean 'hard'"),
        ("context", {"negatives": "hard", "k": "all"}, {}, ConfigError, "nothing to choose"),
        ("context", {"negatives": "hard"}, {"teacher_space": None}, ConfigError, "--no-cache"),
        ("context", {"k": 1, "negatives": "any"}, {"examples": 1}, DataError, "more data"),
        ("context", {"bank_storage": "gpu"}, {}, ConfigError, "use auto or cpu"),
        ("context", {"dim": 4 * 10**9}, {}, ConfigError, "dim=4000000000 takes .* of memory"),
        ("corpus", {"negatives": "different-label"}, {}, ConfigError, "no labels in a corpus"),
        ("corpus", {"negatives": "hard"}, {}, ConfigError, "a pre-training has none"),
        ("corpus", {"negatives": "in-batchbank"}, {}, ConfigError, "did you mean 'in-batch-bank'"),
        ("corpus", {}, {"batch": 1}, ConfigError, "1 example in a mini-batch"),
        (
            "corpus",
            {"negatives": "in-batch"},
            {"batch": 8, "micro_batch": 1},
            ConfigError,
            "1 example computed",
        ),
        ("corpus", {"negatives_gradient": True}, {}, ConfigError, "negatives: in-batch-bank: only live"),
    ],
)
def test_refusals(request, where, settings, change, kind, message: str) -> None:
    context = replace(request.getfixturevalue(where), **change)
    with pytest.raises(kind, match=message):
        check_objectives({"crd": {"k": "auto" if where == "corpus" else 5, **settings}}, context)


def test_describe(context, corpus) -> None:
    text = "\n".join(build(context, teacher_layers="every-other").describe())
    assert "teacher layers: 2, 4 of 1..4, embeddings excluded" in text
    assert "student layers: 1, 2 of 1..2" in text
    assert "negatives: different-label, K = 5, shared" in text
    assert "24 x 4, 384 B" in text
    known = replace(corpus, batch=16, micro_batch=8)
    text = "\n".join(build(known, k="auto", bank_dtype="float16").describe())
    assert "mini-batch, K = all 15" in text
    assert "memory bank: 24 x 4 float16, 192 B on cpu" in text
    text = "\n".join(build(known, k="auto", negatives="in-batch", negatives_gradient=True).describe())
    assert "K = all 7, with gradient" in text


@pytest.mark.parametrize("negatives", ["different-label", "in-batch-bank", "in-batch"])
def test_what_is_kept_to_be_looked_at(context: ObjectiveContext, make_step: Any, negatives: str) -> None:
    objective = build(context, negatives=negatives)
    run(objective, make_step, 0, 2)
    generator = torch.random.get_rng_state()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    kept = objective.summary()
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    for side, projection, blocks in (
        ("teacher", objective.teacher_projection, [1, 2, 3, 4]),
        ("student", objective.student_projection, [1, 2]),
    ):
        assert torch.equal(kept[f"{side}.weight"], projection.linear.weight)
        assert torch.equal(kept[f"{side}.bias"], projection.linear.bias)
        assert kept[f"{side}.layers"].tolist() == blocks
    if negatives == "in-batch":
        assert "rows" not in kept
        return
    assert context.labels is not None
    assert kept["ids"].tolist() == list(range(24))
    assert torch.equal(kept["labels"], context.labels[kept["ids"]])
    assert torch.equal(kept["rows"], bank_of(objective).rows(kept["ids"]))


def test_of_a_large_bank_few_rows_are_kept(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "SUMMARY_ROWS", 10)
    objective = build(replace(corpus, examples=200))
    kept, again = objective.summary(), objective.summary()
    assert kept["rows"].shape == (10, 4)
    assert len(set(kept["ids"].tolist())) == 10
    assert torch.equal(kept["ids"], again["ids"])
    assert torch.equal(kept["rows"], bank_of(objective).rows(kept["ids"]))
    assert "labels" not in kept


def test_the_official_loss_has_no_negatives_of_the_mini_batch(corpus, context) -> None:
    with pytest.raises(ConfigError, match="'crd', or negatives: any"):
        check_objectives({"crd_official": {}}, corpus)
    with pytest.raises(ConfigError, match="no sampler of negatives"):
        check_objectives({"crd_official": {"negatives": "in-batch"}}, context)
