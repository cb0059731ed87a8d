"""Time of one CRD step (forward, backward, bank update) at different N, as ratios from one run.

    python benchmarks/bench_crd_step.py            # N = 10,000; 393,000; 10,000,000 (needs 6 GB of memory)
    python benchmarks/bench_crd_step.py --quick    # smaller N, a few steps: does it run?

fp32, one thread, B = 32, m = 128, K = 1000, three classes as in MNLI. The variants take turns step by step, so that
whatever else the machine does falls on all of them; medians of processor time are compared (one thread: the same
as the time on the clock when the machine is quiet). The reference is a straightforward implementation of the
released code's step: two banks, binary NCE, and for each example a draw without replacement from the ids of the
other classes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from codir.losses.base import Objective, ObjectiveContext, Step
from codir.losses.registry import build_objectives
from codir.models.representations import EncoderShape, Representations

BATCH, DIM, K, CLASSES, TAU = 32, 128, 1000, 3, 0.07


class Reference:
    """The released code's step, written down plainly: O(N) for each example of each step."""

    def __init__(self, examples: int, labels: Tensor, teacher: EncoderShape, student: EncoderShape):
        self.examples, self.labels = examples, labels.numpy()
        self.others = [np.flatnonzero(self.labels != label) for label in range(CLASSES)]
        self.project_teacher = nn.Linear(teacher.layers * teacher.width, DIM)
        self.project_student = nn.Linear(student.layers * student.width, DIM)
        self.banks = [torch.nn.functional.normalize(torch.randn(examples, DIM), dim=1) for _ in range(2)]
        self.constants: list[float | None] = [None, None]
        self.random = np.random.RandomState(0)  # the one that permutes; Generator.choice does not

    def __call__(self, step: Step) -> None:
        """Forward, backward, bank update."""
        assert step.teacher is not None
        sides = [
            torch.nn.functional.normalize(project(pooled.flatten(1)), dim=1)
            for project, pooled in (
                (self.project_student, step.student.pooled["mean"]),
                (self.project_teacher, step.teacher.pooled["mean"]),
            )
        ]
        rows = np.empty((BATCH, K + 1), dtype=np.int64)
        rows[:, 0] = step.ids.numpy()
        for index, example in enumerate(step.ids.tolist()):
            rows[index, 1:] = self.random.choice(self.others[self.labels[example]], K, replace=False)
        chosen = torch.from_numpy(rows)
        loss, noise = torch.zeros(()), K / self.examples
        for side, (live, bank) in enumerate(zip(sides, reversed(self.banks), strict=True)):
            gathered = bank.index_select(0, chosen.view(-1)).view(BATCH, K + 1, DIM)
            powers = torch.exp(torch.bmm(gathered, live.unsqueeze(2)).squeeze(2) / TAU)
            constant = self.constants[side]
            if constant is None:
                constant = self.constants[side] = powers.mean().item() * self.examples
            p = powers / constant
            loss = loss - torch.log(p[:, 0] / (p[:, 0] + noise + 1e-7)).sum() / BATCH
            loss = loss - torch.log(noise / (p[:, 1:] + noise + 1e-7)).sum() / BATCH
        loss.backward()
        with torch.no_grad():
            for live, bank in zip(sides, self.banks, strict=True):
                mixed = bank.index_select(0, step.ids) * 0.5 + live * 0.5
                bank.index_copy_(0, step.ids, mixed / mixed.norm(dim=1, keepdim=True))


class Codir:
    """A step of one of codir's own objectives."""

    def __init__(self, objective: Objective):
        self.objective = objective

    def __call__(self, step: Step) -> None:
        """Forward, backward, bank update."""
        self.objective(step).loss.backward()
        self.objective.after_step(True)


