"""The recipe codir-plus on tiny models: classes, scores, unlabelled texts, students of other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification

from codir import distill
from codir.runs.distill import DistillResult


def run(world: World, output: Path, **changes: Any) -> DistillResult:
    settings = world.settings(output, training=TRAINING, **changes)
    del settings["objectives"]
    return distill(recipe="codir-plus", **settings, console=quiet())


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def words(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(value for name, value in found.items() if "word_embeddings" in name)


def test_the_first_layers_and_the_embeddings_of_the_teacher(world: World, tmp_path: Path) -> None:
    from transformers import AutoConfig

    from codir.config.loading import load_distill
    from codir.models.loading import load_classifier
    from codir.runs.prepare import prepare

    flags = {
        key: (key, value) for key, value in world.settings(tmp_path / "run").items() if key != "objectives"
    }
    start = prepare(load_distill(recipe="codir-plus", flags=flags), quiet()).student.state_dict()
    teacher = load_classifier(str(world.teacher)).state_dict()
    for name, value in start.items():
        if "layer." in name or "embeddings" in name:
            assert torch.equal(value, teacher[name]), name
    done = run(world, tmp_path / "run")
    assert torch.equal(words(weights(done.output)), words(teacher))
    assert AutoConfig.from_pretrained(done.output).num_hidden_layers == 2
    # the undistilled student beside it starts and is frozen in the same way: the difference is the teacher's
    assert torch.equal(words(weights(done.output / "comparison" / "finetune")), words(teacher))


@pytest.mark.parametrize("kind", ["scores", "unlabelled", "narrow", "another model"])
def test_it_goes_with(world: World, tmp_path: Path, kind: str) -> None:
    changes: dict[str, Any] = {"baseline": False}
    if kind == "scores":
        changes |= {"teacher": str(world.regression), "data": world.data(label="score")}
    elif kind == "unlabelled":
        more = tmp_path / "more.csv"
        more.write_text("review\n" + "".join(f"the film number {n}\n" for n in range(9)), encoding="utf-8")
        changes |= {"data": world.data(unlabeled=[str(more)])}
    elif kind == "narrow":
        changes |= {"student": {"layers": 2, "width": 16}}
    else:
        changes |= {"student": {"model": str(run(world, tmp_path / "first", baseline=False).output)}}
    done = run(world, tmp_path / "run", **changes)
    assert done.comparison.row("codir") is not None
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert student.config.num_hidden_layers == 2
    if kind == "narrow":
        before = words(weights(world.teacher))
        assert words(student.state_dict()).shape == (before.shape[0], 16)
