"""The study's configuration: short forms, keys that stay the same, refusals that name the place and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from codir.config.student_config import StudentConfig
from codir.errors import ConfigError
from codir.studies.config import StudyConfig, dotted, load_study, study_yaml
from codir.studies.recipes import distill_config, notes_of, resolve_recipes
from codir.studies.results import Plan
from codir.studies.search import grid_points
from codir.studies.trial import Trial, settings_digest

BASE: dict[str, Any] = {"recipes": "finetune,kd", "tasks": "mrpc,cola", "model": "enc", "output": "s"}


def load(**changes: Any) -> Any:
    settings = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    return load_study(flags={key: (f"--{key}", value) for key, value in settings.items()})


def test_short_forms_are_spelt_out() -> None:
    config = load(seeds="1-3,7", data_dir="glue", data={"max_length": 64, "limit_train": 10})
    assert list(config.recipes) == ["finetune", "kd"]
    assert config.seeds == [1, 2, 3, 7]
    assert config.tasks["cola"].task == "cola"
    assert config.tasks["cola"].max_length == 64
    assert str(config.tasks["mrpc"].data_dir) == "glue"
    assert config.reference == "kd"
    assert load(recipes=["finetune"]).reference == "finetune"


def test_recipes_may_have_names_settings_and_files(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "recipe: codir-fine\nobjectives:\n  kd: null\n  crd:\n    k: 100\ntraining:\n  num_train_epochs: 7\n"
    )
    config = load(
        recipes=["kd", str(own), {"cls": {"recipe": "codir-fine", "settings": {"objectives.crd.pooling": "cls"}}}],
        training={"num_train_epochs": 2},
    )
    recipes = resolve_recipes(config)
    assert list(recipes) == ["kd", "mine", "cls"]
    assert list(recipes["mine"].objectives) == ["task", "crd"]
    assert recipes["mine"].objectives["crd"]["k"] == 100
    assert recipes["cls"].objectives["crd"]["pooling"] == "cls"
    assert {recipe.training["num_train_epochs"] for recipe in recipes.values()} == {2.0}
    assert "mine: training.num_train_epochs: 7 there, the study's 2.0 is used" in notes_of(recipes)


def test_the_budget_is_the_study_s_even_where_it_says_nothing(tmp_path: Path) -> None:
    own = tmp_path / "long.yaml"
    own.write_text(
        "recipe: kd\ntraining:\n  num_train_epochs: 99\n  per_device_train_batch_size: 4\n"
        "  early_stopping_patience: 1\n  learning_rate: 1e-4\n"
    )
    recipes = resolve_recipes(load(recipes=["kd", str(own)]))
    for key in (
        *("num_train_epochs", "per_device_train_batch_size", "early_stopping_patience"),
        *("eval_steps", "gradient_accumulation_steps"),
    ):
        assert recipes["kd"].training[key] == recipes["long"].training[key], key
    assert recipes["long"].training["learning_rate"] == 1e-4
    assert any("epochs: 99 there, the study's 10.0" in note for note in recipes["long"].notes)


def test_a_trial_s_configuration() -> None:
    config = load(students={"half": {"layers": 3}}, cache_dir="/c", settings={"kd": {"objectives.kd.weight": 0.2}})
    recipes = resolve_recipes(config)
    trial = Trial("kd", "mrpc", "half", 4, {"training.learning_rate": 3e-5, "objectives.kd.temperature": 4.0})
    made = distill_config(config, recipes["kd"], trial)
    assert made.training.seed == 4
    assert made.training.learning_rate == 3e-5
    assert made.objectives["kd"]["weight"] == 0.2
    assert made.objectives["kd"]["temperature"] == 4.0
    assert made.student.layers == 3
    assert (made.baseline, made.kd) == (False, False)
    assert made.output == trial.folder(config.output)
    assert made.teacher == str(config.output / "teachers" / "mrpc")
    plain = distill_config(config, recipes["finetune"], Trial("finetune", "mrpc", "half", 4))
    assert list(plain.objectives) == ["task"]


def test_a_recipe_says_how_its_student_starts_unless_the_study_does(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("recipe: kd\nstudent:\n  layers: 1\n  init: last\n  freeze: [embeddings]\n")

    def student(config: StudyConfig, recipe: str = "own", kind: str | None = None) -> StudentConfig:
        return distill_config(config, resolve_recipes(config)[recipe], Trial(recipe, "mrpc", kind, 1)).student

    def again(config: StudyConfig) -> StudyConfig:
        """The study as its workers and a resume read it."""
        path = tmp_path / "study.yaml"
        path.write_text(study_yaml(config))
        return load_study(path)

    silent = load(recipes=["kd", str(own)], student={"layers": 3})
    for config in (silent, again(silent)):
        made = student(config)
        assert (made.layers, made.init, made.freeze) == (3, "last", ["embeddings"])
        assert student(config, "kd").init == "spread"
    notes = resolve_recipes(silent)["own"].notes
    assert "student.layers: 1 there, the study's 3 is used" in notes
    assert not any("init" in note for note in notes)

    students = {"half": {"layers": 3, "init": "first"}, "third": {"layers": 2}, "narrow": {"width": 16}}
    says = load(recipes=["kd", str(own)], students=students)
    for config in (says, again(says)):
        assert (student(config, kind="half").init, student(config, kind="third").init) == ("first", "last")
        # its embeddings are cut: they have to be trained
        assert student(config, kind="narrow").freeze is None
    assert "student.init: 'last' there, the study's 'first' is used" in resolve_recipes(says)["own"].notes
    set_here = load(
        recipes=["kd", {"own": {"recipe": str(own), "settings": {"student.init": "first"}}}], student={"layers": 3}
    )
    assert student(set_here).init == "first"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipies": "kd"}, r"unknown key 'recipies' at the top level \(did you mean 'recipes'\?\)"),
        ({"recipes": "kd,kd"}, r"Two recipes of this study are called 'kd'"),
        ({"recipes": [{"kd": {"recipe": "kd", "setings": {}}}]}, r"unknown key 'setings' .*did you mean 'settings'"),
        ({"tasks": {"mrpc": {"task": "mrpc", "max_lenght": 3}}}, r"'max_lenght' .*did you mean 'max_length'"),
        ({"settings": {"kdd": {"objectives.kd.weight": 1}}}, r"'kdd', which is not in this study \(did you mean 'kd'"),
        ({"teachers": {"mprc": "x"}}, r"'mprc', which is not in this study \(did you mean 'mrpc'"),
        ({"model": None, "teachers": {"mrpc": "x"}}, r"there is no teacher for cola"),
        ({"student": {"layers": 3}, "students": {"a": {"layers": 2}}}, r"student and students exclude each other"),
        ({"students": {"a/b": {"layers": 2}}}, r"'a/b' cannot be the name of a folder"),
        ({"seeds": "3-1"}, r"3-1 is no range of seeds"),
        ({"seeds": [1, 1]}, r"a seed stands there twice"),
        ({"training": {"num_train_epoch": 3}}, r"unknown key .num_train_epoch. .*did you mean 'num_train_epochs'"),
        ({"training": {"seed": 3}}, r"seed is set for each trial from seeds"),
        ({"baseline": "codir"}, r"baseline is 'codir', which is not in this study"),
        ({"strategy": "tpe"}, r"needs space"),
        ({"space": {"training.learning_rate": {"low": 1, "high": 0}}, "strategy": "tpe"}, r"low \(1\) must be smaller"),
        ({"space": {"training.learning_rate": 3}, "strategy": "random"}, r"give \{low, high, log\} or a list"),
        ({"grid": {"training.learning_rate": 3}}, r"give a list of values"),
        ({"grid": {"kdd": {"objectives.kd.weight": [1]}}}, r"neither a dotted key .*did you mean 'kd'"),
        ({"pruning": "median"}, r"pruning is for the strategies random and tpe"),
        ({"strategy": "gird"}, r"did you mean 'grid'"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": "kd,codir-fin"}, r"There is no recipe 'codir-fin' \(did you mean 'codir-fine'\?\)"),
        ({"recipes": "codir-pre"}, r"'codir-pre' is for `codir pretrain`"),
        (
            {"settings": {"kd": {"training.num_train_epochs": 3}}},
            r"training.num_train_epochs cannot be set .* part of the budget",
        ),
        ({"settings": {"kd": {"data.max_length": 3}}}, r"only training.\*, objectives.\*, student.\*"),
        ({"settings": {"kd": {"objectives.kd.wieght": 3}}}, r"settings.kd.objectives.kd.wieght.*did you mean 'weight'"),
        ({"settings": {"kd": {"training.lerning_rate": 3}}}, r"did you mean 'learning_rate'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_recipes(load(**changes))


def test_a_fault_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("recipe: kd\nobjectives:\n  kd:\n    temperatur: 3\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 4: unknown key 'temperatur'.*did you mean 'temperature'"):
        resolve_recipes(load(recipes=["kd", str(own)]))
    study = tmp_path / "study.yaml"
    study.write_text("recipes: [kd]\ntasks: [mrpc]\nmodel: m\noutput: o\nwrokers: 3\n")
    with pytest.raises(ConfigError, match=r"study.yaml, line 5: unknown key 'wrokers'.*did you mean 'workers'"):
        load_study(study)


def test_the_resolved_study_reads_back_the_same(tmp_path: Path) -> None:
    config = load(
        recipes=["kd", {"cls": {"recipe": "codir-fine", "settings": {"objectives.crd.pooling": "cls"}}}],
        students={"half": {"layers": 3}, "own": {"model": "x"}, "lstm": {"config": {"model_type": "codir-bilstm"}}},
        grid={"training.learning_rate": [1e-5, 2e-5], "kd": {"objectives.kd.weight": [0.5]}},
        data={"max_length": 40},
        training={"num_train_epochs": 2, "learning_rate": 1e-5},
        output=str(tmp_path / "s"),
    )
    Plan(config).save()
    again = Plan.load(tmp_path / "s")
    assert again.config.model_dump(exclude={"data"}) == config.model_dump(exclude={"data"})
    assert study_yaml(again.config) == study_yaml(config)
    assert again.recipes == resolve_recipes(config)


def test_keys_are_stable_and_tell_settings_apart() -> None:
    # written down once: a change would make every study on disk start anew
    assert Trial("kd", "mrpc", None, 3).key == "mrpc/kd/seed-3"
    searched = Trial("kd", "mrpc", "half", 3, {"training.per_device_train_batch_size": 16, "objectives.kd.weight": 0.5})
    assert searched.key == "mrpc/half/kd-" + settings_digest(searched.settings) + "/seed-3"
    assert settings_digest(searched.settings) == "e7ada857"
    other = dict(reversed(searched.settings.items()))
    assert settings_digest(other) == settings_digest(searched.settings)
    assert settings_digest({"a": 1}) == settings_digest({"a": 1.0}) != settings_digest({"a": 2})
    assert settings_digest({"a": True}) != settings_digest({"a": 1})


def test_small_helpers() -> None:
    assert load(seeds="1-3, 5").seeds == [1, 2, 3, 5]
    assert load(seeds=4).seeds == [4]
    assert grid_points({"a": [1, 2], "b": [3]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert grid_points({}) == [{}]
    assert dotted({"a": {"b": {"c": 1}, "d": {"low": 1, "high": 2}}}) == {"a.b.c": 1, "a.d": {"low": 1, "high": 2}}


STUDENTS: dict[str, dict[str, Any]] = {
    "whole": {"layers": 3},
    "frozen": {"layers": 3, "freeze": ["embeddings", 1]},
    "narrow": {"layers": 3, "width": 192, "intermediate": 600},
    "other": {"layers": 3, "origin": "encoders/mine"},
}


def test_students_reach_the_trials_with_paths_that_hold_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base = {"recipes": "kd", "tasks": "mrpc", "model": "enc", "output": "s", "students": STUDENTS}
    config = load(**base)
    recipe = resolve_recipes(config)["kd"]
    made = {name: distill_config(config, recipe, Trial("kd", "mrpc", name, 1, {})).student for name in STUDENTS}
    assert made["frozen"].freeze == ["embeddings", 1]
    assert (made["narrow"].width, made["narrow"].intermediate) == (192, 600)
    assert made["other"].origin == str(tmp_path / "encoders" / "mine")
    assert made["whole"].freeze is made["whole"].width is made["whole"].origin is None
    text = study_yaml(config)
    assert load(**{k: v for k, v in yaml.safe_load(text).items() if k != "command"}).students == config.students
