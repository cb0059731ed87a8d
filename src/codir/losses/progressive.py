"""Progressive distillation: which of the matched blocks count at a moment of the training, and which are frozen.

With n matched pairs, sorted by the student's block, an objective's window [start, end) of the optimiser steps is cut
into n stages of equal length: stage i (from 0) holds while start + i * (end - start) / n <= progress < start +
(i + 1) * (end - start) / n. There are three ways to spend them, called the same in every objective:

`none`      all pairs count, all the time.
`transfer`  one pair at a time, from the bottom: in stage i only pair i counts, and the embeddings (block 0) and the
            student's blocks up to that of pair i - 1 are frozen, so that what has been learned stays. If every block is
            matched these are all the blocks below. MobileBERT, Sun et al. 2020: progressive knowledge transfer; there
            the embeddings are copied from the teacher, as they are here unless the student starts at random.
`unlock`    pairs are unlocked one after another from the bottom and stay: in stage i the pairs 0..i count, and
            nothing is frozen. SID, Aguilar et al. 2020: stacked internal distillation.

Outside of the window the term does not count at all, and nothing is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from codir.losses.base import ObjectiveSettings

Progressive = Literal["none", "transfer", "unlock"]

Pairs = Sequence[tuple[int, int]]

# A share such as 0.2 + 0.3 may lie a rounding error before its boundary.
_ROUNDING = 1e-9


class ProgressiveSettings(ObjectiveSettings):
    """Settings of an objective whose blocks can come one after another."""

    progressive: Progressive = Field(
        default="none",
        description="`none`: all matched blocks at once; `transfer`: one at a time from the bottom, those below it "
        "frozen; `unlock`: one after another from the bottom, and they stay",
    )


def stage(settings: ObjectiveSettings, stages: int, progress: float) -> int | None:
    """Returns the stage of the window, counted from 0; None outside of the window."""
    if not settings.counts_at(progress):
        return None
    done = (progress - settings.start) / (settings.end - settings.start)
    return min(stages - 1, max(0, math.floor(done * stages + _ROUNDING)))


def counted(settings: ProgressiveSettings, pairs: Pairs, progress: float) -> tuple[int, ...]:
    """Returns which of the pairs count, as positions in `pairs`; none outside of the window."""
    now = stage(settings, len(pairs), progress)
    if now is None:
        return ()
    if settings.progressive == "none":
        return tuple(range(len(pairs)))
    return (now,) if settings.progressive == "transfer" else tuple(range(now + 1))


def frozen(settings: ProgressiveSettings, pairs: Pairs, progress: float) -> frozenset[int]:
    """Returns the student's blocks that are frozen; 0 is the embedding layer."""
    now = stage(settings, len(pairs), progress)
    if now is None or settings.progressive != "transfer":
        return frozenset()
    learned = pairs[now - 1][0] if now else 0
    return frozenset(range(learned + 1))


def describe(settings: ProgressiveSettings) -> str:
    """Says in what order the blocks come, for the line printed before training; empty if all come at once."""
    return {
        "none": "",
        "transfer": "; one block at a time, those below frozen",
        "unlock": "; one block after another, and they stay",
    }[settings.progressive]
