"""Students that come from another model, are narrower or partly frozen: what they start from and what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from small_world import CRD, TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, TrainerCallback

from codir import distill
from codir.config.config import DistillConfig
from codir.config.loading import load
from codir.config.pretraining import PretrainConfig
from codir.config.student_config import StudentConfig
from codir.errors import CodirError, ConfigError
from codir.models.loading import load_classifier, load_tokenizer
from codir.runs import train as train_module
from codir.runs.prepare import Distillation, prepare

WORDS = "bert.embeddings.word_embeddings.weight"


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


def prepared(world: World, output: Path, student: dict[str, Any], recipe: str = "kd", **settings: Any) -> Distillation:
    flags = world.settings(output, student=student, **{"objectives": {}, "baseline": False, **settings})
    return prepare(load(DistillConfig, recipe=recipe, flags={k: (k, v) for k, v in flags.items()}), quiet())


def are_columns_of(narrow: torch.Tensor, wide: torch.Tensor) -> bool:
    return all(bool((wide == column[:, None]).all(dim=0).any()) for column in narrow.T)


# ---- frozen ---------------------------------------------------------------------------------------------------------


def test_what_is_frozen_is_bit_equal_afterwards_and_the_optimiser_does_not_hold_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Spy(train_module.DistillationTrainer):
        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            held.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
            return optimizer

    monkeypatch.setattr(train_module, "DistillationTrainer", Spy)
    settings = world.settings(
        tmp_path / "run",
        student={"layers": 2, "freeze": ["embeddings", 1]},
        objectives={"task": {}, "kd": {}, "crd": None},
    )
    console = quiet()
    distill(**settings, console=console, timing=False)
    teacher, student = weights(world.teacher), weights(tmp_path / "run")
    frozen = [name for name in student if ".embeddings." in name or ".layer.0." in name]
    assert len(frozen) > 15
    moved = "bert.encoder.layer.1.output.dense.weight"
    # the comparison is between students that are frozen alike
    for each in (student, weights(tmp_path / "run" / "comparison" / "finetune")):
        for name in frozen:  # spread: the teacher's layers 2 and 4
            assert torch.equal(each[name], teacher[name.replace(".layer.0.", ".layer.1.")]), name
        assert not torch.equal(each[moved], teacher[moved.replace(".1.", ".3.")])
    rest = sum(value.numel() for name, value in student.items() if name not in frozen)
    total = sum(value.numel() for value in student.values())
    assert held == [rest, rest]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"the embeddings, layer 1: {total - rest:,} of {total:,} parameters are never trained" in said
    kept = yaml.safe_load((tmp_path / "run" / "codir.yaml").read_text())
    assert kept["student"]["freeze"] == ["embeddings", 1]
    assert "Never trained: embeddings, layer 1" in (tmp_path / "run" / "README.md").read_text()


class Die(TrainerCallback):
    """Ends the training at step 13 as a crash does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 13:
            raise KeyError("stopped by the test")


def test_resumed_bit_for_bit(world: World, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "student": {"layers": 2, "freeze": ["embeddings", 1]},
        "baseline": False,
        "training": {**TRAINING, "num_train_epochs": 2, "eval_steps": 5},
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    distill(**world.settings(whole, **settings), console=quiet(), timing=False)
    with pytest.raises(KeyError, match="stopped by the test"):
        distill(**world.settings(broken, **settings), console=quiet(), timing=False, callbacks=[Die()])
    other = {**settings, "student": {"layers": 2, "freeze": [1]}}
    with pytest.raises(CodirError, match=r"student\.freeze"):  # not with something else frozen
        distill(**world.settings(broken, **other, resume=True), console=quiet())
    distill(**world.settings(broken, **settings, resume=True), console=quiet(), timing=False)
    one, two = weights(whole), weights(broken)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_moves_while_all_that_counts_is_frozen(world: World, tmp_path: Path) -> None:
    """Not even by weight decay, and Adam's moments stay empty."""
    seen: list[dict[str, torch.Tensor]] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            values = kwargs["model"].student.state_dict()
            seen.append({name: value.clone() for name, value in values.items()})

    settings = world.settings(
        tmp_path / "run",
        student={"layers": 2, "freeze": ["embeddings"]},
        objectives={"embedding_mse": {"end": 0.5}, "task": {"start": 0.5}, "kd": None, "crd": None},
        baseline=False,
    )
    distill(**settings, console=quiet(), timing=False, callbacks=[Look()])
    assert len(seen) == 12
    assert all(torch.equal(seen[0][name], seen[5][name]) for name in seen[0])
    assert any(not torch.equal(seen[5][name], seen[11][name]) for name in seen[0])


# ---- from another model, narrower ------------------------------------------------------------------------------------


def test_layers_of_an_origin(world: World, encoder: Path, tmp_path: Path) -> None:
    parts = prepared(world, tmp_path / "run", {"origin": str(encoder), "init": "last"})
    teacher, other = weights(world.teacher), weights(encoder)
    for name, value in parts.student.state_dict().items():
        there = name
        if name.startswith("bert.encoder"):
            there = name.replace(".layer.1.", ".layer.2.").replace(".layer.0.", ".layer.1.")
        source = other if "embeddings" in name or "encoder" in name else teacher
        assert torch.equal(value, source[there]), name
    lines = dict(parts.lines)
    assert lines["starts from"] == f"embeddings and layers 2, 3 of {encoder}"
    assert lines["classifier"] == "the teacher's"


def test_narrow_out_of_an_origin_and_an_origin_that_is_narrow_itself(
    world: World, encoder: Path, tmp_path: Path
) -> None:
    parts = prepared(world, tmp_path / "run", {"origin": str(encoder), "layers": 2, "width": 16})
    lines = dict(parts.lines)
    assert lines["narrower"].startswith("16 of 32")
    assert are_columns_of(parts.student.state_dict()["classifier.weight"], weights(world.teacher)["classifier.weight"])
    parts.student.save_pretrained(tmp_path / "narrow")
    parts.tokenizer.save_pretrained(tmp_path / "narrow")
    again = prepared(world, tmp_path / "run", {"origin": str(tmp_path / "narrow"), "layers": 2})
    assert again.student.config.hidden_size == 16
    assert dict(again.lines)["classifier"] == "new: the teacher's has another width"


def test_of_full_size_it_is_the_teacher(world: World, tmp_path: Path) -> None:
    parts = prepared(world, tmp_path / "run", {"layers": 4, "width": 32, "intermediate": 64})
    teacher = load_classifier(world.teacher).state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in parts.student.state_dict().items())


