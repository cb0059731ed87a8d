"""What a distillation will take on this machine, from a few real training steps on a part of the user's own data."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from codir.config.config import DistillConfig
from codir.deploy.scratch import scratch_folder
from codir.errors import ConfigError
from codir.printing import Console, silent
from codir.runs.arguments import to_arguments
from codir.runs.prepare import main_role, prepare
from codir.training.trainer import DistillationTrainer

STEPS = 8
"""Optimiser steps that are run, the first two untimed."""
_UNTIMED = 2
_EXAMPLES = 1024  # the steps draw their batches from so many
BUSY = 0.7
"""A smaller share of the threads than this says more about the others."""
_FORWARD = 1 / 3  # of a step on the same examples: the backward pass takes about twice the forward pass


@dataclass(frozen=True)
class StepCost:
    """What a training step of one recipe takes.

    Attributes:
        recipe: its name.
        step: seconds of an optimiser step, the teacher's part left out; mean, as phases differ.
        teacher: seconds of the teacher for an example; 0 where the recipe has no teacher.
        batch: examples in a step.
        share: on a CPU, processor time / (threads x wall-clock time) of the steps: below `BUSY` others worked, too.
    """

    recipe: str
    step: float
    teacher: float
    batch: int
    share: float = 1.0


@dataclass(frozen=True)
class Hours:
    """What a run takes, in hours.

    Attributes:
        teacher: the teacher's outputs for all training examples, computed once.
        student: the training of the student, with an evaluation after each epoch.
        baseline: likewise of the undistilled student beside it; 0 without one.
        epochs: of the training.
        steps: optimiser steps.
    """

    teacher: float
    student: float
    baseline: float
    epochs: float
    steps: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.teacher + self.student + self.baseline

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {**asdict(self), "total": self.total}


def measure_step(
    config: DistillConfig, steps: int = STEPS, clock: Callable[[], float] = time.perf_counter
) -> StepCost:
    """Runs a few optimiser steps of a distillation, with its real objectives, student and data.

    The teacher runs live and is timed by itself, since in the distillation its outputs come from the cache. Terms
    that count for a part of the training only are met in that proportion. Nothing is kept.

    Args:
        config: of the distillation; `output` and the comparison students are not used.
        steps: how many.
        clock: seconds, replaced in tests.

    Raises:
        CodirError: whatever would stop the distillation itself.
    """
    with scratch_folder("codir-recommend-") as folder:
        limits = {"limit_train": min(_EXAMPLES, config.data.limit_train or _EXAMPLES)}
        if not config.data.limit_validation:
            limits["limit_validation"] = 32
        if config.data.unlabeled:
            limits["limit_unlabeled"] = min(_EXAMPLES, config.data.limit_unlabeled or _EXAMPLES)
        data = config.data.model_copy(update=limits)
        small = config.model_copy(
            update={
                "data": data,
                "cache": False,
                "cache_dir": folder / "cache",
                "baseline": False,
                "kd": False,
                "output": folder / "run",
                "resume": False,
            }
        )
        try:
            parts = prepare(small, _silent())
        except ConfigError:
            # some objectives need all of the teacher's outputs before the first step
            small = small.model_copy(update={"cache": True})
            parts = prepare(small, _silent())
        role = main_role(small.objectives)
        watch = _Watch(clock)
        hooks = [
            parts.teacher.model.register_forward_pre_hook(lambda *_: watch.teacher_starts()),
            parts.teacher.model.register_forward_hook(lambda *_: watch.teacher_ends()),
        ]
        try:
            teacher = parts.teachers(_silent())[role]
            args = to_arguments(small.training, folder / "run", parts.task.main_metric, len(parts.train))
            args.max_steps = steps
            args.eval_strategy = args.save_strategy = IntervalStrategy.NO
            args.load_best_model_at_end = False
            args.report_to = []
            args.cache_teacher = False
            trainer = DistillationTrainer(
                parts.fresh_student(),
                parts.objectives[role],
                args,
                train_dataset=parts.train,
                processing_class=parts.tokenizer,
                teacher=teacher,
                teacher_tokenizer=parts.teacher_tokenizer,
                callbacks=[watch],
                label=f"{config.recipe}: a few steps",
            )
            before = watch.teacher_seconds if small.cache else None
            trainer.train()
        finally:
            for hook in hooks:
                hook.remove()
        batch = config.training.batch_size * config.training.gradient_accumulation
        timed = watch.steps[min(_UNTIMED, len(watch.steps) - 1) :]
        own = [step - taught for step, taught in timed]
        if before is not None:
            per_example = before / len(parts.train)
        else:
            per_example = statistics.median(taught for _, taught in timed) / batch
        return StepCost(config.recipe, statistics.fmean(own), per_example, batch, watch.share)


def hours(
    cost: StepCost,
    examples: int,
    epochs: float,
    validation: int,
    baseline: StepCost | None = None,
) -> Hours:
    """Adds up a distillation: N/B steps an epoch, an evaluation after each, the teacher over all examples once.

    Args:
        cost: of the recipe.
        examples: N.
        epochs: passes over them.
        validation: examples of an evaluation.
        baseline: of plain fine-tuning, for the undistilled student that is trained beside it.
    """
    steps = math.ceil(examples / cost.batch * epochs)
    passes = max(1, math.ceil(epochs))

    def training(each: StepCost) -> float:
        evaluation = validation / each.batch * each.step * _FORWARD
        return (steps * each.step + passes * evaluation) / 3600

    return Hours(
        teacher=cost.teacher * (examples + validation) / 3600,
        student=training(cost),
        baseline=training(baseline) if baseline is not None else 0.0,
        epochs=epochs,
        steps=steps,
    )


def show_hours(value: float) -> str:
    """Returns `2.5 h`, `12 min` or `40 s`."""
    if value >= 1:
        return f"{value:.1f} h"
    return f"{60 * value:.0f} min" if value >= 1 / 30 else f"{3600 * value:.0f} s"


class _Watch(TrainerCallback):
    """Notes how long each step takes, and how much of it is the teacher's."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.steps: list[tuple[float, float]] = []
        self.teacher_seconds = 0.0
        self._taught = self._started = self._teacher = self._processor = 0.0
        self._worked = 0.0

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock()

    def teacher_starts(self) -> None:
        self._teacher = self.now()

    def teacher_ends(self) -> None:
        self.teacher_seconds += self.now() - self._teacher

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started, self._taught = self.now(), self.teacher_seconds
        self._processor = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops it."""
        self._worked += time.process_time() - self._processor
        self.steps.append((self.now() - self._started, self.teacher_seconds - self._taught))

    @property
    def share(self) -> float:
        """Share of its threads that this process got during the steps; 1 where a GPU does the work."""
        wall = sum(step for step, _ in self.steps) * torch.get_num_threads()
        return 1.0 if torch.cuda.is_available() or wall <= 0 else min(1.0, self._worked / wall)


def _silent() -> Console:
    return silent()
