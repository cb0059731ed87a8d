"""What a task's answers are, class or score, on the page: who answered what, and where student and teacher differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from codir.reports.figures import Figure, axis, margin, squares
from codir.reports.outputs import Examples, Outputs
from codir.reports.text import capital, for_plotly, share, shortened
from codir.reports.values import Disagreement

_APART = 0.5  # scores further apart than this many standard deviations of the labels count as a disagreement
_LISTED = 500


def confusion(outputs: Outputs, examples: Examples) -> np.ndarray:
    """Returns the counts [true class, predicted class] of one model; for classification only."""
    classes = len(examples.task.labels or ())
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (examples.labels.astype(np.int64), outputs.logits.argmax(axis=1)), 1)
    return counts


def confusion_figure(name: str, labels: Any, counts: np.ndarray, number: int) -> Figure:
    """Returns the counts of one model and their shares of the true class, coloured by the share."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    classes = len(labels)
    few, places = classes <= 8, list(range(classes))
    ticks = {"tickvals": places, "ticktext": [for_plotly(each, 18 if few else 12) for each in labels]}
    cells = [list(zip(*pair, strict=True)) for pair in zip(counts, shares, strict=True)]
    texts = [[f"{n}<br>{100 * p:.0f} %" if few else str(n) if n else "" for n, p in row] for row in cells]
    hover = [
        [
            f"true {true}, answered {said}: {n} ({100 * p:.1f} %)"
            for said, (n, p) in zip(names, row, strict=True)
        ]
        for names in [[for_plotly(each, 60) for each in labels]]
        for true, row in zip(names, cells, strict=True)
    ]
    height = 100 + (72 * classes if classes <= 5 else max(300, min(15 * classes + 60, 520)))
    return Figure(
        name=f"confusion-{number}",
        title=capital(shortened(name, 40)),
        takeaway=_confusion_takeaway(labels, counts, shares),
        data=squares(100 * shares, (0, 100), places, places, texts, hovertext=hover, hoverinfo="text"),
        layout={
            "xaxis": axis("answered", **ticks, showgrid=False, tickangle=0 if classes < 5 else -40),
            "yaxis": axis("true class", **ticks, showgrid=False, autorange="reversed"),
            "margin": margin(),
        },
        narrow={each: {"tickfont": {"size": 11 if few else 9}} for each in ("xaxis", "yaxis")},
        height=height,
        narrow_height=height,
        wide=False,
    )


def _confusion_takeaway(labels: Any, counts: np.ndarray, shares: np.ndarray) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    if not total:
        return "No example was answered."
    text = f"{right} of {total} right ({share(right / total)})"
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    if not off[row, column]:
        return f"{text}."
    true, said = shortened(labels[int(row)], 40), shortened(labels[int(column)], 40)
    mistake = f"{share(float(off[row, column]))} of {true} are taken for {said}"
    return f"{text}; the most frequent mistake of a class: {mistake}."


def disagreements(teacher: Outputs, student: Outputs, examples: Examples) -> tuple[list[Disagreement], int]:
    """Lists the examples that teacher and student answer differently, worst first, and says how many there are.

    Classes: the predictions differ; the order is by what the student loses of the true class's probability. Scores:
    they lie more than half a standard deviation of the labels apart; the order is by how much further from the truth
    the student is.
    """
    truth = examples.labels
    if examples.task.labels is None:
        theirs, ours = teacher.logits[:, 0].astype(np.float64), student.logits[:, 0].astype(np.float64)
        badness = np.abs(ours - truth) - np.abs(theirs - truth)
        found = np.flatnonzero(np.abs(theirs - ours) > _APART * truth.astype(np.float64).std())
    else:
        rows, classes = np.arange(len(truth)), truth.astype(np.int64)
        badness = teacher.probabilities[rows, classes] - student.probabilities[rows, classes]
        found = np.flatnonzero(teacher.logits.argmax(axis=1) != student.logits.argmax(axis=1))
    order = found[np.argsort(-badness[found], kind="stable")]
    describe = _scores if examples.task.labels is None else _classes
    found = []
    for row in order[:_LISTED].tolist():
        text, pair = examples.texts[row]
        answers = describe(row, teacher, student, examples)
        found.append(
            Disagreement(int(examples.numbers[row]), text, pair, *answers, badness=float(badness[row]))
        )
    return found, len(order)


def _classes(row: int, teacher: Outputs, student: Outputs, examples: Examples) -> tuple[Any, ...]:
    """Returns the true class, both answers, both confidences and the kind of a disagreement."""
    labels, truth = examples.task.labels or (), int(examples.labels[row])
    theirs, ours = int(teacher.logits[row].argmax()), int(student.logits[row].argmax())
    sure = float(teacher.probabilities[row, theirs]), float(student.probabilities[row, ours])
    kind = "lost" if theirs == truth else "won" if ours == truth else "both wrong"
    return labels[truth], labels[theirs], labels[ours], *sure, kind


def _scores(row: int, teacher: Outputs, student: Outputs, examples: Examples) -> tuple[Any, ...]:
    scores = f"{float(teacher.logits[row, 0]):.2f}", f"{float(student.logits[row, 0]):.2f}"
    return f"{float(examples.labels[row]):.3g}", *scores, None, None, "far apart"