def test_a_narrower_student_learns_all_that_has_a_map_to_the_teachers_width(world: World, tmp_path: Path) -> None:
    objectives = {
        **CRD,
        "hidden_mse": {"weight": 0.1},
        "embedding_mse": {"weight": 0.1},
        "pkd": {"projection": "auto"},
        "relations": {"relation_heads": 4},
    }
    student = {"layers": 2, "width": 16, "intermediate": 20, "freeze": ["embeddings"]}
    console = quiet()
    settings = world.settings(tmp_path / "run", student=student, objectives=objectives)
    made = AutoModelForSequenceClassification.from_pretrained(distill(**settings, console=console).output)
    sizes = (made.config.hidden_size, made.config.num_attention_heads, made.config.intermediate_size)
    assert sizes == (16, 1, 20)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 layers, 16 wide" in said
    assert "16 of 32 dimensions, 1 of 2 heads and 20 of 64 feed-forward neurons" in said
    assert are_columns_of(made.state_dict()[WORDS], weights(world.teacher)[WORDS])


@pytest.mark.parametrize(
    ("recipe", "way_out"),
    [
        ("kd", None),
        ("codir-fine", None),
        ("codir-official", None),
        ("pkd", r"pkd\.projection to auto"),
        ("distilbert", r"hidden_cosine\.projection to auto"),
        ("sid", "cls_cosine.projection to auto|relation_heads"),
        ("mobilebert", "feature_map_mse.projection to auto|relation_heads"),
        ("tinybert", "student.width"),
        ("minilm", "relation_heads"),
        ("minilmv2", None),
    ],
)
def test_every_recipe_takes_a_narrower_student_or_says_what_to_change(
    world: World, tmp_path: Path, recipe: str, way_out: str | None
) -> None:
    needed = {"codir-fine": {"crd": {"k": 10}}, "codir-official": {"crd_official": {"k": 10}}}
    needed["minilmv2"] = {"relations": {"relation_heads": 4}}
    objectives = needed.get(recipe, {})
    student = {"layers": 2, "width": 16}
    if way_out is None:
        prepared(world, tmp_path / "run", student, recipe, objectives=objectives)
        return
    with pytest.raises(ConfigError, match=way_out):
        prepared(world, tmp_path / "run", student, recipe, objectives=objectives)
    # fewer neurons alone leave widths and heads as they are
    prepared(world, tmp_path / "run", {"layers": 2, "intermediate": 20}, recipe, objectives=objectives)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"layers": 2, "freeze": [3]}, r"student\.freeze names layer 3"),
        ({"layers": 4, "origin": "ENCODER"}, "mlm.*which has 3"),
        ({"init": [1, 4], "origin": "ENCODER"}, "layer 4, but .*mlm"),
        ({"layers": 2, "width": 20}, "multiple of that, for example 16 or 32"),
        ({"layers": 2, "width": 64, "init": "random"}, "at most 32"),
        ({"layers": 5, "width": 16}, "deeper"),
    ],
)
def test_what_the_models_do_not_have(
    world: World, encoder: Path, tmp_path: Path, student: dict[str, Any], words: str
) -> None:
    student = {key: str(encoder) if each == "ENCODER" else each for key, each in student.items()}
    with pytest.raises(CodirError, match=words):
        prepared(world, tmp_path / "run", student)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("embeddings, 1,2", ["embeddings", 1, 2]),
        (2, [2]),
        (["embeddings", "3"], ["embeddings", 3]),
        ([], None),
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
        ({"width": 16, "config": {"model_type": "bert"}}, "leave out"),
    ],
)
def test_choices_that_make_no_sense(student: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StudentConfig.model_validate(student)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"origin": "m"}}, r"student\.model=m"),
        ({"student": {"freeze": [1]}, "trained": "head"}, r"leave student\.freeze out"),
        ({"student": {"config": {"model_type": "bert"}, "embeddings": "teacher"}}, "distilling on a task"),
    ],
)
def test_what_pretraining_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PretrainConfig.model_validate({"corpus": "c", "output": "o", **changes})
