"""What a report shows, as plain values: gathered from run folders and models, drawn by the page.

Nothing here knows of models or of HTML. Every part may be missing; `Report.missing` then says which and why, and the
page shows the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ReportedModel:
    """One line of the table and one point of score against latency.

    Attributes:
        name: as shown.
        role: `teacher`, `finetune`, `kd`, `codir` (the run's main student), or the recipe's name in a study.
        group: what is drawn in one colour: the recipe, or the engine of an exported model.
        score: main metric, 0..1 scale of the metric (in a study the mean over seeds); None if unknown.
        scores: one for each seed; empty for a single run.
        metrics: further metrics by name.
        kept: share of the teacher's score; None without a teacher.
        agreement: share of examples predicted as by the teacher.
        blocks, parameters, embedding_parameters: of the model.
        bytes: of its weights on disk.
        milliseconds: median time of a sequence; `low` and `high` over the rounds.
        speedup: against the first model that was measured.
        requests: (median, 95th percentile) in milliseconds of a request at real lengths, by its number of texts.
        peak_memory: bytes above an interpreter that has loaded the engine only.
        engine: where it was measured, `torch` or an exported format.
        measured: the conditions in words ("batches of 32, 128 tokens, ..."): only equal ones are drawn together.
        error: standard error of a single run's score, for the examples it is of; None where it is not known.
        examples: how many examples `error` is of.
        folder: of an export, by which it is known again.
    """

    name: str
    role: str
    group: str
    score: float | None = None
    scores: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None
    agreement: float | None = None
    blocks: int | None = None
    parameters: int | None = None
    embedding_parameters: int | None = None
    bytes: int | None = None
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    speedup: float | None = None
    requests: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    peak_memory: int | None = None
    engine: str = "torch"
    measured: str = ""
    error: float | None = None
    examples: int | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Curve:
    """A value over the optimiser steps.

    Attributes:
        name: as shown, for example `crd loss`.
        model: which student it is of.
        kind: `loss`, `accuracy` (contrastive), `cosine`, `temperature`, `agreement` or `score`: one plot each.
        steps: [n] optimiser steps.
        values: [n].
    """

    name: str
    model: str
    kind: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class BlockSimilarity:
    """Linear CKA of pooled representations.

    Attributes:
        student: whose blocks are the rows.
        teacher: whose blocks are the columns.
        values: [student blocks, teacher blocks], 0..1.
        examples: on how many validation examples.
        pooling: `mean` or `cls`.
    """

    student: str
    teacher: str
    values: np.ndarray
    examples: int
    pooling: str


@dataclass(frozen=True)
class PointCloud:
    """Representations of one model in two dimensions.

    Attributes:
        name: `teacher`, `student`, `bank`.
        points: [n, 2].
        labels: [n] names of the classes; empty for scores.
        texts: [n] the beginning of each text, for hovering; empty for the bank if texts are not known.
    """

    name: str
    points: np.ndarray
    labels: Sequence[str]
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Clouds:
    """Point clouds that share one plane.

    Attributes:
        space: a short heading: the contrast's shared space, or one model's last block.
        clouds: drawn into the same plane.
        explained: [2] share of the variance of each principal component.
        about: a sentence or two on the space.
    """

    space: str
    clouds: Sequence[PointCloud]
    explained: tuple[float, float]
    about: str = ""


@dataclass(frozen=True)
class Confusion:
    """Counts [true class, predicted class] of one model on the main validation split."""

    name: str
    labels: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class Disagreement:
    """An example that teacher and student answer differently.

    Attributes:
        number: its row in the validation split, from 0.
        text, text_pair: the texts, whole and unescaped.
        label: the true class (or score, as text).
        teacher, student: their answers.
        teacher_confidence, student_confidence: probability each gives to its answer (None for scores).
        kind: `lost` (teacher right, student wrong), `won` (the other way round), `both wrong`; for scores `far apart`
            (by more than half a standard deviation of the labels).
        badness: the order, worst first: what the student loses of the true class's probability against the teacher;
            for scores how much further the student is from the truth.
    """

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


@dataclass(frozen=True)
class PairedDifference:
    """A difference between two recipes over the same seeds (studies).

    Attributes:
        task: or `average`.
        name: `pkd - kd`.
        mean, low, high: in the metric's unit, with a 95 % interval.
        shown: whether it survives the correction for many comparisons.
    """

    task: str
    name: str
    mean: float
    low: float | None
    high: float | None
    shown: bool


@dataclass(frozen=True)
class PairedOutcome:
    """A paired test of two models on the same examples.

    Attributes:
        names: of the two.
        significant: whether the difference is more than chance on these examples explains.
        words: the test in words.
    """

    names: frozenset[str]
    significant: bool
    words: str


@dataclass(frozen=True)
class Panel:
    """What belongs to one task: a run has one panel, a study one for each task (and `average`).

    Attributes:
        task: its name.
        metric: the main metric's name.
        models: the lines of the table, the teacher first.
        constant: what answering one class to everything scores; None if unknown.
        tests: paired tests of two of the models.
        label: the task in words, where its name is a file's.
    """

    task: str
    metric: str
    models: Sequence[ReportedModel]
    constant: float | None = None
    tests: Sequence[PairedOutcome] = ()
    label: str = ""

    @property
    def shown(self) -> str:
        """What the page calls the task."""
        return self.label or self.task


@dataclass
class Report:
    """One page.

    Attributes:
        title: the task and the model in words; a study's name.
        place: the folder's name.
        kind: `run` or `study`.
        subtitle: one line: recipe, task, teacher.
        recipe: its name, where there is one.
        finished: False while the run or study is under way.
        words: what came out, a sentence each; the first is the headline.
        panels: tables and points of score against latency.
        curves, similarities, clouds, confusions, disagreements: of a run.
        disagreements_total: how many there are, where not all are listed.
        differences: of a study.
        costs: (what, how much in words): training time, steps, teacher pass, bytes, ...
        facts: (name, value): command, seed, versions, machine, data.
        config: the resolved configuration as YAML.
        missing: (part, why) for everything that cannot be shown.
        warnings: what to know before any number is believed: times of a busy machine.
    """

    title: str
    kind: str
    subtitle: str = ""
    finished: bool = True
    words: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    similarities: list[BlockSimilarity] = field(default_factory=list)
    clouds: list[Clouds] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    disagreements_total: int = 0
    differences: list[PairedDifference] = field(default_factory=list)
    costs: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    config: str = ""
    missing: list[tuple[str, str]] = field(default_factory=list)
    recipe: str = ""
    place: str = ""
    warnings: list[str] = field(default_factory=list)
