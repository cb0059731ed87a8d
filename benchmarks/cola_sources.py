"""What a study's students keep of their teacher on CoLA, apart for sources that the training data have and for others.

    python benchmarks/cola_sources.py studies/plus --data-dir GLUE --teacher runs/teachers/cola/teacher

The first column of CoLA's files names the book or article that a sentence comes from. What is measured is printed as a
table and added to benchmarks/evidence/cola-sources.json, from which `evidence.py draw` makes the tables of the page.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from codir.config.data_config import DataConfig
from codir.data.metrics import matthews
from codir.runs.evaluate import evaluate
from codir.studies.report import read_findings
from evidence_by_source import FILE, TASK, BySource, Part, Training, read_by_source, table, write_by_source
from evidence_trial import short


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments, runs the models, adds to the file and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+", help="its folder, or those of its parts")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--output", type=Path, default=FILE, help="file to add to (default: %(default)s)")
    options = parser.parse_args(arguments)

    known = set(sources(options.data_dir / "CoLA" / "train.tsv"))
    inside = np.array([source in known for source in sources(options.data_dir / "CoLA" / "dev.tsv")])
    data = DataConfig(task=TASK, data_dir=options.data_dir)
    taught = evaluate(options.teacher, data, quiet=True)
    teacher, labels = taught.predictions(), taught.labels[taught.main_split]

    students = {}
    for study in options.studies:
        for result in read_findings(study)[1]:
            if result.task == TASK and result.phase == "final":
                predicted = evaluate(result.folder, data, quiet=True).predictions()
                training = Training(result.recipe, result.seed, short(result.score, 8) or 0.0)
                students[training] = apart(predicted, teacher, labels, inside)

    sentences = (int(inside.sum()), int((~inside).sum()))
    found = BySource(sentences, apart(teacher, teacher, labels, inside), students)
    before = read_by_source(options.output) if options.output.is_file() else None
    write_by_source(before.joined(found) if before else found, options.output)
    print(
        f"CoLA, validation: {sentences[0]:,} sentences of the training data's sources, {sentences[1]:,} of others."
    )
    by_recipe = defaultdict(list)
    for training, parts in students.items():
        by_recipe[training.recipe].append(parts)
    print(table(found.teacher, by_recipe))


def sources(file: Path) -> list[str]:
    """Returns the first column of one of CoLA's files, a line each."""
    return [line.split("\t", 1)[0] for line in file.read_text(encoding="utf-8").splitlines()]


def apart(
    predicted: np.ndarray, teacher: np.ndarray, labels: np.ndarray, inside: np.ndarray
) -> tuple[Part, Part]:
    """Returns what a model's answers are worth where `inside` is true, and elsewhere; all arguments are [N]."""
    known, other = (
        Part(
            round(100 * matthews(predicted[where], labels[where]), 4),
            round(100 * float((predicted[where] == teacher[where]).mean()), 4),
        )
        for where in (inside, ~inside)
    )
    return known, other


if __name__ == "__main__":
    main()
