"""Distillations into a narrower student: what trains, what is refused and how it can be made to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import CRD, World, quiet
from transformers import AutoModelForSequenceClassification

from codir import distill
from codir.config.loading import load_distill
from codir.errors import ConfigError
from codir.models.loading import load_classifier, load_tokenizer
from codir.runs.prepare import Distillation, prepare


def prepared(
    world: World, output: Path, student: dict[str, Any], recipe: str = "kd", **settings: Any
) -> Distillation:
    flags = world.settings(output, student=student, **{"objectives": {}, "baseline": False, **settings})
    return prepare(load_distill(recipe=recipe, flags={k: (k, v) for k, v in flags.items()}), quiet())


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(["a good film", "the dog was bad and awful"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_of_full_size_it_is_the_teacher(world: World, tmp_path: Path) -> None:
    parts = prepared(world, tmp_path / "run", {"layers": 4, "width": 32, "intermediate": 64})
    teacher = load_classifier(world.teacher)
    assert torch.equal(logits(parts.student, parts.tokenizer), logits(teacher, parts.tokenizer))


def test_a_narrower_student_learns_all_that_has_a_map_to_the_teachers_width(
    world: World, tmp_path: Path
) -> None:
    objectives = {
        **CRD,
        "hidden_mse": {"weight": 0.1},
        "embedding_mse": {"weight": 0.1},
        "pkd": {"projection": "auto"},
        "relations": {"relation_heads": 4},
    }
    console = quiet()
    student = {"layers": 2, "width": 16, "intermediate": 20, "freeze": ["embeddings"]}
    done = distill(
        **world.settings(tmp_path / "run", student=student, objectives=objectives), console=console
    )
    made = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert (made.config.hidden_size, made.config.num_attention_heads, made.config.intermediate_size) == (
        16,
        1,
        20,
    )
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 layers, 16 wide" in said
    assert "16 of 32 dimensions, 1 of 2 heads and 20 of 64 feed-forward neurons" in said
    words = "bert.embeddings.word_embeddings.weight"
    start = prepared(world, tmp_path / "again", student).student.state_dict()
    assert torch.equal(made.state_dict()[words], start[words])
    teacher = load_classifier(world.teacher).state_dict()[words]
    columns = [bool((teacher == start[words][:, [place]]).all(dim=0).any()) for place in range(16)]
    assert all(columns)  # each is one of the teacher's


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
def test_every_recipe_is_accepted_or_says_what_to_change(
    world: World, tmp_path: Path, recipe: str, way_out: str | None
) -> None:
    objectives: dict[str, Any] = {}
    if recipe in ("codir-fine", "codir-official"):
        objectives = {"crd" if recipe == "codir-fine" else "crd_official": {"k": 10}}
    if recipe == "minilmv2":
        objectives = {"relations": {"relation_heads": 4}}
    student = {"layers": 2, "width": 16}
    if way_out is None:
        prepared(world, tmp_path / "run", student, recipe, objectives=objectives)
        return
    with pytest.raises(ConfigError, match=way_out):
        prepared(world, tmp_path / "run", student, recipe, objectives=objectives)
    # fewer neurons alone leave widths and heads as they are
    prepared(world, tmp_path / "run", {"layers": 2, "intermediate": 20}, recipe, objectives=objectives)


def test_out_of_an_origin_and_with_an_origin_that_is_narrow_itself(world: World, tmp_path: Path) -> None:
    encoder = load_classifier(world.teacher).base_model
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.0, 0.2)
    encoder.save_pretrained(tmp_path / "encoder")
    load_tokenizer(world.teacher).save_pretrained(tmp_path / "encoder")
    origin = str(tmp_path / "encoder")
    parts = prepared(world, tmp_path / "run", {"origin": origin, "layers": 2, "width": 16})
    lines = dict(parts.lines)
    assert lines["starts from"] == f"embeddings and layers 2, 4 of {origin}"
    assert lines["classifier"] == "the teacher's"
    assert lines["narrower"].startswith("16 of 32")
    mine = parts.student.state_dict()["classifier.weight"]
    teachers = load_classifier(world.teacher).state_dict()["classifier.weight"]
    assert all(bool((teachers == mine[:, [place]]).all(dim=0).any()) for place in range(16))
    parts.student.save_pretrained(tmp_path / "narrow")
    parts.tokenizer.save_pretrained(tmp_path / "narrow")
    narrow = str(tmp_path / "narrow")
    again = prepared(world, tmp_path / "run", {"origin": narrow, "layers": 2})
    assert again.student.config.hidden_size == 16
    assert dict(again.lines)["classifier"] == "new: the teacher's has another width"


@pytest.mark.parametrize(
    ("student", "words"),
    [({"width": 20}, "multiple of that, for example 16 or 32"), ({"width": 64}, "at most 32")],
)
def test_widths_that_cannot_be(world: World, tmp_path: Path, student: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepared(world, tmp_path / "run", {"layers": 2, **student})
    with pytest.raises(ConfigError, match=words):
        prepared(world, tmp_path / "run", {"layers": 2, "init": "random", **student})
