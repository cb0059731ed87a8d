"""Time of the contrastive term of a pre-training with each source of negatives, as ratios from one run.

    python benchmarks/bench_inbatch.py            # the paper's mini-batch: 8,192 examples, 32 at a time
    python benchmarks/bench_inbatch.py --quick    # a small one, a few steps: does it run?

fp32, one thread, m = 128, projections of 12 x 768 (teacher) and 6 x 768 (student). An optimiser step is G / 32
accumulated batches of forward and backward, then one write; the variants take turns, and medians of processor time are
compared. `projections` is what every source pays: both linear maps and the positive, no negative.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD
from codir.losses.registry import build_objectives
from codir.models.representations import EncoderShape, Representations

MICRO = 32
VARIANTS: dict[str, dict[str, Any]] = {
    "projections": {"negatives": "in-batch"},
    "in-batch-bank": {"negatives": "in-batch-bank"},
    "in-batch-bank, K = 500": {"negatives": "in-batch-bank", "k": 500},
    "in-batch": {"negatives": "in-batch"},
    "in-batch, gradient": {"negatives": "in-batch", "negatives_gradient": True},
    "queue": {"negatives": "queue"},
    "any, K = 500": {"negatives": "any", "k": 500},
}


def one_step(objective: CRD, batch: Tensor, plain: bool) -> tuple[float, float]:
    """Milliseconds of all accumulated batches, and of the write."""
    spent = 0.0
    context = objective.context
    assert context.teacher is not None
    for ids in batch.split(MICRO):
        student = torch.randn(len(ids), context.student.blocks, context.student.width, requires_grad=True)
        teacher = torch.randn(len(ids), context.teacher.blocks, context.teacher.width)
        step = Step(
            ids,
            None,
            Representations(student, {"mean": student}),
            Representations(teacher, {"mean": teacher}),
            batch,
        )
        begin = time.process_time()
        if plain:
            anchor, live = objective.teacher_projection(teacher), objective.student_projection(student)
            (anchor * live).sum(dim=1).mean().backward()
        else:
            objective(step).loss.backward()
        spent += time.process_time() - begin
    begin = time.process_time()
    if not plain:
        objective.after_step()
    return 1000 * spent, 1000 * (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small mini-batch and few steps")
    arguments = parser.parse_args()
    size, examples, steps = (128, 2_000, 2) if arguments.quick else (8192, 500_000, 3)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    context = ObjectiveContext(
        EncoderShape(6, 768), EncoderShape(12, 768), examples, None, "masked-lm", 30_522, batch=size
    )
    objectives: dict[str, CRD] = {}
    for name, settings in VARIANTS.items():
        built = build_objectives({"crd": {"queue_size": size, **settings}}, replace(context))["crd"]
        assert isinstance(built, CRD)
        objectives[name] = built
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for number in range(steps + 1):
        batch = torch.randperm(examples)[:size]
        for name, objective in objectives.items():
            spent = one_step(objective, batch, plain=name == "projections")
            if number:  # the first step allocates, and finds the queue empty
                times[name].append(spent)
    parts = size // MICRO
    print(
        f"B={MICRO}, G={size:,}, m=128, N={examples:,}; fp32, one thread; median of {steps} optimiser steps"
    )
    print(f"{'':<24} ms for {MICRO} examples   of projections   write, ms a step   in all of projections")
    base = statistics.median(sum(pair) for pair in times["projections"])
    for name, pairs in times.items():
        run, write = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<24} {run / parts:18.2f} {run / base:16.2f} {write:18.2f} {(run + write) / base:23.2f}")


if __name__ == "__main__":
    main()
