"""The honest table: teacher, undistilled student, KD student, CoDIR student, and what the numbers allow to say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from codir.errors import RunError
from codir.files import human_bytes
from codir.kinds.metrics import constant_score, is_metric
from codir.measure.paired import PairedTest, paired_test
from codir.measure.timing import Timing
from codir.table import DASH, Column, Table, Tabular

Role = Literal["teacher", "finetune", "kd", "codir", "other"]

TITLES: dict[Role, str] = {
    "teacher": "teacher",
    "finetune": "undistilled student",
    "kd": "KD student",
    "codir": "CoDIR student",
}


def main_role(objectives: Mapping[str, Any]) -> Role:
    """Returns the role of the main student in the table, by what it learns from."""
    if set(objectives) == {"task"}:
        return "finetune"
    return "kd" if set(objectives) <= {"task", "kd"} else "codir"


@dataclass
class ModelRow:
    """One model of the table."""

    name: str  # as shown
    metrics: dict[str, float]  # on the validation data; those of further splits as `SPLIT/METRIC`
    main_metric: str  # the key of `metrics` that is compared
    role: Role = "other"  # found from the name where it is one of `TITLES`
    agreement: float | None = None  # share that it predicts as the teacher does (regression: Pearson's correlation)
    parameters: int | None = None
    embedding_parameters: int | None = None  # part of them
    bytes: int | None = None  # of its safetensors files
    timing: Timing | None = None  # measured side by side with the other rows
    # [n] class ids, or scores, on the validation data, for the paired test; not saved
    predictions: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Finds the role that belongs to a well-known name."""
        for role, title in TITLES.items():
            if self.role == "other" and title == self.name:
                self.role = role

    @property
    def score(self) -> float:
        """The main metric's value; NaN where it is missing or undefined."""
        value = self.metrics.get(self.main_metric)
        return float("nan") if value is None else float(value)


