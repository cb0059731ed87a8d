"""`data.holdout`: a share of the training data validates, the same rows everywhere, and nothing else is opened."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_world import World, quiet, sentences, write_table
from typer.testing import CliRunner

from codir import distill, evaluate
from codir.cli.main import app
from codir.config.config import DataConfig, FinetuneConfig
from codir.config.loading import load
from codir.data import files as files_module
from codir.errors import ConfigError, DataError
from codir.record.data import load_data
from codir.record.run_data import choose_data, describe
from codir.studies.config import load_study


@pytest.fixture
def mrpc(tmp_path: Path) -> Path:
    """Returns a folder with the training data of MRPC and no others: 60 rows, a third of them of class 0."""
    folder = tmp_path / "glue" / "MRPC"
    folder.mkdir(parents=True)
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f"{int(n % 3 > 0)}\t{n}\t{n}\tfirst {n}\tsecond {n}" for n in range(60)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder.parent


def texts(split: Any) -> list[str]:
    return list(split["text"])


def test_a_glue_tasks_own_validation_data_are_not_opened(mrpc: Path) -> None:
    with pytest.raises(DataError, match="dev\\.tsv"):
        load_data(DataConfig(task="mrpc", data_dir=mrpc))
    data = load_data(DataConfig(task="mrpc", data_dir=mrpc, holdout=0.2))
    assert data.train is not None
    assert list(data.validation) == ["holdout"]
    held = data.validation["holdout"]
    assert sorted(held["label"]) == [0] * 4 + [1] * 8  # a fifth of each class
    assert sorted(texts(data.train) + texts(held)) == sorted(f"first {n}" for n in range(60))
    assert any("12 of the 60 training examples are held out" in note for note in data.notes)


def test_the_rows_depend_on_nothing_but_the_share(mrpc: Path) -> None:
    config = DataConfig(task="mrpc", data_dir=mrpc, holdout=0.2)
    held = texts(load_data(config).validation["holdout"])
    random.seed(5)
    assert texts(load_data(config).validation["holdout"]) == held
    alone = load_data(config, train=False)
    assert alone.train is None
    assert texts(alone.validation["holdout"]) == held
    limited = load_data(config.model_copy(update={"limit_train": 10, "limit_validation": 6}))
    assert limited.train is not None
    assert len(limited.train) == 10
    assert not set(texts(limited.train)) & set(held)
    assert set(texts(limited.validation["holdout"])) < set(held)
    other = texts(load_data(config.model_copy(update={"holdout": 0.1})).validation["holdout"])
    assert len(other) == 6


def test_unlabelled_texts_may_not_hold_what_is_held_out(mrpc: Path, tmp_path: Path) -> None:
    path = tmp_path / "all.tsv"
    path.write_text("text\ttext_pair\n" + "".join(f"SECOND {n}\tfirst  {n}\n" for n in range(60)))
    data = load_data(DataConfig(task="mrpc", data_dir=mrpc, holdout=0.2, unlabeled=[path]))
    assert data.unlabeled is not None
    assert len(data.unlabeled) == 48  # the two texts of a pair may change places
    assert any("without 12 that stand in the validation data" in note for note in data.notes)


def test_own_files_and_the_built_in_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_data(DataConfig(**world.data(validation=None, holdout=0.25)))
    assert own.train is not None
    assert {name: len(split) for name, split in own.validation.items()} == {"holdout": 24}
    assert len(own.train) == 72
    assert not any("No validation split was given" in note for note in own.notes)
    made = load_data(DataConfig(task="acceptability", limit_train=100, holdout=0.1))
    assert made.train is not None
    assert (len(made.train), len(made.validation["holdout"])) == (90, 10)
    with pytest.raises(ValueError, match=r"holdout \(0\.1\) .*leave one of the two out"):
        DataConfig(**world.data(holdout=0.1))
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="holdout"):
            DataConfig(**world.data(validation=None, holdout=share))

    def not_asked(*_: Any) -> bool:
        raise AssertionError("the Hub's own validation split was looked for")

    monkeypatch.setattr(files_module, "_is_hub", lambda source: True)
    monkeypatch.setattr(files_module, "_hub_has_validation", not_asked)
    rows = files_module.read_rows(world.train, ["review", "stars"])
    monkeypatch.setattr(files_module, "_hub_rows", lambda *_: rows)
    hub = load_data(DataConfig(train="owner/name", text="review", label="stars", holdout=0.25))
    assert texts(hub.validation["holdout"]) == texts(own.validation["holdout"])


def test_a_run_is_judged_on_what_was_held_out_and_so_is_all_that_follows(world: World, tmp_path: Path) -> None:
    data = world.data(validation=None, holdout=0.25)
    settings = world.settings(
        tmp_path / "run", data=data, objectives={"task": {}, "kd": {}, "crd": None}, baseline=False
    )
    run = distill(**settings, console=quiet(), timing=False).output
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["validation_examples"] == {"holdout": 24}
    assert metrics["train_examples"] == 72
    score = next(row for row in metrics["comparison"]["rows"] if row["role"] == "kd")["metrics"]["accuracy"]
    chosen = choose_data([run], None).config
    assert chosen is not None
    assert chosen.holdout == 0.25
    assert "the 0.25 of the training data that is held out" in describe(chosen)
    found = evaluate(run, chosen, console=quiet())
    assert found.metrics["holdout"]["accuracy"] == pytest.approx(score)
    expected = texts(load_data(DataConfig(**data)).validation["holdout"])
    assert texts(load_data(chosen, train=False, labels=["neg", "pos"]).validation["holdout"]) == expected
    # data that are named win as a whole: then the holdout is not theirs
    named = choose_data([run], {"task": "sst2"}).config
    assert named == DataConfig(task="sst2", max_length=data["max_length"])
    command = f"evaluate {run} --train {world.train} --text review --label stars --max-length 32 --holdout 0.25"
    outcome = CliRunner().invoke(app, command.split())
    assert outcome.exit_code == 0, outcome.output
    assert f"{score:.4f}" in outcome.output


def test_the_command_line(world: World, tmp_path: Path) -> None:
    common = f"--train {world.train} --text review --label stars --max-length 32 --epochs 1 --holdout 0.25"
    encoder = world.folder / "encoder"
    for command in (
        f"finetune --model {encoder} {common} --output {tmp_path / 'teacher'}",
        f"distill --recipe kd --teacher {tmp_path / 'teacher'} {common} --student-layers 2 --no-baseline "
        f"--cache-dir {tmp_path / 'cache'} --output {tmp_path / 'student'}",
    ):
        outcome = CliRunner().invoke(app, command.split())
        assert outcome.exit_code == 0, outcome.output
    for name in ("teacher", "student"):
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["validation_examples"] == {"holdout": 24}
        assert "- holdout: 24 examples" in (tmp_path / name / "README.md").read_text()
        assert yaml.safe_load((tmp_path / name / "codir.yaml").read_text())["data"]["holdout"] == 0.25
    outcome = CliRunner().invoke(
        app,
        f"finetune --model {encoder} {common} --validation {world.dev} --output {tmp_path / 'no'}".split(),
    )
    assert outcome.exit_code != 0
    assert "leave one of the two out" in " ".join(outcome.output.split())
    assert not (tmp_path / "no").exists()


def test_studies(world: World, tmp_path: Path) -> None:
    own = {"train": str(world.train), "text": "review", "label": "stars"}
    study = tmp_path / "study.yaml"
    content = {
        "recipes": ["kd"],
        "tasks": {"good": own, "mrpc": None},
        "model": str(world.folder / "encoder"),
        "data": {"holdout": 0.2},
        "output": str(tmp_path / "s"),
    }
    study.write_text(yaml.safe_dump(content))
    assert {name: data.holdout for name, data in load_study(study).tasks.items()} == {
        "good": 0.2,
        "mrpc": 0.2,
    }
    flags = {"data.holdout": ("--holdout", 0.3)}
    assert load_study(study, flags=flags).tasks["good"].holdout == 0.3
    content["tasks"] = {"good": {**own, "validation": str(world.dev)}}
    study.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="leave one of the two out"):
        load_study(study)


def test_too_little_to_hold_out(tmp_path: Path) -> None:
    path = write_table(tmp_path / "few.csv", sentences(8, seed=1))
    with pytest.raises(DataError, match="too few to hold some out"):
        load_data(DataConfig(train=str(path), text="review", label="stars", holdout=0.1))
    assert load(
        FinetuneConfig,
        flags={
            "model": ("--model", "m"),
            "data.train": ("--train", str(path)),
            "data.holdout": ("--holdout", 0.1),
            "output": ("--output", str(tmp_path / "o")),
        },
    ).data.holdout == pytest.approx(0.1)
