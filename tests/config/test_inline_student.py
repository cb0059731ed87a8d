"""A student's config that stands in the recipe: merged key by key, written out whole, read back to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codir.config import loading
from codir.config.config import DistillConfig
from codir.config.loading import resolved_yaml
from codir.config.student_config import config_name
from codir.errors import ConfigError

GIVEN = {
    "teacher": ("--teacher", "runs/teacher"),
    "output": ("--output", "out"),
    "data.task": ("--task", "sst2"),
}


def load(tmp_path: Path, text: str = "", recipe: str | None = "bilstm", overrides: list[str] | None = None) -> Any:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return loading.load(
        DistillConfig, recipe=recipe, config=path if text else None, overrides=overrides or [], flags=GIVEN
    )


def again(tmp_path: Path, config: Any) -> Any:
    path = tmp_path / "codir.yaml"
    path.write_text(resolved_yaml(config))
    return loading.load(DistillConfig, config=path)


def test_the_recipe_brings_its_student_and_settings_are_merged_into_it(tmp_path: Path) -> None:
    plain = load(tmp_path)
    assert plain.student.config["model_type"] == "codir-bilstm"
    assert set(plain.objectives) == {"logit_mse"}
    assert again(tmp_path, plain) == plain
    wider = load(
        tmp_path,
        "student:\n  config: {hidden_size: 200, num_hidden_layers: 2}\n  embeddings: teacher\n",
        overrides=["student.config.classifier_size=50", "student.config.hidden_dropout_prob=1e-1"],
    )
    assert wider.student.config == plain.student.config | {
        "hidden_size": 200,
        "num_hidden_layers": 2,
        "classifier_size": 50,
        "hidden_dropout_prob": 0.1,
    }
    assert wider.student.embeddings == "teacher"
    assert again(tmp_path, wider) == wider


@pytest.mark.parametrize("given", ["students/config.json", "config.json", "/models/small"])
def test_a_path_stays_a_path_also_over_an_inline_config(tmp_path: Path, given: str) -> None:
    for config in (
        load(tmp_path, f"student: {{config: {given}}}\n"),
        load(tmp_path, recipe="kd", overrides=[f"student.config={given}"]),
    ):
        assert config.student.config == Path(given)
        assert config_name(config.student.config) == given
        assert again(tmp_path, config) == config


def test_no_config_again(tmp_path: Path) -> None:
    config = load(tmp_path, "student: {config: null, layers: 3}\n")
    assert (config.student.config, config.student.layers) == (None, 3)
    assert again(tmp_path, config) == config


@pytest.mark.parametrize(
    ("text", "recipe", "message"),
    [
        ("student: {config: {hidden_size: 8}}\n", "kd", "does not name its family"),
        ("student: {layers: 3}\n", "bilstm", "config says to take the config of a codir-bilstm model"),
        ("student: {embeddings: teacher}\n", "kd", "for a student that is built from a config"),
        ("student: {config: {model_type: bert}, model: here}\n", "kd", "exclude each other"),
        ("student: {embeddings: techer}\n", "bilstm", "did you mean 'teacher'"),
        ("student: {config: 3.5}\n", "kd", "config"),
    ],
)
def test_refusals(tmp_path: Path, text: str, recipe: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text, recipe)
