"""Bad input on the command line: exit code 2, one readable message, no traceback, no training, nothing in the way."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import TRAINING, World, sentences, write_table
from typer.testing import CliRunner

from codir.cli.main import app
from codir.runs import train as train_module
from codir.training.trainer import DistillationTrainer


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Bad input has to be found before any training starts."""
    if "trains" in request.keywords:
        return

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a training was started")

    monkeypatch.setattr(train_module.DistillationTrainer, "train", refuse)


def words(output: str) -> str:
    return " ".join(output.split())


def distill_flags(world: World, output: Path, **changes: Any) -> list[str]:
    """Returns the arguments of a distillation; `changes` replaces flags, None leaves one out."""
    flags: dict[str, Any] = {
        "teacher": world.teacher,
        "train": world.train,
        "validation": world.dev,
        "text": "review",
        "label": "stars",
        "student-layers": 2,
        "max-length": 32,
        "cache-dir": world.cache,
        "output": output,
    }
    flags |= {name.replace("_", "-"): value for name, value in changes.items()}
    given = ["distill"]
    for name, value in flags.items():
        if value is not None:
            given += [f"--{name}", str(value)]
    for key, value in {**TRAINING, "num_train_epochs": 1}.items():
        given += ["--set", f"training.{key}={value}"]
    return [*given, "--set", "objectives.crd.k=10"]


def refused(arguments: list[str]) -> str:
    """Runs the command line and returns its one message."""
    done = CliRunner().invoke(app, arguments)
    text = words(done.output)
    assert done.exit_code == 2, text
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in text
    assert text.count("Error:") == 1, text
    return text[text.index("Error:") :]


def table(path: Path, change: Callable[[list[dict[str, str]]], None], count: int = 40) -> Path:
    rows = sentences(count, seed=4)
    change(rows)
    return write_table(path, rows)


def relabel(*labels: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row, label in zip(rows, labels * len(rows), strict=False):
            row["stars"] = label

    return change


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["distill", "finetune"])
def test_one_class_only(world: World, tmp_path: Path, command: str) -> None:
    train = table(tmp_path / "train.csv", relabel("pos"))
    arguments = distill_flags(world, tmp_path / "run", train=train, validation=None)
    if command == "finetune":
        arguments = ["finetune", "--model", str(world.folder / "encoder"), "--train", str(train)]
        arguments += ["--text", "review", "--label", "stars", "--output", str(tmp_path / "run")]
    message = refused(arguments)
    assert "all 40 rows have the label 'pos'. A classifier needs two classes" in message


# ---- models ----------------------------------------------------------------------------------------------------------


def test_a_teacher_that_is_not_fine_tuned(world: World, tmp_path: Path) -> None:
    encoder = world.folder / "encoder"
    message = refused(distill_flags(world, tmp_path / "run", teacher=encoder))
    assert f"{encoder} is not fine-tuned: it has no classifier weights" in message
    assert f"`codir finetune --model {encoder}" in message


def test_a_teacher_shallower_than_the_student(world: World, tmp_path: Path) -> None:
    message = refused(distill_flags(world, tmp_path / "run", student_layers=5))
    assert "A student of 5 layers is deeper than its teacher, which has 4" in message


def test_a_teacher_of_scores_for_classes_and_the_reverse(world: World, tmp_path: Path) -> None:
    message = refused(distill_flags(world, tmp_path / "run", teacher=world.regression))
    assert "the teacher" in message
    message = refused(distill_flags(world, tmp_path / "run", label="score"))
    assert "the teacher has 2 outputs, but scores need a model with one" in message


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["objectives.crd.k=0"], "crd.k=0 does not fit N=96 training examples"),
        (["objectives.crd.k=many"], "objectives.crd.k"),
        (["objectives.crd.negatives=hrd"], "did you mean 'hard'?"),
        (["objectives.crd.negatives=hard", "cache=false"], "drop --no-cache"),
        (["objectives.crd.teacher_layers=[0]"], "crd.teacher_layers"),
        (["objectives.cdr.k=1"], "did you mean 'crd'?"),
        (["training.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["training.num_train_epochs=nan"], "training.num_train_epochs"),
        (["training.optim=no_such"], "no_such"),
        (["training.report_to=[wandbb]"], "did you mean 'wandb'?"),
        (["training.report_to=[codecarbon]"], "to be installed"),
        (["student.init=[1,9]", "student.layers=2"], "9"),
    ],
)
def test_settings_out_of_range(world: World, tmp_path: Path, settings: list[str], expected: str) -> None:
    arguments = distill_flags(world, tmp_path / "run", student_layers=None if "init" in settings[0] else 2)
    message = refused([*arguments, *(part for each in settings for part in ("--set", each))])
    assert expected in message
    assert not (tmp_path / "run" / "codir.yaml").exists()


