"""Training with examples of which some have no label: who counts in which loss, and what negatives they get."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent))
from training_job import examples, make_trainer

from codir.errors import DataError
from codir.models.inference import predict_logits
from codir.training.setup import filled

SGD = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "train_sampling_strategy": "sequential",
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
}


def without_dropout(trainer):
    for module in trainer.distillation.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trainer


def naive_loss(trainer, rows: list[int], scores: bool, temperature: float = 1.0) -> torch.Tensor:
    """Computes the loss of one mini-batch example by example: task over the labelled ones, KD over all."""
    data, student = trainer.train_dataset, trainer.student
    teacher = predict_logits(trainer.own_teacher, data, trainer.processing_class)
    task, kd = [], []
    for row in rows:
        ids = torch.tensor([data[row]["input_ids"]])
        logits = student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        answer, label = torch.from_numpy(teacher[data[row]["example_id"]]), data[row]["labels"]
        if scores:
            kd.append((logits[0] - answer[0]) ** 2)
            if not math.isnan(label):
                task.append((logits[0] - label) ** 2)
        else:
            p, q = (answer / temperature).softmax(0), (logits / temperature).log_softmax(0)
            kd.append(-(p * q).sum() * temperature**2)
            if label != -100:
                task.append(-logits.log_softmax(0)[label])
    total = 0.7 * sum(kd) / len(kd)
    return total + (sum(task) / len(task) if task else 0.0)


@pytest.mark.parametrize("labelled", [0, 3, 16])
@pytest.mark.parametrize("scores", [False, True])
def test_one_step_is_the_naive_one_however_it_is_accumulated(tmp_path, models, tiny_classifier, labelled, scores):
    """The first step has 16 examples, of which `labelled` have a label; with 0 the last one of all has the only one."""
    folder = models
    if scores:
        folder = tmp_path / "models"
        tiny_classifier(layers=4, seed=1, num_labels=1, problem_type="regression").save_pretrained(folder / "teacher")
        tiny_classifier(layers=2, seed=2, num_labels=1, problem_type="regression").save_pretrained(folder / "student")
        (folder / "tokenizer").symlink_to(models / "tokenizer")

    def make(name, batch, accumulation):
        trainer = make_trainer(
            tmp_path / name,
            folder,
            {"task": {}, "kd": {"weight": 0.7, "temperature": 1.0} if not scores else {"weight": 0.7}},
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            labelled=max(labelled, 1),
            scores=scores,
            **SGD,
        )
        if labelled == 0:  # the one label stands behind the first step
            trainer.train_dataset = trainer.train_dataset.select([*range(1, 60), 0])
        trainer.own_teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
        return without_dropout(trainer)

    reference = make("naive", 16, 1)
    reference.distillation.eval()
    rows = reference.train_dataset
    loss = naive_loss(reference, list(range(16)), scores)
    assert sum(not (math.isnan(x) if scores else x == -100) for x in rows["labels"][:16]) == labelled
    gradients = torch.autograd.grad(loss, list(reference.student.parameters()), allow_unused=True)
    expected = {
        name: parameter - 0.1 * (0.0 if gradient is None else gradient)
        for (name, parameter), gradient in zip(reference.student.named_parameters(), gradients, strict=True)
    }
    for batch, accumulation in ((16, 1), (4, 4), (2, 8)):
        trainer = make(f"{batch}", batch, accumulation)
        trainer.train()
        for name, parameter in trainer.student.named_parameters():
            torch.testing.assert_close(parameter, expected[name], atol=2e-6, rtol=1e-4, msg=name)
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert ("loss_task" in entries[-1]) == (labelled > 0) if entries else True


def test_the_log_leaves_out_steps_without_a_label(tmp_path, models):
    """8 labelled examples in order, 8 a step: the first of every 8 steps has all the labels."""
    settings = {**SGD, "learning_rate": 1e-12, "logging_steps": 8, "num_train_epochs": 1}
    trainer = without_dropout(make_trainer(tmp_path, models, {"task": {}, "kd": {}}, labelled=8, **settings))
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    data = examples(labelled=8)
    logits = torch.from_numpy(predict_logits(trainer.student, data, trainer.processing_class))
    expected = nn.functional.cross_entropy(logits[:8], torch.tensor(data["labels"][:8])).item()
    assert entry["loss_task"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cache", [True, False])
def test_negatives_take_the_teachers_class(tmp_path, models, cache):
    trainer = make_trainer(tmp_path, models, {"task": {}, "crd": {"k": 5, "dim": 8}}, labelled=11, cache_teacher=cache)
    data = examples()
    teacher = AutoModelForSequenceClassification.from_pretrained(models / "teacher")
    answers = predict_logits(teacher, data, trainer.processing_class).argmax(axis=1).tolist()
    expected = data["labels"][:11] + answers[11:]
    assert answers != data["labels"][:]
    objective = trainer.distillation.objectives["crd"]
    assert objective.context.labels.tolist() == expected
    assert objective.context.unlabeled == 49
    drawn = objective.sampler.draw(torch.tensor([0, 30, 59]), 5)
    for anchor, group in zip([0, 30, 59], drawn.group.tolist(), strict=True):
        assert all(expected[row] != expected[anchor] for row in drawn.ids[group].tolist())
    trainer.train()


def test_without_a_single_label_the_task_is_refused_and_kd_is_not(tmp_path, models):
    with pytest.raises(DataError, match="needs labels"):
        make_trainer(tmp_path, models, {"task": {}, "kd": {}}, labelled=0)
    make_trainer(tmp_path, models, {"kd": {}}, labelled=0, max_steps=2).train()


def test_filling_in():
    labels = torch.tensor([2, -100, 0, -100])
    logits = torch.tensor([[9.0, 0, 0], [0, 1, 0], [0, 0, 9], [0, 0, 2]])
    assert filled(labels, logits).tolist() == [2, 1, 0, 2]
    scores = torch.tensor([1.5, math.nan])
    assert filled(scores, torch.tensor([[9.0], [2.5]])).tolist() == [1.5, 2.5]
