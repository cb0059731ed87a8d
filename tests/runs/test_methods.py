"""MobileBERT, SID, MiniLM and MiniLMv2 as whole distillations of a tiny teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification

from codir import distill

BUDGET = {**TRAINING, "num_train_epochs": 1}  # 12 steps


def run(world: World, output: Path, recipe: str, **changes: Any) -> Path:
    settings = world.settings(output, baseline=False, training=BUDGET, **changes)
    if "objectives" not in changes:
        del settings["objectives"]
    return distill(recipe=recipe, **settings, console=quiet()).output


def logged(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns (epoch, value) of everything that was logged."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for key, value in entry.items():
            if isinstance(value, int | float):
                found.setdefault(key, []).append((entry.get("epoch", 0), value))
    return found


def test_progressive_transfer_leaves_what_is_below_as_it_is(world: World, tmp_path: Path) -> None:
    objectives = {
        "feature_map_mse": {"progressive": "transfer", "start": 0.0, "end": 1.0},
        "attention_kl": {"progressive": "transfer", "start": 0.0, "end": 1.0},
        "kd": None,
    }
    folder = run(world, tmp_path / "run", "mobilebert", objectives=objectives)
    student = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    teacher = AutoModelForSequenceClassification.from_pretrained(world.teacher).state_dict()
    embeddings = [name for name in student if "embeddings" in name]
    assert embeddings
    assert all(torch.equal(student[name], teacher[name]) for name in embeddings)
    changed = {name.split("layer.")[1][0] for name in student if "layer." in name and "query.weight" in name}
    assert changed == {"0", "1"}
    for name in student:
        if "query.weight" in name:
            number = int(name.split("layer.")[1][0])
            source = name.replace(f"layer.{number}.", f"layer.{2 * number + 1}.")
            assert not torch.equal(student[name], teacher[source]), name


def test_sid_unlocks_layers_and_trains_everything(world: World, tmp_path: Path) -> None:
    folder = run(world, tmp_path / "run", "sid")
    student = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    teacher = AutoModelForSequenceClassification.from_pretrained(world.teacher).state_dict()
    words = next(name for name in student if "word_embeddings" in name)
    assert not torch.equal(student[words], teacher[words])
    log = logged(folder)
    lone = [key for key in log if "layer" in key]
    assert any("attention_kl" in key for key in lone), sorted(log)
    assert any("cls_cosine" in key for key in lone), sorted(log)
