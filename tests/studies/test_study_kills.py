"""`codir study` as processes that are killed: nothing finished is lost, nothing is run twice, everything gets done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_files import assert_done, attempts, command, contents, start, wait_for, works_on

Settings = Callable[..., dict[str, Any]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def workers_of(output: Path) -> list[int]:
    """Returns the processes that work in a study's folder: those whose output goes into one of its logs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                log = Path(os.readlink(entry / "fd" / "1"))
            except OSError:
                continue
            if log.parent == output / "logs":
                found.append(int(entry.name))
    return found


# 5 epochs of 6 steps, with a checkpoint after each
TRAINING = {"num_train_epochs": 5, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"}


@pytest.fixture
def whole(study_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the same study, run without disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    settings = study_settings(folder / "s", training=TRAINING, seeds=[1, 2, 3])
    done = subprocess.run(command(settings, folder), capture_output=True, text=True, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "s"


@pytest.mark.parametrize("seed", range(2))
def test_workers_and_parent_killed_at_random_moments(
    study_settings: Settings, tmp_path: Path, whole: Path, seed: int
) -> None:
    output = tmp_path / "s"
    settings = study_settings(output, training=TRAINING, seeds=[1, 2, 3])
    generator = random.Random(seed)
    kept: dict[str, tuple[int, bytes]] = {}
    parents_killed = workers_killed = 0
    for _ in range(60):
        # one trial may be hit three times, and then counts as failed
        resume = ["--resume", "--retry-failed"] if (output / "study.yaml").exists() else []
        process = start(command(settings, tmp_path, "--workers", "2", *resume), tmp_path)
        while process.poll() is None:
            time.sleep(generator.uniform(1, 8))
            workers = workers_of(output)
            if process.poll() is not None:
                break
            if workers and workers_killed < 4 and generator.random() < 0.6:
                os.kill(generator.choice(workers), signal.SIGKILL)
                workers_killed += 1
            elif parents_killed < 3:
                process.kill()
                parents_killed += 1
            now = contents(output)
            assert kept.items() <= now.items()
            kept = now
        said = process.communicate()[0]
        # orphans save a checkpoint and end
        wait_for(lambda: not workers_of(output), "workers outlived their parent")
        now = contents(output)
        assert kept.items() <= now.items()
        kept = now
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL or "its process ended 3 times" in " ".join(said.split()), said
    assert workers_killed + parents_killed >= 2  # more on a slow machine
    assert_done(output, 6)
    for path in sorted((whole / "trials").glob("**/model.safetensors")):
        assert path.read_bytes() == (output / path.relative_to(whole)).read_bytes()


def test_a_killed_worker_loses_its_own_trial_which_is_resumed(study_settings: Settings, tmp_path: Path) -> None:
    output = tmp_path / "s"
    training = {**TRAINING, "num_train_epochs": 15}
    settings = study_settings(output, training=training, recipes=["kd"], seeds=[1])
    process = start(command(settings, tmp_path), tmp_path)
    checkpoints = output / "trials" / "good" / "kd" / "seed-1" / "checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("*/manifest.json"))) >= 2, "no checkpoint")
    (worker,) = workers_of(output)
    os.kill(worker, signal.SIGKILL)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert "The process of good/kd/seed-1 ended" in said
    (of_trial,) = attempts(output).values()
    assert [attempt.get("state") for attempt in of_trial] == [None, "finished"]


def test_what_kills_its_process_again_and_again_has_failed_and_the_others_go_on(
    study_settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "s"
    settings = study_settings(output, training={**TRAINING, "num_train_epochs": 20}, recipes=["kd"], seeds=[1, 2])
    process = start(command(settings, tmp_path, "--workers", "2"), tmp_path)
    first = output / "trials" / "good" / "kd" / "seed-1" / "run.json"
    for count in (1, 2, 3):
        wait_for(lambda count=count: first.exists() and len(json.loads(first.read_text())["attempts"]) == count, "x")
        (worker,) = [pid for pid in workers_of(output) if works_on(pid, first.parent)]
        os.kill(worker, signal.SIGKILL)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 1, said
    assert "failed: good/kd/seed-1" in said
    assert "its process ended 3 times" in " ".join(said.split())
    assert json.loads((first.parent.parent / "seed-2" / "run.json").read_text())["state"] == "finished"
    assert len(attempts(output)["good/kd/seed-2"]) == 1


def test_ctrl_c_stops_all_workers_with_checkpoints_and_says_how_to_go_on(
    study_settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "s"
    training = {**TRAINING, "num_train_epochs": 3000, "eval_steps": 10_000}
    settings = study_settings(output, training=training, recipes=["kd"], seeds=[1, 2])
    process = start(command(settings, tmp_path, "--workers", "2"), tmp_path)
    logs = [output / "trials" / "good" / "kd" / f"seed-{seed}" / "log.jsonl" for seed in (1, 2)]
    wait_for(lambda: all(log.exists() and log.stat().st_size for log in logs), "no training")
    other = subprocess.run(
        command(settings, tmp_path, "--resume"), capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert other.returncode == 2
    assert "Another process is working in" in " ".join(other.stderr.split())
    process.send_signal(signal.SIGINT)
    said = " ".join(process.communicate(timeout=300)[0].split())
    assert process.returncode == 130, said
    assert "0 of 2 trials finished" in said
    assert "--resume` goes on" in said
    assert "Traceback" not in said
    assert not workers_of(output)
    for log in logs:
        assert json.loads((log.parent / "run.json").read_text())["state"] == "interrupted"
        assert len(list((log.parent / "checkpoints").glob("*/manifest.json"))) == 1
