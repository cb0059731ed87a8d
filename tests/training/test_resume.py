"""A training that is killed and resumed ends with the weights, heads and banks of one that was not, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).with_name("training_job.py")


def run(
    folder: Path, models: Path, action: str = "none", step: int = 0, **settings
) -> subprocess.CompletedProcess:
    pairs = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, str(JOB), str(folder), str(models), action, str(step), *pairs]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def assert_same(one: Path, other: Path) -> None:
    a, b = (torch.load(folder / "final.pt", weights_only=True) for folder in (one, other))
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def uninterrupted(models: Path, **settings) -> Path:
    """Returns the folder of a run that nothing stopped, made once for each choice of settings."""
    folder = models / f"whole-{hash(frozenset(settings.items()))}"
    if not folder.exists():
        done = run(folder, models, **settings)
        assert done.returncode == 0, done.stderr
    return folder


# 60 examples in batches of 8 are 8 steps an epoch, 24 in all; checkpoints at 5, 10, 15, 20.
@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (12, {}),  # in the middle of an epoch, two steps after a checkpoint
        (13, {"save_steps": 8}),  # resumes at an epoch's beginning
        (7, {"gradient_accumulation_steps": 2, "save_steps": 3, "train_sampling_strategy": "random"}),
        (12, {"labelled": 11}),
        (12, {"bf16": True, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 5}),
    ],
)
def test_kill_9_and_resume(tmp_path, models, step, settings):
    whole = uninterrupted(models, **settings)
    killed = run(tmp_path / "killed", models, "kill", step, **settings)
    assert killed.returncode == -9
    assert not (tmp_path / "killed" / "final.pt").exists()
    resumed = run(tmp_path / "killed", models, **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(whole, tmp_path / "killed")


def test_kill_while_a_checkpoint_is_written_falls_back(tmp_path, models):
    whole = uninterrupted(models)
    assert run(tmp_path / "killed", models, "half", 15).returncode == -9
    resumed = run(tmp_path / "killed", models)
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint-15" in resumed.stderr
    assert "not written to its end" in resumed.stderr
    assert_same(whole, tmp_path / "killed")


def test_sigterm_saves_first_and_resumes(tmp_path, models):
    whole = uninterrupted(models)
    stopped = run(tmp_path / "stopped", models, "term", 12)
    assert stopped.returncode == 3, stopped.stderr
    assert "Stopped by SIGTERM after step 12" in stopped.stdout
    assert (tmp_path / "stopped" / "checkpoint-12" / "manifest.json").is_file()
    assert run(tmp_path / "stopped", models).returncode == 0
    assert_same(whole, tmp_path / "stopped")


def test_another_seed_gives_other_weights(tmp_path, models):
    """The comparison above can fail."""
    one = uninterrupted(models)
    assert run(tmp_path / "other", models, seed=6).returncode == 0
    with pytest.raises(AssertionError):
        assert_same(one, tmp_path / "other")