@dataclass
class Comparison(Tabular):
    """The rows, teacher first, and the paired tests of the distilled students against the undistilled one."""

    rows: list[ModelRow]  # in the order shown
    # [n] labels of the validation examples, for the paired tests; not saved
    labels: np.ndarray | None = field(default=None, repr=False, compare=False)
    # by the name of the row; computed unless given
    tests: dict[str, PairedTest] = field(default_factory=dict)
    seeds: int = 1  # behind each row
    constant: float | None = None  # what answering the same class to everything scores; computed unless given

    def __post_init__(self) -> None:
        """Runs the paired tests that can be run."""
        if self.constant is None and self.labels is not None and is_metric(self.main_metric):
            self.constant = constant_score(self.main_metric, self.labels)
        plain = self.row("finetune")
        if self.labels is None or plain is None or plain.predictions is None:
            return
        for row in self.rows:
            if row.role in ("kd", "codir") and row.predictions is not None and row.name not in self.tests:
                self.tests[row.name] = paired_test(self.labels, plain.predictions, row.predictions, row.main_metric)

    def row(self, role: Role) -> ModelRow | None:
        """Returns the first row of a role, or None."""
        return next((row for row in self.rows if row.role == role), None)

    @property
    def student(self) -> ModelRow | None:
        """The row of the distilled student: CoDIR's, else that of KD; None where nothing was distilled."""
        return self.row("codir") or self.row("kd")

    def share_kept(self, row: ModelRow) -> float | None:
        """Returns score / teacher's score; None where there is no teacher or its score is not above zero."""
        teacher = self.row("teacher")
        if teacher is None or not teacher.score > 0 or math.isnan(row.score):
            return None
        return row.score / teacher.score

    @property
    def main_metric(self) -> str:
        """Name of the metric in the table."""
        return self.rows[0].main_metric if self.rows else ""

    def table(self) -> Table:
        """Returns the table; what is unknown or undefined is `-`. In the terminal it fits 100 columns."""
        columns = (
            Column("model", left=True),
            Column(self.main_metric.replace("_", " "), "{:.4f}".format, name=self.main_metric),
            Column("kept", _percent),
            Column("agrees", "{:.3f}".format),
            Column("params", short_count),
            Column("embed.", short_count),
            Column("size", human_bytes),
            Column("ms/seq"),
            Column("speed-up", "{:.2f}x".format),
        )
        rows = [
            (
                *(row.name, row.score, self.share_kept(row), row.agreement),
                *(row.parameters, row.embedding_parameters, row.bytes),
                *((_milliseconds(row.timing), row.timing.speedup) if row.timing else (None, None)),
            )
            for row in self.rows
        ]
        bold = [number for number, row in enumerate(self.rows) if row.role == "codir"]
        return Table("", columns, rows, bold=bold)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, as they stand in `metrics.json`; NaN is None, predictions and labels are left out."""
        rows = []
        for row in self.rows:
            values = {**asdict(row), "share_kept": self.share_kept(row), "agreement": _finite(row.agreement)}
            del values["predictions"]
            rows.append({**values, "metrics": {name: _finite(value) for name, value in row.metrics.items()}})
        tests = {name: asdict(test) for name, test in self.tests.items()}
        return {"rows": rows, "tests": tests, "seeds": self.seeds, "constant": self.constant}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Restores what `to_json` returned; raises `RunError` for what is no comparison."""
        try:
            rows = []
            for each in values["rows"]:
                own = {key: value for key, value in each.items() if key != "share_kept"}
                metrics = {name: float("nan") if v is None else v for name, v in own["metrics"].items()}
                timing = Timing.from_dict(own["timing"]) if own.get("timing") else None
                rows.append(ModelRow(**{**own, "metrics": metrics, "timing": timing}))
            tests = {name: PairedTest(**test) for name, test in values["tests"].items()}
            return cls(rows=rows, tests=tests, seeds=values["seeds"], constant=values["constant"])
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"This is not the JSON of a comparison table: {error!r}") from error

    def plain_words(self, exported: str = "") -> list[str]:
        """Returns what the table means, a line each; they claim no more than the numbers allow.

        Args:
            exported: how fast the student's export is, in words, put beside its own speed.
        """
        student = self.student
        if student is None:
            return []
        lines = [self._kept_in_words(student, exported), self._gain_in_words(student)]
        if self.constant is not None and student.score <= self.constant + 1e-9:
            lines.insert(
                0,
                f"Answering the same class to everything scores {self.constant:.4f} in {self.main_metric}: the "
                f"{student.name} is not above that, so that this score does not show that it has learned the task.",
            )
        return lines

    def _kept_in_words(self, student: ModelRow, exported: str) -> str:
        teacher, kept = self.row("teacher"), self.share_kept(student)
        score = DASH if math.isnan(student.score) else f"{student.score:.4f}"
        if teacher is None:
            return f"The {student.name} scores {score} in {student.main_metric}."
        whole = DASH if math.isnan(teacher.score) else f"{teacher.score:.4f}"
        if kept is None:
            line = (
                f"The {student.name} scores {score} in {student.main_metric}, the teacher {whole}, so that no share "
                "kept can be stated"
            )
        else:
            share = f"{_percent(kept)} of the teacher's {student.main_metric}"
            line = f"The {student.name} keeps {share} ({score} of {whole})"
        extras = []
        if student.timing is not None:
            extras.append(f"runs at {student.timing.speedup:.2f} times its speed on this machine{exported}")
        if student.parameters and teacher.parameters:
            extras.append(f"has {student.parameters / teacher.parameters:.0%} of its parameters")
        return f"{line}; it {' and '.join(extras)}." if extras else f"{line}."

    def _gain_in_words(self, student: ModelRow) -> str:
        plain = self.row("finetune")
        if plain is None:
            return "No undistilled student was trained, so the table cannot say whether distilling helped."
        difference = student.score - plain.score
        if math.isnan(difference):
            return "Its score or that of the undistilled student is undefined, so the two cannot be compared."
        side = f"{abs(difference):.4f} {'above' if difference > 0 else 'below'}" if difference else "equal to"
        test = self.tests.get(student.name)
        if test is None:
            verdict = ", with no paired test to say whether that is more than noise"
        elif not test.significant or not difference:
            verdict = f": within noise ({test.in_words()})"
        elif (test.difference > 0) != (difference > 0):
            verdict = f", but the paired test points the other way ({test.in_words()})"
        else:
            verdict = f", more than chance on these examples explains ({test.in_words()})"
        seeds = "One seed decides nothing" if self.seeds == 1 else f"These are {self.seeds} seeds"
        return (
            f"It is {side} the undistilled student{verdict}. {seeds}: repeat with other --set training.seed values "
            "before you believe the difference."
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _milliseconds(timing: Timing) -> str:
    digits = 1 if timing.ms_per_sequence >= 100 else 2
    return f"{timing.ms_per_sequence:.{digits}f} ±{timing.spread:.{digits}f}"


def short_count(value: int | None) -> str:
    """Returns a count as tables show it: `22.7M`; `-` where it is not known."""
    if value is None:
        return DASH
    limits = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next((f"{value / limit:.1f}{unit}" for limit, unit in limits if value >= limit), str(value))
