"""A worker: a process that takes up one open trial after another until all have ended.

`python -m codir.studies.worker FOLDER --name NAME` is started by `codir study`, which holds the other end of its
standard input: when that closes, whatever ended the parent, the worker saves a checkpoint and ends too.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType

from codir.errors import CodirError, FolderInUseError, InterruptedRunError
from codir.locks import exclusive
from codir.printing import Console, log_to, settle
from codir.runs.runfolder import RunFolder
from codir.studies.folder import Plan, StudyFolder
from codir.studies.pruning import PrunedTrialError, Pruning
from codir.studies.store import Store, about_trial, teacher_key
from codir.studies.survey import Outcome
from codir.studies.trial import Trial
from codir.studies.trial_config import distill_config, teacher_config, teacher_folder

POLL = 1.0
STOPPED, BAD_INPUT = 130, 2
_SECONDS_TO_END = 300.0


class Worker:
    """Takes up open trials of a study.

    Args:
        folder: of the study.
        name: how others see it.
        console: for its log.
    """

    def __init__(self, folder: StudyFolder, name: str, console: Console):
        self.folder, self.name, self.console = folder, name, console
        self.plan = Plan(folder)
        config = self.plan.config
        self.store = Store(folder.path, folder.name, config.storage, config.heartbeat, name)
        self._given_up: set[str] = set()

    def work(self) -> None:
        """Returns when every trial of the study has ended, or cannot be run because its teacher has failed."""
        while True:
            self.plan.refresh()
            trials = self.plan.trials()
            left = [trial for trial in trials if not self._settled(trial)]
            if not left:
                return
            if not self._take_one(left):
                time.sleep(POLL)

    def _settled(self, trial: Trial) -> bool:
        return (
            trial.key in self._given_up
            or trial.key in self.plan.done
            or teacher_state(self.plan, trial.task) == "failed"
        )

    def _take_one(self, left: list[Trial]) -> bool:
        """Runs the first thing nobody works on; False if others work on all of it."""
        taken = {claim.what for claim in self.store.claims()}
        for trial in left:
            if teacher_state(self.plan, trial.task) != "finished":
                what = teacher_key(trial.task)
                if what in taken:
                    continue
                with self.store.claim(what) as number:
                    if number is not None:
                        self._teach(trial.task)
                        return True
            elif trial.key not in taken:
                with self.store.claim(trial.key, about_trial(trial)) as number:
                    if number is not None:
                        # it may have ended between the look and the claim
                        if trial.key not in self.plan.done:
                            self._train(trial, number)
                        return True
        return False

    def _teach(self, task: str) -> None:
        from codir.runs.finetune import finetune

        path = Path(teacher_folder(self.plan.config, task))
        if RunFolder(path).finished:
            return
        self._say(f"fine-tunes the teacher of {task}")
        with self._failures_noted(path, teacher_key(task)):
            finetune(teacher_config(self.plan.config, task, resume=_begun(path)), console=self.console)

    def _train(self, trial: Trial, number: int) -> None:
        from codir.runs.distill import distill

        config = self.plan.config
        path = trial.folder(config.output)
        self._say(f"starts {trial.key}" + (f" {dict(trial.settings)}" if trial.settings else ""))
        trial.describe(config.output)
        callbacks = []
        if trial.phase == "search" and config.pruning != "none":
            callbacks.append(Pruning(path, lambda: self._others(trial), config.pruning))
        with self._failures_noted(path, trial.key):
            try:
                resume = _begun(path)
                run = distill_config(config, self.plan.recipes[trial.recipe], trial, resume)
                distill(run, console=self.console, timing=False, callbacks=callbacks)
            except PrunedTrialError as error:
                self._say(f"{trial.key}: {error}")
                shutil.rmtree(RunFolder(path).checkpoints, ignore_errors=True)
        outcome = self.plan.done.get(trial.key)
        if outcome is not None and outcome.state != "failed":
            self.store.tell(number, outcome.score, outcome.state == "pruned")
            self._say(f"{outcome.state} {trial.key}: {outcome.score}")
        _free_memory()

    def _others(self, trial: Trial) -> list[Outcome]:
        same = (each for each in self.plan.trials() if each.group == trial.group and each.phase == "search")
        found = (self.plan.done.get(each.key) for each in same if each.key != trial.key)
        return [outcome for outcome in found if outcome is not None]

    @contextlib.contextmanager
    def _failures_noted(self, path: Path, what: str) -> Iterator[None]:
        """Records an error in the run folder instead of raising it: the study goes on with the next trial."""
        try:
            yield
        except FolderInUseError:
            # its claim has expired and it lives still, on this or another machine: the next look will tell
            self._say(f"{what} is in use by another process")
            time.sleep(POLL)
        except InterruptedRunError:
            raise
        except Exception as error:
            self._say(f"failed {what}: {type(error).__name__}: {error}")
            if not isinstance(error, CodirError):
                self.console.print(traceback.format_exc(), markup=False, highlight=False)
            record_failure(path, error)
            if RunFolder(path).state != "failed":  # a full disk, say
                self._given_up.add(what)

    def _say(self, text: str) -> None:
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        self.console.print(f"[{now}] {self.name} {text}", markup=False, highlight=False, soft_wrap=True)


def teacher_state(plan: Plan, task: str) -> str:
    """Returns `finished`, `failed`, or another state of the teacher of a task."""
    if task in plan.config.teachers:
        return "finished"
    return RunFolder(teacher_folder(plan.config, task)).state


def record_failure(path: Path, error: Exception) -> None:
    """Makes sure that a run folder says that it has failed, and of what."""
    if RunFolder(path).state == "failed":
        return
    with contextlib.suppress(Exception), exclusive(path), RunFolder(path).running():
        raise error


def _begun(path: Path) -> bool:
    run = RunFolder(path)
    return bool(run.status) or run.is_run


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Stop:
    """A signal outside of a training ends the worker at once; the trainer listens for itself and saves a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def watch_parent(self) -> None:
        """Ends this process some time after standard input is closed."""

        def wait() -> None:
            with contextlib.suppress(OSError, ValueError):
                while os.read(0, 1024):
                    pass
            if not self.asked:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_SECONDS_TO_END)
            os._exit(STOPPED)

        threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker; returns its exit code."""
    parser = argparse.ArgumentParser(prog="codir.studies.worker", description="a worker of `codir study`")
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    given = parser.parse_args(arguments)
    stop = _Stop()
    settle(sys.stdout, sys.stderr)
    console = log_to(sys.stdout)
    try:
        stop.listen()
        stop.watch_parent()
        from codir.runs.progress import quiet_libraries

        quiet_libraries()
        Worker(StudyFolder(given.folder), given.name, console).work()
    except (KeyboardInterrupt, InterruptedRunError) as error:
        console.print(str(error) or "stopped", markup=False, highlight=False)
        return STOPPED
    except CodirError as error:
        console.print(f"Error: {error}", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads that still wait for the parent are no reason to linger.
    os._exit(code)
