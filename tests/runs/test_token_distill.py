"""Distillations whose objectives read single tokens: cached, shared between runs, too large, without a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from codir import distill
from codir.errors import CodirError, ModelError
from codir.losses.base import Needs, Objective, ObjectiveSettings, Term


class Near(Objective):
    """Hidden states of the student's last layer and of one of the teacher's, and their queries."""

    name = "near"

    class Settings(ObjectiveSettings):
        """Which layer of the teacher, and whether it is one of queries."""

        layer: int = 4
        kind: str = "hidden"

    @classmethod
    def needs(cls, settings):
        return Needs(tokens=frozenset({settings.kind}), layers=[(2, settings.layer)])

    def forward(self, step):
        ((own, theirs),) = (
            (own, theirs)
            for own in step.student.tokens.values()
            for theirs in step.teacher.tokens.values()  # no more than this objective asked for
        )
        assert torch.equal(step.student.mask, step.teacher.mask)
        return Term((own - theirs).square().mean(dim=2)[step.student.mask].mean())


NEAR = f"{__name__}:Near"
OBJECTIVES = {"task": {}, "kd": {"weight": 0.7}, NEAR: {"weight": 0.1}}


def first_loss(run: Path, name: str = "loss_near") -> float:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return next(entry[name] for entry in entries if name in entry)


def run(world: World, output: Path, objectives: dict[str, Any] = OBJECTIVES, **settings: Any):
    console = quiet()
    settings = {"recipe": "kd", "baseline": False, "cache_dir": str(output.parent / "cache"), **settings}
    result = distill(**world.settings(output, objectives=objectives, **settings), console=console)
    return result, console.file.getvalue()


def tokens_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "cache").glob("*/hidden.*.npy"))


def test_cached_live_and_too_large_teach_the_same(world: World, tmp_path: Path) -> None:
    found = []
    for name, settings in {
        "cached": {},
        "live": {"cache": False},
        "large": {"cache_tokens_gb": 1e-6, "cache_dir": str(tmp_path / "other")},
    }.items():
        result, printed = run(world, tmp_path / name, **settings)
        found.append(first_loss(result.output))
        assert ("The teacher runs live in each step" in printed) == (name == "large")
        assert ("cache_tokens_gb=1e-06" in printed) == (name == "large")
    assert found[1] == pytest.approx(found[0], rel=2e-3)
    assert found[2] == found[1]
    assert tokens_in(tmp_path) == ["hidden.4"]
    assert not list((tmp_path / "other").glob("*/hidden.*"))


def test_recipes_share_the_cache_and_one_pass_gives_what_is_missing(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "one")
    _, printed = run(world, tmp_path / "two", {"task": {}, NEAR: {"layer": 2}})
    assert "(hidden.2) for 96 examples" in printed
    _, printed = run(world, tmp_path / "three", {"task": {}, "kd": {}, NEAR: {"layer": 2}})
    assert "computing them once" not in printed
    assert tokens_in(tmp_path) == ["hidden.2", "hidden.4"]


def test_a_teacher_whose_attention_cannot_be_read_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedModel, "_supports_sdpa", False)
    monkeypatch.setattr("transformers.BertForSequenceClassification._supports_sdpa", False)
    assert not AutoModelForSequenceClassification.from_pretrained(world.teacher)._supports_sdpa
    with pytest.raises(ModelError, match="attention cannot be compared"):
        run(world, tmp_path / "run", {"task": {}, NEAR: {"kind": "query"}})
    assert not (tmp_path / "cache").exists()
    with pytest.raises(CodirError):  # no run was begun: the corrected command is not refused for the folder
        run(world, tmp_path / "run", {"task": {}, NEAR: {"kind": "value"}})
    monkeypatch.undo()
    run(world, tmp_path / "run", {"task": {}, NEAR: {"kind": "query"}}, training=TRAINING)
