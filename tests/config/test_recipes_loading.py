"""Which setting wins, and what is said about a bad one: the place, the key, the value, the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codir.config.config import DataConfig, DistillConfig, FinetuneConfig
from codir.config.library import load_recipe, recipe_names
from codir.config.loading import Settings, build, load, resolved_yaml
from codir.errors import ConfigError

REQUIRED = ("teacher=t", "output=o", "data.task=sst2")


def distill(*overrides: str, **more: Any) -> DistillConfig:
    return load(DistillConfig, overrides=(*REQUIRED, *overrides), **more)


def message(*overrides: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        distill(*overrides, **more)
    return str(caught.value)


@pytest.fixture
def my_yaml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names("distill"))
def test_every_distillation_recipe_is_valid_and_reloads(name: str, my_yaml: Any) -> None:
    config = distill(recipe=name)
    assert config.recipe == name
    assert load(DistillConfig, config=my_yaml(resolved_yaml(config))) == config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_where_it_comes_from(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.source
    assert recipe.description
    assert recipe.needs
    assert recipe.command in ("finetune", "distill", "pretrain")


def settings_of(objective: dict[str, Any], names: str) -> tuple[Any, ...]:
    return tuple(objective[name] for name in names.split())


def test_codir_fine_has_the_papers_numbers() -> None:
    objectives = distill(recipe="codir-fine").objectives
    assert list(objectives) == ["task", "kd", "crd"]
    assert objectives["task"]["weight"] == 1.0
    assert settings_of(objectives["kd"], "weight temperature squared") == (0.7, 2.0, False)
    numbers = settings_of(objectives["crd"], "weight k dim temperature momentum")
    assert numbers == (0.1, 500, 128, 0.07, 0.5)
    assert settings_of(objectives["crd"], "pooling teacher_layers student_layers") == ("mean", "all", "all")


def test_codir_official_has_the_released_codes_numbers() -> None:
    objectives = distill(recipe="codir-official").objectives
    assert objectives["task"]["weight"] == 0.3
    assert settings_of(objectives["kd"], "weight squared") == (0.7, True)
    assert settings_of(objectives["crd_official"], "weight pooling teacher_layers") == (0.5, "cls", "odd")


def test_kd_and_codir_fine_differ_in_the_contrastive_term_alone() -> None:
    kd, fine = distill(recipe="kd"), distill(recipe="codir-fine")
    assert kd.training == fine.training
    assert {**kd.objectives, "crd": fine.objectives["crd"]} == fine.objectives


def test_the_default_recipe_is_codir_fine() -> None:
    assert distill().recipe == "codir-fine"
    assert "crd" in distill().objectives


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("codir-fin", "did you mean 'codir-fine'"),
        ("my.yaml", "--config my.yaml"),
        ("finetune", "for `codir finetune`"),
    ],
)
def test_recipes_that_cannot_be_used(recipe: str, words: str) -> None:
    assert words in message(recipe=recipe)


# --- precedence ---------------------------------------------------------------------------------------------------


def test_flags_win_over_set_over_file_over_recipe(my_yaml: Any) -> None:
    path = my_yaml("training:\n  learning_rate: 3e-5\n  per_device_train_batch_size: 8\n  num_train_epochs: 3\n")
    config = distill(
        "training.per_device_train_batch_size=9",
        "training.num_train_epochs=4",
        config=path,
        flags={"training.num_train_epochs": ("--epochs", 5.0)},
    )
    training = config.training
    assert (training.learning_rate, training.per_device_train_batch_size) == (3e-5, 9)
    assert training.num_train_epochs == 5.0
    assert training.weight_decay == 0.1  # what nobody set stays as in the recipe


def test_a_file_extends_the_recipe_it_names(my_yaml: Any) -> None:
    path = my_yaml("recipe: kd\nobjectives:\n  kd:\n    weight: 0.9\n")
    config = distill(config=path)
    assert config.recipe == "kd"
    kd = {"weight": 0.9, "start": 0.0, "end": 1.0, "temperature": 2.0, "squared": False, "averaged": False}
    assert config.objectives["kd"] == {**kd, "positions": "masked"}
    assert distill(config=path, recipe="codir-fine").recipe == "codir-fine"


def test_an_objective_of_the_other_command_is_refused_where_it_stands(my_yaml: Any) -> None:
    path = my_yaml("objectives:\n  mlm:\n    weight: 1.0\n")
    with pytest.raises(ConfigError, match=r"yaml, line 2: the objective 'mlm' is not for `codir distill`"):
        distill(config=path)


def test_a_time_of_the_training_without_any_term_is_refused() -> None:
    with pytest.raises(ConfigError, match="Between 0% of the training and 20%"):
        distill("objectives={task: {start: 0.2}, kd: {start: 0.5}, crd: null}")


def test_null_removes_an_objective_and_it_stays_removed(my_yaml: Any) -> None:
    config = distill("objectives.kd=null")
    assert list(config.objectives) == ["task", "crd"]
    assert load(DistillConfig, config=my_yaml(resolved_yaml(config))) == config


def test_an_empty_section_changes_nothing(my_yaml: Any) -> None:
    assert distill(config=my_yaml("training:\nobjectives:\nstudent:\n")) == distill()
    assert distill(config=my_yaml("")) == distill()


def test_values_of_set_are_yaml() -> None:
    config = distill(
        "training.learning_rate=1e-5",
        "student.init=[1, 3]",
        "baseline=false",
        "objectives.crd.k=all",
        "training.report_to=[tensorboard]",
        "training.logging_steps=7",
        "cache_dir=a=b",
    )
    assert config.training.learning_rate == 1e-5
    assert config.student.init == [1, 3]
    assert config.baseline is False
    assert config.objectives["crd"]["k"] == "all"
    assert config.training.report_to == ["tensorboard"]
    assert config.training.more() == {"logging_steps": 7}
    assert config.cache_dir == Path("a=b")


def test_a_column_may_be_called_no_or_0(my_yaml: Any) -> None:
    path = my_yaml("teacher: t\noutput: o\ndata:\n  train: a.csv\n  text: no\n  label: 0\n")
    data = load(DistillConfig, config=path).data
    assert (data.text, data.label) == ("no", "0")


def test_finetune_reads_its_own_recipe(my_yaml: Any) -> None:
    config = load(FinetuneConfig, overrides=["model=m", "output=o", "data.task=cola", "training.num_train_epochs=2"])
    assert (config.model, config.training.num_train_epochs, config.training.weight_decay) == ("m", 2.0, 0.1)
    assert load(FinetuneConfig, config=my_yaml(resolved_yaml(config))) == config


def test_a_resolved_file_is_for_its_own_command(my_yaml: Any) -> None:
    path = my_yaml(resolved_yaml(distill()))
    with pytest.raises(ConfigError, match=r"my\.yaml, line 1: .*`codir distill`, not `codir finetune`"):
        load(FinetuneConfig, config=path)


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "training:\n  learning_rte: 1\n",
            ["my.yaml, line 2", "'learning_rte'", "training", "did you mean 'learning_rate'"],
        ),
        ("trainin:\n  seed: 1\n", ["my.yaml, line 1", "'trainin'", "did you mean 'training'"]),
        (
            "data:\n  max_length: 128\nstudent:\n\n  layer: 3\n",
            ["my.yaml, line 5", "'layer'", "did you mean 'layers'"],
        ),
        (
            "training:\n  per_device_train_batch_size: -1\n",
            ["my.yaml, line 2", "training.per_device_train_batch_size is -1", "greater than or equal to 1"],
        ),
        (
            "training:\n  num_train_epochs: many\n",
            ["my.yaml, line 2", "training.num_train_epochs is 'many'", "number"],
        ),
        (
            "training:\n  lr_scheduler_type: liner\n",
            ["my.yaml, line 2", "'liner'", "'polynomial'", "did you mean 'linear'"],
        ),
        (
            "student:\n  init: sprad\n",
            ["my.yaml, line 2", "student.init is 'sprad'", "did you mean 'spread'", "list"],
        ),
        ("training: 3\n", ["my.yaml, line 1", "training is 3", "section of settings"]),
        (
            "objectives:\n  crd:\n    kk: 3\n",
            ["my.yaml, line 3", "'kk'", "objectives.crd", "did you mean 'k'"],
        ),
        (
            "objectives:\n  crd:\n    k: al\n",
            ["my.yaml, line 3", "objectives.crd.k is 'al'", "did you mean 'all'"],
        ),
        ("objectives:\n  crdd: {}\n", ["my.yaml, line 2", "'crdd'", "did you mean 'crd'"]),
        ("- a\n- b\n", ["my.yaml", "not a list"]),
        ("command: finetune\n", ["my.yaml, line 1", "for `codir finetune`"]),
    ],
)
def test_a_bad_file(text: str, words: list[str], my_yaml: Any) -> None:
    got = message(config=my_yaml(text))
    for word in words:
        assert word in got


def test_everything_that_is_wrong_is_said_at_once(my_yaml: Any) -> None:
    got = message("training.seed=x", config=my_yaml("training:\n  per_device_train_batch_size: 0\nobjectve: 1\n"))
    assert len(got.splitlines()) == 3
    assert "--set training.seed=x: training.seed is 'x'" in got
    got = message("objectives.kd.temperature=0", "objectives.crd.dim=0")
    assert len(got.splitlines()) == 2


@pytest.mark.parametrize("override", ["training.seed", "=1", "training..seed=1", ".a=1", ""])
def test_malformed_overrides(override: str) -> None:
    assert "key=value" in message(override)


def test_settings_that_exclude_each_other_name_both_places(my_yaml: Any) -> None:
    got = message(config=my_yaml("student:\n  model: m\n"), flags={"student.layers": ("--student-layers", 3)})
    assert "model: " in got
    assert "my.yaml, line 2" in got
    assert "layers: --student-layers" in got


def test_the_flag_is_named() -> None:
    got = message(flags={"training.num_train_epochs": ("--epochs", 0.0)})
    assert got == "--epochs: training.num_train_epochs is 0.0: must be greater than 0"


def test_what_is_missing_is_named_with_an_example() -> None:
    with pytest.raises(ConfigError) as caught:
        load(DistillConfig)
    got = str(caught.value)
    assert "--teacher runs/teacher" in got
    assert "--output runs/student" in got
    assert "--task sst2" in got
    with pytest.raises(ConfigError, match="--model roberta-base"):
        load(FinetuneConfig)


def test_build_checks_one_section() -> None:
    settings = Settings()
    settings.set(("task",), "sst2", "--task")
    assert build(DataConfig, settings).task == "sst2"
    settings.set(("max_length",), 1, "--max-length")
    with pytest.raises(ConfigError, match="--max-length: max_length is 1"):
        build(DataConfig, settings)


def test_an_unknown_matching_of_layers_is_refused_where_it_stands(my_yaml: Any) -> None:
    path = my_yaml("objectives:\n  attention_mse:\n    matching: spred\n")
    with pytest.raises(ConfigError, match=r"yaml, line 3: .*'spred' \(did you mean 'spread'\?\)"):
        distill(config=path)


# --- the student's start --------------------------------------------------------------------------------------------


def start(*overrides: str, **more: Any) -> tuple[Any, Any]:
    student = distill(*overrides, recipe="codir-plus", **more).student
    return student.init, student.freeze


def test_a_recipe_says_how_the_student_starts() -> None:
    assert start() == ("first", ["embeddings"])
    assert start("student.layers=2") == ("first", ["embeddings"])
    assert start("student.init=last") == ("last", ["embeddings"])
    assert start("student.freeze=null") == ("first", None)


@pytest.mark.parametrize("kind", ["student.model=some/model", "student.width=8"])
def test_another_kind_of_student_does_not_start_so(kind: str, my_yaml: Any) -> None:
    assert start(kind) == ("spread", None)
    # what was asked for stays, and so does what a run has written down
    assert start(kind, "student.freeze=embeddings") == ("spread", ["embeddings"])
    written = my_yaml(resolved_yaml(distill(kind, recipe="codir-plus")))
    assert start(config=written) == ("spread", None)


def test_random_weights_are_not_frozen() -> None:
    assert start("student.init=random") == ("random", None)
