"""Studies as processes: started, looked into from outside, and what they have finished, byte for byte."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from codir.studies.results import Plan


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns time and content of every file of the finished trials below a study's folder."""
    found = {}
    for state in (folder / "trials").glob("**/run.json"):
        if json.loads(state.read_text())["state"] == "finished":
            for path in sorted(state.parent.rglob("*")):
                if path.is_file() and path.name != ".lock":
                    found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


def command(settings: dict[str, Any], tmp_path: Path, *more: str) -> list[str]:
    file = tmp_path / "study_of_the_test.yaml"
    if not file.exists():
        file.write_text(yaml.safe_dump({**settings, "workers": 1, "output": "s"}))
    return [sys.executable, "-m", "codir", "study", str(file), "--output", settings["output"], *more]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
        # what a shell starts in the background ignores SIGINT, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, what
        time.sleep(0.05)
    return found


def attempts(output: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        str(path.parent.relative_to(output / "trials")): json.loads(path.read_text())["attempts"]
        for path in (output / "trials").glob("**/run.json")
    }


def assert_done(output: Path, trials: int) -> dict[str, list[dict[str, Any]]]:
    plan = Plan.load(output)
    outcomes = [plan.done()[trial.key].state for trial in plan.trials()]
    assert outcomes == ["finished"] * trials
    for name, of_trial in attempts(output).items():
        assert sum(attempt.get("state") == "finished" for attempt in of_trial) == 1, name
    return attempts(output)


def works_on(pid: int, folder: Path) -> bool:
    """Says whether a process holds the lock of a run folder."""
    with contextlib.suppress(OSError):  # another user's, or gone by now
        opened = list((Path("/proc") / str(pid) / "fd").iterdir())
        return any(os.readlink(each) == str(folder / ".lock") for each in opened)
    return False
