"""`codir study`: checks everything, lets an engine run the trials, and says what came of them."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from codir.errors import CodirError, ConfigError, FolderInUseError, InterruptedRunError, RunError
from codir.files import exclusive, is_trace, require_name, require_writable
from codir.printing import Console, bar, terminal
from codir.studies.check import check_same, check_settings, check_with_models
from codir.studies.config import StudyConfig
from codir.studies.engines import Engine, engine_of, make_teacher, record_failure, run_trial
from codir.studies.loading import load_study
from codir.studies.recipes import notes_of, teacher_folder
from codir.studies.results import RECIPES, STUDY, Plan, TrialResult, read_results
from codir.studies.trial import Trial
from codir.training.processes import one_process_only

_SECONDS_TO_STOP = 180.0


@dataclass
class StudyResult:
    """What a study gave.

    Attributes:
        output: its folder.
        results: all finished trials.
        failed: errors by key, of trials and (`teacher:TASK`) teachers.
        pruned: keys of the trials that a search has stopped.
        report: the report, where it was written.
    """

    output: Path
    results: list[TrialResult]
    failed: dict[str, str] = field(default_factory=dict)
    pruned: list[str] = field(default_factory=list)
    report: Path | None = None


def study(
    config: StudyConfig | None = None,
    *,
    console: Console | None = None,
    retry_failed: bool = False,
    report: bool = True,
    **settings: Any,
) -> StudyResult:
    """Runs a study, or goes on with one.

    Args:
        config: the whole configuration; or give its settings as keywords:
            `study(recipes=["finetune", "kd"], tasks=["mrpc"], model="roberta-base", output="studies/mrpc")`.
        console: where to print; the terminal by default.
        retry_failed: run trials that failed again, from their start.
        report: write and print the report at the end; `codir study --report` does it later.
        settings: see `StudyConfig`.

    Returns:
        The results; OUTPUT/report.md and the files beside it say what they mean.

    Raises:
        CodirError: anything that would have failed in a trial and can be known before; another study in the folder; the
            study was interrupted.
    """
    if config is None:
        config = load_study(flags={key: (key, value) for key, value in settings.items()})
    one_process_only("codir study")
    console = terminal(console)
    _check_folder(config.output, config.resume)
    plan = Plan(config)
    kinds = check_settings(plan)
    _require_packages(config)
    if (config.output / STUDY).is_file():
        check_same(plan)
    require_writable(config.output)
    with exclusive(config.output):
        _check_folder(config.output, config.resume)
        for line in notes_of(plan.recipes):
            _say(console, line)
        check_with_models(plan, kinds, console)
        plan.save()
        if retry_failed:
            _forget_failures(plan)
            plan = Plan(config, plan.recipes)
        _say(console, describe_trials(plan.search.all_trials()))
        with _stoppable(plan):
            _Work(plan, console).run()
        return _finish(plan, console, report)


def show_status(output: str | Path, console: Console | None = None) -> None:
    """Prints how far a study is, and what failed."""
    console, plan = terminal(console), Plan.load(output)
    _say(console, plan.in_words())
    for key, error in plan.failures().items():
        _say(console, f"  failed: {key}: {error}")


def describe_trials(trials: list[Trial]) -> str:
    """Returns `40 trials: 4 recipes, 2 tasks, 5 seeds` for people."""
    parts = [f"{len(trials)} trials: {len({trial.recipe for trial in trials})} recipes"]
    parts.append(f"{len({trial.task for trial in trials})} tasks")
    if students := {trial.student for trial in trials} - {None}:
        parts.append(f"{len(students)} students")
    return ", ".join([*parts, f"{len({trial.seed for trial in trials})} seeds"])


class _Work:
    """Runs what is left of a study on its engine, and shows how far it is.

    Args:
        plan: what is to be done.
        console: where to print.
    """

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.console = plan, console
        self._running: dict[Future[None], str] = {}
        self._ends: Counter[str] = Counter()  # of processes that left no outcome, by key
        self._given_up: set[str] = set()

    def run(self) -> None:
        """Returns when every trial has ended, or cannot be run because its teacher has failed.

        Raises:
            KeyboardInterrupt: the user wants to stop; the trainings have saved checkpoints and ended.
        """
        if self._next() is None:
            return
        engine = engine_of(self.plan.config)
        total = len(self.plan.search.all_trials())
        with bar(self.console, disable=not self.console.is_terminal) as shown:
            task = shown.add_task("trials", total=total)
            try:
                while True:
                    while len(self._running) < engine.slots and (job := self._next()) is not None:
                        key, function, args = job
                        self._running[engine.submit(function, *args)] = key
                    ended = len(self.plan.done())
                    failed = len(self.plan.failures())
                    words = f"{len(self._running)} running" + f", {failed} failed" * bool(failed)
                    shown.update(task, completed=ended, description=words)
                    if not self._running:
                        return
                    for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                        self._ended(self._running.pop(future), future, engine.tries)
            except KeyboardInterrupt:
                _say(
                    self.console,
                    "Stopping: every training saves a checkpoint first. Ctrl-C again ends them at once.",
                )
                self._stop(engine)
                raise
            finally:
                engine.close()

    def _next(self) -> tuple[str, Callable[..., None], tuple[Any, ...]] | None:
        """Returns what can be begun now, a teacher or a trial whose teacher is there, with its key."""
        plan = self.plan
        done, busy = plan.done(), {*self._running.values(), *self._given_up}
        for trial in plan.trials(ask=True):
            if trial.key in done or trial.key in busy:
                continue
            state, teacher = plan.teacher_state(trial.task), f"teacher:{trial.task}"
            if state == "finished":
                trial.describe(plan.output)
                return trial.key, run_trial, (plan.config, plan.recipes[trial.recipe], trial)
            if state != "failed" and teacher not in busy:
                return teacher, make_teacher, (plan.config, trial.task)
        return None

    def _ended(self, key: str, future: Future[None], tries: int) -> None:
        task = key.removeprefix("teacher:")
        path = teacher_folder(self.plan.config, task) if task != key else self.plan.output / "trials" / key
        outcome, error = self.plan.done().get(key), future.exception()
        if outcome is not None:
            score = "no score" if outcome.score is None else f"{outcome.score:.4f}"
            what = outcome.error if outcome.state == "failed" else score
            _say(self.console, f"{outcome.state}: {key}: {what}")
        elif task != key and self.plan.teacher_state(task) in ("finished", "failed"):
            _say(self.console, f"{self.plan.teacher_state(task)}: {key}")
        elif isinstance(error, FolderInUseError):  # a worker of a study that was killed saves its checkpoint
            time.sleep(1)
        else:
            self._ends[key] += 1
            _say(self.console, f"The process of {key} ended ({error or 'it left no result'}).")
            if self._ends[key] >= tries:
                record_failure(path, RunError(f"its process ended {tries} times: out of memory? ({error})"))
                self._given_up.add(key)

    def _stop(self, engine: Engine) -> None:
        engine.stop()
        wait(self._running, timeout=_SECONDS_TO_STOP)


def _finish(plan: Plan, console: Console, report: bool) -> StudyResult:
    output = plan.output
    failed = plan.failures()
    pruned = [key for key, outcome in plan.done().items() if outcome.state == "pruned"]
    result = StudyResult(output, read_results(output), failed, pruned)
    _say(console, plan.in_words())
    for key, error in failed.items():
        _say(console, f"failed: {key}: {error}")
    if failed:
        way = f"codir study --output {shlex.quote(str(output))} --resume --retry-failed"
        _say(console, f"`{way}` runs what failed again.")
    if result.results and report:
        from codir.studies.report import write_report

        try:
            write_report(output, console)
            result.report = output / "report.md"
        except CodirError as error:  # the trials are what they are; --report writes it later
            _say(console, f"No report: {error}")
    return result


def _check_folder(output: Path, resume: bool) -> None:
    require_name(output, folder=True)
    if (output / STUDY).is_file():
        if not resume:
            raise RunError(
                f"{output} already holds a study. Add --resume to go on with it (recipes, tasks and seeds may be "
                "added), or choose another --output."
            )
        return
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    names = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    # a study that was stopped while it was written has a part of its own files
    if content := {name for name in names if not is_trace(name)} - {RECIPES}:
        raise RunError(
            f"{output} is not empty and not a study (it holds {', '.join(sorted(content)[:3])}). Choose another "
            "--output."
        )
    if resume and not output.is_dir():
        raise RunError(
            f"Nothing to resume: {output} does not exist. Leave out --resume to start a new study."
        )


def _forget_failures(plan: Plan) -> None:
    for key in plan.failures():
        task = key.removeprefix("teacher:")
        shutil.rmtree(plan.output / "trials" / key if task == key else teacher_folder(plan.config, task))


def _require_packages(config: StudyConfig) -> None:
    for needed, package, extra in ((config.space, "optuna", "study"), (config.engine == "ray", "ray", "ray")):
        try:
            if needed:
                import_module(package)
        except ImportError as error:
            what = f"engine: {extra}" if extra == "ray" else f"the strategy {config.strategy}"
            raise ConfigError(f"{what} needs {package} ({error}): pip install 'codir[{extra}]'.") from error


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _stoppable(plan: Plan) -> Iterator[None]:
    """Makes SIGTERM what Ctrl-C is, and both an `InterruptedRunError` that says how to go on."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = None
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        way = f"codir study --output {shlex.quote(str(plan.output))} --resume"
        raise InterruptedRunError(
            f"Stopped: {plan.in_words()}. `{way}` goes on; nothing that is finished is run again."
        ) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
