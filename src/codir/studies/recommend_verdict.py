"""What the last rung of a recommendation's trial allows to say: a paired test of all seeds on the held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codir.config.loading import load_distill
from codir.runs.evaluate import EvaluationResult, evaluate
from codir.runs.paired import PairedTest, paired_test
from codir.runs.runfolder import RunFolder
from codir.studies.halving import Standing


def verdict(standings: Sequence[Standing]) -> str:
    """Says by how much the first won, and whether that is more than chance on the held-out examples.

    Args:
        standings: the winner first, as `halve` returns them.
    """
    winner = standings[0]
    text = f"`{winner.arm.recipe}` at {winner.arm.learning_rate:g} wins"
    constant = max((each.constant_score or 0.0 for each in winner.results), default=0.0)
    if winner.score is not None and winner.score <= constant + 0.005:
        return (
            f"{text} with {100 * winner.score:.1f} points, and answering the same class to everything scores "
            f"{100 * constant:.1f}: the trial was too short to tell anything. Give it more --trial-examples or "
            "--trial-epochs."
        )
    if len(standings) == 1:
        return f"{text}: it was the only candidate."
    second = next((each for each in standings[1:] if each.rung == winner.rung and each.results), None)
    if second is None or winner.score is None or second.score is None:
        return f"{text}: the others failed."
    text += (
        f" by {100 * (winner.score - second.score):.1f} points over `{second.arm.recipe}` at "
        f"{second.arm.learning_rate:g} ({_seeds(winner.seeds, second.seeds)})"
    )
    test = _paired(winner, second)
    beyond = test.significant and test.difference > 0
    word = "beyond what the held-out examples explain by chance" if beyond else "within noise"
    more = "" if beyond else " Either will do; take the cheaper one if they differ in cost."
    return f"{text}: {word} ({test.metric}, {test.in_words()}).{more}"


def _seeds(first: int, second: int) -> str:
    if first != second:
        return f"means of {first} and {second} seeds"
    return f"means of {first} seeds" if first > 1 else "1 seed"


def _paired(first: Standing, second: Standing) -> PairedTest:
    """Tests what the winner was chosen by: the means of all seeds of two arms."""
    ones, others = ([_evaluated(result.folder) for result in each.results] for each in (first, second))
    labels = ones[0].labels[ones[0].main_split]
    before, after = (np.stack([each.predictions() for each in models]) for models in (others, ones))
    return paired_test(labels, before, after, ones[0].task.main_metric)


def _evaluated(folder: Path) -> EvaluationResult:
    return evaluate(folder, load_distill(config=RunFolder(folder).config).data, quiet=True)
