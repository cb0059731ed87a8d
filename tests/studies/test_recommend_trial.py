"""The trial of a recommendation, with real trainings of a tiny teacher; its resume and the run that follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_evidence import entries
from small_world import World, quiet
from typer.testing import CliRunner

from codir.cli.main import app
from codir.errors import ConfigError, InterruptedRunError, RunError
from codir.recipes.data_config import DataConfig
from codir.studies import halving, recommend_trial
from codir.studies.halving import Arm, Rung, Standing
from codir.studies.recommend_trial import Trial, _verdict, check_folder, compete, plan_trial
from codir.workflows import recommend as workflow
from codir.workflows.recommend import recommend
from codir.workflows.recommend_cost import StepCost
from codir.workflows.recommend_result import Recommendation


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.json"
    path.write_text(
        json.dumps({"entries": entries(epochs=2, kd=None, pkd=0.5), "versions": {}}), encoding="utf-8"
    )
    return path


@pytest.fixture
def found(
    study_world: World, evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Recommendation:
    monkeypatch.setattr(workflow, "measure_step", lambda config: StepCost(config.recipe, 0.1, 0.01, 8))
    return recommend(
        str(study_world.teacher),
        DataConfig(**study_world.data()),
        evidence=evidence,
        batch_size=8,
        precision="fp32",
        output=tmp_path / "out" / "student",
        console=quiet(),
    )


def test_the_plan(found: Recommendation, study_world: World) -> None:
    trial = plan_trial(found)
    assert [(arm.recipe, arm.learning_rate) for arm in trial.arms] == [
        ("pkd", 3e-3),
        ("pkd", 6e-3),
        ("kd", 3e-3),
        ("kd", 6e-3),
    ]
    assert [(each.arms, each.epochs, each.seeds) for each in trial.plan] == [(4, 1, 1), (2, 2, 2)]
    # a share of the training file decides; the validation file is not named
    assert "validation" not in trial.data
    assert trial.data["holdout"] == 0.1
    assert trial.data["limit_train"] == 48
    # 4 x 6 steps, then 2 x 2 x 12, of 0.1 s, and evaluations; the teacher for 48 examples
    assert trial.hours * 3600 > 7.2
    chosen = plan_trial(found, learning_rates=[1e-3], examples=20, epochs=1)
    assert [each.epochs for each in chosen.plan] == [1]
    assert {arm.learning_rate for arm in chosen.arms} == {1e-3}
    assert chosen.data["limit_train"] == 20
    with pytest.raises(ConfigError, match="--holdout 1"):
        plan_trial(found, holdout=1.0)


def test_a_trial_from_start_to_end(
    found: Recommendation, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, console = tmp_path / "out", quiet()
    check_folder(folder)
    trial = plan_trial(found)
    trial.arms, trial.plan = trial.arms[:3], [Rung(3, 1, 1), Rung(2, 2, 1)]  # what a test has time for
    without = {"baseline": False}
    trial.configs = {name: each.model_copy(update=without) for name, each in trial.configs.items()}
    stop = halving.study
    calls: list[int] = []

    def stopped_once(**values: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 2:
            raise InterruptedRunError("stopped")
        return stop(**values)

    monkeypatch.setattr(halving, "study", stopped_once)
    with pytest.raises(InterruptedRunError, match="rung 2 of 2"):
        compete(trial, folder, console=console)
    trained = list(here)
    assert len(trained) == 3
    with pytest.raises(RunError, match="--resume"):
        check_folder(folder)

    config = compete(Trial.read(folder), folder, json_file=tmp_path / "r.json", console=console)
    assert len(here) == 3 + 2  # nothing of the first rung again
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The validation data are not opened." in shown
    assert "held-out score" in shown
    assert "wins by" in shown
    content = json.loads((folder / "recommendation.json").read_text(encoding="utf-8"))
    assert content == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["recipe"] == config.recipe
    assert content["learning_rate"] == config.training.learning_rate
    winner = next(each for each in found.candidates if each.recipe == config.recipe)
    assert content["hours"] == winner.hours.to_dict()
    assert content["why"]["recipe"].startswith(content["trial"]["verdict"])
    assert content["command"] in shown.replace("\n", "")
    assert len(content["trial"]["standings"]) == 3
    best = max(content["trial"]["standings"][:2], key=lambda each: each["score"])
    assert (best["recipe"], best["learning_rate"]) == (config.recipe, config.training.learning_rate)
    # the long run is on the user's own validation data again
    assert config.data.holdout is None
    assert config.data.validation is not None
    assert config.training.epochs == 2

    recommend_trial.run(config, console)
    assert (folder / "student" / "model.safetensors").is_file()
    again = recommend_trial.begun(folder)
    assert again is not None
    assert again.recipe == config.recipe
    before = len(here)
    recommend_trial.run(again, console)
    assert len(here) == before


def test_what_a_winner_says() -> None:
    def standing(recipe: str, score: float, constant: float | None = 0.5) -> Standing:
        results = (SimpleNamespace(constant_score=constant),)
        return Standing(Arm(recipe, 1e-3), 1, score, 1, 1, results)  # type: ignore[arg-type]

    assert "too short to tell" in _verdict([standing("kd", 0.503), standing("pkd", 0.4)])
    assert "the only candidate" in _verdict([standing("kd", 0.7)])
    lost = Standing(Arm("pkd", 1e-3), 1, None, 0, 1)
    assert "the others failed" in _verdict([standing("kd", 0.7, None), lost])


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Nothing to resume"):
        Trial.read(tmp_path)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "trial.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="is damaged"):
        Trial.read(tmp_path)
    assert recommend_trial.begun(tmp_path) is None


def test_the_command_line(
    found: Recommendation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_world: World
) -> None:
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(workflow, "recommend", lambda *args, **settings: found)

    def competing(trial: Trial, folder: Path, **settings: Any) -> Any:
        calls.append(("trial", (trial, folder, settings)))
        return found.config

    monkeypatch.setattr(recommend_trial, "compete", competing)
    monkeypatch.setattr(recommend_trial, "run", lambda config: calls.append(("run", config)))
    command = ["recommend", "t", "--train", str(study_world.train), "--output", str(tmp_path / "o")]
    invoke: Callable[..., Any] = CliRunner().invoke
    assert (
        invoke(app, [*command, "--trial", "--learning-rates", "1e-3,2e-3", "--workers", "2"]).exit_code == 0
    )
    ((_, (trial, folder, settings)),) = calls
    assert [arm.learning_rate for arm in trial.arms] == [1e-3, 2e-3] * 2
    assert (folder, settings["workers"]) == (tmp_path / "o", 2)
    calls.clear()
    assert invoke(app, [*command, "--trial", "--run"]).exit_code == 0
    assert [name for name, _ in calls] == ["trial", "run"]
    calls.clear()
    assert invoke(app, [*command, "--run"]).exit_code == 0
    assert calls == [("run", found.config)]
    for wrong in (["--resume"], ["--trial", "--resume"], ["--trial", "--learning-rates", "fast"]):
        assert invoke(app, [*command, *wrong]).exit_code == 2
