"""What a study shows while it runs: what is done, who works on what, how long it will take."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codir.printing import Console, Live, Table, live, table, text
from codir.runs.runfolder import RunFolder
from codir.studies.folder import Plan
from codir.studies.store import Claim, teacher_key, what_of
from codir.studies.survey import Outcome
from codir.studies.trial import Trial
from codir.studies.worker import teacher_state

SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Progress:
    """How far a study is.

    Attributes:
        trials: all that can be named by now.
        done: of these, how those ended that have.
        claims: who works on what.
        blocked: keys of trials whose teacher has failed.
    """

    trials: Sequence[Trial]
    done: Mapping[str, Outcome]
    claims: Sequence[Claim]
    blocked: Sequence[str] = field(default_factory=list)

    def count(self, state: str) -> int:
        """Returns how many trials ended as `finished`, `pruned` or `failed`."""
        return sum(1 for outcome in self.done.values() if outcome.state == state)

    @property
    def left(self) -> list[Trial]:
        """Trials that have not ended and can."""
        return [
            trial for trial in self.trials if trial.key not in self.done and trial.key not in self.blocked
        ]

    @property
    def seconds_left(self) -> float | None:
        """Time that is left, from the mean cost of what is done; None as long as nothing is.

        A trial costs what those of its recipe and task did, else of its task, else all; one that runs has half of it
        left.
        """
        costs: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for trial in self.trials:
            outcome = self.done.get(trial.key)
            if outcome is not None and outcome.state == "finished":
                student = trial.student or ""
                for key in ((trial.recipe, trial.task, student), (trial.task, student), (trial.task,), ()):
                    costs[key].append(outcome.seconds)
        if not costs or not self.left:
            return None if self.left else 0.0
        running = {claim.what for claim in self.claims}
        total = 0.0
        for trial in self.left:
            student = trial.student or ""
            keys = ((trial.recipe, trial.task, student), (trial.task, student), (trial.task,), ())
            known = next(costs[key] for key in keys if key in costs)
            total += sum(known) / len(known) * (0.5 if trial.key in running else 1.0)
        return total / max(1, min(len(self.claims), len(self.left)))

    def in_words(self) -> str:
        """Returns, for example, `12 of 40 trials finished, 2 running, 1 failed, about 14 min left`."""
        teachers = [what_of(claim) for claim in self.claims if claim.what.startswith(teacher_key(""))]
        parts = [
            f"{self.count('finished')} of {len(self.trials)} trials finished",
            f"{len(self.claims) - len(teachers)} running",
        ]
        parts += [f"fine-tuning the {' and the '.join(teachers)}"] if teachers else []
        parts += [f"{self.count(state)} {state}" for state in ("pruned", "failed") if self.count(state)]
        parts += [f"{len(self.blocked)} without a teacher"] if self.blocked else []
        seconds = self.seconds_left
        if seconds:
            parts.append(f"about {duration(seconds)} left")
        return ", ".join(parts)


def read_progress(plan: Plan, claims: Sequence[Claim]) -> Progress:
    """Returns how far a study is."""
    plan.refresh()
    trials = plan.trials()
    found = ((trial.key, plan.done.get(trial.key)) for trial in trials)
    done = {key: outcome for key, outcome in found if outcome is not None}
    dead = {task for task in plan.config.tasks if teacher_state(plan, task) == "failed"}
    blocked = [trial.key for trial in trials if trial.task in dead and trial.key not in done]
    return Progress(trials, done, claims, blocked)


def duration(seconds: float) -> str:
    """Returns `45 s`, `14 min`, `3 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Board:
    """Shows progress: a table that is redrawn on a terminal, lines elsewhere.

    Args:
        plan: of the study.
        console: where to.
    """

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.console = plan, console
        self._live: Live | None = None
        self._told: set[str] | None = None
        self._last_line = 0.0

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live = live(self.console)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """Draws the table, tells which trials have ended since the last call, and now and then how far it is."""
        before = self._told
        self._told = set(progress.done)
        if before is not None:
            for trial in progress.trials:
                if trial.key in progress.done and trial.key not in before:
                    self.say(_ended(trial, progress.done[trial.key]))
        if self._live is not None:
            self._live.update(self._table(progress))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(progress.in_words())

    def _table(self, progress: Progress) -> Table:
        shown = table(text(progress.in_words(), "bold"))
        for heading in ("worker", "works on", "", "since"):
            shown.add_column(heading, overflow="fold")
        for claim in progress.claims:
            since = duration(time.time() - claim.started)
            shown.add_row(claim.worker, what_of(claim), self._at(claim), since)
        return shown

    def _at(self, claim: Claim) -> str:
        folder = self.plan.folder.path / "trials" / claim.what
        if claim.what.startswith(teacher_key("")):
            folder = self.plan.folder.path / "teachers" / claim.what.removeprefix(teacher_key(""))
        return last_logged(RunFolder(folder))


def last_logged(run: RunFolder) -> str:
    """Returns how far a training is, `epoch 1.5`, as its log says; empty where it says nothing yet."""
    try:
        with open(run.log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4000))
            line = file.read().decode("utf-8", errors="ignore").rstrip("\n").rpartition("\n")[2]
        return f"epoch {json.loads(line)['epoch']:.1f}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _ended(trial: Trial, outcome: Outcome) -> str:
    settings = f" {dict(trial.settings)}" if trial.settings else ""
    if outcome.state == "failed":
        return f"failed: {trial.key}{settings}: {outcome.error}"
    score = "-" if outcome.score is None else f"{outcome.score:.4f}"
    return f"{outcome.state}: {trial.key}{settings}: {score} in {duration(outcome.seconds)}"
