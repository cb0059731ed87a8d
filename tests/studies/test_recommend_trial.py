"""The trial of a recommendation, with real trainings of a tiny teacher; its resume and the run that follows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_evidence import entries
from small_world import World, quiet
from typer.testing import CliRunner

from codir.cli.main import app
from codir.config.data_config import DataConfig
from codir.config.loading import resolved_yaml
from codir.errors import ConfigError, InterruptedRunError, RunError
from codir.storage import write_json, write_text
from codir.studies import halving, recommend_trial, recommend_verdict
from codir.studies import recommend_choice as workflow
from codir.studies.halving import Arm, Rung, Standing
from codir.studies.recommend_choice import recommend
from codir.studies.recommend_cost import StepCost
from codir.studies.recommend_folder import TRIAL, begun, check_folder
from codir.studies.recommend_result import Recommendation
from codir.studies.recommend_trial import Trial, compete, plan_trial
from codir.studies.recommend_verdict import verdict


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
    # what there really is: two of each class are held out
    assert (trial.examples, trial.unlabeled, trial.held_out) == (44, 0, 4)
    chosen = plan_trial(found, learning_rates=[1e-3], examples=20, epochs=1)
    assert [each.epochs for each in chosen.plan] == [1]
    assert {arm.learning_rate for arm in chosen.arms} == {1e-3}
    assert chosen.data["limit_train"] == 20
    with pytest.raises(ConfigError, match="--holdout 1"):
        plan_trial(found, holdout=1.0)
    with pytest.raises(ConfigError, match="--trial-epochs nan"):
        plan_trial(found, epochs=float("nan"))


def test_a_recipe_that_does_not_fit_the_trials_data_is_left_out(
    study_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bank of 500 does not fit 44 examples: the others compete, and what is left out is written down with why."""
    monkeypatch.setattr(workflow, "measure_step", lambda config: StepCost(config.recipe, 0.1, 0.01, 8))
    path, console = tmp_path / "evidence.json", quiet()
    made = {"entries": entries(epochs=2, kd=None, codir_fine=0.5), "versions": {}}
    path.write_text(json.dumps(made), encoding="utf-8")
    found = recommend(
        str(study_world.teacher), DataConfig(**study_world.data()), evidence=path, console=quiet()
    )
    assert [each.recipe for each in found.candidates] == ["codir-fine", "kd"]
    trial = plan_trial(found, console=console)
    assert {arm.recipe for arm in trial.arms} == set(trial.configs) == set(trial.costs) == {"kd"}
    assert [each.arms for each in trial.plan] == [2]
    assert trial.recommendation["left_out"]["codir-fine"].startswith("crd.k=500 does not fit N=44")
    assert "`codir-fine` is left out of the trial: crd.k=500" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match=r"nothing to compare.*44.*\n  codir-fine: crd.k=500[^\n]*\nGive more"
    ):
        plan_trial(found, learning_rates=[1e-3], console=quiet())


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
    assert "on 44 training examples, judged on 4 that are held out of the training data" in " ".join(
        shown.split()
    )
    assert f"Going on with the trial in {folder}: teacher {found.config.teacher}, --train" in shown
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
    again = begun(folder / "student")
    assert again is not None
    assert again.recipe == config.recipe
    before = len(here)
    recommend_trial.run(again, console)
    assert len(here) == before


def test_what_a_winner_says() -> None:
    def standing(recipe: str, score: float, constant: float | None = 0.5) -> Standing:
        results = (SimpleNamespace(constant_score=constant),)
        return Standing(Arm(recipe, 1e-3), 1, score, 1, 1, results)  # type: ignore[arg-type]

    assert "too short to tell" in verdict([standing("kd", 0.503), standing("pkd", 0.4)])
    assert "the only candidate" in verdict([standing("kd", 0.7)])
    lost = Standing(Arm("pkd", 1e-3), 1, None, 0, 1)
    assert "the others failed" in verdict([standing("kd", 0.7, None), lost])


