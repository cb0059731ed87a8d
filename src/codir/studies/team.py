"""The workers of a study: started, watched, replaced when they die, and stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from codir.errors import RunError
from codir.studies.folder import Plan
from codir.studies.progress import Board, read_progress
from codir.studies.store import Claim, Store, teacher_key, what_of
from codir.studies.trial import TRIALS
from codir.studies.trial_config import teacher_folder
from codir.studies.worker import BAD_INPUT, STOPPED, record_failure

POLL = 1.0
# A trial whose process dies this often counts as failed: something about it kills (memory, mostly).
DEATHS = 3
# Workers that die one after the other without anything being done in between: something is wrong with all of them.
IDLE_DEATHS = 6
_SECONDS_TO_STOP = 180.0


class Process(Protocol):
    """A worker's process, here or on a cluster."""

    def poll(self) -> int | None:
        """Returns its exit code, minus the signal that ended it, or None while it runs."""

    def terminate(self) -> None:
        """Asks it to save a checkpoint and to end."""

    def kill(self) -> None:
        """Ends it at once."""

    def wait(self, timeout: float) -> int:
        """Waits for its end; `subprocess.TimeoutExpired` after so many seconds."""
        ...


Launch = Callable[[str, Path], Process]


@dataclass
class _Member:
    name: str
    process: Process
    log: Path
    works_on: str | None = None


class Team:
    """Workers of a study.

    Args:
        plan: of the study.
        store: its claims.
        board: where to tell what happens.
        names: of the workers.
        launch: starts a worker, given its name and the file for its output; by default on this machine.
    """

    def __init__(
        self, plan: Plan, store: Store, board: Board, names: list[str], launch: Launch | None = None
    ):
        self.plan, self.store, self.board, self.names = plan, store, board, names
        self._launch = launch or self._local
        self._members: list[_Member] = []
        self._deaths: Counter[str] = Counter()
        self._idle_deaths = self._ended_before = 0

    def work(self) -> None:
        """Returns when all workers have ended because nothing is left to do.

        Raises:
            RunError: the workers cannot run.
            KeyboardInterrupt: the user wants to stop; the workers have saved checkpoints and ended.
        """
        try:
            # not more than there is to do: a worker takes seconds to start
            left = len(read_progress(self.plan, []).left)
            for name in self.names[: max(1, left)] if self.plan.config.strategy == "grid" else self.names:
                self._members.append(self._start(name))
            while self._members:
                claims = self.store.claims()
                progress = read_progress(self.plan, claims)
                self.board.show(progress)
                if len(progress.done) > self._ended_before:
                    self._ended_before, self._idle_deaths = len(progress.done), 0
                self._look_after(claims, bool(progress.left))
                time.sleep(POLL)
            self.board.show(read_progress(self.plan, []))
        except KeyboardInterrupt:
            self.board.say("Stopping: every worker saves a checkpoint first. Ctrl-C again ends them at once.")
            self.stop()
            raise
        finally:
            self.stop(gently=False)

    def stop(self, gently: bool = True) -> None:
        """Ends all workers: with a checkpoint, or at once."""
        for member in self._members:
            if member.process.poll() is None:
                (member.process.terminate if gently else member.process.kill)()
        until = time.monotonic() + _SECONDS_TO_STOP
        try:
            for member in self._members:
                member.process.wait(max(0.1, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            if gently:
                self.stop(gently=False)
        self._members.clear()

    def _start(self, name: str) -> _Member:
        log = self.plan.folder.logs / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return _Member(name, self._launch(name, log), log)

    def _local(self, name: str, log: Path) -> Process:
        return start_worker(self.plan.folder.path, name, log, self._environment(name))

    def _environment(self, name: str) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // len(self.names))
        given = os.environ.get("OMP_NUM_THREADS", "")
        own = {
            "OMP_NUM_THREADS": str(min(threads, int(given)) if given.isdigit() and int(given) else threads),
            "TOKENIZERS_PARALLELISM": "false"
            if len(self.names) > 1
            else os.environ.get("TOKENIZERS_PARALLELISM", "true"),
            "PYTHONUNBUFFERED": "1",
        }
        devices = _devices()
        if len(devices) > 1:
            own["CUDA_VISIBLE_DEVICES"] = devices[self.names.index(name) % len(devices)]
        return {**os.environ, **own}

    def _look_after(self, claims: list[Claim], work_left: bool) -> None:
        for member in list(self._members):
            code = member.process.poll()
            if code is None:
                member.works_on = next((c.what for c in claims if c.worker == member.name), member.works_on)
                continue
            self._members.remove(member)
            if code == 0:
                continue
            if code == BAD_INPUT:
                raise RunError(
                    f"{member.name} cannot work: {_last_line(member.log)} (all of it is in {member.log})"
                )
            self._died(member, code)
            if self._idle_deaths >= (IDLE_DEATHS if code < 0 else DEATHS):
                raise RunError(
                    f"Workers end before they have done anything, the last one with {_reason(code)}: see {member.log}."
                )
            if work_left:
                self._members.append(self._start(member.name))

    def _died(self, member: _Member, code: int) -> None:
        what = member.works_on
        if what is None or not self._open(what):
            self._idle_deaths += 1
            self.board.say(f"{member.name} ended ({_reason(code)}); another one takes its place.")
            return
        self._idle_deaths = 0
        self._deaths[what] += 1
        shown = what_of(Claim(0, what, "", "", 0, 0.0))
        self.board.say(
            f"{member.name} ended ({_reason(code)}) while it worked on {shown}; its log is {member.log}."
        )
        if self._deaths[what] >= DEATHS:
            error = RunError(
                f"its process ended {DEATHS} times, the last time with {_reason(code)}: out of memory?"
            )
            record_failure(self._path(what), error)

    def _path(self, what: str) -> Path:
        if what.startswith(teacher_key("")):
            return Path(teacher_folder(self.plan.config, what.removeprefix(teacher_key(""))))
        return self.plan.folder.path / TRIALS / what

    def _open(self, what: str) -> bool:
        from codir.runs.runfolder import RunFolder

        return RunFolder(self._path(what)).state in ("new", "running", "interrupted")


def start_worker(folder: Path, name: str, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts a worker on this machine; it ends when this process does."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "codir.studies.worker", str(folder), "--name", name],
            stdin=subprocess.PIPE,  # its end tells the worker of ours
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us alone: we stop the workers
        )


def _reason(code: int) -> str:
    if code == STOPPED:
        return "it was asked to stop"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _devices() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    if visible:
        return [each.strip() for each in visible.split(",") if each.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]
