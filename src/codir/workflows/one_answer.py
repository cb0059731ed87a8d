"""A warning while there is still time: the model in training gives one answer to everything."""

from __future__ import annotations

import logging

import numpy as np

from codir.training.processes import is_main

logger = logging.getLogger(__name__)


class OneAnswer:
    """Watches the evaluations of a training; warns once, at the second in a row with one answer for all examples.

    The first one is often like that where classes are unequal, and passes.

    Args:
        label: what the training is called.
        contrast: whether its objectives have a contrastive term, which is known to do that.
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
        advice = "a lower training.learning_rate or a longer training.warmup"
        if self.contrast:
            advice += ", and in place of rows of a memory bank objectives.crd.negatives=in-batch (docs/negatives.md)"
        logger.warning(
            "%s: a second evaluation with the same answer for all %s validation examples. If that stays, the training "
            "has failed and more of it will not help: stop it (Ctrl-C) and try %s.",
            self.label,
            f"{len(answers):,}",
            advice,
        )
