"""Students of a study that are frozen, narrower, or come from another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from codir.studies.loading import load_study, study_yaml
from codir.studies.resolved import resolve_recipes
from codir.studies.trial import Trial
from codir.studies.trial_config import distill_config

STUDENTS: dict[str, dict[str, Any]] = {
    "whole": {"layers": 3},
    "frozen": {"layers": 3, "freeze": ["embeddings", 1]},
    "narrow": {"layers": 3, "width": 192, "intermediate": 600},
    "other": {"layers": 3, "origin": "encoders/mine"},
}


def load(settings: dict[str, Any]) -> Any:
    return load_study(flags={key: (f"--{key}", value) for key, value in settings.items()})


def test_they_reach_the_trials_with_paths_that_hold_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base = {"recipes": "kd", "tasks": "mrpc", "model": "enc", "output": "s", "students": STUDENTS}
    config = load(base)
    recipe = resolve_recipes(config)["kd"]
    made = {
        name: distill_config(config, recipe, Trial("kd", "mrpc", name, 1, {})).student for name in STUDENTS
    }
    assert made["frozen"].freeze == ["embeddings", 1]
    assert (made["narrow"].width, made["narrow"].intermediate) == (192, 600)
    assert made["other"].origin == str(tmp_path / "encoders" / "mine")
    assert made["whole"].freeze is made["whole"].width is made["whole"].origin is None
    text = study_yaml(config)
    assert load({k: v for k, v in yaml.safe_load(text).items() if k != "command"}).students == config.students
    # a study from before there were these settings is the same study
    assert set(yaml.safe_load(text)["students"]["whole"]) == {"layers", "embeddings"}
