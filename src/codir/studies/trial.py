"""One training of a study: which recipe, task, student, seed and settings; its run folder, and how it ended."""

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

TRIALS = "trials"
ABOUT = "about.json"
PRUNED = "pruned.json"
_SEED = re.compile(r"seed-(\d+)$")


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        recipe: its name in the study.
        task: its name in the study.
        student: the student's name; None where the study has one for all.
        seed: the seed of the order, the dropout and whatever is drawn.
        settings: what is searched, by dotted key; empty in a study that searches nothing.
        phase: `search` for the trials that settings are chosen by, `final` for those that are compared. It is no part
            of the key: a final trial whose training a search has done already is not repeated.
        number: its settings' place among those that `random` or `tpe` have proposed.
    """

    recipe: str
    task: str
    student: str | None
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase = "final"
    number: int = field(default=0, compare=False)

    @property
    def group(self) -> tuple[str, str | None, str]:
        """Task, student and recipe: what is searched and compared as one."""
        return self.task, self.student, self.recipe

    @property
    def key(self) -> str:
        """The trial in one line, `mrpc/half/codir-fine-1a2b3c4d/seed-1`: stable over processes, machines, versions."""
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
        content = {
            "recipe": self.recipe,
            "task": self.task,
            "student": self.student,
            "settings": dict(self.settings),
            "number": self.number,
        }
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
        for folder in about.parent.iterdir():
            if folder.is_dir() and (match := _SEED.match(folder.name)):
                found.append(Trial(seed=int(match[1]), **content))
    return sorted(found, key=lambda trial: (trial.task, trial.student or "", trial.recipe, trial.key))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `finished`, `pruned` (a search has stopped it, because it was behind) or `failed`.
        score: main metric on the dev split; of a pruned one, at its last evaluation; None if it failed.
        values: main metric after each evaluation during training.
        error: why it failed.
    """

    state: Literal["finished", "pruned", "failed"]
    score: float | None = None
    values: tuple[float, ...] = ()
    error: str = ""


def read_outcome(folder: Path) -> Outcome | None:
    """Returns how the trial of a run folder ended; None if it has not: it is new, running, or was stopped.

    Raises:
        RunError: its files are damaged.
    """
    run = RunFolder(folder)
    if (folder / PRUNED).is_file():
        content = read_json(folder / PRUNED)
        return Outcome("pruned", content["score"], tuple(content["values"]))
    status = run.status
    if status.get("state") == "failed":
        return Outcome("failed", error=status["attempts"][-1].get("error", "unknown"))
    if status.get("state") != "finished":
        return None
    content = read_whole(run.metrics)
    try:
        name = f"eval_{content['main_metric']}"
        student = next(row for row in content["comparison"]["rows"] if row["role"] != "teacher")
        values = tuple(entry[name] for entry in read_log(run.log) if name in entry)
        return Outcome("finished", student["metrics"][content["main_metric"]], values)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise RunError(
            f"{run.metrics} is damaged: it is not what `codir distill` writes ({type(error).__name__}). Remove the "
            f"folder {folder} to run this trial again."
        ) from error


def read_log(log: Path) -> list[dict[str, Any]]:
    """Returns the entries of a run's log, without a line that a kill has cut."""
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
