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

TITLES: dict[str, str] = {
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
    """One model of the table.

    Attributes:
        name: as shown.
        metrics: every metric on the validation data; those of further splits as `SPLIT/METRIC`.
        main_metric: the key of `metrics` that is compared.
        role: what the model is in the comparison; found from the name where it is one of `TITLES`.
        agreement: share of validation examples where it predicts what the teacher predicts (regression: Pearson
            correlation with the teacher's scores); None where it was not measured.
        parameters, embedding_parameters: counts, the second is part of the first.
        bytes: size of its safetensors files.
        timing: measured side by side with the other rows.
        predictions: [n] class ids, or scores, on the validation data, for the paired test; not saved.
    """

    name: str
    metrics: dict[str, float]
    main_metric: str
    role: Role = "other"
    agreement: float | None = None
    parameters: int | None = None
    embedding_parameters: int | None = None
    bytes: int | None = None
    timing: Timing | None = None
    predictions: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Finds the role that belongs to a well-known name."""
        if self.role == "other":
            self.role = next((role for role, title in TITLES.items() if title == self.name), "other")  # type: ignore[assignment]

    @property
    def score(self) -> float:
        """The main metric's value; NaN where it is missing or undefined."""
        value = self.metrics.get(self.main_metric)
        return float("nan") if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON; NaN becomes None, the predictions are left out."""
        values = asdict(self)
        del values["predictions"]
        values["metrics"] = {name: _finite(value) for name, value in self.metrics.items()}
        values["agreement"] = _finite(self.agreement)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelRow:
        """Restores what `to_dict` returned."""
        metrics = {name: float("nan") if v is None else v for name, v in values["metrics"].items()}
        timing = Timing.from_dict(values["timing"]) if values.get("timing") else None
        return cls(**{**values, "metrics": metrics, "timing": timing})


@dataclass
class Comparison(Tabular):
    """The rows, teacher first, and the paired tests of the distilled students against the undistilled one.

    Attributes:
        rows: the models in the order shown.
        labels: [n] labels of the validation examples, for the paired tests; not saved.
        tests: by the name of the row; computed from predictions and labels unless given.
        seeds: number of seeds behind each row.
        constant: what answering the same class to everything scores; computed from the labels unless given.
    """

    rows: list[ModelRow]
    labels: np.ndarray | None = field(default=None, repr=False, compare=False)
    tests: dict[str, PairedTest] = field(default_factory=dict)
    seeds: int = 1
    constant: float | None = None

    def __post_init__(self) -> None:
        """Runs the paired tests that can be run."""
        if self.constant is None and self.labels is not None and is_metric(self.main_metric):
            self.constant = constant_score(self.main_metric, self.labels)
        plain = self.row("finetune")
        if self.labels is None or plain is None or plain.predictions is None:
            return
        for row in self.rows:
            if row.role in ("kd", "codir") and row.predictions is not None and row.name not in self.tests:
                self.tests[row.name] = paired_test(
                    self.labels, plain.predictions, row.predictions, row.main_metric
                )

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
        """Returns plain values, as they stand in `metrics.json`."""
        rows = [{**row.to_dict(), "share_kept": self.share_kept(row)} for row in self.rows]
        return {
            "rows": rows,
            "tests": {name: asdict(test) for name, test in self.tests.items()},
            "seeds": self.seeds,
            "constant": self.constant,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Restores what `to_json` returned (without predictions and labels).

        Raises:
            RunError: the values are not those of a comparison.
        """
        try:
            rows = [
                ModelRow.from_dict({k: v for k, v in row.items() if k != "share_kept"})
                for row in values["rows"]
            ]
            tests = {name: PairedTest(**test) for name, test in values.get("tests", {}).items()}
            return cls(rows=rows, tests=tests, seeds=values.get("seeds", 1), constant=values.get("constant"))
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
                f"Answering the same class to everything scores {_number(self.constant, 4)} in {self.main_metric}: the "
                f"{student.name} is not above that, so that this score does not show that it has learned the task.",
            )
        return lines

    def _kept_in_words(self, student: ModelRow, exported: str = "") -> str:
        teacher = self.row("teacher")
        if teacher is None:
            return f"The {student.name} scores {_number(student.score, 4)} in {student.main_metric}."
        kept = self.share_kept(student)
        if kept is None:
            line = (
                f"The {student.name} scores {_number(student.score, 4)} in {student.main_metric}, the teacher "
                f"{_number(teacher.score, 4)}, so that no share kept can be stated"
            )
        else:
            line = (
                f"The {student.name} keeps {_percent(kept)} of the teacher's {student.main_metric} "
                f"({_number(student.score, 4)} of {_number(teacher.score, 4)})"
            )
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
        seeds = "One seed decides nothing" if self.seeds == 1 else f"These are {self.seeds} seeds"
        advice = f"{seeds}: repeat with other --set training.seed values before you believe the difference."
        difference = student.score - plain.score
        if math.isnan(difference):
            return "Its score or that of the undistilled student is undefined, so the two cannot be compared."
        side = "above" if difference > 0 else "below"
        against = (
            f"{abs(difference):.4f} {side} the undistilled student"
            if difference
            else "equal to the undistilled student"
        )
        test = self.tests.get(student.name)
        if test is None:
            return f"It is {against}, with no paired test to say whether that is more than noise. {advice}"
        if not test.significant or not difference:
            return f"It is {against}: within noise ({test.in_words()}). {advice}"
        if (test.difference > 0) != (difference > 0):
            return f"It is {against}, but the paired test points the other way ({test.in_words()}). {advice}"
        return f"It is {against}, more than chance on these examples explains ({test.in_words()}). {advice}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _milliseconds(timing: Timing) -> str:
    digits = 1 if timing.ms_per_sequence >= 100 else 2
    return f"{timing.ms_per_sequence:.{digits}f} ±{timing.spread:.{digits}f}"


def short_count(value: int | None) -> str:
    """Returns a count as tables show it: `22.7M`; `-` where it is not known."""
    if value is None:
        return DASH
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return str(value)
