"""Training on blocks: the order and the masks are those of the epoch, with workers, processes and after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from codir.training.arguments import DistillationArguments
from codir.training.collators import MaskedBlockCollator
from codir.training.masking import TokenMasking
from codir.training.samplers import NeighbourSampler
from codir.training.trainer import DistillationTrainer

DOCUMENTS = np.repeat(np.arange(9), [7, 1, 3, 4, 9, 2, 1, 6, 8])  # 41 blocks
Batch = tuple[tuple[int, ...], bytes]


class LabelledBlocks(MaskedBlockCollator):
    """Masked blocks with a class each, for the classifier that stands in for a masked language model here."""

    def __call__(self, rows):
        """Makes a batch."""
        batch = super().__call__(rows)
        return {**batch, "labels": batch["example_id"] % 2}


class Recorder(DistillationTrainer):
    """Writes down every batch, of training and of evaluation."""

    trained: list[Batch]
    evaluated: list[Batch]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the trainer's."""
        seen = self.trained if model.training else self.evaluated
        ids = tuple(inputs["example_id"].tolist())
        seen.append((ids, inputs["inputs"]["input_ids"].cpu().numpy().tobytes()))
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class StopAt(TrainerCallback):
    """Ends the training after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """As in transformers."""
        control.should_training_stop = state.global_step == self.step


def blocks() -> Dataset:
    random = np.random.default_rng(0)
    rows = [
        {
            "input_ids": [2, *random.integers(5, 60, random.integers(6, 20)).tolist(), 3],
            "example_id": number,
            "labels": 0,
        }
        for number in range(len(DOCUMENTS))
    ]
    return Dataset.from_list(rows)


def train(
    folder: Path, models: Path, stop: int | None = None, resume: bool = False, **settings
) -> tuple[list[Batch], list[Batch], dict[str, torch.Tensor]]:
    """Returns the batches trained on, those evaluated on, and the final weights."""
    arguments = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_strategy": "epoch",
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        "seed": 5,
        **settings,
    }
    tokenizer = AutoTokenizer.from_pretrained(models / "tokenizer")
    data = blocks()
    trainer = Recorder(
        AutoModelForSequenceClassification.from_pretrained(models / "student"),
        {"task": {}},
        DistillationArguments(**arguments),
        train_dataset=data,
        eval_dataset=data.select(range(10)),
        processing_class=tokenizer,
        data_collator=LabelledBlocks(tokenizer, TokenMasking(tokenizer, seed=1)),
        train_sampler=NeighbourSampler(DOCUMENTS, 4, seed=2),
        callbacks=[StopAt(stop)] if stop else None,
    )
    trainer.trained, trainer.evaluated = [], []
    trainer.train(resume_from_checkpoint=resume)
    return trainer.trained, trainer.evaluated, trainer.student.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, models) -> tuple[list[Batch], list[Batch], dict[str, torch.Tensor]]:
    return train(tmp_path_factory.mktemp("whole"), models)


def test_the_trainer_follows_the_sampler_and_the_epoch(whole, models):
    trained, evaluated, _ = whole
    sampler = NeighbourSampler(DOCUMENTS, 4, seed=2)
    tokenizer = AutoTokenizer.from_pretrained(models / "tokenizer")
    collator = MaskedBlockCollator(tokenizer, TokenMasking(tokenizer, seed=1))
    data = blocks()
    assert len(trained) == 3 * 11
    for epoch in range(3):
        sampler.set_epoch(epoch)
        collator.set_epoch(epoch)
        order = list(sampler)
        for number in range(11):
            ids, tokens = trained[epoch * 11 + number]
            assert list(ids) == order[4 * number : 4 * number + 4]
            expected = collator([data[index] for index in ids])["inputs"]["input_ids"]
            assert tokens == expected.numpy().tobytes()
    assert len(evaluated) == 6
    assert evaluated[:2] == evaluated[2:4] == evaluated[4:]  # the same masks whatever the epoch
    assert (
        evaluated[0][1] == collator.evaluation()([data[i] for i in range(8)])["inputs"]["input_ids"].numpy().tobytes()
    )


# in the second epoch (of 6 steps each), and at its end
@pytest.mark.parametrize(("stop", "workers"), [(8, 0), (8, 2), (12, 2)])
def test_a_resume_goes_on_with_the_same_batches(whole, models, tmp_path, stop, workers):
    settings = {"dataloader_num_workers": workers}
    first, _, _ = train(tmp_path, models, stop=stop, **settings)
    second, _, weights = train(tmp_path, models, resume=True, **settings)
    assert len(first) == {8: 11 + 4, 12: 22}[stop]
    assert first + second == whole[0]
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[2].items())
