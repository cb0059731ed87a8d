"""`contrast: blocks`: one contrast for each pair of matched blocks, against plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from codir.contrast.disk_bank import DiskBank
from codir.contrast.negatives import Hard
from codir.errors import ConfigError, RunError
from codir.losses import bank_storage
from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD, CRDSettings
from codir.losses.negative_sources.bank import BankDraws, BankSource
from codir.losses.negative_sources.queue import QueueSource
from codir.losses.registry import build_objectives

MakeStep = Callable[..., Step]
SOURCES: dict[str, dict[str, Any]] = {
    "drawn": {"k": 5},
    "independent": {"k": 5, "negatives": "any", "sharing": "independent", "momentum": 0.9},
    "all": {"k": "all"},
    "hard": {"k": 5, "negatives": "hard", "max_similarity": 0.4},
    "in-batch-bank": {"negatives": "in-batch-bank"},
    "in-batch": {"negatives": "in-batch"},
    "in-batch-gradient": {"negatives": "in-batch", "negatives_gradient": True},
    "queue": {"negatives": "queue", "queue_size": 7},
}
BATCHES = [[0, 1, 5, 6], [7, 1, 2, 0], [3, 8, 3, 9], [23], [0, 1, 2, 3, 4, 5]]


def build(context: ObjectiveContext, **settings: Any) -> CRD:
    mapping = {"crd": {"dim": 4, "contrast": "blocks", **settings}}
    objective = build_objectives(mapping, context)["crd"]
    assert isinstance(objective, CRD)
    return objective


class NaivePair:
    """One pair of blocks in float64: lists of rows, one anchor at a time."""

    def __init__(self, objective: CRD, own: int, other: int, source: dict[str, Any]):
        prefix = f"blocks.block_{own}"
        self.weights = {
            name.removeprefix(f"{prefix}."): parameter.detach().double().requires_grad_()
            for name, parameter in objective.named_parameters()
            if name.startswith(prefix)
        }
        assert len(self.weights) == 4
        self.own, self.other, self.settings = own, other, source
        self.source = objective.contrasts[objective.pairs.index((own, other))].source
        self.bank: list[Tensor] = []
        if isinstance(self.source, BankSource):
            self.bank = list(self.source.bank.rows(torch.arange(24)).double())
        self.queue: list[tuple[int, Tensor]] = []
        self.kept: dict[int, Tensor] = {}

    def project(self, side: str, block: Tensor) -> Tensor:
        weight, bias = (self.weights[f"{side}.linear.{part}"] for part in ("weight", "bias"))
        return normalize(weight @ block + bias, dim=0)

    def negatives(self, step: Step, student: list[Tensor]) -> list[list[Tensor]]:
        """The rows of each anchor; the sampler moves on as it will in the pass that follows."""
        ids, name = step.ids.tolist(), self.settings.get("negatives", "different-label")
        if name == "queue":
            return [[row for i, row in self.queue if i != own] for own in ids]
        if name == "in-batch-bank":
            return [[self.bank[i] for i in sorted(set(ids)) if i != own] for own in ids]
        if name == "in-batch":
            last = dict(zip(ids, student, strict=True))
            keep = self.settings.get("negatives_gradient", False)
            return [[h if keep else h.detach() for i, h in last.items() if i != own] for own in ids]
        assert isinstance(self.source, BankDraws)
        if self.settings["k"] == "all":
            allowed = self.source.sampler.admissible(step.ids)(0, 24)
            return [[self.bank[j] for j in row.nonzero().flatten().tolist()] for row in allowed]
        drawn = self.source.sampler.draw(step.ids, self.settings["k"])
        mask = torch.ones_like(drawn.ids, dtype=torch.bool) if drawn.mask is None else drawn.mask
        return [
            [self.bank[j] for j, kept in zip(drawn.ids[g].tolist(), mask[g].tolist(), strict=True) if kept]
            for g in drawn.group.tolist()
        ]

    def loss(self, step: Step, leaf: Tensor) -> tuple[Tensor, dict[str, float]]:
        assert step.teacher is not None
        student = [self.project("student", row[self.own - 1]) for row in leaf]
        teacher = [
            self.project("teacher", row[self.other - 1].double()) for row in step.teacher.pooled["mean"]
        ]
        losses, first, right, wrong, count = [], 0, 0.0, 0.0, 0
        for b, rows in enumerate(self.negatives(step, student)):
            cosines = [teacher[b] @ row for row in rows]
            positive = teacher[b] @ student[b]
            total = sum((torch.exp(each / 0.07) for each in cosines), torch.exp(positive / 0.07))
            losses.append(torch.log(total) - positive / 0.07)
            first += all(bool(positive > each) for each in cosines)
            right += positive.item()
            wrong += sum(each.item() for each in cosines) / max(len(cosines), 1)
            count += len(cosines)
        self.kept = {i: h.detach() for i, h in zip(step.ids.tolist(), student, strict=True)}
        metrics = {
            "accuracy": first / len(student),
            "positive": right / len(student),
            "negative": wrong / len(student),
        }
        if isinstance(self.source, BankDraws):
            return torch.stack(losses).mean(), metrics
        return torch.stack(losses).mean(), {**metrics, "negatives": count / len(student)}

    def after_step(self) -> None:
        beta = self.settings.get("momentum", 0.5)
        for i, h in self.kept.items():
            if self.bank:
                self.bank[i] = normalize(beta * self.bank[i] + (1 - beta) * h, dim=0)
        self.queue = (self.queue + sorted(self.kept.items()))[-7:]


@pytest.mark.parametrize("matching", ["spread", [[1, 4], [2, 1]], "top"])
@pytest.mark.parametrize("source", SOURCES)
def test_several_steps_against_plain_loops(
    context: ObjectiveContext, make_step: MakeStep, source: str, matching: Any
) -> None:
    objective = build(context, matching=matching, **SOURCES[source])
    pairs = {"spread": [(1, 2), (2, 4)], "top": [(2, 4)]}.get(str(matching), [(1, 4), (2, 1)])
    assert objective.pairs == tuple(pairs)
    naive = [NaivePair(objective, own, other, SOURCES[source]) for own, other in pairs]
    weights = [weight for pair in naive for weight in pair.weights.values()]
    assert len(weights) == len(list(objective.parameters()))
    optimizers = [torch.optim.SGD(values, lr=0.2) for values in (objective.parameters(), weights)]
    for number, ids in enumerate(BATCHES * 2):
        step = make_step(ids, seed=number)
        leaf = step.student.pooled["mean"].detach().double().requires_grad_()
        before = objective.source.generator.get_state()
        results = [pair.loss(step, leaf) for pair in naive]
        objective.source.generator.set_state(before)
        expected = torch.stack([loss for loss, _ in results]).mean()
        term = objective(step)
        assert term.loss.dtype == torch.float32
        assert term.loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
        metrics = {name: sum(m[name] for _, m in results) / len(pairs) for name in results[0][1]}
        if len(pairs) > 1:
            metrics |= {
                f"block_{pair.own}": loss.item() for pair, (loss, _) in zip(naive, results, strict=True)
            }
        found = {name: value.item() for name, value in term.metrics.items()}
        assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        term.loss.backward()
        expected.backward()
        gradient = step.student.pooled["mean"].grad
        assert gradient is not None
        assert leaf.grad is not None
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-3, atol=1e-4)
        for pair in naive:
            for name, weight in pair.weights.items():
                parameter = objective.get_parameter(f"blocks.block_{pair.own}.{name}")
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad.double(), weight.grad, rtol=1e-3, atol=1e-4)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        objective.after_step()
        for pair in naive:
            pair.after_step()
    for pair in naive:
        if isinstance(pair.source, BankSource):
            bank = pair.source.bank.rows(torch.arange(24)).double()
            torch.testing.assert_close(bank, torch.stack(pair.bank), atol=1e-4, rtol=1e-4)
        if isinstance(pair.source, QueueSource):
            assert sorted(pair.source.queue.ids.tolist()) == sorted(i for i, _ in pair.queue)


def test_pairs_have_projections_banks_and_draws_of_their_own(
    context: ObjectiveContext, make_step: MakeStep
) -> None:
    objective = build(context, k=5)
    first, second = objective.contrasts
    assert isinstance(first.source, BankDraws)
    assert isinstance(second.source, BankDraws)
    assert first.source.bank is not second.source.bank
    assert not torch.equal(first.source.bank.data, second.source.bank.data)
    assert not torch.equal(first.student_projection.linear.weight, second.student_projection.linear.weight)
    assert first.source.sampler is second.source.sampler  # one index and one stream of draws
    again = build(context, k=5)
    assert torch.equal(again.bank.data, objective.bank.data)
    other = build(replace(context, seed=2), k=5)
    assert not torch.equal(other.bank.data, objective.bank.data)
    step = make_step([0, 1, 2])
    for position, each in enumerate(objective.contrasts):  # a block has the gradient of its own pair only
        loss = each(step, 0.07, True).loss
        (slope,) = torch.autograd.grad(loss, step.student.pooled["mean"])
        assert slope[:, position].abs().sum() > 0
        assert slope[:, 1 - position].abs().sum() == 0
    assert set(objective.state_dict()) == {
        f"blocks.block_{own}.{side}.linear.{part}"
        for own in (1, 2)
        for side in ("teacher", "student")
        for part in ("weight", "bias")
    }


def test_hard_negatives_have_one_index_for_all_pairs(context: ObjectiveContext) -> None:
    asked = []

    def space(pooling: Any) -> Any:
        asked.append(pooling)
        assert context.teacher_space is not None
        return context.teacher_space(pooling)

    objective = build(replace(context, teacher_space=space), k=5, negatives="hard")
    assert isinstance(objective.sampler, Hard)
    assert len(asked) == 1


def run(objective: CRD, make_step: MakeStep, start: int, stop: int) -> list[float]:
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    losses = []
    for number in range(start, stop):
        term = objective(make_step([number, (3 * number + 1) % 24, 11], seed=number))
        term.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
        losses.append(term.loss.item())
    return losses


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_restored_it_goes_on_bit_for_bit(
    context: ObjectiveContext, make_step: MakeStep, source: str, learned: bool
) -> None:
    settings = {**SOURCES[source], "learn_temperature": learned}
    objective = build(context, **settings)
    run(objective, make_step, 0, 4)
    state = {key: value.clone() for key, value in objective.extra_state().items()}
    assert {key.partition("/")[0] for key in state} == {"block_1", "block_2"}
    parameters = {key: value.clone() for key, value in objective.state_dict().items()}
    expected = run(objective, make_step, 4, 8)
    # Another seed has other banks, draws and projections; only the index of the teacher's space belongs to the seed.
    for seed in (context.seed,) if source == "hard" else (context.seed, 77):
        restored = build(replace(context, seed=seed), **settings)
        restored.load_state_dict(parameters)
        restored.load_extra_state(state)
        assert run(restored, make_step, 4, 8) == expected
        for key, value in objective.extra_state().items():
            assert torch.equal(restored.extra_state()[key], value)


def test_a_checkpoint_of_another_contrast_is_refused(context: ObjectiveContext) -> None:
    whole = build(context, k=5, contrast="concatenated")
    pairs, top = build(context, k=5), build(context, k=5, matching="top")
    with pytest.raises(RunError, match=r"block_1.*start a new one"):
        whole.load_extra_state(pairs.extra_state())
    with pytest.raises(RunError, match=r"\(bank, generator\) are not this run's \(block_1, block_2\)"):
        pairs.load_extra_state(whole.extra_state())
    with pytest.raises(RunError, match=r"\(block_2\) are not this run's \(block_1, block_2\)"):
        pairs.load_extra_state(top.extra_state())
    with pytest.raises(RunError, match=r"\(block_1, block_2\) are not this run's \(block_2\)"):
        top.load_extra_state(pairs.extra_state())


@pytest.mark.parametrize("source", ["drawn", "queue", "in-batch-bank"])
def test_only_whole_training_steps_write(context: ObjectiveContext, make_step: MakeStep, source: str) -> None:
    objective = build(context, **SOURCES[source])
    before = {key: value.clone() for key, value in objective.extra_state().items()}
    objective.eval()
    with torch.no_grad():
        objective(make_step([0, 1]))
    objective.after_step()
    assert all(torch.equal(value, before[key]) for key, value in objective.extra_state().items())
    objective.train()
    objective(make_step([0, 1]))
    objective.discard_step()
    objective.after_step()
    written = {
        key
        for key, value in objective.extra_state().items()
        if not key.endswith("generator") and not torch.equal(value, before[key])
    }
    assert not written
    for ids in ([0, 1], [2, 1]):  # accumulated batches are written together
        objective(make_step(ids))
    objective.after_step()
    for name in ("block_1", "block_2"):
        changed = [
            key
            for key, value in objective.extra_state().items()
            if key.startswith(name) and not key.endswith("generator") and not torch.equal(value, before[key])
        ]
        assert changed


def test_prefill_sets_the_rows_of_every_bank(context: ObjectiveContext, make_step: MakeStep) -> None:
    objective, step = build(context, k=5, bank_init="student"), make_step([3, 8])
    objective.prefill(step.ids, step.student)
    for position, each in enumerate(objective.contrasts):
        assert isinstance(each.source, BankSource)
        linear = each.student_projection.linear
        expected = [
            normalize(linear.weight.double() @ row[position].double() + linear.bias.double(), dim=0)
            for row in step.student.pooled["mean"].detach()
        ]
        torch.testing.assert_close(
            each.source.bank.data[[3, 8]].double(), torch.stack(expected).detach(), atol=1e-5, rtol=1e-5
        )
    without = build(context, k=5)
    before = without.bank.data.clone()
    without.prefill(step.ids, step.student)
    assert torch.equal(without.bank.data, before)


@pytest.fixture
def corpus(context: ObjectiveContext, tmp_path: Path) -> ObjectiveContext:
    return replace(
        context,
        labels=None,
        kind="masked-lm",
        num_classes=100,
        teacher_space=None,
        folder=tmp_path,
        data_key="texts",
    )


def test_banks_on_disk_have_folders_of_their_own(corpus: ObjectiveContext, make_step: MakeStep) -> None:
    objective = build(corpus, bank_storage="disk")
    folders = []
    for each in objective.contrasts:
        assert isinstance(each.source, BankSource)
        assert isinstance(each.source.bank, DiskBank)
        folders.append(each.source.bank.folder)
    assert corpus.folder is not None
    assert folders == [corpus.folder / f"block_{own}" / "bank" for own in (1, 2)]
    states, rows, parameters = {}, {}, {}

    def rows_of(which: CRD) -> list[Tensor]:
        return [
            each.source.bank.data.clone() for each in which.contrasts if isinstance(each.source, BankSource)
        ]

    objective.rewind(0)
    for step in range(1, 6):
        objective(make_step([step, step + 1, 9], seed=step, labels=torch.zeros(24))).loss.backward()
        objective.after_step()
        states[step] = {key: value.clone() for key, value in objective.extra_state().items()}
        parameters[step] = {key: value.clone() for key, value in objective.state_dict().items()}
        rows[step] = rows_of(objective)
        if step in (2, 4):
            objective.checkpoint_saved(step, [2, step])
    again = build(corpus, bank_storage="disk")
    for step in (4, 2):
        again.rewind(step)
        again.load_extra_state(states[step])
        assert all(torch.equal(one, two) for one, two in zip(rows_of(again), rows[step], strict=True))


def test_all_banks_lie_where_all_of_them_fit(
    corpus: ObjectiveContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 24 * 4 * 4  # bytes of a bank
    for free, disk in ((4 * 2 * one, False), (4 * 2 * one - 4, True)):
        monkeypatch.setattr(bank_storage, "available_memory", lambda free=free: free)
        objective = build(corpus)
        for each in objective.contrasts:
            assert isinstance(each.source, BankSource)
            assert isinstance(each.source.bank, DiskBank) == disk
        assert f"memory of 2 banks: {2 * one} B" in "\n".join(objective.describe())


def test_what_is_kept_to_be_looked_at_is_the_last_pair(
    context: ObjectiveContext, make_step: MakeStep
) -> None:
    objective = build(context, k=5)
    objective(make_step([0, 1, 2, 3]))
    objective.after_step()
    kept, last = objective.summary_tensors(), objective.contrasts[-1]
    assert kept["teacher.blocks"].tolist() == [4]
    assert kept["student.blocks"].tolist() == [2]
    assert torch.equal(kept["teacher.weight"], last.teacher_projection.linear.weight)
    assert torch.equal(kept["rows"], objective.bank.rows(kept["ids"]))
    assert "labels" in kept


def test_what_is_said_before_training(context: ObjectiveContext) -> None:
    text = build(context, k=5, learn_temperature=True).describe()
    assert text == [
        "crd: student blocks 1, 2 learn from the teacher's 2, 4 (mean pooling)",
        "of each pair: negatives: different-label, K = 5, shared",
        "of each pair: memory bank: 24 x 4, 384 B on cpu",
        "memory of 2 banks: 768 B",
        "temperature: learned, from 0.07, within [0.01, 1], at 100 learning rates",
    ]
    one = "\n".join(build(context, k=5, matching="top").describe())
    assert "student block 2 learns from the teacher's 4" in one
    assert "of each pair" not in one


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [5, "all"])
def test_half_precision_and_autocast_change_nothing_but_rounding(
    context: ObjectiveContext, make_step: MakeStep, dtype: torch.dtype, k: Any
) -> None:
    plain, mixed = build(context, k=k), build(context, k=k)
    step, half = make_step([0, 1, 2]), make_step([0, 1, 2])
    half.student.pooled["mean"] = half.student.pooled["mean"].detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixed(half).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain(step).loss.item(), rel=2e-2)


def test_smallest_sizes_and_scores(
    context: ObjectiveContext, regression: ObjectiveContext, make_step: MakeStep
) -> None:
    for objective, labels in (
        (build(context, k=1, dim=1, matching="top"), None),
        (build(regression, k=3), regression.labels),
    ):
        term = objective(make_step([0], outputs=1, labels=labels))
        term.loss.backward()
        objective.after_step()
        assert term.loss.isfinite()
        assert all(value.isfinite() for value in term.metrics.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_blocks": "odd"}, r"crd\.teacher_blocks='odd' with contrast: blocks"),
        ({"student_blocks": [1]}, r"crd\.student_blocks=\[1\] with contrast: blocks"),
        ({"matching": [[3, 1]]}, r"crd\.matching: The pair \[3, 1\] names block 3 of the student"),
        ({"matching": [[1, 5]]}, r"crd\.matching: The pair \[1, 5\] names block 5 of the teacher"),
        ({"matching": "spraed"}, "did you mean 'spread'"),
        ({"contrast": "concatenated", "matching": "top"}, r"crd\.matching='top' .*use contrast: blocks"),
        ({"contrast": "block"}, r"crd\.contrast='block'"),
        ({"k": 25}, r"crd\.k=25 .*N=24"),
    ],
)
def test_refusals(context: ObjectiveContext, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(context, **{"k": 5, **settings})


def test_a_deeper_student_needs_pairs(context: ObjectiveContext) -> None:
    deep = replace(context, student=replace(context.student, blocks=6))
    with pytest.raises(ConfigError, match=r"crd\.matching: The student has 6 blocks and the teacher 4"):
        build(deep, k=5)
    assert build(deep, k=5, matching=[[6, 4]]).pairs == ((6, 4),)
    assert CRDSettings().contrast == "concatenated"
