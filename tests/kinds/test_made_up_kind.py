"""The cut is right: a kind that nobody has thought of is one class and one line, and everything works with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

import codir.kinds
from codir.kinds.base import Reduction
from codir.kinds.classification import Classification
from codir.kinds.metrics import Metric

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))
from fault_world import QUICK, refused, sentences, succeeded, write_csv

GRADES = ("1", "2", "3")


def mean_distance(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.abs(answers - labels).mean())


class Ordinal(Classification):
    """Classes in an order, such as stars: a near miss costs less than a far one."""

    name = "ordinal"
    metrics: ClassVar[Mapping[str, Metric]] = {
        **Classification.metrics,
        "mean_distance": Metric(mean_distance, greater_is_better=False),
    }
    default_metrics = ("accuracy", "mean_distance")
    main_metric = "accuracy"
    problem_type = None

    def reads(self, config: PretrainedConfig) -> bool:
        return False

    def task_loss(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """Returns the cross-entropy and the squared error of the expected class."""
        grades = logits.new_tensor(range(logits.shape[1]))
        known = labels != self.missing
        expected = (logits.softmax(dim=1) * grades).sum(dim=1)
        error = ((expected - labels) * known).square()
        return super().task_loss(logits, labels, reduction) + getattr(error, reduction)()

    def predictions(self, logits: NDArray[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields the median class as well."""
        for found, row in zip(super().predictions(logits, names), logits, strict=True):
            shares = np.cumsum(np.exp(row - row.max()))
            yield {**found, "median": names[int(np.searchsorted(shares, shares[-1] / 2))]}


class World:
    """A file of graded sentences and a model fine-tuned on it."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, make: Callable[..., Any]):
        self.folder = folder
        rows = sentences(90, seed=1, labels=GRADES)
        self.files = (
            *("--train", write_csv(folder / "train.csv", rows)),
            *("--validation", write_csv(folder / "dev.csv", sentences(24, seed=2, labels=GRADES))),
        )
        make(layers=2, width=16).save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        self.run(
            "finetune", "--model", folder / "base", "--kind", "ordinal", *QUICK, *self.files, output="teacher"
        )

    def run(self, *arguments: Any, output: str) -> Path:
        succeeded(*arguments, "--output", self.folder / output)
        return self.folder / output

    def read(self, *path: str) -> dict[str, Any]:
        return json.loads(self.folder.joinpath(*path).read_text())


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_classifier: Callable[..., Any],
) -> Iterator[World]:
    codir.kinds.register(Ordinal())
    yield World(tmp_path_factory.mktemp("ordinal"), tiny_tokenizer, tiny_classifier)
    del codir.kinds.kinds()["ordinal"]


def test_it_is_fine_tuned_and_says_so_in_its_config(world: World) -> None:
    config = world.read("teacher", "config.json")
    assert config["codir_kind"] == "ordinal"
    assert list(config["id2label"].values()) == list(GRADES)
    assert set(world.read("teacher", "metrics.json")["metrics"]) == {"accuracy", "mean_distance"}


@pytest.mark.parametrize("recipe", ["kd", "codir-fine"])
def test_it_is_distilled(world: World, recipe: str) -> None:
    models = (
        "--teacher",
        world.folder / "teacher",
        "--student-layers",
        1,
        "--cache-dir",
        world.folder / "cache",
    )
    few = ("--set", "objectives.crd.k=10") if recipe == "codir-fine" else ()
    world.run(
        "distill", "--recipe", recipe, "--kind", "ordinal", *models, *few, *QUICK, *world.files, output=recipe
    )
    assert world.read(recipe, "config.json")["codir_kind"] == "ordinal"
    rows = world.read(recipe, "metrics.json")["comparison"]["rows"]
    assert all("mean_distance" in row["metrics"] for row in rows)
    logged = (world.folder / recipe / "log.jsonl").read_text()
    assert ("loss_crd" in logged) == (recipe == "codir-fine")


def test_it_is_evaluated_and_predicts(world: World, tmp_path: Path) -> None:
    said = succeeded("evaluate", world.folder / "teacher", *world.files[2:])
    assert "mean_distance" in said.text
    succeeded(
        "predict",
        world.folder / "teacher",
        "--input",
        world.folder / "dev.csv",
        "--output",
        tmp_path / "p.jsonl",
    )
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert all({"label", "scores", "median"} <= set(row) for row in rows)


def test_it_is_exported_and_studied(world: World, tmp_path: Path) -> None:
    succeeded(
        *("export", world.folder / "teacher", "--format", "torch-bf16", *world.files[2:]),
        *("--no-timing", "--output", tmp_path / "export"),
    )
    assert "mean_distance" in succeeded("evaluate", tmp_path / "export", *world.files[2:]).text
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump(
            {
                "recipes": "kd",
                "tasks": {"grades": {**_data(world), "kind": "ordinal", "max_length": 32}},
                "teachers": {"grades": str(world.folder / "teacher")},
                "students": {"one": {"layers": 1}},
                "seeds": [1, 2],
                "output": str(tmp_path / "study"),
                "training": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
            }
        )
    )
    assert "accuracy" in succeeded("study", "run", tmp_path / "study.yaml").text


def test_a_kind_that_there_is_not_is_refused(world: World, tmp_path: Path) -> None:
    message = refused(
        *("finetune", "--model", world.folder / "base", "--kind", "ordnal", *QUICK, *world.files),
        *("--output", tmp_path / "run"),
        leaves_nothing=tmp_path,
    )
    assert "'ordnal' (did you mean 'ordinal'?)" in message


def _data(world: World) -> dict[str, str]:
    return {
        str(flag).removeprefix("--"): str(path)
        for flag, path in zip(world.files[::2], world.files[1::2], strict=True)
    }
