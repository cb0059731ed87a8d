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
from codir.files import exclusive, read_json, write_json
from codir.record.runfolder import RunFolder
from codir.studies import engines
from codir.studies.results import read_results
from codir.studies.run import show_status, study
from codir.studies.trial import Outcome

Settings = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def finished(study_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished study: finetune and kd, seeds 1 and 2."""
    output = tmp_path_factory.mktemp("finished") / "s"
    study(**study_settings(output), console=quiet())
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "s"))


@pytest.fixture
def more(tmp_path: Path) -> Path:
    path = tmp_path / "more.txt"
    path.write_text("".join(f"{row['review']} {n}\n" for n, row in enumerate(sentences(20, seed=5))))
    return path


def test_a_study_runs_every_trial_once_and_reads_its_results(finished: Path) -> None:
    results = read_results(finished)
    wanted = [(recipe, seed, "final") for recipe in ("finetune", "kd") for seed in (1, 2)]
    assert [(each.recipe, each.seed, each.phase) for each in results] == wanted
    first = results[0]
    assert (first.metric, first.steps, first.epochs, first.best_epoch) == ("accuracy", 6, 1.0, 1.0)
    assert 0 <= first.score <= 1
    assert first.teacher_parameters > first.parameters
    assert first.seconds >= 0
    assert {json.loads((each.folder / "environment.json").read_text())["seed"] for each in results} == {1, 2}
    for name in ("report.md", "results.csv", "trials.csv", "table.tex", "study.yaml"):
        assert (finished / name).stat().st_size > 100, name


def test_a_resumed_study_repeats_nothing_and_may_grow(
    study_settings: Settings, copied: Path, trained: list[str]
) -> None:
    before = contents(copied)
    study(**study_settings(copied, resume=True), console=quiet())
    assert trained == []
    assert contents(copied) == before
    more = study_settings(copied, seeds=[3, 2, 1], recipes=["finetune", "kd", "sid"], resume=True)
    result = study(**more, console=quiet())
    assert sorted(trained) == ["good/finetune/seed-3", "good/kd/seed-3", *(f"good/sid/seed-{n}" for n in (1, 2, 3))]
    assert len(result.results) == 9
    assert before.items() <= contents(copied).items()


def test_a_recipe_may_have_a_start_and_unlabelled_texts_of_its_own_at_the_same_number_of_steps(
    study_settings: Settings, more: Path, tmp_path: Path
) -> None:
    settings = study_settings(
        tmp_path / "s",
        recipes=["kd", {"more": {"recipe": "kd"}}, {"low": {"recipe": "kd"}}],
        settings={"more": {"data.unlabeled": [str(more)]}, "low": {"student.init": [1, 2]}},
        training={"max_steps": 5, "per_device_train_batch_size": 8, "precision": "fp32", "learning_rate": 3e-3},
        seeds=[1],
    )
    study(**settings, console=quiet())
    found = {each.recipe: each for each in read_results(tmp_path / "s")}
    assert {name: each.steps for name, each in found.items()} == {"kd": 5, "more": 5, "low": 5}
    configs = {name: yaml.safe_load((each.folder / "codir.yaml").read_text()) for name, each in found.items()}
    unlabelled = {name: each["data"]["unlabeled"] for name, each in configs.items()}
    assert unlabelled == {"kd": None, "more": [str(more)], "low": None}
    starts = {name: each["student"]["init"] for name, each in configs.items()}
    assert starts == {"kd": "spread", "more": "spread", "low": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"learning_rate": 1e-4}}, "training.learning_rate: 0.003 there, 0.0001 now"),
        ({"seeds": [1]}, "good/kd/seed-2 is there, and no trial of the study now"),
        ({"recipes": ["kd"]}, "good/finetune/seed-1 is there, and no trial of the study now"),
        ({"student": {"layers": 1}}, "student.layers: 2 there, 1 now"),
        ({"settings": {"kd": {"objectives.kd.weight": 0.3}}}, "recipe kd, objectives.kd.weight: 0.7 there, 0.3 now"),
        ({"grid": {"training.learning_rate": [1e-3, 2e-3]}}, "good/kd/seed-1 is there, and no trial"),
    ],
)
def test_another_study_in_the_folder_is_refused_with_what_differs(
    study_settings: Settings, finished: Path, trained: list[str], changes: dict[str, Any], named: str
) -> None:
    settings = study_settings(finished, resume=True)
    if "training" in changes:
        changes = {"training": {**settings["training"], **changes["training"]}}
    with pytest.raises(RunError, match="holds a study of another configuration") as refused:
        study(**{**settings, **changes}, console=quiet())
    assert named in str(refused.value)
    assert trained == []


def test_a_folder_in_use_or_of_others_is_refused(study_settings: Settings, tmp_path: Path, finished: Path) -> None:
    with exclusive(tmp_path / "s"), pytest.raises(RunError, match="Another process is working in"):
        study(**study_settings(tmp_path / "s"), console=quiet())
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").touch()
    with pytest.raises(RunError, match="not empty and not a study"):
        study(**study_settings(tmp_path / "t"), console=quiet())
    with pytest.raises(RunError, match=r"already holds a study\. Add --resume"):
        study(**study_settings(finished), console=quiet())


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(
    study_settings: Settings, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.runs import distill as module

    counting = module.train_into

    def failing(folder: RunFolder, *args: Any, **kwargs: Any) -> Any:
        if folder.path.parts[-2:] == ("kd", "seed-1"):
            raise OSError(28, "No space left on device")
        return counting(folder, *args, **kwargs)

    settings = study_settings(tmp_path / "s", seeds=[1])
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_into", failing)
        console = quiet()
        result = study(**settings, console=console)
        assert list(result.failed) == ["good/kd/seed-1"]
        assert "failed: good/kd/seed-1: OSError: [Errno 28] No space" in console.file.getvalue()
        assert trained == ["good/finetune/seed-1"]
        # it is not tried again unless that is asked for
        result = study(**settings, resume=True, console=quiet())
        assert list(result.failed) == ["good/kd/seed-1"]
        console = quiet()
        show_status(tmp_path / "s", console)
        assert "1 of 2 trials finished, 1 failed" in console.file.getvalue()
    result = study(**settings, resume=True, retry_failed=True, console=quiet())
    assert trained == ["good/finetune/seed-1", "good/kd/seed-1"]
    assert not result.failed
    assert len(result.results) == 2


def test_the_teacher_is_made_once_for_each_task_and_one_that_fails_blocks_its_task_alone(
    study_settings: Settings, study_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.runs import finetune as module

    settings = study_settings(
        tmp_path / "s",
        teachers=None,
        model=str(study_world.folder / "encoder"),
        teacher_training={"num_train_epochs": 1, "per_device_train_batch_size": 8, "precision": "fp32"},
        tasks={"one": study_world.data(), "two": study_world.data(limit_train=24)},
        recipes=["kd"],
        seeds=[1],
    )
    train = module.train_into

    def failing(folder: RunFolder, *args: Any, **kwargs: Any) -> Any:
        if folder.path.name == "two":
            raise ConfigError("it diverged")
        return train(folder, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_into", failing)
        result = study(**settings, console=quiet())
    assert {each.task for each in result.results} == {"one"}
    assert list(result.failed) == ["teacher:two"]
    result = study(**settings, resume=True, retry_failed=True, console=quiet())
    assert {each.task: each.steps for each in result.results} == {"one": 6, "two": 3}
    attempts = {task: RunFolder(tmp_path / "s" / "teachers" / task).status["attempts"] for task in ("one", "two")}
    assert {task: len(each) for task, each in attempts.items()} == {"one": 1, "two": 1}


def test_a_trial_is_the_same_whatever_ran_before_it(study_settings: Settings, finished: Path, tmp_path: Path) -> None:
    study(**study_settings(tmp_path / "alone", recipes=["kd"], seeds=[2]), console=quiet())
    place = Path("trials", "good", "kd", "seed-2", "model.safetensors")
    assert (finished / place).read_bytes() == (tmp_path / "alone" / place).read_bytes()


def test_what_cannot_work_is_refused_before_anything_is_trained(
    study_settings: Settings, tmp_path: Path, trained: list[str]
) -> None:
    too_many = {"codir-fine": {"objectives.crd.k": 500}}
    settings = study_settings(tmp_path / "s", recipes=["kd", "codir-fine"], settings=too_many)
    with pytest.raises(ConfigError, match=r"good/codir-fine: crd.k=500 does not fit N=48"):
        study(**settings, console=quiet())
    assert not (tmp_path / "s" / "study.yaml").exists()
    with pytest.raises(CodirError, match="nowhere"):
        study(**study_settings(tmp_path / "s", teachers={"good": "/nowhere/at/all"}), console=quiet())
    with pytest.raises(ConfigError, match=r"training.learning_rate is -1.0"):
        study(**study_settings(tmp_path / "s", training={"learning_rate": -1.0}), console=quiet())
    assert trained == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"objectives.crd.k": [5]}}, "grid: objectives.crd.k means nothing to finetune, kd"),
        ({"grid": {"kd": {"objectives.crd.k": [5]}}}, "grid: objectives.crd.k means nothing to kd"),
        (
            {"grid": {"training.num_train_epochs": [1, 2]}},
            "training.num_train_epochs cannot be searched: it is part of the budget",
        ),
        ({"grid": {"training.lerning_rate": [1]}}, "did you mean 'learning_rate'"),
        ({"grid": {"objectives.kd.temperature": [1, -1]}}, "objectives.kd.temperature is -1"),
        ({"grid": {"data.max_length": [1]}}, "data.max_length cannot be searched"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    study_settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        study(**study_settings(tmp_path / "s", **changes), console=quiet())
    assert message in str(refused.value)
    assert not (tmp_path / "s").exists()


def test_a_damaged_result_is_named_and_its_trial_run_again(study_settings: Settings, copied: Path) -> None:
    metrics = copied / "trials" / "good" / "kd" / "seed-1" / "metrics.json"
    metrics.write_text('{"main_metric": "accuracy"}')
    with pytest.raises(RunError, match=r"seed-1"):
        read_results(copied)
    assert len(read_results(copied, damaged := [])) == 3
    assert len(damaged) == 1
    shutil.rmtree(metrics.parent)
    study(**study_settings(copied, resume=True), console=quiet())
    assert len(read_results(copied)) == 4


def test_tpe_trains_what_it_proposes_and_stops_what_is_behind(
    study_settings: Settings, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def second_of_two(values: list[float], others: list[Outcome], how: str) -> bool:
        asked.append((len(values), len(others)))
        return len(values) == 2 and len(others) == 1

    monkeypatch.setattr(engines, "behind", second_of_two)
    settings = study_settings(
        tmp_path / "s",
        recipes=["kd"],
        seeds=[1],
        strategy="tpe",
        trials=3,
        pruning="median",
        space={"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "objectives.kd.weight": [0.5, 0.9]},
        training={"num_train_epochs": 3, "per_device_train_batch_size": 8, "precision": "fp32"},
    )
    result = study(**settings, console=quiet())
    assert [each.phase for each in result.results].count("search") == 2
    # the last evaluation is not asked about, the final trial never
    assert asked == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]
    (pruned,) = result.pruned
    content = read_json(tmp_path / "s" / "trials" / pruned / "pruned.json")
    assert len(content["values"]) == 2
    assert content["score"] == content["values"][-1]
    assert not (tmp_path / "s" / "trials" / pruned / "checkpoints").exists()
    (final,) = [each for each in result.results if each.phase == "final"]
    best = max((each for each in result.results if each.phase == "search"), key=lambda each: each.score)
    assert dict(final.settings) == dict(best.settings)
    assert len(trained) == 4
    study(**settings, resume=True, console=quiet())
    assert len(trained) == 4


# ---- texts without labels --------------------------------------------------------------------------------------------


def test_trials_share_the_teachers_answers(
    study_settings: Settings, study_world: World, more: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    data = study_world.data(validation=None, holdout=0.25, unlabeled=[str(more)])
    settings = study_settings(tmp_path / "s", recipes=["kd"], tasks={"good": data}, cache_dir=str(cache))
    result = study(**settings, console=quiet())
    assert len(result.results) == 2
    for each in result.results:
        metrics = read_json(each.folder / "metrics.json")
        assert metrics["unlabeled"] == {"examples": 20, "files": [str(more)]}
        assert metrics["train_examples"] == 36
        assert metrics["validation_examples"] == {"holdout": 12}
        assert each.steps == 7  # 56 examples in batches of 8
    rows = [read_json(path)["examples"] for path in cache.glob("*/manifest.json")]
    assert sorted(rows) == [12, 56]


def test_a_recipe_of_labels_alone_is_refused_before_anything_runs(
    study_settings: Settings, study_world: World, more: Path, tmp_path: Path, trained: list[str]
) -> None:
    settings = study_settings(tmp_path / "s", tasks={"good": study_world.data(unlabeled=[str(more)])})
    with pytest.raises(ConfigError, match=r"recipe finetune: .*the loss is task alone"):
        study(**settings, console=quiet())
    assert trained == []


def test_damaged_settings_of_recipes_are_named(copied: Path) -> None:
    write_json(copied / "recipes.json", {"kd": {"nonsense": 1}})
    with pytest.raises(RunError, match="damaged study"):
        read_results(copied)
