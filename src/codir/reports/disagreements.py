"""Where a model is wrong, and where student and teacher answer differently."""

from __future__ import annotations

from typing import Any

import numpy as np

from codir.reports.contents import Confusion, Disagreement
from codir.reports.outputs import Examples, Outputs

APART = 0.5  # scores further apart than this many standard deviations of the labels count as a disagreement


def confusion(outputs: Outputs, examples: Examples) -> Confusion:
    """Counts [true class, predicted class]; for classification only."""
    labels = examples.task.labels
    assert labels is not None, "scores have no confusion"
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (examples.labels.astype(np.int64), outputs.logits.argmax(axis=1)), 1)
    return Confusion(outputs.name, labels, counts)


def disagreements(
    teacher: Outputs, student: Outputs, examples: Examples, most: int = 500
) -> tuple[list[Disagreement], int]:
    """Lists the examples that teacher and student answer differently, worst first.

    Classes: the predictions differ; the order is by what the student loses of the true class's probability. Scores:
    they lie more than `APART` standard deviations of the labels apart; the order is by how much further from the
    truth the student is.

    Args:
        teacher: its outputs.
        student: the student's.
        examples: of both.
        most: number of examples listed.

    Returns:
        The worst ones, and how many there are in all.
    """
    if examples.task.labels is None:
        found, badness = _far_apart(teacher, student, examples)
    else:
        found, badness = _other_class(teacher, student, examples)
    order = found[np.argsort(-badness[found], kind="stable")]
    texts = examples.texts
    describe = _score if examples.task.labels is None else _class
    return [
        Disagreement(
            number=int(examples.numbers[row]),
            text=texts[row][0],
            text_pair=texts[row][1],
            badness=float(badness[row]),
            **describe(int(row), teacher, student, examples),
        )
        for row in order[:most]
    ], len(order)


def _other_class(teacher: Outputs, student: Outputs, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    rows, truth = np.arange(len(examples.labels)), examples.labels.astype(np.int64)
    badness = teacher.probabilities[rows, truth] - student.probabilities[rows, truth]
    return np.flatnonzero(teacher.logits.argmax(axis=1) != student.logits.argmax(axis=1)), badness


def _far_apart(teacher: Outputs, student: Outputs, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    truth = examples.labels.astype(np.float64)
    theirs, ours = teacher.logits[:, 0].astype(np.float64), student.logits[:, 0].astype(np.float64)
    badness = np.abs(ours - truth) - np.abs(theirs - truth)
    return np.flatnonzero(np.abs(ours - theirs) > APART * truth.std()), badness


def _class(row: int, teacher: Outputs, student: Outputs, examples: Examples) -> dict[str, Any]:
    """What is said of an example whose answers are classes."""
    labels = examples.task.labels
    assert labels is not None
    truth = int(examples.labels[row])
    theirs, ours = int(teacher.logits[row].argmax()), int(student.logits[row].argmax())
    return {
        "label": labels[truth],
        "teacher": labels[theirs],
        "student": labels[ours],
        "teacher_confidence": float(teacher.probabilities[row, theirs]),
        "student_confidence": float(student.probabilities[row, ours]),
        "kind": "lost" if theirs == truth else "won" if ours == truth else "both wrong",
    }


def _score(row: int, teacher: Outputs, student: Outputs, examples: Examples) -> dict[str, Any]:
    """What is said of an example whose answers are scores."""
    return {
        "label": f"{float(examples.labels[row]):.3g}",
        "teacher": f"{float(teacher.logits[row, 0]):.2f}",
        "student": f"{float(student.logits[row, 0]):.2f}",
        "teacher_confidence": None,
        "student_confidence": None,
        "kind": "far apart",
    }
