"""Recipes of other methods, and the objectives over states and attention matrices, as whole distillations."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification

from codir import distill
from codir.runs.distill import DistillResult

OBJECTIVES: dict[str, Any] = {
    "task": {},
    "hidden_mse": {},
    "embedding_mse": {},
    "attention_mse": {},
    "pkd": {"projection": "auto"},
    "hidden_cosine": {"projection": "auto"},
}
NARROW = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NARROW |= {"intermediate_size": 32, "max_position_embeddings": 64}


def run(world: World, output: Path, recipe: str, **changes: Any) -> DistillResult:
    settings = world.settings(output, training=TRAINING, **{"baseline": False, **changes})
    if "objectives" not in changes:
        del settings["objectives"]
    return distill(recipe=recipe, **settings, console=quiet())


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def words(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(value for name, value in found.items() if "word_embeddings" in name)


def logged(folder: Path) -> dict[str, list[float]]:
    """Returns the values of everything that was logged."""
    found: dict[str, list[float]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        for key, value in json.loads(line).items():
            found.setdefault(key, []).append(value)
    return found


# ---- codir-plus ------------------------------------------------------------------------------------------------------


def test_codir_plus_keeps_the_teachers_embeddings_in_both_students(world: World, tmp_path: Path) -> None:
    done = run(world, tmp_path / "run", "codir-plus", baseline=True)
    teacher = words(weights(world.teacher))
    # the undistilled student starts and is frozen in the same way: the difference is the teacher's
    for folder in (done.output, done.output / "comparison" / "finetune"):
        assert torch.equal(words(weights(folder)), teacher)
    lines = (done.output / "README.md").read_text()
    assert "init: first" in lines


@pytest.mark.parametrize("kind", ["scores", "unlabelled", "narrow", "another model"])
def test_codir_plus_goes_with(world: World, tmp_path: Path, kind: str) -> None:
    changes: dict[str, Any] = {}
    if kind == "scores":
        changes = {"teacher": str(world.regression), "data": world.data(label="score")}
    elif kind == "unlabelled":
        more = tmp_path / "more.csv"
        more.write_text("review\n" + "".join(f"the film number {n}\n" for n in range(9)), encoding="utf-8")
        changes = {"data": world.data(unlabeled=[str(more)])}
    elif kind == "narrow":
        changes = {"student": {"layers": 2, "width": 16}}
    else:
        changes = {"student": {"model": str(run(world, tmp_path / "first", "codir-plus").output)}}
    done = run(world, tmp_path / "run", "codir-plus", **changes)
    assert done.comparison.row("codir") is not None
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert student.config.num_hidden_layers == 2
    if kind == "narrow":
        assert words(student.state_dict()).shape == (words(weights(world.teacher)).shape[0], 16)


# ---- other methods ---------------------------------------------------------------------------------------------------


def test_progressive_transfer_leaves_what_is_below_as_it_is(world: World, tmp_path: Path) -> None:
    stage = {"progressive": "transfer", "start": 0.0, "end": 1.0}
    objectives = {"feature_map_mse": stage, "attention_kl": stage, "kd": None}
    student = weights(run(world, tmp_path / "run", "mobilebert", objectives=objectives).output)
    teacher = weights(world.teacher)
    assert torch.equal(words(student), words(teacher))
    queries = [name for name in student if "query.weight" in name]
    assert len(queries) == 2
    for number, name in enumerate(queries):
        source = name.replace(f"layer.{number}.", f"layer.{2 * number + 1}.")
        assert not torch.equal(student[name], teacher[source]), name


def test_sid_unlocks_layers_and_trains_everything(world: World, tmp_path: Path) -> None:
    done = run(world, tmp_path / "run", "sid")
    assert not torch.equal(words(weights(done.output)), words(weights(world.teacher)))
    lone = [key for key in logged(done.output) if "layer" in key]
    assert any("attention_kl" in key for key in lone)
    assert any("cls_cosine" in key for key in lone)


@pytest.mark.parametrize(
    ("student", "precision"), [({"layers": 2}, "bf16"), ({"config": NARROW}, "fp32")], ids=["cut", "narrow"]
)
def test_all_objectives_over_states_in_one_run(
    world: World, tmp_path: Path, student: dict[str, Any], precision: str
) -> None:
    console = Console(file=io.StringIO(), width=200)
    settings = world.settings(
        tmp_path / "run",
        baseline=False,
        student=student,
        objectives={"kd": None, **OBJECTIVES},
        training={**TRAINING, "num_train_epochs": 3, "precision": precision},
        cache_dir=str(tmp_path / "cache"),
    )
    result = distill(recipe="kd", **settings, console=console)
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "hidden_mse student layers 1, 2 learn from the teacher's 2, 4" in printed
    assert ("learned map from 16 to 32" in printed) == ("config" in student)
    for name in OBJECTIVES:
        losses = logged(result.output)[f"loss_{name}"]
        # A cut student has the teacher's embeddings: what is left there is dropout.
        if name != "task" and not (name == "embedding_mse" and "layers" in student):
            assert losses[-1] < 0.9 * losses[0], name
    assert not [name for name in weights(result.output) if "projections" in name]
