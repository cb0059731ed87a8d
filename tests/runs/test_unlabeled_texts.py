"""Distilling with texts without labels: what each student learns from, what is written down, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import TRAINING, World, quiet, sentences

from codir import distill, evaluate
from codir.config.config import DataConfig, DistillConfig, FinetuneConfig
from codir.config.loading import load
from codir.errors import ConfigError, DataError
from codir.record.data import load_data
from codir.runs.distill import DistillResult
from codir.teacher.cache import TeacherOutputs
from codir.training.trainer import DistillationTrainer

NEW = 30


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    """Returns a file of 30 new texts, 5 of the validation data in capitals and 3 of the training data."""
    new = [f"{row['review']} {number}" for number, row in enumerate(sentences(NEW, seed=5))]
    data = load_data(DataConfig(**world.data()))
    assert data.train is not None
    known = [text.upper() for text in list(data.validation["validation"]["text"])[:5]]
    lines = [*new, *known, *list(data.train["text"])[:3]]
    path = tmp_path_factory.mktemp("texts") / "more.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def seen() -> dict[str, list[Any]]:
    return {}


@pytest.fixture(scope="module")
def result(
    world: World, more: Path, seen: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> DistillResult:
    """Distils with all three students; `seen` holds of each training its examples and its context."""
    original = DistillationTrainer.train

    def noting(self: DistillationTrainer, *args: Any, **kwargs: Any) -> Any:
        first = next(iter(self.distillation.objectives.values()))
        seen["+".join(self.distillation.objectives)] = [self.train_dataset, first.context, self.args]
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "train", noting)
        output = tmp_path_factory.mktemp("runs") / "student"
        data = world.data(unlabeled=[str(more)])
        cache = str(tmp_path_factory.mktemp("cache"))
        return distill(**world.settings(output, kd=True, data=data, cache_dir=cache), console=quiet())


def test_who_learns_from_what_and_how_long(result: DistillResult, seen: dict[str, list[Any]]) -> None:
    assert {name: len(found[0]) for name, found in seen.items()} == {
        "task+kd+crd": 96 + NEW,
        "task+kd": 96 + NEW,
        "task": 96,
    }
    labels = np.asarray(seen["task+kd"][0]["labels"])
    assert (labels[:96] >= 0).all()
    assert (labels[96:] == -100).all()
    # 126 examples in batches of 8: 16 steps for every student, the one without the teacher too
    assert {role: cost.steps for role, cost in result.costs.items()} == {
        "codir": 16,
        "kd": 16,
        "finetune": 16,
    }
    assert {role: cost.best_step for role, cost in result.costs.items()} == {
        "codir": 16,
        "kd": 16,
        "finetune": 16,
    }
    context = seen["task+kd+crd"][1]
    assert (context.examples, context.unlabeled) == (126, NEW)
    assert set(context.labels.tolist()) == {0, 1}  # the teacher's class for the unlabelled ones
    assert seen["task"][1].unlabeled == 0


def test_it_is_written_down(result: DistillResult, more: Path) -> None:
    expected = {"examples": NEW, "files": [str(more)]}
    metrics = json.loads((result.output / "metrics.json").read_text())
    assert metrics["unlabeled"] == expected
    assert metrics["train_examples"] == 96
    assert json.loads((result.output / "environment.json").read_text())["unlabeled"] == expected
    card = (result.output / "README.md").read_text()
    assert "- unlabelled texts, which the teacher labelled: 30 examples" in card
    assert "30 unlabelled texts of" in card
    assert "5 that stand in the validation data" in card
    assert "split: validation" in card


def test_what_is_measured_later_needs_no_unlabelled_texts(result: DistillResult, more: Path, tmp_path: Path) -> None:
    from codir.record.run_data import choose_data

    chosen = choose_data([result.output], None).config
    assert chosen is not None
    assert chosen.unlabeled is None
    missing = DataConfig(**{**chosen.model_dump(), "unlabeled": [tmp_path / "gone.txt"]})
    assert load_data(missing, train=False, labels=["neg", "pos"]).unlabeled is None
    found = evaluate(result.output, chosen, console=quiet()).metrics["validation"]["accuracy"]
    metrics = json.loads((result.output / "metrics.json").read_text())["comparison"]["rows"]
    assert found == pytest.approx(next(row for row in metrics if row["role"] == "codir")["metrics"]["accuracy"])


def test_the_teachers_cache_is_of_all_texts_and_shared(world: World, more: Path, tmp_path: Path) -> None:
    opened: list[tuple[int, bool]] = []
    original = TeacherOutputs.__post_init__

    def noting(self: TeacherOutputs) -> None:
        original(self)
        opened.append((len(self), bool(self.built)))

    cache = str(tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherOutputs, "__post_init__", noting)
        for seed, data in (
            (1, world.data(unlabeled=str(more))),
            (2, world.data(unlabeled=[more])),
            (1, world.data()),
        ):
            settings = world.settings(
                tmp_path / f"run-{seed}-{'unlabeled' in data}",
                data=data,
                cache_dir=cache,
                objectives={"task": {}, "kd": {}, "crd": None},
                training={**TRAINING, "seed": seed},
                baseline=False,
            )
            distill(**settings, console=quiet(), timing=False)
    training = [each for each in opened if each[0] != 40]
    assert training == [(126, True), (126, False), (96, True)]


def test_scores_are_learned_from_the_teacher(world: World, more: Path, tmp_path: Path) -> None:
    settings = world.settings(
        tmp_path / "scores",
        teacher=str(world.regression),
        data=world.data(label="score", unlabeled=[str(more)], limit_unlabeled=20),
        objectives={"task": {}, "kd": {}, "crd": {"k": 10, "dim": 8}},
    )
    result = distill(**settings, console=quiet(), timing=False)
    metrics = json.loads((result.output / "metrics.json").read_text())
    assert metrics["unlabeled"]["examples"] == 20
    log = [json.loads(line) for line in (result.output / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss_task"]) for entry in log if "loss_task" in entry)
    assert any("loss_task" in entry for entry in log)


def test_a_fraction_of_an_epoch_is_evaluated_at_its_end(world: World, more: Path, tmp_path: Path) -> None:
    settings = world.settings(
        tmp_path / "part",
        data=world.data(unlabeled=[str(more)]),
        objectives={"task": {}, "kd": {}, "crd": None},
        training={**TRAINING, "num_train_epochs": 1.5},
    )
    result = distill(**settings, console=quiet(), timing=False)
    assert result.costs["finetune"].steps == result.costs["kd"].steps == 24
    log = [json.loads(line) for line in (result.output / "comparison/finetune/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [16, 24]


def test_labels_alone_have_nothing_to_learn_from_them(world: World, more: Path, tmp_path: Path) -> None:
    settings = world.settings(tmp_path / "run", data=world.data(unlabeled=[str(more)]), objectives={"task": {}})
    with pytest.raises(ValueError, match="leave the file out, or take a recipe that learns from the teacher"):
        DistillConfig(**settings)
    flags = {key: (f"--{key}", value) for key, value in settings.items() if key != "objectives"}
    flags["objectives"] = ("--set objectives", {"kd": None, "crd": None})
    with pytest.raises(ConfigError, match="the loss is task alone"):
        load(DistillConfig, flags=flags)
    with pytest.raises(ConfigError, match=r"leave it out here and give it to `codir distill`"):
        load(
            FinetuneConfig,
            flags={
                "model": ("--model", "m"),
                "data": ("--data", world.data(unlabeled=[str(more)])),
                "output": ("--output", "o"),
            },
        )
    assert FinetuneConfig(model="m", data=DataConfig(**world.data(unlabeled=[])), output=tmp_path)
    with pytest.raises(ValueError, match="limit_unlabeled is 5, and there are no unlabelled texts"):
        DataConfig(**world.data(limit_unlabeled=5))
    with pytest.raises(DataError, match=r"gone\.txt"):
        load_data(DataConfig(**world.data(unlabeled=["gone.txt"])))
