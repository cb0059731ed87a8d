"""What came of each trial so far, read from its run folder: the truth that every worker goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from codir.errors import RunError
from codir.manifest import read_whole
from codir.runs.runfolder import RunFolder
from codir.storage import read_json
from codir.studies.trial import TRIALS, read_trials

PRUNED = "pruned.json"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `finished`, `pruned` (a search has stopped it, because it was behind) or `failed`.
        score: main metric on the dev split; of a pruned one, at its last evaluation; None if it failed.
        values: main metric after each evaluation during training.
        seconds: wall-clock time of all attempts that ended in order.
        error: of a failed one.
    """

    state: Literal["finished", "pruned", "failed"]
    score: float | None = None
    values: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


def read_outcome(folder: Path) -> Outcome | None:
    """Returns how the trial of a run folder ended; None if it has not: it is new, running, or was stopped."""
    run = RunFolder(folder)
    status = run.status
    if (folder / PRUNED).is_file():
        content = read_json(folder / PRUNED)
        return Outcome("pruned", content["score"], tuple(content["values"]), _seconds(status))
    state = status.get("state")
    if state == "failed":
        return Outcome(
            "failed", seconds=_seconds(status), error=status["attempts"][-1].get("error", "unknown")
        )
    if state != "finished":
        return None
    content = read_whole(run.metrics)
    try:
        metric = content["main_metric"]
        student = next(row for row in content["comparison"]["rows"] if row["role"] != "teacher")
        return Outcome("finished", student["metrics"][metric], evaluations(run.log, metric), _seconds(status))
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise RunError(
            f"{run.metrics} is damaged: it is not what `codir distill` writes ({type(error).__name__}). Remove the "
            f"folder {folder} to run this trial again."
        ) from error


def evaluations(log: Path, metric: str) -> tuple[float, ...]:
    """Returns the main metric after each evaluation in a log."""
    if not log.is_file():
        return ()
    entries = (
        json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")
    )
    return tuple(entry[f"eval_{metric}"] for entry in entries if f"eval_{metric}" in entry)


def _seconds(status: Mapping[str, Any]) -> float:
    total = 0.0
    for attempt in status.get("attempts", []):
        if "ended" in attempt:
            ended = datetime.fromisoformat(attempt["ended"])
            total += (ended - datetime.fromisoformat(attempt["started"])).total_seconds()
    return total


class Survey(Mapping[str, Outcome]):
    """How the trials of a study ended, by key; what has not ended is not in it.

    A trial that has ended never changes, so it is read once; the others are looked at again whenever asked for.

    Args:
        output: the study's folder.
    """

    def __init__(self, output: Path):
        self.output = output
        self._ended: dict[str, Outcome] = {}

    def __getitem__(self, key: str) -> Outcome:
        found = self._ended.get(key)
        if found is None:
            try:
                found = read_outcome(self.output / TRIALS / key)
            except (KeyError, StopIteration, ValueError) as error:
                raise RunError(
                    f"{self.output / TRIALS / key} is damaged ({type(error).__name__}: {error}). Remove the folder to "
                    "run this trial again."
                ) from error
            if found is None:
                raise KeyError(key)
            self._ended[key] = found
        return found

    def forget_failures(self) -> None:
        """Looks again at trials that failed: their folders have been removed."""
        self._ended = {key: outcome for key, outcome in self._ended.items() if outcome.state != "failed"}

    def __iter__(self) -> Iterator[str]:
        return (trial.key for trial in read_trials(self.output) if trial.key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
