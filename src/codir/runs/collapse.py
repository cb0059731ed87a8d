"""A student that gives one answer to everything: what is known to lead there, and a warning while there is time."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from codir.config.student_config import StudentConfig
from codir.training.processes import is_main

logger = logging.getLogger(__name__)


def first_layers_note(student: StudentConfig, objectives: dict[str, dict[str, Any]]) -> str | None:
    """Returns what to say of a bank of random rows for a student of the teacher's first layers; else None.

    Such students failed in every seed on CoLA (docs/choosing.md): the live positives move away from the rows
    together, and take the student's representations with them.
    """
    init = student.init
    first = init == "first" if isinstance(init, str) else init == list(range(1, len(init) + 1))
    if "crd" not in objectives or not first or student.model or student.config:
        return None
    if objectives["crd"].get("negatives") == "in-batch":
        return None
    return (
        "Note: a student of the teacher's first layers, contrasted with 500 or more rows of a memory bank that starts "
        "at random, gave one answer to everything in all of three seeds on CoLA, though not on SST-2; with 100 rows it "
        "recovered late (docs/choosing.md). With objectives.crd.negatives=in-batch none did."
    )


class CollapseWatch:
    """Warns once, at the second evaluation in a row with one answer for all examples.

    The first one is often like that where classes are unequal, and passes.

    Args:
        label: What the training is called.
        contrast: Whether its objectives have a contrastive term, which is known to do that.
    """

    def __init__(self, label: str, contrast: bool = False):
        self.label, self.contrast = label, contrast
        self._in_a_row = 0

    def watch(self, answers: np.ndarray, labels: np.ndarray) -> None:
        """Takes the answers [n] and the labels [n] of one evaluation: class ids or scores."""
        alike = len(answers) > 1 and bool(np.ptp(answers) == 0) and bool(np.ptp(labels) > 0)
        self._in_a_row = self._in_a_row + 1 if alike else 0
        if self._in_a_row != 2 or not is_main():
            return
        advice = "a lower training.learning_rate or a longer training.warmup_steps"
        if self.contrast:
            advice += ", and in place of rows of a memory bank objectives.crd.negatives=in-batch (docs/choosing.md)"
        logger.warning(
            f"{self.label}: a second evaluation with the same answer for all {len(answers):,} validation examples. If "
            "that stays, the training has failed and more of it will not help: stop it (Ctrl-C) and try "
            f"{advice}."
        )
