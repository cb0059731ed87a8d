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
from codir.studies.config import StudyConfig, load_study
from codir.studies.engines import engine_of, make_teacher, record_failure, run_trial
from codir.studies.recipes import notes_of, teacher_folder
from codir.studies.results import RECIPES, STUDY, Plan
from codir.studies.trial import TRIALS, Trial, TrialResult
from codir.training.processes import one_process_only

_SECONDS_TO_STOP = 180.0


@dataclass
class StudyResult:
    """What a study gave."""

    output: Path
    results: list[TrialResult]  # all finished trials
    # errors by key, of trials and (`teacher:TASK`) teachers
    failed: dict[str, str] = field(default_factory=dict)
    pruned: list[str] = field(default_factory=list)  # keys of the trials that a search has stopped
    report: Path | None = None  # where it was written


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
    for needed, package, extra in ((config.space, "optuna", "study"), (config.engine == "ray", "ray", "ray")):
        try:
            if needed:
                import_module(package)
        except ImportError as error:
            raise ConfigError(f"This needs {package} ({error}): pip install 'codir[{extra}]'.") from error
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
            for key in plan.failures():
                shutil.rmtree(_folder(plan, key))
            plan = Plan(config, plan.recipes)
        _say(console, describe_trials(plan.search.all_trials()))
        with _stoppable(plan):
            _run_all(plan, console)
        return _finish(plan, console, report)


def show_status(output: str | Path, console: Console | None = None) -> None:
    """Prints how far a study is, and what failed."""
    console, plan = terminal(console), Plan.load(output)
    _say(console, plan.in_words())
    for key, error in plan.failures().items():
        _say(console, f"  failed: {key}: {error}")


def describe_trials(trials: list[Trial]) -> str:
    """Returns `40 trials: 4 recipes, 2 tasks, 5 seeds` for people."""
    counts = {
        f"{what}s": len({getattr(trial, what) for trial in trials} - {None})
        for what in ("recipe", "task", "student", "seed")
    }
    return f"{len(trials)} trials: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}"


def _folder(plan: Plan, key: str) -> Path:
    """Returns the run folder of a trial, or of a teacher (`teacher:TASK`)."""
    task = key.removeprefix("teacher:")
    return plan.output / TRIALS / key if task == key else teacher_folder(plan.config, task)


def _run_all(plan: Plan, console: Console) -> None:
    """Runs what is left of a study on its engine, and shows how far it is.

    Returns when every trial has ended, or cannot be run because its teacher has failed.

    Raises:
        KeyboardInterrupt: the user wants to stop; the trainings have saved checkpoints and ended.
    """
    running: dict[Future[None], str] = {}
    ends: Counter[str] = Counter()  # of processes that left no outcome, by key
    given_up: set[str] = set()
    if _next(plan, given_up) is None:
        return
    engine = engine_of(plan.config)
    with bar(console, disable=not console.is_terminal) as shown:
        task = shown.add_task("trials", total=len(plan.search.all_trials()))
        try:
            while True:
                while len(running) < engine.slots and (job := _next(plan, {*running.values(), *given_up})):
                    key, function, args = job
                    running[engine.submit(function, *args)] = key
                failed = len(plan.failures())
                words = f"{len(running)} running" + f", {failed} failed" * bool(failed)
                shown.update(task, completed=len(plan.done()), description=words)
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    if _say_end(plan, key, future.exception(), console):
                        continue
                    ends[key] += 1
                    if ends[key] >= engine.tries:
                        why = f"its process ended {engine.tries} times: out of memory? ({future.exception()})"
                        record_failure(_folder(plan, key), RunError(why))
                        given_up.add(key)
        except KeyboardInterrupt:
            _say(console, "Stopping: every training saves a checkpoint first. Ctrl-C again ends them at once.")
            engine.stop()
            wait(running, timeout=_SECONDS_TO_STOP)
            raise
        finally:
            engine.close()


def _next(plan: Plan, busy: set[str]) -> tuple[str, Callable[..., None], tuple[Any, ...]] | None:
    """Returns what can be begun now, a teacher or a trial whose teacher is there, with its key."""
    done = plan.done()
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


def _say_end(plan: Plan, key: str, error: BaseException | None, console: Console) -> bool:
    """Says how a training ended; returns False if its process did, and left no outcome."""
    task, outcome = key.removeprefix("teacher:"), plan.done().get(key)
    if outcome is not None:
        score = "no score" if outcome.score is None else f"{outcome.score:.4f}"
        _say(console, f"{outcome.state}: {key}: {outcome.error if outcome.state == 'failed' else score}")
    elif task != key and (state := plan.teacher_state(task)) in ("finished", "failed"):
        _say(console, f"{state}: {key}")
    elif isinstance(error, FolderInUseError):  # a worker of a study that was killed saves its checkpoint
        time.sleep(1)
    else:
        _say(console, f"The process of {key} ended ({error or 'it left no result'}).")
        return False
    return True


def _finish(plan: Plan, console: Console, report: bool) -> StudyResult:
    output, failed = plan.output, plan.failures()
    pruned = [key for key, outcome in plan.done().items() if outcome.state == "pruned"]
    result = StudyResult(output, plan.results(), failed, pruned)
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
        raise RunError(f"Nothing to resume: {output} does not exist. Leave out --resume to start a new study.")


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
