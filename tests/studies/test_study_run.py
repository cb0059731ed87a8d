"""Studies from start to end in one process: what is run, what is never run again, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_world import World, quiet, sentences
from study_files import contents

from codir.errors import CodirError, ConfigError, RunError
from codir.locks import exclusive
from codir.runs.runfolder import RunFolder
from codir.storage import read_json, write_json
from codir.studies.results import read_results
from codir.studies.run import show_status, study

Settings = Callable[..., dict[str, Any]]


def test_a_study_runs_every_trial_once_and_reads_its_results(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    result = study(**study_settings(tmp_path / "s"), console=quiet())
    assert sorted(here) == [
        "good/finetune/seed-1",
        "good/finetune/seed-2",
        "good/kd/seed-1",
        "good/kd/seed-2",
    ]
    assert not result.failed
    assert [(each.recipe, each.seed, each.phase) for each in result.results] == [
        ("finetune", 1, "final"),
        ("finetune", 2, "final"),
        ("kd", 1, "final"),
        ("kd", 2, "final"),
    ]
    first = result.results[0]
    assert first.metric == "accuracy"
    assert 0 <= first.score <= 1
    assert first.steps == 6
    assert first.epochs == 1.0
    assert first.best_epoch == 1.0
    assert first.teacher_parameters > first.parameters
    assert first.seconds >= 0
    # the trials of one seed start from the same student
    starts = {json.loads((each.folder / "environment.json").read_text())["seed"] for each in result.results}
    assert starts == {1, 2}


def test_a_resumed_study_repeats_nothing(study_settings: Settings, tmp_path: Path, here: list[str]) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1]), console=quiet())
    before = contents(tmp_path / "s")
    here.clear()
    study(**study_settings(tmp_path / "s", seeds=[1], resume=True), console=quiet())
    (tmp_path / "s" / "study.db").unlink()
    study(**study_settings(tmp_path / "s", seeds=[1], resume=True), console=quiet())
    assert here == []
    assert contents(tmp_path / "s") == before


def test_seeds_and_recipes_may_be_added(study_settings: Settings, tmp_path: Path, here: list[str]) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1], recipes=["kd"]), console=quiet())
    before = contents(tmp_path / "s")
    here.clear()
    more = study_settings(tmp_path / "s", seeds=[2, 1], recipes=["finetune", "kd"], resume=True)
    result = study(**more, console=quiet())
    assert sorted(here) == ["good/finetune/seed-1", "good/finetune/seed-2", "good/kd/seed-2"]
    assert len(result.results) == 4
    assert before.items() <= contents(tmp_path / "s").items()


def test_a_recipe_may_have_a_start_and_unlabelled_texts_of_its_own_at_the_same_number_of_steps(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("".join(row["review"] + "\n" for row in sentences(30, seed=5)), encoding="utf-8")
    settings = study_settings(
        tmp_path / "s",
        seeds=[1],
        recipes=[
            "kd",
            {"more": {"recipe": "kd", "settings": {"data.unlabeled": [str(more)]}}},
            {"low": "kd"},
        ],
        settings={"low": {"student.init": [1, 2]}},
        training={**study_settings(tmp_path)["training"], "steps": 5},
    )
    study(**settings, console=quiet())
    found = {each.recipe: each for each in read_results(tmp_path / "s")}
    assert {name: each.steps for name, each in found.items()} == {"kd": 5, "more": 5, "low": 5}
    configs = {name: yaml.safe_load((each.folder / "codir.yaml").read_text()) for name, each in found.items()}
    assert {name: each["data"]["unlabeled"] for name, each in configs.items()} == {
        "kd": None,
        "more": [str(more)],
        "low": None,
    }
    assert {name: each["student"]["init"] for name, each in configs.items()} == {
        "kd": "spread",
        "more": "spread",
        "low": [1, 2],
    }
    here.clear()
    study(**{**settings, "resume": True}, console=quiet())
    assert here == []
    changed = {**settings, "settings": {"low": {"student.init": [2, 3]}}, "resume": True}
    with pytest.raises(RunError, match=r"recipe low, changes\.student\.init: \[1, 2\] there, \[2, 3\] now"):
        study(**changed, console=quiet())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"learning_rate": 1e-4}}, "training.learning_rate: 0.003 there, 0.0001 now"),
        ({"seeds": [1]}, "seeds: 2 there, missing now"),
        ({"recipes": ["kd"]}, "recipes.finetune: there, missing now"),
        ({"student": {"layers": 1}}, "student.layers: 2 there, 1 now"),
        (
            {"settings": {"kd": {"objectives.kd.weight": 0.3}}},
            "recipe kd, objectives.kd.weight: 0.7 there, 0.3 now",
        ),
        ({"search_seed": 7}, "search_seed: 0 there, 7 now"),
    ],
)
def test_another_study_in_the_folder_is_refused_with_what_differs(
    study_settings: Settings, tmp_path: Path, here: list[str], changes: dict[str, Any], named: str
) -> None:
    from codir.studies.folder import StudyFolder
    from codir.studies.loading import load_study
    from codir.studies.resolved import resolve_recipes

    settings = study_settings(tmp_path / "s")
    config = load_study(flags={key: (key, value) for key, value in settings.items()})
    StudyFolder(tmp_path / "s").save(config, resolve_recipes(config))
    changed = {**settings, "resume": True, **changes}
    if "training" in changes:
        changed["training"] = {**settings["training"], **changes["training"]}
    with pytest.raises(RunError, match="holds a study of another configuration") as refused:
        study(**changed, console=quiet())
    assert named in str(refused.value)
    assert here == []


def test_a_study_goes_on_after_an_objective_got_a_new_setting(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1], recipes=["kd"]), console=quiet())
    path = tmp_path / "s" / "recipes.json"
    recipes = read_json(path)
    del recipes["kd"]["objectives"]["kd"]["squared"]  # as an older version wrote it
    del recipes["kd"]["training"]["adam_epsilon"]
    write_json(path, recipes)
    more = {"seeds": [1], "recipes": ["kd", "finetune"], "resume": True}
    here.clear()
    study(**study_settings(tmp_path / "s", **more), console=quiet())
    assert here == ["good/finetune/seed-1"]
    recipes["kd"]["objectives"]["kd"]["squared"] = True  # and what it was is not its default
    write_json(path, recipes)
    with pytest.raises(RunError, match=r"recipe kd, objectives\.kd\.squared: True there, False now"):
        study(**study_settings(tmp_path / "s", **more), console=quiet())


def test_a_folder_in_use_or_of_others_is_refused(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    with exclusive(tmp_path / "s"), pytest.raises(RunError, match="Another process is working in"):
        study(**study_settings(tmp_path / "s"), console=quiet())
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").touch()
    with pytest.raises(RunError, match="not empty and not a study"):
        study(**study_settings(tmp_path / "t"), console=quiet())
    study(**study_settings(tmp_path / "u", recipes=["kd"], seeds=[1]), console=quiet())
    with pytest.raises(RunError, match=r"already holds a study\. Add --resume"):
        study(**study_settings(tmp_path / "u", recipes=["kd"], seeds=[1]), console=quiet())


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(
    study_settings: Settings, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.runs import distill as module

    counting = module.train_into

    def failing(folder: RunFolder, *args: Any, **kwargs: Any) -> Any:
        if folder.path.parts[-2:] == ("kd", "seed-1"):
            here.append("failing")
            raise OSError(28, "No space left on device")
        return counting(folder, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_into", failing)
        console = quiet()
        result = study(**study_settings(tmp_path / "s", seeds=[1]), console=console)
        assert list(result.failed) == ["good/kd/seed-1"]
        assert "No space left on device" in result.failed["good/kd/seed-1"]
        assert "failed: good/kd/seed-1: OSError: [Errno 28]" in console.file.getvalue()
        assert len(result.results) == 1
        # it is not tried again unless that is asked for
        here.clear()
        result = study(**study_settings(tmp_path / "s", seeds=[1], resume=True), console=quiet())
        assert here == []
        assert list(result.failed) == ["good/kd/seed-1"]
        assert show_status(tmp_path / "s", quiet()).count("failed") == 1
    result = study(
        **study_settings(tmp_path / "s", seeds=[1], resume=True), retry_failed=True, console=quiet()
    )
    assert here == ["good/kd/seed-1"]
    assert not result.failed
    assert len(result.results) == 2


def test_the_teacher_is_made_once_for_each_task(
    study_settings: Settings, study_world: World, tmp_path: Path, here: list[str]
) -> None:
    settings = study_settings(
        tmp_path / "s",
        teachers=None,
        model=str(study_world.folder / "encoder"),
        teacher_training={"epochs": 1, "batch_size": 8, "precision": "fp32"},
        tasks={"one": study_world.data(), "two": study_world.data(limit_train=24)},
        recipes=["kd"],
        seeds=[1],
    )
    result = study(**settings, console=quiet())
    assert len(result.results) == 2
    for task in ("one", "two"):
        run = RunFolder(tmp_path / "s" / "teachers" / task)
        assert run.finished
        assert len(run.status["attempts"]) == 1
    assert {each.task: each.steps for each in result.results} == {"one": 6, "two": 3}


def test_a_teacher_that_fails_blocks_its_task_alone(
    study_settings: Settings,
    study_world: World,
    tmp_path: Path,
    here: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codir.runs import finetune as module

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ConfigError("it diverged")

    monkeypatch.setattr(module, "train_into", failing)
    settings = study_settings(
        tmp_path / "s",
        model=str(study_world.folder / "encoder"),
        teachers={"one": str(study_world.teacher)},
        tasks={"one": study_world.data(), "two": study_world.data()},
        seeds=[1],
    )
    result = study(**settings, console=quiet())
    assert {each.task for each in result.results} == {"one"}
    assert list(result.failed) == ["teacher:two"]


def test_a_trial_is_the_same_whatever_ran_before_it(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    study(**study_settings(tmp_path / "s", seeds=[2]), console=quiet())
    study(**study_settings(tmp_path / "alone", recipes=["kd"], seeds=[2]), console=quiet())
    one, other = (
        tmp_path / name / "trials" / "good" / "kd" / "seed-2" / "model.safetensors" for name in ("s", "alone")
    )
    assert one.read_bytes() == other.read_bytes()


def test_what_cannot_work_is_refused_before_anything_is_trained(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    too_many = {"codir-fine": {"objectives.crd.k": 500}}
    settings = study_settings(tmp_path / "s", recipes=["kd", "codir-fine"], settings=too_many)
    with pytest.raises(ConfigError, match=r"good/codir-fine: crd.k=500 does not fit N=48"):
        study(**settings, console=quiet())
    assert here == []
    assert not (tmp_path / "s" / "study.yaml").exists()
    with pytest.raises(CodirError, match="nowhere"):
        study(**study_settings(tmp_path / "s", teachers={"good": "/nowhere/at/all"}), console=quiet())
    own = {"training": {"epochs": 1, "learning_rate": -1.0}}
    with pytest.raises(ConfigError, match=r"training.learning_rate is -1.0"):
        study(**study_settings(tmp_path / "s", **own), console=quiet())


def test_a_damaged_result_is_named(study_settings: Settings, tmp_path: Path, here: list[str]) -> None:
    study(**study_settings(tmp_path / "s", recipes=["kd"], seeds=[1]), console=quiet())
    metrics = tmp_path / "s" / "trials" / "good" / "kd" / "seed-1" / "metrics.json"
    metrics.write_text('{"main_metric": "accuracy"}')
    with pytest.raises(RunError, match=r"seed-1"):
        read_results(tmp_path / "s")
    shutil.rmtree(metrics.parent)
    study(**study_settings(tmp_path / "s", recipes=["kd"], seeds=[1], resume=True), console=quiet())
    assert len(read_results(tmp_path / "s")) == 1


def test_the_greedy_protocol_from_start_to_end(
    study_settings: Settings, tmp_path: Path, here: list[str]
) -> None:
    grid = {"finetune": {"training.learning_rate": [1e-9, 3e-3]}}
    settings = study_settings(tmp_path / "s", recipes=["kd"], strategy="greedy", grid=grid, seeds=[1])
    training = {key: value for key, value in settings["training"].items() if key != "learning_rate"}
    settings["training"] = {**training, "epochs": 4}
    result = study(**settings, console=quiet())
    searched = {
        each.settings["training.learning_rate"]: each.score
        for each in result.results
        if each.phase == "search"
    }
    (final,) = [each for each in result.results if each.phase == "final"]
    assert len(here) == 3
    assert final.recipe == "kd"
    assert searched[final.settings["training.learning_rate"]] == max(searched.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"objectives.crd.k": [5]}}, "grid: objectives.crd.k means nothing to finetune, kd"),
        ({"grid": {"kd": {"objectives.crd.k": [5]}}}, "grid: objectives.crd.k means nothing to kd"),
        (
            {"grid": {"training.epochs": [1, 2]}},
            "training.epochs cannot be searched: it is part of the budget",
        ),
        ({"grid": {"training.lerning_rate": [1]}}, "did you mean 'learning_rate'"),
        ({"grid": {"objectives.kd.temperature": [1, -1]}}, "objectives.kd.temperature is -1"),
        ({"grid": {"data.max_length": [1]}}, "data.max_length cannot be searched"),
        ({"launcher": "ray"}, "pip install ray"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    study_settings: Settings, tmp_path: Path, here: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        study(**study_settings(tmp_path / "s", **changes), console=quiet())
    assert message in str(refused.value)
    assert not (tmp_path / "s").exists()
