"""A training that is killed and resumed ends with the weights, heads and banks of one that was not, bit for bit."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from killing import forked, needs_fork
from training_job import Stop, make_trainer

from codir.errors import InterruptedRunError
from codir.training import resumable

pytestmark = needs_fork


def run(folder: Path, models: Path, action: str = "none", step: int = 0, **settings) -> tuple[int, str]:
    """Trains in a process of its own, resuming whatever there is; returns how it ended and what it said.

    `action`: none | kill (SIGKILL at the end of `step`) | term (SIGTERM to itself) | half (SIGKILL while the checkpoint
    of `step` is being written). The final student, heads and banks are saved.
    """
    folder.mkdir(exist_ok=True)

    def work() -> None:
        with open(folder / "said", "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        logging.basicConfig(force=True, stream=sys.stderr, format="%(message)s")  # not into pytest's hands
        callbacks = []
        if action in ("kill", "term"):
            callbacks.append(Stop(step, signal.SIGKILL if action == "kill" else signal.SIGTERM))
        if action == "half":
            write = resumable.ResumableTrainer._write_manifest
            resumable.ResumableTrainer._write_manifest = functools.partialmethod(die_before, write, step)
        trainer = make_trainer(folder, models, callbacks=callbacks, **settings)
        try:
            trainer.train(resume_from_checkpoint=True)
        except InterruptedRunError as error:
            print(error, flush=True)
            os._exit(3)
        torch.save(trainer.distillation.state_dict(), folder / "final.pt")
        sys.stderr.flush()

    code = forked(work)
    return code, (folder / "said").read_text()


def die_before(trainer, write, step: int, path: Path) -> None:
    if path.name == f"checkpoint-{step}":
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    write(trainer, path)


def different(one: Path, other: Path) -> list[str]:
    a, b = (torch.load(folder / "final.pt", weights_only=True) for folder in (one, other))
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def uninterrupted(models: Path, **settings) -> Path:
    """Returns the folder of a run that nothing stopped, made once for each choice of settings."""
    folder = models / f"whole-{hash(frozenset(settings.items()))}"
    if not folder.exists():
        code, said = run(folder, models, **settings)
        assert code == 0, said
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
    whole, killed = uninterrupted(models, **settings), tmp_path / "killed"
    assert run(killed, models, "kill", step, **settings)[0] == -signal.SIGKILL
    assert not (killed / "final.pt").exists()
    code, said = run(killed, models, **settings)
    assert code == 0, said
    assert different(whole, killed) == []


def test_kill_while_a_checkpoint_is_written_falls_back(tmp_path, models):
    whole = uninterrupted(models)
    assert run(tmp_path / "killed", models, "half", 15)[0] == -signal.SIGKILL
    code, said = run(tmp_path / "killed", models)
    assert code == 0, said
    assert "checkpoint-15" in said
    assert "not written to its end" in said
    assert different(whole, tmp_path / "killed") == []


def test_sigterm_saves_first_and_resumes(tmp_path, models):
    whole = uninterrupted(models)
    code, said = run(tmp_path / "stopped", models, "term", 12)
    assert code == 3, said
    assert "Stopped by SIGTERM after step 12" in said
    assert (tmp_path / "stopped" / "checkpoint-12" / "manifest.json").is_file()
    assert run(tmp_path / "stopped", models)[0] == 0
    assert different(whole, tmp_path / "stopped") == []


def test_another_seed_gives_other_weights(tmp_path, models):
    """The comparison above can fail."""
    assert run(tmp_path / "other", models, seed=6)[0] == 0
    assert different(uninterrupted(models), tmp_path / "other")