def test_different_label_for_scores(world: World, tmp_path: Path) -> None:
    arguments = distill_flags(world, tmp_path / "run", teacher=world.regression, label="score")
    message = refused([*arguments, "--set", "objectives.crd.negatives=different-label"])
    assert "needs classes, and these labels are scores: use negatives: any" in message


# ---- the run folder --------------------------------------------------------------------------------------------------


@pytest.mark.trains
def test_after_bad_input_the_corrected_command_works(world: World, tmp_path: Path) -> None:
    output = tmp_path / "run"
    refused(distill_flags(world, output, text="reveiw"))
    refused(distill_flags(world, output, student_layers=9))
    refused([*distill_flags(world, output), "--set", "objectives.crd.k=1000"])
    done = CliRunner().invoke(app, [*distill_flags(world, output), "--no-baseline"])
    assert done.exit_code == 0, done.output


# ---- disks -----------------------------------------------------------------------------------------------------------

FULL = """
import os, subprocess, sys
# a disk of its own, in a name space of its own
place, size, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "codir-test", place], check=True)
done = subprocess.run([sys.executable, "-m", "codir", *arguments])
left = subprocess.run(["ls", "-R", place], capture_output=True, text=True).stdout
print("LEFT", left)
sys.exit(done.returncode)
"""


def can_mount() -> bool:
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "codir-test", "/mnt"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8k", "100k", "200k", "300k", "400k", "500k", "600k"])
@pytest.mark.parametrize("what", ["output", "cache"])
def test_a_disk_that_is_really_full(world: World, tmp_path: Path, size: str, what: str) -> None:
    if not can_mount():
        pytest.skip("no user name spaces here")
    if what == "cache":
        size = {"8k": "8k", "100k": "16k", "200k": "28k"}.get(size, "")
        if not size:
            pytest.skip("the cache is smaller")
    place = tmp_path / "disk"
    place.mkdir()
    changes = {"output": place / "run"} if what == "output" else {"output": tmp_path / "run", "cache_dir": place / "c"}
    arguments = distill_flags(world, **changes)  # type: ignore[arg-type]
    command = ["unshare", "-rm", sys.executable, "-c", FULL, str(place), size, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = words(done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert size == "600k"
        return
    assert done.returncode == 2, done.stderr
    assert re.search(r"disk|No space left", text), text
    assert text.count("Error:") == 1


@pytest.mark.trains
@pytest.mark.parametrize("raised", ["torch", "safetensors", "os"])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    import errno

    import torch
    from safetensors import SafetensorError

    errors: dict[str, Exception] = {
        "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "os": OSError(errno.ENOSPC, "No space left on device"),
    }
    save = torch.save
    calls = []

    def full(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) > 4:
            raise errors[raised]
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    arguments = distill_flags(world, tmp_path / "run")
    message = refused([*arguments, "--set", "training.eval_steps=4"])
    assert "could not be written" in message
    assert "--resume" in message
    monkeypatch.setattr(torch, "save", save)
    done = CliRunner().invoke(app, [*arguments, "--set", "training.eval_steps=4", "--resume"])
    assert done.exit_code == 0, done.output


def test_the_guard_of_this_file_works(world: World) -> None:
    with pytest.raises(AssertionError, match="a training was started"):
        DistillationTrainer.train(None)  # type: ignore[arg-type]
