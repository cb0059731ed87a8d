"""CoLA's scores apart for sentences of known and of other sources: how they are kept, and their table.

`cola_sources.py` measures them and writes `benchmarks/evidence/cola-sources.json`; a page asks for a study's by
`<!-- evidence: by-source NAME -->`. A training is known again by its recipe, seed and score.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codir.errors import RunError
from codir.markdown import inline
from codir.storage import read_json, write_json
from evidence_choice import Chosen
from evidence_tables import markdown

FILE = Path(__file__).resolve().parent / "evidence" / "cola-sources.json"
TASK = "cola"
_HEADS = (
    "recipe",
    "seeds",
    "known sources",
    "kept, %",
    "other sources",
    "kept, %",
    "agreement, %",
    "others",
)


@dataclass(frozen=True)
class Part:
    """A model's score on the sentences of one kind of source.

    Attributes:
        score: Matthews x 100.
        agreement: with the teacher, percent.
    """

    score: float
    agreement: float


@dataclass(frozen=True, order=True)
class Training:
    """What a training is known again by.

    Attributes:
        recipe: name in its study.
        seed: of the trial.
        score: on all sentences, as it is kept of a trial (8 digits).
    """

    recipe: str
    seed: int
    score: float


@dataclass(frozen=True)
class BySource:
    """What has been measured.

    Attributes:
        sentences: how many are of known and of other sources.
        teacher: on both.
        students: on both, by training.
    """

    sentences: tuple[int, int]
    teacher: tuple[Part, Part]
    students: Mapping[Training, tuple[Part, Part]]

    def joined(self, later: BySource) -> BySource:
        """Returns both; raises `RunError` unless they are of the same sentences and teacher."""
        if (self.sentences, self.teacher) != (later.sentences, later.teacher):
            raise RunError(
                f"Measured before: {self.sentences} sentences, teacher {self.teacher}; now: {later.sentences}, "
                f"{later.teacher}. Students of two teachers or data sets make no table: write another file."
            )
        return BySource(self.sentences, self.teacher, {**self.students, **later.students})


def read_by_source(file: Path = FILE) -> BySource:
    """Reads what has been measured."""
    content = read_json(file)
    try:
        students = {
            Training(each["recipe"], each["seed"], each["score"]): _parts(each)
            for each in content["students"]
        }
        known, other = content["sentences"]
        return BySource((known, other), _parts(content["teacher"]), students)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file} is not what cola_sources.py writes ({type(error).__name__}: {error})."
        ) from None


def write_by_source(found: BySource, file: Path) -> None:
    """Writes what has been measured; the students in the order of recipe, seed and score."""
    students = [
        {**asdict(training), **_named(parts)}
        for training, parts in sorted(found.students.items(), key=lambda item: item[0])
    ]
    write_json(
        file,
        {"sentences": list(found.sentences), "teacher": _named(found.teacher), "students": students},
    )


def by_source(chosen: Chosen, file: Path = FILE) -> str:
    """Returns the table of the chosen trials on CoLA that have been measured."""
    found = read_by_source(file)
    students: dict[str, list[tuple[Part, Part]]] = {}
    for row, trials in chosen.by_row.items():
        for trial in trials:
            training = Training(trial.values["recipe"], trial.result.seed, trial.values["score"])
            if trial.result.task == TASK and training in found.students:
                students.setdefault(str(row), []).append(found.students[training])
    if not students:
        return "*No such trial has been measured: `python benchmarks/cola_sources.py FOLDER ...`.*"
    known, other = found.sentences
    return (
        f"{table(found.teacher, students)}\n\nMatthews x 100 on {known:,} sentences of sources that the training data "
        f"have, and on {other:,} of others: mean ± sample standard deviation over the seeds. Kept: of the teacher's. "
        "Agreement: share of the sentences on which student and teacher give the same answer."
    )


def table(teacher: tuple[Part, Part], students: Mapping[str, Sequence[tuple[Part, Part]]]) -> str:
    """Returns the table of the teacher and of each recipe's seeds, the best sum of scores first."""
    rows = [["teacher", "", f"{teacher[0].score:.1f}", "100", f"{teacher[1].score:.1f}", "100", "100", "100"]]

    def score(recipe: str) -> float:
        return statistics.fmean(known.score + other.score for known, other in students[recipe])

    for recipe in sorted(students, key=score, reverse=True):
        row = [inline(recipe), str(len(students[recipe]))]
        agreements = []
        for own, parts in zip(teacher, zip(*students[recipe], strict=True), strict=True):
            scores = [part.score for part in parts]
            spread = f" ±{statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            row += [
                f"{statistics.fmean(scores):.1f}{spread}",
                f"{100 * statistics.fmean(scores) / own.score:.1f}",
            ]
            agreements.append(f"{statistics.fmean(part.agreement for part in parts):.1f}")
        rows.append([*row, *agreements])
    return markdown(_HEADS, rows)


def _parts(values: Mapping[str, Any]) -> tuple[Part, Part]:
    return Part(**values["known"]), Part(**values["other"])


def _named(parts: tuple[Part, Part]) -> dict[str, Any]:
    return {"known": asdict(parts[0]), "other": asdict(parts[1])}
