"""A new objective is one file and one recipe: nothing else in codir knows of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import TRAINING, World, quiet

from codir import distill
from codir.config.config import DistillConfig
from codir.config.loading import load
from codir.losses.registry import LOSSES

OBJECTIVE = '''"""Sign agreement of mean hidden states: made up for a test."""

import torch
from pydantic import Field

from codir.models.layers import Matching
from codir.models.representations import TokenView
from codir.losses.base import Needs, Objective, ObjectiveSettings, Term


class MadeUpSettings(ObjectiveSettings):
    slope: float = Field(default=1.0, gt=0)
    matching: Matching = "top"


class MadeUp(Objective):
    name = "made_up"
    Settings = MadeUpSettings

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.map = torch.nn.Linear(context.student.width, context.teacher.width)

    @classmethod
    def needs(cls, settings):
        return Needs(pooled=frozenset({"mean"}), tokens=frozenset({"hidden"}), layers=settings.matching)

    def forward(self, step):
        own, other = self.pairs[0]
        mapped = self.map(step.student.tokens[TokenView("hidden", own)].float())
        gap = torch.tanh(self.settings.slope * (mapped - step.teacher.tokens[TokenView("hidden", other)]))
        loss = (gap.abs().mean(dim=2) * step.student.mask).sum() / step.student.mask.sum()
        pooled = step.student.pooled["mean"][:, own - 1] - step.teacher.pooled["mean"][:, other - 1]
        return Term(loss, {"pooled_gap": pooled.abs().mean().detach()})
'''

RECIPE = """
recipe: kd
objectives:
  {name}:
    weight: 0.5
    slope: 2.0
  attention_mse:
    weight: 0.1
"""


@pytest.mark.parametrize("place", ["named by its class", "registered under a name"])
def test_one_file_and_one_recipe(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    name = "my_objectives:MadeUp"
    (folder / "my_objectives.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(folder)
    if place == "registered under a name":
        monkeypatch.setitem(LOSSES, "made_up", name)
        name = "made_up"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.format(name=name))

    config = load(
        DistillConfig,
        config=recipe,
        flags={
            key: (key, value)
            for key, value in {
                "teacher": str(world.teacher),
                "data": world.data(),
                "student.layers": 2,
                "training": {**TRAINING, "num_train_epochs": 1},
                "output": str(tmp_path / "run"),
                "cache_dir": str(world.cache),
                "baseline": False,
            }.items()
        },
    )
    assert config.objectives[name]["slope"] == 2.0
    assert set(config.objectives) == {"task", "kd", name, "attention_mse"}
    result = distill(config, console=quiet())

    lines = [json.loads(line) for line in (result.output / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss_made_up" in line]
    assert logged
    assert all(0 < line["loss_made_up"] < 1 and line["made_up_pooled_gap"] > 0 for line in logged)
    shutil.rmtree(result.output)
