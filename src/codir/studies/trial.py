"""One training of a study: which recipe, task, student, seed and settings; its run folder, and what came of it.

The run folders below `trials/` are the truth: nothing else says what is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from codir.errors import RunError
from codir.files import read_json, write_json
from codir.manifest import read_whole
from codir.record.runfolder import RunFolder

Phase = Literal["search", "final"]

TRIALS, ABOUT, PRUNED = "trials", "about.json", "pruned.json"


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    recipe: str  # its name in the study, as those of task and student
    task: str
    student: str | None  # None where the study has one for all
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # what is searched, by dotted key
    # Of the trials that settings are chosen by, or of those that are compared. It is no part of the key: a final
    # trial whose training a search has done already is not repeated.
    phase: Phase = "final"
    # its settings' place among those that a sampler has proposed
    number: int = field(default=0, compare=False)

    @property
    def group(self) -> tuple[str, str | None, str]:
        """Task, student and recipe: what is searched and compared as one."""
        return self.task, self.student, self.recipe

    @property
    def key(self) -> str:
        """The trial in one line, `mrpc/half/codir-fine-1a2b3c4d/seed-1`: stable over processes and machines."""
        digest = settings_digest(self.settings)
        name = f"{self.recipe}-{digest}" if digest else self.recipe
        return "/".join([self.task, *([self.student] if self.student else []), name, f"seed-{self.seed}"])

    def folder(self, output: Path) -> Path:
        """Returns its run folder in the study's folder."""
        return output / TRIALS / self.key

    def describe(self, output: Path) -> None:
        """Makes its folder and writes beside it what the runs there are of, for `read_trials`."""
        folder = self.folder(output)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("recipe", "task", "student", "settings", "number")
        content = {name: getattr(self, name) for name in names}
        about = folder.parent / ABOUT
        if not about.is_file() or read_json(about) != content:
            write_json(about, content)

    def __hash__(self) -> int:
        return hash(self.key)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns 8 hexadecimal digits of searched settings; `""` where nothing is searched."""
    if not settings:
        return ""
    text = json.dumps(_plain(settings), sort_keys=True, ensure_ascii=False)
    return xxhash.xxh3_64(text.encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """Makes 1 and 1.0 the same: YAML, Optuna and JSON do not agree on which of them a round number is."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_trials(output: Path) -> list[Trial]:
    """Returns every trial that has a folder in a study's folder, whatever state it is in, in order of their keys."""
    found = []
    for about in sorted((output / TRIALS).glob(f"**/{ABOUT}")):
        content = read_json(about)
        for folder in about.parent.glob("seed-*/"):
            if re.fullmatch(r"seed-\d+", folder.name):
                found.append(Trial(seed=int(folder.name[5:]), **content))
    return sorted(found, key=lambda trial: (trial.task, trial.student or "", trial.recipe, trial.key))


@dataclass(frozen=True)
class TrialResult:
    """One finished trial."""

    recipe: str
    task: str
    student: str | None
    seed: int
    settings: Mapping[str, Any]  # what was searched
    phase: Phase
    metric: str  # the task's main metric
    # Its value on the dev split, the kept checkpoint run in fp32. Checkpoint and settings are chosen by the same data.
    score: float
    metrics: Mapping[str, float]  # all of them; those of further splits as `SPLIT/METRIC`
    teacher_score: float
    agreement: float | None  # share of the examples that both say the same of (regression: their correlation)
    parameters: int  # the student's
    embedding_parameters: int
    teacher_parameters: int
    size: int | None  # bytes of the student's model files
    steps: int
    seconds: float  # wall-clock time of the training over all attempts
    epochs: float | None  # passes over the training data that were made
    best_epoch: float | None  # after which the kept weights stood; None where the last ones were kept
    folder: Path
    constant_score: float | None = None  # what answering the same class to everything scores; None for regression


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["finished", "pruned", "failed"]  # `pruned`: a search has stopped it, because it was behind
    score: float | None = None  # main metric on the dev split; of a pruned one, at its last evaluation
    values: tuple[float, ...] = ()  # main metric after each evaluation during training
    error: str = ""
    result: TrialResult | None = None


def read_outcome(trial: Trial, output: Path) -> Outcome | None:
    """Returns how a trial ended; None if it has not: it is new, running, or was stopped.

    Raises:
        RunError: its files are damaged.
    """
    run = RunFolder(trial.folder(output))
    if (run.path / PRUNED).is_file():
        content = read_json(run.path / PRUNED)
        return Outcome("pruned", content["score"], tuple(content["values"]))
    if run.state == "failed":
        return Outcome("failed", error=run.status["attempts"][-1].get("error", "unknown"))
    if not run.finished:
        return None
    content = read_whole(run.metrics)
    try:
        rows = {row["role"]: row for row in content["comparison"]["rows"]}
        teacher = rows.pop("teacher")
        (role, row), *_ = rows.items()  # a trial trains one student, without the baselines of `codir distill`
        cost, metric = content["costs"][role], content["main_metric"]
        # a kill may have cut the last line
        lines = run.log.read_text(encoding="utf-8").splitlines() if run.log.is_file() else []
        log = [json.loads(line) for line in lines if line.endswith("}")]
        epochs = {entry["step"]: entry["epoch"] for entry in log if entry.keys() >= {"step", "epoch"}}
        metrics = {name: float("nan") if value is None else value for name, value in row["metrics"].items()}
        result = TrialResult(
            recipe=trial.recipe,
            task=trial.task,
            student=trial.student,
            seed=trial.seed,
            settings=dict(trial.settings),
            phase=trial.phase,
            metric=metric,
            score=metrics[metric],
            metrics=metrics,
            teacher_score=float("nan") if (of := teacher["metrics"][metric]) is None else of,
            agreement=row["agreement"],
            parameters=row["parameters"],
            embedding_parameters=row["embedding_parameters"],
            teacher_parameters=teacher["parameters"],
            size=row["bytes"],
            steps=cost["steps"],
            seconds=cost["seconds"],
            epochs=list(epochs.values())[-1] if epochs else None,
            best_epoch=epochs.get(cost["best_step"]),
            folder=run.path,
            constant_score=content["comparison"].get("constant"),
        )
        values = tuple(entry[f"eval_{metric}"] for entry in log if f"eval_{metric}" in entry)
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"{run.metrics} is damaged: it is not what `codir distill` writes ({type(error).__name__}: {error}). "
            f"Remove the folder {run.path} to run this trial again."
        ) from error
    return Outcome("finished", row["metrics"][metric], values, result=result)
