"""Real processes: one killed in the middle of building, two building the same entry at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from codir.errors import RunError
from codir.teacher.store import EntryWriter, building_lock, fault_of, remove_leftovers

BUILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from datasets import load_from_disk
from codir.models.loading import load_classifier, load_tokenizer
from codir.teacher.cache import open_cache
from codir.teacher.frozen import FrozenTeacher

model, data, folder, gate = sys.argv[1:]

def progress(done, total):
    print("batch", done, flush=True)
    while done == 12 and not Path(gate).exists():  # stand still in the middle until the test says so
        time.sleep(0.02)

outputs = open_cache(
    FrozenTeacher(load_classifier(model)), load_from_disk(data), tokenizer=load_tokenizer(model), poolings=["mean"],
    folder=folder, batch_size=4, report=lambda line: print("report", line, flush=True), progress=progress,
)
print("built", outputs.built, float(outputs.logits.sum()), flush=True)
"""


@pytest.fixture
def builders(tmp_path: Path, tiny_model_dir, encoded):
    """Starts two builders of one entry; returns the one that stands still in the middle, and the one that waits."""
    encoded().save_to_disk(tmp_path / "data")
    arguments = [tiny_model_dir(), tmp_path / "data", tmp_path / "cache", tmp_path / "gate"]
    command = [sys.executable, "-c", BUILD, *map(str, arguments)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    try:
        at_work = [
            process for process in both if wait_for(process, "batch 12", "report Another").startswith("batch")
        ]
        assert len(at_work) == 1
        yield at_work[0], next(process for process in both if process is not at_work[0])
    finally:
        for process in both:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[str], *beginnings: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginnings):
            return line
    raise AssertionError(f"the process ended without a line that begins with one of {beginnings}")


def folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()]


def test_two_builders_of_one_entry(builders, tmp_path: Path):
    at_work, waiting = builders
    (tmp_path / "gate").touch()
    first, second = (process.communicate(timeout=60)[0] for process in (at_work, waiting))
    assert (at_work.returncode, waiting.returncode) == (0, 0)
    assert "built True" in first
    assert "built False" in second
    assert "batch" not in second
    assert first.split()[-1] == second.split()[-1]
    assert len(folders(tmp_path / "cache")) == 1


def test_a_killed_builder_leaves_nothing_that_is_believed(builders, tmp_path: Path):
    at_work, waiting = builders
    (left,) = folders(tmp_path / "cache")
    assert left.name.startswith(".building-")
    at_work.send_signal(signal.SIGKILL)
    at_work.wait()
    (tmp_path / "gate").touch()
    output = waiting.communicate(timeout=60)[0]
    assert waiting.returncode == 0
    assert "left by a process that died" in output
    assert "built True" in output
    (entry,) = folders(tmp_path / "cache")
    assert not left.exists()
    assert fault_of(entry) is None


def test_leftovers_of_living_builders_stay(tmp_path: Path):
    told: list[str] = []
    with building_lock(tmp_path, "key-mean", told.append):
        writer = EntryWriter(tmp_path, "key-mean")
        writer.create("logits", (3, 2), np.float32)
        remove_leftovers(tmp_path, told.append, own="other-mean")
        assert writer.place.exists()
    remove_leftovers(tmp_path, told.append, own="other-mean")
    assert not writer.place.exists()
    assert len(told) == 1


def test_without_locks_the_first_rename_counts(tmp_path: Path):
    writers = [EntryWriter(tmp_path, "key-logits") for _ in range(2)]
    for number, writer in enumerate(writers):
        with writer:
            writer.create("logits", (2, 1), np.float32)[:] = number
            writer.finish({})
    assert fault_of(tmp_path / "key-logits") is None
    assert np.load(tmp_path / "key-logits" / "logits.npy").tolist() == [[0], [0]]
    assert [path.name for path in tmp_path.iterdir()] == ["key-logits"]


def test_a_place_that_is_taken_by_something_damaged(tmp_path: Path):
    (tmp_path / "key-logits").mkdir()
    (tmp_path / "key-logits" / "something").touch()
    with EntryWriter(tmp_path, "key-logits") as writer:
        writer.create("logits", (2, 1), np.float32)[:] = 1
        with pytest.raises(RunError, match="Cannot put"):
            writer.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["key-logits"]


def test_hashing_is_fast_enough():
    # not a timed test of speed: a guard against hashing in Python, which would take minutes for half a gigabyte
    from codir.teacher.store import model_digest

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(25_000_000), requires_grad=False)
            self.config = type("Config", (), {"to_dict": lambda self: {}})()

    began = time.perf_counter()
    model_digest(Model())  # type: ignore[arg-type]
    assert time.perf_counter() - began < 10
