"""What a report shows, as plain values: read from run folders, drawn by the page; any part of it may be missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from codir.measure.timing import Timing
from codir.reports.figures import Figure
from codir.reports.text import known, plural

AVERAGE = "average"


@dataclass(frozen=True)
class Wanted:
    """What a report is asked for beside its folder, see `codir.report`."""

    latency: Path | None = None
    exported: Sequence[Path] = ()
    data_dir: Path | None = None
    examples: int = 0  # 0 runs no model


@dataclass(frozen=True)
class Model:
    """One line of the table and one point of score against latency."""

    name: str
    # `teacher`, `finetune`, `kd`, `codir` (a run's own student), the recipe's name in a study, or `other`
    role: str
    group: str  # what is drawn in one colour: the model, or the engine of an exported one
    score: float | None = None  # the main metric; in a study the mean over the seeds, which are `scores`
    scores: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None  # share of the teacher's score
    agreement: float | None = None  # share of the examples that are answered as by the teacher
    layers: int | None = None
    parameters: int | None = None
    embedding_parameters: int | None = None
    bytes: int | None = None
    milliseconds: float | None = None  # median time of a sequence; `low` and `high` over the rounds
    low: float | None = None
    high: float | None = None
    speedup: float | None = None
    # (median, 95th percentile) in milliseconds of a request at real lengths, by its number of texts
    requests: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    peak_memory: int | None = None
    engine: str = "torch"  # or an exported format
    measured: str = ""  # the conditions in words: only equal ones are drawn together
    error: float | None = None  # standard error of a single run's score, over so many `examples`
    examples: int | None = None
    folders: tuple[Path, ...] = ()  # where it lies; in a study all its seeds

    @property
    def spread(self) -> float | None:
        """How far the score may be off: standard deviation over seeds, or the standard error of a single run."""
        return self.error if self.deviation is None else self.deviation

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        finite = [score for score in self.scores if known(score)]
        return statistics.stdev(finite) if len(finite) > 1 else None

    @property
    def points(self) -> float:
        """The score times 100; 0 if unknown."""
        return 100 * (self.score or 0.0)

    def timed(self, timing: Timing, where: str = "") -> Model:
        """Returns the model with what was measured; what differs between engines is no condition."""
        real = f"texts as long as they are, up to {timing.max_length} tokens"
        length = f"every text {timing.max_length} tokens long" if timing.padded else real
        parts = [f"batches of {timing.batch_size}", length, f"on {timing.device}"]
        parts += [plural(timing.threads, "thread")] if timing.device == "cpu" else []
        rounds = timing.rounds or (timing.ms_per_sequence,)
        return replace(
            self,
            milliseconds=timing.ms_per_sequence if known(timing.ms_per_sequence) else None,
            low=min(rounds),
            high=max(rounds),
            speedup=timing.speedup if known(timing.speedup) else None,
            measured=", ".join([*parts, where] if where else parts),
        )

    def with_error(self, metric: str, examples: int | None) -> Model:
        """Returns the model with sqrt(p (1 - p) / n) as the error of an accuracy; other metrics are no shares."""
        if metric != "accuracy" or not examples or self.score is None or not 0 <= self.score <= 1:
            return self
        return replace(self, error=math.sqrt(self.score * (1 - self.score) / examples), examples=examples)


@dataclass(frozen=True)
class Panel:
    """What belongs to one task: a run has one panel, a study one for each task and one for their average."""

    task: str
    metric: str
    models: Sequence[Model]  # the lines of the table, the teacher first
    constant: float | None = None  # what answering one class to everything scores
    label: str = ""  # the task in words, where its name is a file's
    # that the scores are of, by split, main one first
    examples: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What the page calls the task."""
        return self.label or self.task

    @property
    def teacher(self) -> Model | None:
        """The teacher, if there is one."""
        return next((model for model in self.models if model.role == "teacher"), None)

    @property
    def trained(self) -> list[Model]:
        """The students as they were trained: neither exports, nor other engines, nor models from elsewhere."""
        return [m for m in self.models if m.role not in ("teacher", "other") and m.engine == "torch"]

    @property
    def student(self) -> Model | None:
        """The main student: the first of the role `codir`, else `kd`, else the first that is no teacher."""
        found = self.trained or [model for model in self.models if model.role != "teacher"]
        main = [model for role in ("codir", "kd") for model in found if model.role == role]
        return next(iter([*main, *found]), None)

    @property
    def deployed(self) -> Model | None:
        """What will be deployed of the main student: its fastest export, or any if none was timed.

        One that costs more than two points of the score counts only where there is no other.
        """
        student = self.student
        exports = [m for m in self.models if student and m.engine != "torch" and m.role == student.role]
        floor = (student.score if student and known(student.score) else 0.0) - 0.02
        whole = [model for model in exports if not known(model.score) or model.score >= floor]
        return max(whole or exports, key=lambda each: each.speedup or 0.0, default=None)

    def kept(self, score: float | None) -> float | None:
        """Returns the share of the teacher's score."""
        teacher = self.teacher.score if self.teacher else None
        return score / teacher if known(score) and known(teacher) and teacher > 0 else None


@dataclass(frozen=True)
class Curve:
    """A value over the optimiser steps: of which student, and of which kind (one plot each)."""

    name: str
    model: str
    kind: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Difference:
    """A paired difference between two recipes over the same seeds, with a 95 % interval."""

    task: str
    name: str
    mean: float
    low: float | None
    high: float | None
    shown: bool  # whether it survives the correction for many comparisons


@dataclass(frozen=True)
class Disagreement:
    """An example that teacher and student answer differently; the worst for the student has the largest badness."""

    number: int
    text: str
    text_pair: str | None
    label: str
    teacher: str
    student: str
    teacher_confidence: float | None
    student_confidence: float | None
    kind: str
    badness: float


@dataclass
class Report:
    """One page: first what stands at its head, then its sections in their order."""

    title: str  # the task and the model in words; a study's name
    kind: str  # `run` or `study`
    place: str = ""  # the folder's name
    subtitle: str = ""
    recipe: str = ""
    finished: bool = True
    warnings: list[str] = field(default_factory=list)  # what to know before any number is believed
    missing: list[tuple[str, str]] = field(default_factory=list)  # (part, why) for all that cannot be shown
    # what came out, a sentence each; the first is the headline
    words: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    similarities: list[Figure] = field(default_factory=list)
    ramp: tuple[float, float] = (0.0, 1.0)  # the ends of the colour scale that the similarities share
    clouds: list[Figure] = field(default_factory=list)
    confusions: list[Figure] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    disagreements_total: int = 0  # how many there are, where not all are listed
    costs: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""

    def miss(self, why: str, *parts: str) -> None:
        """Says of parts why they are not shown; once, where several panels see the same."""
        self.missing += [(part, why) for part in parts if (part, why) not in self.missing]


def leaders(models: Sequence[Model]) -> list[Model]:
    """Returns the models with the highest score as the page shows it: several in a tie."""
    scored = [model for model in models if known(model.score)]
    best = max((round(model.points, 1) for model in scored), default=0.0)
    return [model for model in scored if round(model.points, 1) == best]
