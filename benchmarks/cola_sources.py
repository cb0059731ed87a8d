"""What a study's students keep of their teacher on CoLA, apart for sources that the training data have and for others.

    python benchmarks/cola_sources.py studies/plus --data-dir GLUE --teacher runs/teachers/cola/teacher

The first column of CoLA's files names the book or article that a sentence comes from. Prints a Markdown table: Matthews
x 100 and agreement with the teacher, mean and sample standard deviation over the seeds of each recipe.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from codir.recipes.data_config import DataConfig
from codir.studies.report import read_findings
from codir.tasks.metrics import matthews
from codir.workflows.evaluate import evaluate


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments, runs the models, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    parser.add_argument("--teacher", required=True)
    options = parser.parse_args(arguments)

    known = set(_sources(options.data_dir / "CoLA" / "train.tsv"))
    inside = np.array([source in known for source in _sources(options.data_dir / "CoLA" / "dev.tsv")])
    data = DataConfig(task="cola", data_dir=options.data_dir)
    taught = evaluate(options.teacher, data, quiet=True)
    teacher, labels = taught.predictions(), taught.labels[taught.main_split]

    def scores(predicted: np.ndarray) -> list[float]:
        """Matthews inside and outside, agreement inside and outside."""
        parts = (inside, ~inside)
        found = [100 * matthews(predicted[part], labels[part]) for part in parts]
        return found + [100 * float((predicted == teacher)[part].mean()) for part in parts]

    by_recipe: dict[str, list[list[float]]] = {}
    for result in read_findings(options.study)[1]:
        if result.task == "cola" and result.phase == "final":
            predicted = evaluate(result.folder, data, quiet=True).predictions()
            by_recipe.setdefault(result.recipe, []).append(scores(predicted))

    print(
        f"CoLA, validation: {inside.sum():,} sentences of the training data's sources, {(~inside).sum():,} of others."
    )
    print("| recipe | seeds | known sources | kept, % | other sources | kept, % | agreement, % | others |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    own = scores(teacher)
    print(f"| teacher | | {own[0]:.1f} | 100 | {own[1]:.1f} | 100 | 100 | 100 |")
    means = {name: np.mean(found, axis=0) for name, found in by_recipe.items()}
    for name in sorted(by_recipe, key=lambda name: -sum(means[name][:2])):
        mean, found = means[name], by_recipe[name]
        cells = [
            text
            for place in (0, 1)
            for text in (
                f"{mean[place]:.1f}{_spread([each[place] for each in found])}",
                f"{100 * mean[place] / own[place]:.1f}",
            )
        ]
        print(f"| {name} | {len(found)} | {' | '.join(cells)} | {mean[2]:.1f} | {mean[3]:.1f} |")


def _sources(file: Path) -> list[str]:
    return [line.split("\t", 1)[0] for line in file.read_text(encoding="utf-8").splitlines()]


def _spread(values: Sequence[float]) -> str:
    return f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""


if __name__ == "__main__":
    main()
