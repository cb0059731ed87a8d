"""What a study's students keep of their teacher on CoLA, apart for sources that the training data have and for others.

    python benchmarks/cola_sources.py studies/plus --data-dir GLUE --teacher runs/teachers/cola/teacher

The first column of CoLA's files names the book or article that a sentence comes from. Prints a Markdown table: Matthews
x 100 and agreement with the teacher, mean and sample standard deviation over the seeds of each recipe.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from codir.recipes.data_config import DataConfig
from codir.studies.report import read_findings
from codir.tasks.metrics import matthews
from codir.workflows.evaluate import evaluate
from evidence_tables import markdown


@dataclass(frozen=True)
class Part:
    """A model's score on the sentences of one kind of source.

    Attributes:
        score: Matthews x 100.
        agreement: with the teacher, percent.
    """

    score: float
    agreement: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments, runs the models, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+", help="its folder, or those of its parts")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    parser.add_argument("--teacher", required=True)
    options = parser.parse_args(arguments)

    known = set(sources(options.data_dir / "CoLA" / "train.tsv"))
    inside = np.array([source in known for source in sources(options.data_dir / "CoLA" / "dev.tsv")])
    data = DataConfig(task="cola", data_dir=options.data_dir)
    taught = evaluate(options.teacher, data, quiet=True)
    teacher, labels = taught.predictions(), taught.labels[taught.main_split]

    students = defaultdict(list)
    for study in options.studies:
        for result in read_findings(study)[1]:
            if result.task == "cola" and result.phase == "final":
                predicted = evaluate(result.folder, data, quiet=True).predictions()
                students[result.recipe].append(apart(predicted, teacher, labels, inside))

    print(
        f"CoLA, validation: {inside.sum():,} sentences of the training data's sources, {(~inside).sum():,} of others."
    )
    print(table(apart(teacher, teacher, labels, inside), students))


def sources(file: Path) -> list[str]:
    """Returns the first column of one of CoLA's files, a line each."""
    return [line.split("\t", 1)[0] for line in file.read_text(encoding="utf-8").splitlines()]


def apart(
    predicted: np.ndarray, teacher: np.ndarray, labels: np.ndarray, inside: np.ndarray
) -> tuple[Part, Part]:
    """Returns what a model's answers are worth where `inside` is true, and elsewhere; all arguments are [N]."""
    known, other = (
        Part(
            100 * matthews(predicted[where], labels[where]),
            100 * float((predicted[where] == teacher[where]).mean()),
        )
        for where in (inside, ~inside)
    )
    return known, other


def table(teacher: tuple[Part, Part], students: Mapping[str, Sequence[tuple[Part, Part]]]) -> str:
    """Returns the table of the teacher and of each recipe's seeds, the best sum of scores first."""
    heads = [
        "recipe",
        "seeds",
        "known sources",
        "kept, %",
        "other sources",
        "kept, %",
        "agreement, %",
        "others",
    ]
    rows = [["teacher", "", f"{teacher[0].score:.1f}", "100", f"{teacher[1].score:.1f}", "100", "100", "100"]]

    def score(recipe: str) -> float:
        return statistics.fmean(known.score + other.score for known, other in students[recipe])

    for recipe in sorted(students, key=score, reverse=True):
        row = [recipe, str(len(students[recipe]))]
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
    return markdown(heads, rows)


if __name__ == "__main__":
    main()
