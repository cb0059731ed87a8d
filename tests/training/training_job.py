"""The small training that the tests of this room share."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from codir.training.arguments import DistillationArguments
from codir.training.trainer import DistillationTrainer

OBJECTIVES = {"task": {}, "kd": {"weight": 0.7}, "crd": {"weight": 0.5, "k": 10, "dim": 8}}


def examples(count: int = 60, labelled: int | None = None, scores: bool = False) -> Dataset:
    """Returns encoded examples of different lengths, labelled by their first word; those after `labelled` are not."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number in range(count):
        length = int(torch.randint(2, 14, (1,), generator=generator))
        words = torch.randint(5, 60, (length,), generator=generator).tolist()
        ids = [2, *words, 3]
        rows.append(
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "labels": label(words[0], scores, labelled is None or number < labelled),
                "example_id": number,
            }
        )
    return Dataset.from_list(rows)


def label(word: int, scores: bool, known: bool) -> float:
    """Returns a class or a score; -100 or NaN where it is not known."""
    if scores:
        return word / 30 if known else float("nan")
    return int(word > 32) if known else -100


class Stop(TrainerCallback):
    """Does something to this process at the end of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def make_trainer(folder: Path, models: Path, objectives=OBJECTIVES, callbacks=(), **settings) -> DistillationTrainer:
    """Builds the trainer that every test here uses; `count`, `labelled` and `scores` are settings of `examples`."""
    of_data = {key: settings.pop(key) for key in ("count", "labelled", "scores") if key in settings}
    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "logging_steps": 2,
        "save_steps": 5,
        "save_strategy": "steps",
        "eval_strategy": "epoch",
        "learning_rate": 1e-3,
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
        "cache_folder": str(models / "cache"),
        "save_total_limit": 3,
        "disable_tqdm": True,
        "seed": 5,
        **settings,
    }
    data = examples(**of_data)
    return DistillationTrainer(
        AutoModelForSequenceClassification.from_pretrained(models / "student"),
        objectives,
        DistillationArguments(**arguments),
        train_dataset=data,
        eval_dataset=data.select(range(20)),
        processing_class=AutoTokenizer.from_pretrained(models / "tokenizer"),
        teacher=AutoModelForSequenceClassification.from_pretrained(models / "teacher"),
        callbacks=list(callbacks),
    )
