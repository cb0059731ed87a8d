"""Where the trainings of a study run: in this process, in processes of this machine, or on a Ray cluster.

An engine takes a training and gives a `Future`. What came of it stands in its run folder, which is also where it goes
on after its process was killed: an engine only has to say that it has ended.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from codir.errors import ConfigError, FolderInUseError, InterruptedRunError
from codir.files import exclusive, write_json
from codir.printing import log_to, write_plainer
from codir.record.runfolder import RunFolder
from codir.studies.config import StudyConfig
from codir.studies.recipes import ResolvedRecipe, distill_config, teacher_config, teacher_folder
from codir.studies.search import behind
from codir.studies.trial import PRUNED, Trial, read_outcome, read_trials

_SECONDS_TO_END = 300.0

# ---- the trainings: functions of the study and what is wanted of it, in whatever process -----------------------------


def make_teacher(config: StudyConfig, task: str) -> None:
    """Fine-tunes the teacher of a task, or goes on with it."""
    from codir.runs.finetune import finetune

    path = teacher_folder(config, task)
    with _failures_noted(path):
        finetune(teacher_config(config, task, resume=_begun(path)), console=log_to(sys.stdout))


def run_trial(config: StudyConfig, recipe: ResolvedRecipe, trial: Trial) -> None:
    """Runs a trial, or goes on with it; a failure is noted in its folder."""
    from codir.runs.distill import distill

    path = trial.folder(config.output)
    prunes = trial.phase == "search" and config.pruning != "none"
    callbacks = [Pruning(config, trial)] if prunes else []
    with _failures_noted(path):
        try:
            run = distill_config(config, recipe, trial, resume=_begun(path))
            distill(run, console=log_to(sys.stdout), timing=False, callbacks=callbacks)
        except PrunedTrialError:
            shutil.rmtree(RunFolder(path).checkpoints, ignore_errors=True)
    gc.collect()


@contextlib.contextmanager
def _failures_noted(path: Path) -> Iterator[None]:
    """Records an error in the run folder instead of raising it: the study goes on with the next trial."""
    try:
        yield
    except (FolderInUseError, InterruptedRunError):  # no failure: it is gone on with
        raise
    except Exception as error:
        record_failure(path, error)


def record_failure(path: Path, error: Exception) -> None:
    """Makes sure that a run folder says that it has failed, and of what."""
    if RunFolder(path).state != "failed":
        with contextlib.suppress(Exception), exclusive(path), RunFolder(path).running():
            raise error


def _begun(path: Path) -> bool:
    run = RunFolder(path)
    return bool(run.status) or run.is_run


class PrunedTrialError(InterruptedRunError):
    """The trial was stopped because it is behind the others."""


class Pruning(TrainerCallback):
    """Compares a trial's dev scores so far with those of the other trials of its search after each evaluation."""

    def __init__(self, config: StudyConfig, trial: Trial):
        self.config, self.trial = config, trial

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the trial if it is behind; one at its last evaluation may as well finish."""
        metric, output = str(args.metric_for_best_model), self.config.output
        values = [entry[metric] for entry in state.log_history if metric in entry]
        if not values or state.global_step >= state.max_steps:
            return
        mine = (self.trial.group, self.trial.seed)
        same = [each for each in read_trials(output) if (each.group, each.seed) == mine and each != self.trial]
        others = [outcome for each in same if (outcome := read_outcome(each, output)) is not None]
        if behind(values, others, self.config.pruning):
            folder = self.trial.folder(output)
            write_json(folder / PRUNED, {"score": values[-1], "values": values, "step": state.global_step})
            raise PrunedTrialError(f"Pruned after step {state.global_step}: behind the other trials.")


# ---- engines ---------------------------------------------------------------------------------------------------------


def engine_of(config: StudyConfig) -> Engine:
    """Returns the engine that a study names."""
    if config.engine == "ray":
        return RayEngine(config)
    workers = 1 if config.workers is None else config.workers
    return Processes(workers, config.output / "logs") if workers else Engine()


class Engine:
    """Runs each training at once, in this process; others run several elsewhere."""

    slots = 1  # how many it can run side by side
    tries = 1  # how often one is to be begun whose process dies, before it counts as failed

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:
        """Begins a training, where a slot is free."""
        future: Future[None] = Future()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                future.set_result(function(*args))
            except InterruptedRunError as error:
                raise KeyboardInterrupt from error
            except FolderInUseError as error:
                future.set_exception(error)
        return future

    def stop(self) -> None:
        """Asks all trainings to save a checkpoint and to end."""

    def close(self) -> None:
        """Ends whatever is left, at once."""


class Processes(Engine):
    """Processes of this machine, each a pool of its own, so that one that is killed takes nothing else with it.

    They end, with a checkpoint, when this process does, however that ends. What they print goes into `logs`.
    """

    tries = 3

    def __init__(self, workers: int, logs: Path):
        logs.mkdir(parents=True, exist_ok=True)
        self.slots, self.logs = workers, logs
        self._context = multiprocessing.get_context("spawn")
        self._pools: dict[int, tuple[ProcessPoolExecutor, Connection]] = {}
        self._last: dict[int, Future[None]] = {}

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:  # noqa: D102 - as above
        slot = next(n for n in range(self.slots) if n not in self._last or self._last[n].done())
        try:
            future = self._pool(slot).submit(function, *args)
        except BrokenProcessPool:  # its process was killed
            self._pools.pop(slot)[0].shutdown(wait=False)
            future = self._pool(slot).submit(function, *args)
        self._last[slot] = future
        return future

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        if slot not in self._pools:
            reader, ours = self._context.Pipe(duplex=False)
            threads = 0 if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // self.slots)
            given = (reader, self.logs / f"worker-{slot + 1}.log", threads, _device(slot))
            pool = ProcessPoolExecutor(1, self._context, initializer=_begin_worker, initargs=given)
            self._pools[slot] = pool, ours
        return self._pools[slot][0]

    def stop(self) -> None:  # noqa: D102
        self._tell("stop")

    def close(self) -> None:  # noqa: D102
        if not all(future.done() for future in self._last.values()):
            self._tell("stop")
            self._tell("now")
        for pool, ours in self._pools.values():
            pool.shutdown()
            ours.close()

    def _tell(self, what: str) -> None:
        for _, ours in self._pools.values():
            with contextlib.suppress(OSError):  # it has ended
                ours.send(what)


def _begin_worker(parent: Connection, log: Path, threads: int, device: str | None) -> None:
    """Makes a process a worker: its output goes into a file, and it ends when the other end of `parent` is closed."""
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C is for the parent alone, which stops its workers
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    write_plainer(sys.stdout, sys.stderr)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if threads:
        import torch

        torch.set_num_threads(threads)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv()
        os.kill(os.getpid(), signal.SIGTERM)  # in a training: a checkpoint, then the end
        with contextlib.suppress(EOFError, OSError):
            parent.recv()  # the user does not want to wait
            os._exit(1)
        time.sleep(_SECONDS_TO_END)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from codir.runs.progress import quiet_libraries

    quiet_libraries()


def _device(slot: int) -> str | None:
    """Returns the GPU of a worker, where there are several."""
    import torch

    if not torch.cuda.is_available():
        return None
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    devices = visible or [str(number) for number in range(torch.cuda.device_count())]
    return devices[slot % len(devices)] if len(devices) > 1 else None


class RayEngine(Engine):
    """Tasks of a Ray cluster whose machines share the study's folder; one whose machine dies runs elsewhere.

    Raises:
        ConfigError: there is no cluster at the address.
    """

    def __init__(self, config: StudyConfig):
        import ray

        self.ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=config.address, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                why = str(error).splitlines()[0]
                raise ConfigError(f"There is no Ray cluster at {config.address}: {why}") from error
        there: Mapping[str, float] = ray.cluster_resources()
        needs = {"num_cpus": 1.0, **({"num_gpus": 1.0} if there.get("GPU") else {}), **config.resources}
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        room = [int(there.get(names.get(key, key), 0) / value) for key, value in needs.items() if value > 0]
        self.slots = config.workers or max(1, min(room))
        of_ray = {key: needs.pop(key) for key in ("num_cpus", "num_gpus", "memory") if key in needs}
        self._options = {**of_ray, "resources": needs, "max_retries": 3}  # Ray begins one again by itself
        self._running: list[Any] = []

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:  # noqa: D102 - as above
        reference = self.ray.remote(**self._options)(function).remote(*args)
        self._running.append(reference)
        return reference.future()

    def stop(self) -> None:  # noqa: D102
        for reference in self._running:  # Ray raises what Ctrl-C does in its tasks
            self.ray.cancel(reference, force=False)

    def close(self) -> None:  # noqa: D102
        if self._ours:
            self.ray.shutdown()