def test_the_verdict_is_on_what_the_winner_was_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """All seeds are tested together: seed 1 of the winner may be much worse, seed 2 may make up for it."""
    labels = np.random.default_rng(0).integers(0, 2, 200)

    def evaluated(folder: Path) -> Any:
        predicted = labels ^ (np.arange(200) < int(str(folder)))  # so many are wrong
        return SimpleNamespace(
            labels={"holdout": labels},
            main_split="holdout",
            predictions=lambda: predicted,
            task=SimpleNamespace(main_metric="accuracy"),
        )

    def standing(recipe: str, *wrong: int) -> Standing:
        scores = [1 - each / 200 for each in wrong]
        results = tuple(
            SimpleNamespace(constant_score=0.5, seed=seed, folder=Path(str(each)))
            for seed, each in enumerate(wrong, 1)
        )
        return Standing(Arm(recipe, 1.0), 1, sum(scores) / len(scores), len(wrong), 1, results)  # type: ignore[arg-type]

    monkeypatch.setattr(recommend_verdict, "_evaluated", evaluated)
    apart = verdict([standing("a", 62, 14), standing("b", 40, 40)])
    assert "wins by 1.0 points over `b` at 1 (means of 2 seeds): within noise (accuracy, paired boot" in apart
    clear = verdict([standing("a", 20, 20), standing("b", 40, 40)])
    assert "beyond what the held-out examples explain" in clear
    assert "(means of 1 and 2 seeds): beyond" in verdict([standing("a", 10), standing("b", 40, 40)])


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Nothing to resume"):
        Trial.read(tmp_path)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "trial.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="is damaged"):
        Trial.read(tmp_path)
    assert begun(tmp_path) is None


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--holdout", "1.5"], "--holdout 1.5: give a share"),
        (["--holdout", "nan"], "--holdout is nan: must be a finite number"),
        (["--learning-rates", "nan,1e-4"], "--learning-rates nan: give numbers"),
        (["--learning-rates", "1e-4,inf"], "--learning-rates inf: give numbers"),
        (["--learning-rates", "-1e-4"], "--learning-rates -0.0001: give numbers"),
        (["--trial-epochs", "inf"], "--trial-epochs is inf: must be a finite number"),
        ([], "pip install 'codir[study]'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_timed(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Any] = []
    monkeypatch.setattr(workflow, "recommend", lambda *args, **settings: timed.append(args))
    if not flags:
        monkeypatch.setitem(sys.modules, "optuna", None)
    command = ["recommend", "t", "--train", "t.csv", "--output", str(tmp_path / "o"), "--trial", *flags]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not timed
    assert not (tmp_path / "o").exists()


def test_ctrl_c_during_the_timings_says_that_there_is_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "recommend", stopped)
    command = ["recommend", "t", "--train", "t.csv", "--output", str(tmp_path / "o"), "--trial"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130
    assert "nothing to resume, the same command starts anew" in done.output
    assert "checkpoint" not in done.output


def test_a_resume_is_held_to_the_command_that_began(
    found: Recommendation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_world: World
) -> None:
    went: list[str] = []

    def competing(trial: Trial, folder: Path, **settings: Any) -> Any:
        write_json(folder / TRIAL, trial.to_json())
        went.append("trial")
        return found.config

    def running(config: Any) -> None:
        write_text(config.output / "codir.yaml", resolved_yaml(config))
        went.append("run")

    monkeypatch.setattr(workflow, "recommend", lambda *args, **settings: found)
    monkeypatch.setattr(recommend_trial, "compete", competing)
    monkeypatch.setattr(recommend_trial, "run", running)
    train, folder = str(study_world.train), tmp_path / "out"
    own = {"--train": train, "--text": "review", "--trial-epochs": "2", "--output": str(folder)}

    def invoke(*flags: str, teacher: str = "t", **changes: str) -> Any:
        values = {**own, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
        command = ["recommend", teacher, *(part for pair in values.items() for part in pair), *flags]
        return CliRunner().invoke(app, command)

    assert invoke("--trial").exit_code == 0
    other = invoke("--trial", "--resume", teacher="u", trial_epochs="3", learning_rates="1e-5", workers="2")
    assert other.exit_code == 2
    for line in (
        f"{folder} holds what another command began",
        "TEACHER: t there, u now",
        "--trial-epochs: 2.0 there, 3.0 now",
        "--learning-rates: (not set) there, 1e-5 now",
    ):
        assert line in other.output
    assert "--workers" not in other.output
    assert went == ["trial"]
    assert invoke("--trial", "--run", "--resume", workers="2", json=str(tmp_path / "r.json")).exit_code == 0
    assert went == ["trial", "trial", "run"]
    # the long run has begun
    assert invoke("--run", "--resume", text="stars").exit_code == 2
    assert invoke("--run", "--resume").exit_code == 0
    assert went == ["trial", "trial", "run", "run"]
