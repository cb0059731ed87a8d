"""`codir study`: checks everything, lets workers run the trials, and says what came of them."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from codir.errors import CodirError, InterruptedRunError, RunError
from codir.locks import exclusive, is_trace
from codir.printing import Console, terminal
from codir.storage import require_name, require_writable
from codir.studies.check import (
    check_settings,
    check_with_models,
    describe_trials,
    require_same_data,
)
from codir.studies.config import StudyConfig
from codir.studies.folder import Plan, StudyFolder, notes_of
from codir.studies.loading import load_study
from codir.studies.progress import Board, Progress, read_progress
from codir.studies.ray_launcher import RayLauncher, require_ray
from codir.studies.resolved import resolve_recipes
from codir.studies.results import TrialResult, read_results
from codir.studies.store import Store, require_optuna, what_of
from codir.studies.team import Team
from codir.studies.trial_config import teacher_folder
from codir.studies.worker import teacher_state
from codir.training.processes import one_process_only


@dataclass
class StudyResult:
    """What a study gave.

    Attributes:
        output: its folder.
        results: of all finished trials.
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
    require_optuna()
    if config.launcher == "ray":
        require_ray()
    one_process_only("codir study")
    console = terminal(console)
    folder = StudyFolder(config.output)
    _check_folder(folder, config.resume)
    recipes = resolve_recipes(config)
    kinds = check_settings(config, recipes)
    if folder.exists:
        folder.check_same(config, recipes)
        require_same_data(folder.path, config.tasks)
    require_writable(folder.path)
    with exclusive(folder.path):
        _check_folder(folder, config.resume)
        for line in notes_of(recipes):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        checked = check_with_models(config, kinds, folder.checked, console)
        folder.save(config, recipes)
        folder.add_checked(checked)
        plan = Plan(folder)
        if retry_failed:
            _forget_failures(plan)
        console.print(
            describe_trials(plan.trials()) + f"; the workers' output is in {folder.logs}", highlight=False
        )
        names = [f"worker-{number}" for number in range(1, config.workers + 1)]
        with _stoppable(plan):
            run_workers(plan, names, console)
        return finish(folder.path, console, report)


def join(output: str | Path, workers: int = 1, console: Console | None = None) -> None:
    """Adds workers to a study that was started elsewhere; returns when it is done.

    Args:
        output: the study's folder, on a disk that all machines share.
        workers: processes to add.
        console: where to print; the terminal by default.

    Raises:
        CodirError: there is no study; its database cannot be reached; interrupted.
    """
    require_optuna()
    console = terminal(console)
    plan = Plan(StudyFolder(output))
    plan.config = plan.config.model_copy(update={"launcher": "local"})
    require_writable(plan.folder.path)
    names = [f"{platform.node()}-{os.getpid()}-{number}" for number in range(1, workers + 1)]
    with _stoppable(plan):
        run_workers(plan, names, console)
    console.print(_how_far(plan), highlight=False)


def run_workers(plan: Plan, names: list[str], console: Console) -> None:
    """Lets workers on this machine run what is left of a study."""
    config = plan.config
    if not read_progress(plan, []).left:
        return
    store = Store(plan.folder.path, plan.folder.name, config.storage, config.heartbeat)
    launch = RayLauncher(plan.folder.path, config.resources) if config.launcher == "ray" else None
    with Board(plan, console) as board:
        Team(plan, store, board, names, launch).work()


def finish(output: Path, console: Console, report: bool = True) -> StudyResult:
    """Says what a study gave so far, and writes the report if asked to."""
    plan = Plan(StudyFolder(output))
    progress = read_progress(plan, [])
    failed = {key: outcome.error for key, outcome in progress.done.items() if outcome.state == "failed"}
    for task in plan.config.tasks:
        if teacher_state(plan, task) == "failed":
            failed[f"teacher:{task}"] = _teacher_error(plan, task)
    pruned = [key for key, outcome in progress.done.items() if outcome.state == "pruned"]
    result = StudyResult(output, read_results(output), failed, pruned)
    console.print(progress.in_words(), highlight=False)
    for key, error in failed.items():
        console.print(f"failed: {key}: {error}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        console.print(
            f"`codir study --output {shlex.quote(str(output))} --resume --retry-failed` runs what failed again.",
            highlight=False,
        )
    if result.results and report:
        result.report = _report(output, console)
    return result


def show_status(output: str | Path, console: Console | None = None) -> Progress:
    """Prints how far a study is and who works on what."""
    console = terminal(console)
    plan = Plan(StudyFolder(output))
    config = plan.config
    claims = []
    if config.storage or (plan.folder.path / "study.db").exists():
        claims = Store(plan.folder.path, plan.folder.name, config.storage, config.heartbeat).claims()
    progress = read_progress(plan, claims)
    console.print(progress.in_words(), highlight=False)
    for claim in claims:
        console.print(f"  {claim.worker} on {claim.host}: {what_of(claim)}", highlight=False, markup=False)
    for key, outcome in progress.done.items():
        if outcome.state == "failed":
            console.print(f"  failed: {key}: {outcome.error}", highlight=False, markup=False, soft_wrap=True)
    return progress


def _check_folder(folder: StudyFolder, resume: bool) -> None:
    require_name(folder.path, folder=True)
    if folder.exists:
        if not resume:
            raise RunError(
                f"{folder.path} already holds a study. Add --resume to go on with it (recipes, tasks and seeds may be "
                "added), or choose another --output."
            )
        return
    if folder.path.exists() and not folder.path.is_dir():
        raise RunError(f"{folder.path} is a file, not a folder. Choose another --output.")
    names = {entry.name for entry in folder.path.iterdir()} if folder.path.is_dir() else set()
    content = {name for name in names if not is_trace(name)}
    # a study that was stopped while it was written has a part of its own files
    if content - {"study.yaml", "recipes.json", "study.json"}:
        raise RunError(
            f"{folder.path} is not empty and not a study (it holds {', '.join(sorted(content)[:3])}). Choose another "
            "--output."
        )
    if resume and not content and not folder.path.is_dir():
        raise RunError(
            f"Nothing to resume: {folder.path} does not exist. Leave out --resume to start a new study."
        )


def _forget_failures(plan: Plan) -> None:
    for trial in plan.trials():
        outcome = plan.done.get(trial.key)
        if outcome is not None and outcome.state == "failed":
            shutil.rmtree(trial.folder(plan.folder.path))
    for task in plan.config.tasks:
        if teacher_state(plan, task) == "failed":
            shutil.rmtree(teacher_folder(plan.config, task))
    plan.survey.forget_failures()


def _teacher_error(plan: Plan, task: str) -> str:
    from codir.runs.runfolder import RunFolder

    attempts = RunFolder(teacher_folder(plan.config, task)).status.get("attempts", [{}])
    return str(attempts[-1].get("error", "unknown"))


def _report(output: Path, console: Console) -> Path | None:
    from codir.studies import report

    try:
        report.write_report(output, console)
    except CodirError as error:  # the trials are what they are; --report writes it later
        console.print(f"No report: {error}", highlight=False, markup=False, soft_wrap=True)
        return None
    return output / "report.md"


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
        raise InterruptedRunError(
            f"Stopped: {_how_far(plan)}. "
            f"`codir study --output {shlex.quote(str(plan.folder.path))} --resume` goes on; nothing that "
            "is finished is run again."
        ) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _how_far(plan: Plan) -> str:
    progress = read_progress(plan, [])
    return f"{progress.count('finished')} of {len(progress.trials)} trials are finished"
