"""Workflows in processes of their own that are killed, interrupted, or get in each other's way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from killing import at_call, begin, die, end, forked, needs_fork
from small_world import TRAINING, World, quiet
from transformers import AutoModelForSequenceClassification, TrainerCallback
from typer.testing import CliRunner

from codir import distill, finetune
from codir.cli.main import app
from codir.files import TEMPORARY, read_json
from codir.record import runfolder
from codir.runs import distill as distill_module
from codir.runs import train as train_module
from codir.teacher import cache as cache_module
from codir.teacher import store
from codir.training.callbacks import TrainingClock
from codir.training.trainer import DistillationTrainer


def while_published() -> None:
    """Kills the process once the first file of a model has been moved to its place."""
    replace = os.replace

    def wrapped(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(source).parent.name.startswith(TEMPORARY):
            die()

    runfolder.os.replace = wrapped  # type: ignore[assignment]


# One epoch is 12 steps, and 36 steps are the trainings of CoDIR, KD and the undistilled student.
POINTS: dict[str, Callable[[], None]] = {
    "while the cache is written": at_call(store, "write_json", 1),
    "the first training": at_call(DistillationTrainer, "training_step", 7),
    "while a checkpoint is written": at_call(DistillationTrainer, "_save_rng_state", 2),
    "while the student is put in place": while_published,
    "between the student and its marker": at_call(train_module, "write_json", 1),
    "before its checkpoints are removed": at_call(train_module, "tidy", 1),
    "the second training": at_call(DistillationTrainer, "training_step", 9),
    "while the second student is put in place": while_published,
    "the third training": at_call(distill_module, "train_into", 3),
    "while the table is made": at_call(distill_module, "compare", 1),
    "before the card is written": at_call(distill_module, "run_card", 1),
}


def history(run: Path) -> list[dict[str, Any]]:
    # times; and the mean loss since the start, which a resumed run cannot know and leaves out
    dropped = ("runtime", "per_second", "total_flos", "train_loss")
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if not key.endswith(dropped)} for entry in entries]


def assert_same_result(one: Path, other: Path, log: bool = True) -> None:
    """The same bytes of weights in all three students, the same log, the same scores."""
    parts = [Path(), Path("comparison/kd"), Path("comparison/finetune")]
    for part in parts:
        assert (one / part / "model.safetensors").read_bytes() == (other / part / "model.safetensors").read_bytes()
        if log:
            assert history(one / part) == history(other / part)
        assert not (other / part / "checkpoints").exists()
        assert not list((other / part).glob(f"{TEMPORARY}*"))
    assert (one / "contrast.safetensors").read_bytes() == (other / "contrast.safetensors").read_bytes()
    tables = [json.loads((run / "metrics.json").read_text())["comparison"]["rows"] for run in (one, other)]
    for a, b in zip(*tables, strict=True):
        for key in ("role", "metrics", "agreement", "bytes", "parameters"):
            assert a[key] == b[key]
    assert json.loads((other / "run.json").read_text())["state"] == "finished"


def steps_settings(world: World, output: Path) -> dict[str, Any]:
    """Saves every four steps, so that most resumes start in the middle."""
    training = {**world.settings(output)["training"], "eval_steps": 4}
    return world.settings(output, kd=True, training=training)


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    distill(**steps_settings(world, output), console=quiet())
    return output


@needs_fork
def test_killed_everywhere_and_resumed(world: World, whole: Path, tmp_path: Path) -> None:
    settings = {**steps_settings(world, tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
    for number, (name, arm) in enumerate(POINTS.items()):

        def work(arm: Callable[[], None] = arm, resume: bool = number > 0) -> None:
            arm()
            distill(**settings, resume=resume, console=quiet())

        assert forked(work) == -signal.SIGKILL, name
        if (tmp_path / "run" / "config.json").exists():  # whatever is there loads
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    distill(**settings, resume=True, console=quiet())
    assert_same_result(whole, tmp_path / "run")
    assert '"train_loss"' in (whole / "log.jsonl").read_text()
    assert '"train_loss"' not in (tmp_path / "run" / "log.jsonl").read_text()
    status = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(status["attempts"]) == len(POINTS) + 1
    assert not list((tmp_path / "cache").glob(".codir-tmp-*"))


@needs_fork
def test_a_damaged_checkpoint_falls_back_and_says_so(
    world: World, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = steps_settings(world, tmp_path / "run")

    def work() -> None:
        at_call(DistillationTrainer, "training_step", 10)()
        distill(**settings, console=quiet())

    assert forked(work) == -signal.SIGKILL
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found == ["checkpoint-4", "checkpoint-8"]
    weights = tmp_path / "run" / "checkpoints" / "checkpoint-8" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)
    distill(**settings, resume=True, console=quiet())
    assert "checkpoint-8 is damaged (the content of model.safetensors has changed)" in caplog.text
    assert_same_result(whole, tmp_path / "run")


@needs_fork
def test_ctrl_c_while_the_teacher_computes(world: World, tmp_path: Path) -> None:
    arguments = command(world, tmp_path / "run", tmp_path, cache_dir=str(tmp_path / "cache"))[3:]

    def work() -> None:
        def interrupted(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        cache_module._compute = interrupted
        done = CliRunner().invoke(app, arguments)
        (tmp_path / "said").write_text(f"{done.exit_code} {done.output}")

    assert forked(work) == 0
    said = " ".join((tmp_path / "said").read_text().split())
    assert said.startswith("130 ")
    assert "--resume goes on" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "cache").glob(".codir-tmp-*"))
    done = CliRunner().invoke(app, [*arguments, "--resume"])
    assert done.exit_code == 0, done.output


@needs_fork
@pytest.mark.parametrize("step", [1, 6, 12])
def test_a_killed_fine_tuning(world: World, tmp_path: Path, step: int) -> None:
    settings = {
        "model": str(world.folder / "encoder"),
        "data": world.data(),
        "training": {**world.settings(tmp_path)["training"], "eval_steps": 5},
    }
    finetune(**settings, output=tmp_path / "whole", console=quiet())

    def work() -> None:
        at_call(DistillationTrainer, "training_step", step)()
        finetune(**settings, output=tmp_path / "killed", console=quiet())

    assert forked(work) == -signal.SIGKILL
    finetune(**settings, output=tmp_path / "killed", resume=True, console=quiet())
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == other


# ---- what a training took is counted over all attempts --------------------------------------------------


class Die(TrainerCallback):
    """Ends the training at step 13 as a crash does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 13:
            raise KeyError("stopped by the test")


