"""A model whose outputs are several labels, or several scores, is never read as one that gives one answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from fault_world import QUICK, flags, refused, sentences, succeeded, write_csv
from transformers import AutoModelForSequenceClassification

import codir
from codir.errors import CodirError

THREE = ("anger", "joy", "fear")
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "three labels": (
        {"labels": THREE, "problem_type": "multi_label_classification"},
        "is a multi-label model",
    ),
    "one label": (
        {"labels": ("toxic",), "problem_type": "multi_label_classification"},
        "is a multi-label model",
    ),
    "three scores": ({"labels": THREE, "problem_type": "regression"}, "is a regression of 3 scores"),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", sentences(24, labels=THREE))


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_that_would_misread_it_refuses(
    kind: str, tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    settings, words = KINDS[kind]
    folder, out = tiny_model_dir(**settings), tmp_path / "out"
    data = ("--train", texts, "--validation", texts)
    for command in (
        ("predict", folder, "--input", texts, "--output", out),
        ("evaluate", folder, "--validation", texts),
        ("distill", "--teacher", folder, *data, "--output", out),
        ("export", folder, "--format", "torch-bf16", "--output", out),
        ("latency", folder),
    ):
        message = refused(*command, leaves_nothing=out)
        assert words in message, command
        assert str(folder) in message


def test_fine_tuning_gives_its_encoder_a_new_classifier(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """The way out that the refusal names; its old classifier answered another question, though its shape fits."""
    folder, output = (
        tiny_model_dir(labels=THREE, problem_type="multi_label_classification"),
        tmp_path / "teacher",
    )
    still = ("--learning-rate", "1e-12")  # so that what it starts from can be seen
    data = ("--train", texts, "--validation", texts)
    succeeded("finetune", "--model", folder, *data, *QUICK, *still, "--output", output)
    old, new = (AutoModelForSequenceClassification.from_pretrained(path) for path in (folder, output))
    assert new.config.problem_type == "single_label_classification"
    assert sorted(new.config.id2label.values()) == sorted(THREE)
    assert (old.classifier.weight - new.classifier.weight).abs().max() > 0.1
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.allclose(old.state_dict()[words], new.state_dict()[words], atol=1e-6)
    predictions = tmp_path / "predictions.jsonl"
    succeeded("predict", output, "--input", texts, "--output", predictions)
    for line in predictions.read_text().splitlines():
        assert sum(json.loads(line)["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_a_student_that_was_multi_label_gets_its_teachers_head(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    teacher = tiny_model_dir(labels=THREE)
    student = tiny_model_dir(labels=THREE, layers=2, problem_type="multi_label_classification")
    output = tmp_path / "student"
    few = flags(recipe="kd", no_baseline=True, cache_dir=tmp_path / "cache", output=output)
    succeeded("distill", *few, *QUICK, teacher=teacher, student=student, train=texts, validation=texts)
    assert json.loads((output / "config.json").read_text())["problem_type"] == "single_label_classification"


@pytest.mark.parametrize("labels", [("negative", "positive"), ("score",)])
def test_a_model_that_does_not_say_what_it_is_is_read_as_transformers_does(
    labels: tuple[str, ...], tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir(labels=labels, problem_type=None)
    silent = tmp_path / "silent"
    shutil.copytree(folder, silent)
    config = json.loads((silent / "config.json").read_text())
    config.pop("problem_type", None)
    (silent / "config.json").write_text(json.dumps(config))
    succeeded("predict", silent, "--input", texts, "--output", tmp_path / "predictions.jsonl")
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert ("score" in first) == (len(labels) == 1)
    assert ("scores" in first) == (len(labels) == 2)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_the_trainer_of_the_library_refuses_it(
    whose: str, tiny_classifier: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    models = {"student": tiny_classifier(labels=THREE), "teacher": tiny_classifier(labels=THREE)}
    models[whose].config.problem_type = "multi_label_classification"
    data = encoded(tiny_tokenizer)
    # what it advises has to be a command
    with pytest.raises(CodirError, match=f"the {whose} is a multi-label model.*--model (MODEL|[^ ]*/[^ ]*)`"):
        codir.DistillationTrainer(
            objectives={"task": {}, "kd": {}},
            args=codir.DistillationArguments(output_dir=str(tmp_path)),
            train_dataset=data,
            processing_class=tiny_tokenizer,
            **models,
        )


def encoded(tokenizer: Any) -> Dataset:
    rows = sentences(12, labels=THREE)
    columns = dict(tokenizer([row["text"] for row in rows]))
    numbers = [THREE.index(row["label"]) for row in rows]
    return Dataset.from_dict({**columns, "labels": numbers, "example_id": list(range(12))})


def test_the_trainer_of_the_library_sets_switches_of_the_output(
    tiny_classifier: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """A model that transformers loaded has those of its folder, and died when its first checkpoint was saved."""
    teacher = tiny_classifier(labels=THREE)
    student = tiny_classifier(labels=THREE, layers=2)
    for model in (teacher, student):
        model.config._attn_implementation = "eager"
        model.config.output_attentions = model.config.output_hidden_states = True
    data = encoded(tiny_tokenizer)
    trainer = codir.DistillationTrainer(
        student=student,
        teacher=teacher,
        objectives={"task": {}, "kd": {}},
        args=codir.DistillationArguments(str(tmp_path), max_steps=2, save_steps=1, report_to="none"),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tiny_tokenizer,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