def make_step(context: ObjectiveContext) -> Step:
    assert context.teacher is not None
    assert context.labels is not None
    ids = torch.randperm(context.examples)[:BATCH] if context.examples < 10**6 else random_ids(context.examples)
    pooled = {shape: torch.randn(BATCH, shape.layers, shape.width) for shape in {context.student, context.teacher}}
    logits = torch.zeros(BATCH, CLASSES)
    student = pooled[context.student].clone().requires_grad_()
    return Step(
        ids,
        context.labels[ids],
        Representations(logits, {"mean": student}),
        Representations(logits, {"mean": pooled[context.teacher]}),
    )


def random_ids(examples: int) -> Tensor:
    return torch.unique(torch.randint(examples, (4 * BATCH,)))[torch.randperm(4 * BATCH - 8)[:BATCH]]


def measure(variants: dict[str, tuple[ObjectiveContext, Callable[[Step], None]]], steps: int) -> dict[str, float]:
    """Returns the median milliseconds of each variant; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(steps + 2):
        for name, (context, run) in variants.items():
            step = make_step(context)
            begin = time.process_time()
            run(step)
            if number >= 2:  # the first steps allocate
                times[name].append(1000 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def context_for(examples: int, teacher: EncoderShape, student: EncoderShape) -> ObjectiveContext:
    labels = torch.randint(CLASSES, (examples,))
    return ObjectiveContext(student, teacher, examples, labels, "classification", CLASSES)


def objective(context: ObjectiveContext, **settings: object) -> Codir:
    return Codir(build_objectives({"crd": {"k": K, **settings}}, context)["crd"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller N and a few steps, to see that it runs")
    parser.add_argument("--steps", type=int, default=0, help="steps of each variant")
    arguments = parser.parse_args()
    steps = arguments.steps or (3 if arguments.quick else 60)
    small, middle, large = (5_000, 20_000, 100_000) if arguments.quick else (10_000, 393_000, 10_000_000)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    worst: dict[str, list[float]] = {"shared": [0.0, 0.0], "independent": [0.0, 0.0]}
    print(f"CRD step, ms (median of {steps}); fp32, one thread, B={BATCH}, m={DIM}, K={K}, {CLASSES} classes")
    for title, teacher, student in (
        ("the loss alone: representations of one layer x 128", EncoderShape(1, DIM), EncoderShape(1, DIM)),
        ("with projections of 12 x 768 and 6 x 768", EncoderShape(12, 768), EncoderShape(6, 768)),
    ):
        context = context_for(middle, teacher, student)
        assert context.labels is not None
        variants: dict[str, tuple[ObjectiveContext, Callable[[Step], None]]] = {
            "reference": (context, Reference(middle, context.labels, teacher, student)),
            "shared": (context, objective(context, sharing="shared")),
            "independent": (context, objective(context, sharing="independent")),
        }
        result = measure(variants, steps)
        print(f"\n{title}, N = {middle:,}")
        for name, value in result.items():
            print(f"  {name:<12} {value:8.2f} ms   {value / result['reference']:6.3f} of the reference (goal 0.1)")
            if name in worst:
                worst[name][0] = max(worst[name][0], value / result["reference"])
        del variants
        contexts = [context_for(examples, teacher, student) for examples in (small, large)]
        for sharing in ("shared", "independent"):
            result = measure({f"{c.examples:,}": (c, objective(c, sharing=sharing)) for c in contexts}, steps)
            low, high = result.values()
            print(f"  {sharing:<12} {low:8.2f} ms at N = {small:,}, {high:8.2f} ms at N = {large:,}", end="")
            print(f"   ratio {high / low:.2f} (goal 2)")
            worst[sharing][1] = max(worst[sharing][1], high / low)
    if arguments.quick:
        print("\nThe goals are for N = 393,000 and 10,000,000: run without --quick to judge them.")
        return
    print()
    for sharing, (reference, growth) in worst.items():
        default = " (the default)" if sharing == "shared" else ""
        print(
            f"goals with {sharing} negatives{default}: 1/10 of the reference "
            f"{'met' if reference <= 0.1 else 'missed'}, twice the time at the large N "
            f"{'met' if growth <= 2 else 'missed'}"
        )


if __name__ == "__main__":
    main()
