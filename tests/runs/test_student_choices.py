"""Distillations whose student comes from another model, or is partly frozen: whole runs on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from small_world import TRAINING, World, quiet, sentences
from transformers import BertConfig, BertForMaskedLM, TrainerCallback
from typer.testing import CliRunner

from codir import distill
from codir.cli.main import app
from codir.config.loading import load_distill
from codir.config.pretraining import PretrainConfig
from codir.config.student_config import StudentConfig
from codir.data.corpus_build import build_corpus
from codir.errors import ConfigError, ModelError
from codir.models.loading import load_classifier, load_tokenizer
from codir.runs import train as train_module
from codir.runs.prepare import prepare
from codir.runs.pretrain import pretrain


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def encoder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a masked language model of the teacher's family, 3 layers."""
    folder = tmp_path_factory.mktemp("mlm")
    config = load_classifier(world.teacher).config.to_dict()
    config = {k: v for k, v in config.items() if k not in ("id2label", "label2id", "architectures")}
    torch.manual_seed(11)
    BertForMaskedLM(BertConfig(**{**config, "num_hidden_layers": 3})).save_pretrained(folder)
    load_tokenizer(world.teacher).save_pretrained(folder)
    return folder


def run(world: World, output: Path, student: dict[str, Any], **settings: Any) -> str:
    console = quiet()
    settings = {"baseline": False, "objectives": {"task": {}, "kd": {}, "crd": None}, **settings}
    distill(**world.settings(output, student=student, **settings), console=console, timing=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


# ---- frozen ---------------------------------------------------------------------------------------------------------


def test_what_is_frozen_is_bit_equal_afterwards_and_the_optimiser_does_not_hold_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    make = train_module.DistillationTrainer

    class Spy(make):  # type: ignore[valid-type, misc]
        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            held.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
            return optimizer

    monkeypatch.setattr(train_module, "DistillationTrainer", Spy)
    said = run(world, tmp_path / "run", {"layers": 2, "freeze": ["embeddings", 1]}, baseline=True)
    teacher, student = weights(world.teacher), weights(tmp_path / "run")
    baseline = weights(tmp_path / "run" / "comparison" / "finetune")
    frozen = [name for name in student if ".embeddings." in name or ".layer.0." in name]
    assert len(frozen) > 15
    for each in (student, baseline):  # the comparison is between students that are frozen alike
        for name in frozen:
            there = name.replace(".layer.0.", ".layer.1.")  # spread: the teacher's layers 2 and 4
            assert torch.equal(each[name], teacher[there]), name
        assert not torch.equal(
            each["bert.encoder.layer.1.output.dense.weight"],
            teacher["bert.encoder.layer.3.output.dense.weight"],
        )
    rest = sum(value.numel() for name, value in student.items() if name not in frozen)
    assert held == [rest, rest]
    total = sum(value.numel() for value in student.values())
    assert f"the embeddings, layer 1: {total - rest:,} of {total:,} parameters are never trained" in said
    assert yaml.safe_load((tmp_path / "run" / "codir.yaml").read_text())["student"]["freeze"] == [
        "embeddings",
        1,
    ]
    assert "freeze" in (tmp_path / "run" / "README.md").read_text()
    load_distill(config=tmp_path / "run" / "codir.yaml")


class Die(TrainerCallback):
    """Ends the training at a step as a crash does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyError("stopped by the test")


def test_resumed_bit_for_bit(world: World, tmp_path: Path) -> None:
    choice: dict[str, Any] = {"layers": 2, "freeze": ["embeddings", 1]}
    settings: dict[str, Any] = {
        "student": choice,
        "baseline": False,
        "training": {**TRAINING, "num_train_epochs": 2, "eval_steps": 5},
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    distill(**world.settings(whole, **settings), console=quiet(), timing=False)
    with pytest.raises(KeyError, match="stopped by the test"):
        distill(**world.settings(broken, **settings), console=quiet(), timing=False, callbacks=[Die(13)])
    assert (broken / "checkpoints" / "checkpoint-10").is_dir()
    with pytest.raises(Exception, match=r"student\.freeze"):  # not with something else frozen
        distill(
            **world.settings(broken, **{**settings, "student": {"layers": 2, "freeze": [1]}}, resume=True),
            console=quiet(),
        )
    distill(**world.settings(broken, **settings, resume=True), console=quiet(), timing=False)
    one, other = weights(whole), weights(broken)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_moves_while_all_that_counts_is_frozen(world: World, tmp_path: Path) -> None:
    """Not even by weight decay, and Adam's moments stay empty."""
    seen: list[dict[str, torch.Tensor]] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            values = kwargs["model"].student.state_dict()
            seen.append({name: value.clone() for name, value in values.items()})

    objectives = {"embedding_mse": {"end": 0.5}, "task": {"start": 0.5}, "kd": None, "crd": None}
    distill(
        **world.settings(
            tmp_path / "run",
            student={"layers": 2, "freeze": ["embeddings"]},
            objectives=objectives,
            baseline=False,
        ),
        console=quiet(),
        timing=False,
        callbacks=[Look()],
    )
    assert len(seen) == 12
    assert all(torch.equal(seen[0][name], seen[5][name]) for name in seen[0])
    assert any(not torch.equal(seen[5][name], seen[11][name]) for name in seen[0])


def test_a_layer_the_student_does_not_have(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.freeze names layer 3"):
        run(world, tmp_path / "run", {"layers": 2, "freeze": [3]})


# ---- origin ---------------------------------------------------------------------------------------------------------


def test_origin(world: World, encoder: Path, tmp_path: Path) -> None:
    config = load_distill(
        recipe="kd",
        flags={
            key: (key, value)
            for key, value in world.settings(
                tmp_path / "run", student={"origin": str(encoder), "init": "last"}, objectives={}
            ).items()
        },
    )
    console = quiet()
    parts = prepare(config, console)
    student, other = parts.student.state_dict(), weights(encoder)
    for name in student:
        if name.startswith("bert.encoder"):
            there = name.replace(".layer.1.", ".layer.2.").replace(".layer.0.", ".layer.1.")
        else:
            there = name
        source = other if "embeddings" in name or "encoder" in name else weights(world.teacher)
        assert torch.equal(student[name], source[there]), name
    lines = dict(parts.lines)
    assert lines["starts from"] == f"embeddings and layers 2, 3 of {encoder}"
    assert lines["classifier"] == "the teacher's"


@pytest.mark.parametrize(
    ("student", "error", "words"),
    [
        ({"layers": 4}, ModelError, "which has 3"),
        ({"init": [1, 4]}, ModelError, "layer 4"),
    ],
)
def test_origin_without_that_many_layers(
    world: World, encoder: Path, tmp_path: Path, student: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run(world, tmp_path / "run", {"origin": str(encoder), **student})
    assert str(encoder) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("embeddings", ["embeddings"]),
        ("embeddings, 1,2", ["embeddings", 1, 2]),
        (2, [2]),
        (["embeddings", "3"], ["embeddings", 3]),
        ([], None),
        (None, None),
    ],
)
def test_freeze_as_it_may_be_written(given: Any, meant: Any) -> None:
    assert StudentConfig(freeze=given).freeze == meant


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"freeze": ["embedding"]}, "embeddings"),
        ({"freeze": [0]}, "counted from 1"),
        ({"freeze": [1, 1]}, "twice"),
        ({"freeze": [True]}, "true and false"),
        ({"origin": "m", "init": "random"}, "init says random"),
        ({"origin": "m", "model": "n"}, "leave out"),
        ({"origin": "m", "config": {"model_type": "bert"}}, "leave out"),
    ],
)
def test_choices_that_make_no_sense(student: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StudentConfig.model_validate(student)


@pytest.fixture(scope="module")
def corpus(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [". ".join(row["review"] for row in sentences(8, seed)) + "." for seed in range(12)]
    (folder / "text.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    build_corpus(
        [str(folder / "text.txt")],
        str(encoder),
        folder / "corpus",
        block=16,
        documents="line",
        validation=0.1,
        workers=1,
    )
    return folder / "corpus"


PRETRAINING: dict[str, Any] = {
    "max_steps": 4,
    "global_batch_size": 8,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "precision": "fp32",
    "save_steps": 2,
}


def test_a_narrower_and_partly_frozen_student_in_pretraining(
    encoder: Path, corpus: Path, tmp_path: Path
) -> None:
    console = quiet()
    pretrain(
        recipe="codir-pre",
        corpus=str(corpus),
        teacher=str(encoder),
        student={"layers": 2, "width": 16, "freeze": ["embeddings"]},
        training=PRETRAINING,
        objectives={"crd": {"dim": 8}},
        output=str(tmp_path / "run"),
        console=console,
    )
    student, words = weights(tmp_path / "run"), "bert.embeddings.word_embeddings.weight"
    teachers = weights(encoder)[words]
    assert student[words].shape == (teachers.shape[0], 16)
    assert all(bool((teachers == student[words][:, [place]]).all(dim=0).any()) for place in range(16))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "16 of 32 dimensions" in said
    assert "parameters are never trained" in said


def test_what_pretraining_refuses() -> None:
    values: dict[str, Any] = {"corpus": "c", "output": "o"}
    with pytest.raises(ValueError, match=r"student\.model=m"):
        PretrainConfig.model_validate({**values, "student": {"origin": "m"}})
    with pytest.raises(ValueError, match=r"leave student\.freeze out"):
        PretrainConfig.model_validate({**values, "student": {"freeze": [1]}, "trained": "head"})


def test_the_flags_and_the_card(world: World, encoder: Path, tmp_path: Path) -> None:
    arguments = [
        "distill",
        "--recipe",
        "kd",
        "--teacher",
        str(world.teacher),
        "--output",
        str(tmp_path / "run"),
    ]
    for name, value in world.data().items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    arguments += ["--student-origin", str(encoder), "--student-layers", "2", "--student-width", "16"]
    arguments += ["--student-intermediate", "24", "--student-freeze", "embeddings,2", "--no-baseline"]
    arguments += ["--epochs", "0.2", "--cache-dir", str(world.cache)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    values = yaml.safe_load((tmp_path / "run" / "codir.yaml").read_text())["student"]
    assert (values["origin"], values["width"], values["intermediate"]) == (str(encoder), 16, 24)
    assert values["freeze"] == ["embeddings", 2]
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"Its embeddings and layers started from `.../{encoder.name}`, not from the teacher." in card
    assert "It is narrower than the model it was cut out of (16 dimensions)." in card
    assert "Never trained: embeddings, layer 2." in card
