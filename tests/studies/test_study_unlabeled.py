"""Studies with texts without labels: one cache of the teacher for all trials, absolute paths, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import World, quiet, sentences

from codir.errors import ConfigError
from codir.studies.loading import load_study
from codir.studies.run import study
from codir.studies.trial_config import teacher_config

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def more(tmp_path: Path) -> Path:
    path = tmp_path / "more.txt"
    path.write_text("".join(f"{row['review']} {n}\n" for n, row in enumerate(sentences(20, seed=5))))
    return path


def test_trials_share_the_teachers_answers(
    study_settings: Settings, study_world: World, more: Path, tmp_path: Path, here: list[str]
) -> None:
    cache = tmp_path / "cache"
    data = study_world.data(validation=None, holdout=0.25, unlabeled=[str(more)])
    settings = study_settings(
        tmp_path / "s", recipes=["kd"], tasks={"good": data}, cache_dir=str(cache), baseline="kd"
    )
    result = study(**settings, console=quiet())
    assert not result.failed
    assert sorted(here) == ["good/kd/seed-1", "good/kd/seed-2"]
    for each in result.results:
        metrics = json.loads((each.folder / "metrics.json").read_text())
        assert metrics["unlabeled"] == {"examples": 20, "files": [str(more)]}
        assert metrics["train_examples"] == 36
        assert metrics["validation_examples"] == {"holdout": 12}
        assert each.steps == 7  # 56 examples in batches of 8
    rows = [json.loads(path.read_text())["examples"] for path in cache.glob("*/manifest.json")]
    assert sorted(rows) == [12, 56]


def test_paths_are_absolute_and_the_teacher_learns_from_labels_alone(
    study_settings: Settings, study_world: World, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(more.parent)
    settings = study_settings(
        tmp_path / "s",
        recipes=["kd"],
        teachers=None,
        model=str(study_world.folder / "encoder"),
        tasks={"good": study_world.data(unlabeled=["more.txt"], limit_unlabeled=5)},
    )
    config = load_study(flags={key: (f"--{key}", value) for key, value in settings.items()})
    assert config.tasks["good"].unlabeled == [more]
    assert teacher_config(config, "good").data.unlabeled is None


def test_a_recipe_of_labels_alone_is_refused_before_anything_runs(
    study_settings: Settings, study_world: World, more: Path, tmp_path: Path, here: list[str]
) -> None:
    settings = study_settings(tmp_path / "s", tasks={"good": study_world.data(unlabeled=[str(more)])})
    with pytest.raises(ConfigError, match=r"recipe finetune: .*the loss is task alone"):
        study(**settings, console=quiet())
    assert here == []
