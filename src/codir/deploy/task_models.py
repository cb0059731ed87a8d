"""Which model predicts which GLUE task: named one by one, or found in a folder of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codir.data.glue import GLUE, glue_task
from codir.errors import ConfigError, RunError, nearest
from codir.files import read_json
from codir.record.run_data import RunInputs, inputs_of
from codir.record.runfolder import RunFolder


@dataclass(frozen=True)
class Chosen:
    """The model (a folder or Hub id) for a task, the tokens its run cut texts to (if known), and what to know of it."""

    task: str
    model: str
    max_length: int | None = None
    notes: tuple[str, ...] = ()


def choose_models(entries: Iterable[str]) -> dict[str, Chosen]:
    """Returns the model of each task.

    Args:
        entries: `mrpc=MODEL`, several of them with commas between, a run folder, or a folder that holds runs at any
            depth (a study's output). Of several finished runs of a task in a folder the one with the best validation
            score is taken, and one that was distilled before one that was not (a teacher).

    Raises:
        ConfigError: A task is unknown or named twice, or there is no run in a folder.
        RunError: A run folder is damaged.
    """
    found: dict[str, Chosen] = {}
    parts = (
        part.strip() for entry in entries for part in ([entry] if Path(entry).exists() else entry.split(","))
    )
    for chosen in (each for part in parts if part for each in _read_entry(part)):
        if chosen.task in found:
            raise ConfigError(
                f"There are two models for {chosen.task}: {found[chosen.task].model} and {chosen.model}. Name one."
            )
        found[chosen.task] = chosen
    if not found:
        raise ConfigError(
            "There is no model: add --models mrpc=runs/mrpc,cola=runs/cola, or a folder of runs."
        )
    return {name: found[name] for name in GLUE if name in found}


def _read_entry(part: str) -> list[Chosen]:
    named = re.fullmatch(r"([\w-]+)=(.+)", part)
    if named is None or Path(part).exists():
        return _in_folder(Path(part))
    task, model = glue_task(named[1]), named[2].strip()
    if task is None:
        raise ConfigError(
            f"--models {part}: GLUE has no task {named[1]!r}{nearest(named[1].lower(), GLUE)}. It has "
            f"{', '.join(GLUE)}; mnli's model predicts MNLI-m, MNLI-mm and AX."
        )
    run = _inputs(model)
    notes = ()
    if run is not None:
        run.require_pairs(task.pairs, model, f"the task {task.name} has", "name another model for it.")
        if (trained := _task_of(run)) not in (None, task.name):
            notes = (f"{model} was trained on {trained}, not on {task.name}.",)
    return [Chosen(task.name, model, run.max_length if run is not None else None, notes)]


def _in_folder(folder: Path) -> list[Chosen]:
    if not folder.is_dir():
        raise ConfigError(
            f"--models {folder}: there is no such folder. Give a folder of runs, or TASK=MODEL: mrpc=runs/mrpc."
        )
    is_model = (folder / "config.json").is_file()
    runs: dict[str, list[tuple[Path, RunInputs]]] = {}
    unfinished = 0
    for path in [folder] if is_model else _run_folders(folder):
        inputs = _inputs(path)
        task = _task_of(inputs)
        if inputs is None or task is None:
            continue
        if is_model or (RunFolder(path).finished and (path / "config.json").is_file()):
            runs.setdefault(task, []).append((path, inputs))
        else:
            unfinished += 1
    if is_model and not runs:
        raise ConfigError(
            f"{folder} is a model, but does not say which GLUE task it is for. Name it: --models mrpc={folder}"
        )
    if not runs:
        more = f" ({unfinished} are not finished)" if unfinished else ""
        raise ConfigError(
            f"{folder} holds no finished run of a GLUE task{more}. Give a folder of runs, or TASK=MODEL: "
            "mrpc=runs/mrpc."
        )
    return [_best(folder, task, candidates) for task, candidates in runs.items()]


def _best(folder: Path, task: str, runs: list[tuple[Path, RunInputs]]) -> Chosen:
    distilled = [run for run in runs if run[1].command == "distill"]
    candidates = sorted(distilled or runs, key=lambda run: str(run[0]))
    best, inputs = max(candidates, key=lambda run: _score(run[0]))  # of equal ones the first
    notes: tuple[str, ...] = ()
    if len(runs) > 1:
        kind = "distilled " if distilled and len(distilled) < len(runs) else ""
        notes = (
            f"{task}: of {len(candidates)} {kind}runs in {folder} the one with the best validation score is taken "
            f"({GLUE[task].task.main_metric} {_score(best):.4f}): {best}. Name another with --models {task}=FOLDER.",
        )
    return Chosen(task, str(best), inputs.max_length, notes)


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yields the run folders in a folder, in order; what is inside one (checkpoints, comparison) is not looked at."""
    for path, folders, files in os.walk(folder):
        if "codir.yaml" in files:
            folders.clear()
            yield Path(path)
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))


def _inputs(model: str | Path) -> RunInputs | None:
    """Returns what a model's folder says of its inputs; raises `RunError` where that is damaged."""
    inputs = inputs_of(model)
    if inputs is not None and inputs.damage is not None:
        raise RunError(f"{inputs.source} is damaged: {inputs.damage}. Name another model for the task.")
    return inputs


def _task_of(run: RunInputs | None) -> str | None:
    task = glue_task(run.task) if run is not None and run.task is not None else None
    return task.name if task is not None else None


def _score(folder: Path) -> float:
    path = folder / "trained.json"
    value = read_json(path).get("best_score") if path.is_file() else None
    return float(value) if isinstance(value, int | float) else float("-inf")