def test_seconds_of_an_attempt_that_was_killed_count(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every attempt takes 100 seconds by this clock, whenever it is asked
    monkeypatch.setattr(TrainingClock, "seconds", property(lambda clock: clock.before + 100.0))
    settings: dict[str, Any] = {
        "baseline": False,
        "training": {**TRAINING, "num_train_epochs": 2, "eval_steps": 5},
    }
    broken = tmp_path / "broken"
    with pytest.raises(KeyError, match="stopped by the test"):
        distill(**world.settings(broken, **settings), console=quiet(), timing=False, callbacks=[Die()])
    distill(**world.settings(broken, **settings, resume=True), console=quiet(), timing=False)
    distill(**world.settings(tmp_path / "whole", **settings), console=quiet(), timing=False)
    assert read_json(broken / "trained.json")["seconds"] == 200.0
    assert read_json(tmp_path / "whole" / "trained.json")["seconds"] == 100.0


def test_the_clock_runs() -> None:
    clock = TrainingClock(before=5.0)
    first = clock.seconds
    assert 5.0 <= first <= clock.seconds < 65.0
    assert TrainingClock(**clock.state()["args"]).before >= first


# ---- the command line as a process -----------------------------------------------------------------------------------


def command(world: World, output: Path, tmp_path: Path, *more: str, **changes: Any) -> list[str]:
    settings = {**steps_settings(world, output), **changes}
    config = tmp_path / "config.yaml"
    if not config.exists():
        config.write_text(yaml.safe_dump({key: value for key, value in settings.items() if key != "output"}))
    return [sys.executable, "-m", "codir", "distill", "--config", str(config), "--output", str(output), *more]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


@needs_fork
def test_ctrl_c_saves_says_how_to_go_on_and_keeps_others_out(world: World, tmp_path: Path) -> None:
    # 2000 epochs cannot end before the signal comes
    training = {**world.settings(tmp_path)["training"], "num_train_epochs": 2000, "eval_steps": 10_000}
    output = tmp_path / "run"
    arguments = command(world, output, tmp_path, training=training)[3:]

    def work(name: str, *more: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        done = CliRunner().invoke(app, [*arguments, *more])
        (tmp_path / name).write_text(f"{done.exit_code} {' '.join(done.output.split())}")

    child = begin(lambda: work("first"))
    limit = time.monotonic() + 60
    while not (output / "log.jsonl").exists() or not (output / "log.jsonl").stat().st_size:
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert [forked(lambda: work("second")), forked(lambda: work("resumed", "--resume"))] == [0, 0]
    os.kill(child, signal.SIGINT)
    assert end(child) == 0
    first, second, resumed = ((tmp_path / name).read_text() for name in ("first", "second", "resumed"))
    assert first.startswith("130 ")
    assert "Stopped by SIGINT after step" in first
    assert "The same command with --resume goes on from there" in first
    assert json.loads((output / "run.json").read_text())["state"] == "interrupted"
    assert len(list((output / "checkpoints").iterdir())) == 1
    assert second.startswith("2 ")
    assert "already holds a run (running)" in second
    assert resumed.startswith("2 ")
    assert "Another process is working in" in resumed


@needs_fork
def test_two_processes_build_one_cache(world: World, tmp_path: Path, whole: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()

    def work(name: str) -> None:
        compute = cache_module._compute

        def compute_late(*args: Any) -> None:
            (tmp_path / f"computes-{name}").touch()
            time.sleep(0.5)
            compute(*args)

        cache_module._compute = compute_late
        settings = {**steps_settings(world, tmp_path / name), "cache_dir": str(cache)}
        distill(**settings, console=quiet())

    children = [begin(lambda name=name: work(name)) for name in ("one", "two")]
    assert [end(child) for child in children] == [0, 0]
    for name in ("one", "two"):
        assert_same_result(whole, tmp_path / name)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2  # training and validation
    assert list(tmp_path.glob("computes-*"))


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a dozen starts of Python on a machine that may be busy
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(world: World, tmp_path: Path, whole: Path, seed: int) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    arguments = command(world, output, tmp_path, cache_dir=str(cache))
    generator = random.Random(seed)
    kills = 0
    while kills < 6:
        resume = ["--resume"] if (output / "run.json").exists() else []
        process = start([*arguments, *resume], tmp_path)
        started = time.monotonic()
        known = output / "run.json"
        before = known.stat().st_mtime_ns if known.exists() else 0
        while process.poll() is None and not (known.exists() and known.stat().st_mtime_ns != before):
            assert time.monotonic() - started < 300
            time.sleep(0.005)
        try:
            process.wait(timeout=generator.uniform(0, 3))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
            process.communicate()
            continue
        assert process.returncode == 0, process.communicate()
        break
    done = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_result(whole, output)
