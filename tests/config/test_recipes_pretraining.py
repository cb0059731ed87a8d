"""The configuration of a pre-training and the paper's numbers in its recipes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from codir.config.loading import load, resolved_yaml
from codir.config.pretraining import PretrainConfig
from codir.errors import ConfigError


def pretrain(recipe: str | None = None, **flags: Any) -> PretrainConfig:
    given = {"corpus": "corpora/x", "output": "runs/x", **flags}
    return load(PretrainConfig, recipe=recipe, flags={key: (f"--{key}", value) for key, value in given.items()})


def test_codir_pre_is_the_default_and_has_the_papers_numbers() -> None:
    config = pretrain()
    assert config.recipe == "codir-pre"
    weights = {name: settings["weight"] for name, settings in config.objectives.items()}
    assert weights == {"mlm": 1.0, "kd": 0.1, "crd": 0.1}
    assert config.objectives["kd"]["squared"] is False
    crd = config.objectives["crd"]
    assert (crd["negatives"], crd["k"], crd["pooling"]) == ("in-batch-bank", "all", "mean")
    assert (crd["dim"], crd["temperature"], crd["momentum"]) == (128, 0.07, 0.5)
    training = config.training
    assert (training.max_steps, training.global_batch_size, training.learning_rate) == (10_000, 8192, 1e-4)
    assert config.masking.probability == 0.15


def test_the_first_stage_has_the_papers_numbers() -> None:
    config = pretrain("mlm-pre")
    assert list(config.objectives) == ["mlm"]
    training = config.training
    assert (training.max_steps, training.global_batch_size, training.learning_rate) == (35_000, 8192, 7e-4)


def test_the_recipes_of_the_second_stage_differ_in_their_terms_alone() -> None:
    kd, codir = pretrain("kd-pre"), pretrain("codir-pre")
    assert kd.training == codir.training
    assert {**kd.objectives, "crd": codir.objectives["crd"]} == codir.objectives


def test_the_live_recipe_differs_from_the_papers_in_its_negatives_alone() -> None:
    paper, live = pretrain("codir-pre"), pretrain("codir-pre-live")
    assert paper.training == live.training
    assert paper.masking == live.masking
    differing = {key for key, value in paper.objectives["crd"].items() if live.objectives["crd"][key] != value}
    assert differing == {"negatives", "bank_dtype"}  # without a bank its type means nothing


def test_the_head_alone() -> None:
    config = pretrain("mlm-head")
    assert config.trained == "head"
    assert pretrain("mlm-head", trained="all").trained == "all"


def test_the_resolved_file_gives_the_same_configuration(tmp_path: Any) -> None:
    config = pretrain("codir-pre", **{"objectives.kd": None, "training.max_steps": 7})
    assert "kd" not in config.objectives
    file = tmp_path / "codir.yaml"
    file.write_text(resolved_yaml(config), encoding="utf-8")
    assert yaml.safe_load(file.read_text())["command"] == "pretrain"
    assert load(PretrainConfig, config=file) == config


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"masking.masked": 0.95}, "add up to more than 1"),
        ({"masking.probability": 0.0}, "masking.probability"),
        ({"training.step": 3}, "did you mean 'max_steps'"),
        ({"training.neighbours": 0}, "training.neighbours"),
        ({"objectives.task": {"weigth": 1}}, "did you mean 'weight'"),
        ({"data.task": "sst2"}, "unknown key 'data'"),
    ],
)
def test_bad_settings(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain("mlm-pre", **flags)
    assert words in str(caught.value)


def test_a_missing_corpus_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match=r"corpus is missing.*--corpus corpora/wiki"):
        load(PretrainConfig, flags={"output": ("--output", "runs/x")})


def test_a_recipe_of_another_command() -> None:
    with pytest.raises(ConfigError, match="for `codir distill`"):
        pretrain("codir-fine")
