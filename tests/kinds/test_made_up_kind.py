"""The cut is right: a kind that nobody has thought of is one class and one line, and everything works with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import codir
import codir.kinds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))
from fault_world import QUICK, refused, sentences, succeeded, write_csv
from ordinal import Ordinal

GRADES = ("1", "2", "3")


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
        self.run("finetune", "--model", folder / "base", "--kind", "ordinal", *QUICK, *self.files, output="teacher")

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
    folder = tmp_path_factory.mktemp("ordinal")
    # as an installed package declares it: so the processes of a study know it, too
    declared = folder / "ordinal-1.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: ordinal\nVersion: 1\n")
    (declared / "entry_points.txt").write_text("[codir.kinds]\nordinal = ordinal:Ordinal\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        codir.kinds.register(Ordinal())
        yield World(folder, tiny_tokenizer, tiny_classifier)
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
    world.run("distill", "--recipe", recipe, "--kind", "ordinal", *models, *few, *QUICK, *world.files, output=recipe)
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
        *("--output", tmp_path / "export"),
    )
    assert "mean_distance" in succeeded("evaluate", tmp_path / "export", *world.files[2:]).text
    found = codir.study(
        recipes=["finetune", "kd"],
        tasks={"grades": {**_data(world), "kind": "ordinal", "max_length": 32}},
        teachers={"grades": str(world.folder / "teacher")},
        students={"one": {"layers": 1}},
        seeds=[1],
        training={"num_train_epochs": 1, "per_device_train_batch_size": 8, "precision": "fp32"},
        output=tmp_path / "study",
    )
    assert len(found.results) == 2
    assert all("mean_distance" in result.metrics for result in found.results)


def test_a_kind_that_there_is_not_is_refused(world: World, tmp_path: Path) -> None:
    message = refused(
        *("finetune", "--model", world.folder / "base", "--kind", "ordnal", *QUICK, *world.files),
        *("--output", tmp_path / "run"),
        leaves_nothing=tmp_path,
    )
    assert "'ordnal' (did you mean 'ordinal'?)" in message


def _data(world: World) -> dict[str, str]:
    return {
        str(flag).removeprefix("--"): str(path) for flag, path in zip(world.files[::2], world.files[1::2], strict=True)
    }
