"""Small data files and settings for the tests of whole workflows."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

GOOD, BAD = ("good", "great", "liked"), ("bad", "awful", "hated")
_TEXT = "the a an one this that film movie book song was is cat dog bird man woman and or of in on"
FILLER = _TEXT.split()

# Small enough that a training takes about a second.
TRAINING: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "precision": "fp32",
    "seed": 3,
    "max_grad_norm": 1.0,  # such a learning rate needs it
}
CRD = {"task": {}, "kd": {"weight": 0.7}, "crd": {"weight": 0.5, "k": 10, "dim": 8}}


def sentences(count: int, seed: int, pairs: bool = False) -> list[dict[str, str]]:
    """Returns sentences with one word of judgement: columns review, (reply), stars (`neg`, `pos`) and score."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        good = number % 2 == 0
        words = generator.choices(FILLER, k=generator.randint(2, 9))
        words.insert(generator.randint(0, len(words)), generator.choice(GOOD if good else BAD))
        row = {"review": " ".join(words), "stars": "pos" if good else "neg"}
        row["score"] = f"{(3.5 if good else 1.0) + generator.random():.3f}"
        if pairs:
            row["reply"] = " ".join(generator.choices(FILLER, k=3))
        rows.append(row)
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """Writes CSV (or TSV, by the ending)."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


@dataclass
class World:
    """What the tests of workflows start from.

    Attributes:
        folder: of all.
        train, dev: CSV files with the columns review, stars, score, reply.
        teacher: a fine-tuned run folder (4 layers; classes neg, pos).
        regression: likewise, for `score`.
        cache: for the teacher's outputs.
    """

    folder: Path
    train: Path
    dev: Path
    teacher: Path
    regression: Path
    cache: Path

    def data(self, **settings: Any) -> dict[str, Any]:
        """Returns the data section for the two files."""
        values: dict[str, Any] = {
            "train": str(self.train),
            "validation": str(self.dev),
            "text": "review",
            "label": "stars",
            "max_length": 32,
        }
        return {key: value for key, value in {**values, **settings}.items() if value is not None}

    def settings(self, output: Path, **settings: Any) -> dict[str, Any]:
        """Returns keywords for `distill`: a student of two layers, the three terms."""
        values: dict[str, Any] = {
            "teacher": str(self.teacher),
            "data": self.data(),
            "student": {"layers": 2},
            "objectives": CRD,
            "training": TRAINING,
            "cache_dir": str(self.cache),
            "output": str(output),
        }
        return {**values, **settings}


def quiet() -> Console:
    """Returns a console whose output can be read with `.file.getvalue()`."""
    return Console(file=io.StringIO(), width=120)
