"""Every recipe says how far it is its authors' method, and says of itself what its settings say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_world import QUICK, refused, succeeded

LINES = ("equation right?", "schedule as the authors'?", "start as the authors'?", "data as the authors'?")
_NAME = re.compile(r"^(\S+)  \(codir \w+\)$", re.MULTILINE)
_SAID = re.compile(r"\b([a-z_0-9]+)=([-+.e\d]*\d)")


def names() -> list[str]:
    """Returns all recipes, as `codir recipes` lists them."""
    return _NAME.findall(succeeded("recipes").out)


def read(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns what `codir recipes NAME` prints: the lines of the card by their question, and the settings."""
    printed = succeeded("recipes", name).out
    card, _, text = printed.partition("\n\n")
    said = " ".join(line.removeprefix("#").strip() for line in card.splitlines())
    found = dict.fromkeys(LINES, "")
    for number, line in enumerate(LINES):
        rest = said.split(line, 1)[1]
        found[line] = rest.split(LINES[number + 1], 1)[0].strip() if number + 1 < len(LINES) else rest.strip()
    return found, yaml.safe_load(text)


def number(value: Any) -> float:
    return float(value)  # YAML 1.1 reads 1e-4 as text


ALL = names()


def test_there_are_recipes_for_every_method() -> None:
    pretraining = {
        "tinybert-pre",
        "minilm-pre",
        "minilmv2-pre",
        "mobilebert-pre",
        "distilbert-pre",
        "codir-pre",
    }
    assert {*pretraining, "pkd"} <= set(ALL)
    assert "equation right?" not in succeeded("recipes").out, "the list stays a list"


@pytest.mark.parametrize("name", ALL)
def test_a_card_has_four_verdicts_with_reasons_and_its_own_numbers(name: str) -> None:
    card, settings = read(name)
    for line, said in card.items():
        verdict, colon, reason = said.partition(":")
        assert (verdict in ("yes", "partly", "no"), colon) == (True, ":"), f"{name}: {line} {said}"
        assert len(reason) > 5, f"{name}: {line} gives no source"
    training, schedule = settings["training"], card["schedule as the authors'?"]
    numbers = _SAID.findall(schedule)
    for key, value in numbers:
        assert key in training, f"{name}: the card speaks of {key}, the settings do not"
        assert number(value) == pytest.approx(number(training[key])), f"{name}: {key}"
    told = {key for key, _ in numbers}
    assert "learning_rate" in told
    assert told & {"per_device_train_batch_size", "global_batch_size"}, f"{name}: rate and batch"
    assert told & {"max_steps", "num_train_epochs"}, f"{name}: how long"
    assert "card" not in settings


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        # the paper's released code: --clip-norm 0.0; RoBERTa, whose pre-training it follows: gradient clipping 0.0
        ("finetune", 0), ("kd", 0), ("codir-fine", 0), ("codir-official", 0),
        ("mlm-pre", 0), ("kd-pre", 0), ("codir-pre", 0), ("codir-pre-live", 0),
        # train.py of DistilBERT; BertAdam in TinyBERT and PKD; optimization.py of MobileBERT; a clip at 30,000
        ("distilbert", 5), ("distilbert-pre", 5), ("tinybert", 1), ("tinybert-pre", 1), ("pkd", 1),
        ("mobilebert", 1), ("mobilebert-pre", 1), ("bilstm", 0),
    ],
)  # fmt: skip
def test_gradients_are_clipped_as_the_source_has_it(name: str, clip: float) -> None:
    assert read(name)[1]["training"]["max_grad_norm"] == clip


def test_what_the_sources_say_of_schedules_and_losses() -> None:
    pkd, distilbert = read("pkd")[1], read("distilbert-pre")[1]
    assert number(pkd["training"]["learning_rate"]) in (5e-5, 2e-5, 1e-5)
    assert (pkd["training"]["num_train_epochs"], pkd["student"]["init"]) == (4, "first")
    assert (pkd["objectives"]["kd"]["averaged"], pkd["objectives"]["pkd"]["averaged"]) == (True, True)
    assert distilbert["objectives"]["kd"]["positions"] == "all"
    training = [number(distilbert["training"][k]) for k in ("learning_rate", "warmup_steps", "weight_decay")]
    assert training == [5e-4, 0.05, 0]
    maps = read("mobilebert-pre")[1]["objectives"]["feature_map_mse"]
    assert maps["normalised"] is True
    assert maps["averaged"] is True
    assert maps["weight"] * maps["mean_weight"] == 5000
    assert maps["weight"] * maps["variance_weight"] == pytest.approx(5)
    bilstm = read("bilstm")
    assert bilstm[1]["training"]["per_device_train_batch_size"] == 50
    assert bilstm[1]["training"]["num_train_epochs"] == 30
    assert "AdaDelta" in bilstm[0]["schedule as the authors'?"]
    assert "--unlabeled" in bilstm[0]["data as the authors'?"]


def test_a_printed_recipe_is_a_configuration(
    tmp_path: Path, tiny_model_dir: Any, train_csv: Path, dev_csv: Path
) -> None:
    """What `codir recipes` prints goes back in with --config, and no gradient of the paper's fine-tuning is clipped."""
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: kd\n" + succeeded("recipes", "kd").out, encoding="utf-8")
    succeeded(
        "distill",
        "--config",
        path,
        "--teacher",
        tiny_model_dir(),
        "--train",
        train_csv,
        "--validation",
        dev_csv,
        "--student-layers",
        "1",
        "--no-baseline",
        "--output",
        tmp_path / "run",
        *QUICK,
    )
    resolved = yaml.safe_load((tmp_path / "run" / "codir.yaml").read_text(encoding="utf-8"))
    assert resolved["training"]["max_grad_norm"] == 0
    assert "grad_norm" in (tmp_path / "run" / "log.jsonl").read_text(), "unclipped gradients are watched all the same"


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    assert "tinybert-pre" in refused("recipes", "tinybert-pr")
