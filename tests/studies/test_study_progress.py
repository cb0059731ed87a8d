"""What a study says of itself while it runs: counts, teachers, the time that is left."""

from __future__ import annotations

import pytest

from codir.studies.progress import Progress
from codir.studies.store import Claim, teacher_key
from codir.studies.survey import Outcome
from codir.studies.trial import Trial

TRIALS = [Trial("kd", "mrpc", None, seed) for seed in (1, 2, 3, 4)]


def claims(*what: str) -> list[Claim]:
    return [Claim(number, each, f"worker-{number}", "here", 1, 0.0) for number, each in enumerate(what, 1)]


def test_teachers_that_are_fine_tuned_are_no_trials() -> None:
    both = claims(teacher_key("mrpc"), teacher_key("cola"))
    assert Progress(TRIALS, {}, both).in_words() == (
        "0 of 4 trials finished, 0 running, fine-tuning the teacher of mrpc and the teacher of cola"
    )
    one = claims(teacher_key("cola"), TRIALS[0].key)
    assert Progress(TRIALS, {}, one).in_words() == (
        "0 of 4 trials finished, 1 running, fine-tuning the teacher of cola"
    )


def test_how_long_it_will_take() -> None:
    done = {TRIALS[0].key: Outcome("finished", 0.8, seconds=120.0)}
    progress = Progress(TRIALS, done, claims(TRIALS[1].key, TRIALS[2].key))
    # two have half of it left, one all of it: 240 seconds of work for two workers
    assert progress.seconds_left == pytest.approx(120.0)
    assert progress.in_words() == "1 of 4 trials finished, 2 running, about 2 min left"


def test_what_cannot_be_run_is_not_waited_for() -> None:
    failed = {TRIALS[0].key: Outcome("failed", error="no memory")}
    progress = Progress(TRIALS, failed, [], blocked=[trial.key for trial in TRIALS[1:]])
    assert progress.left == []
    assert progress.in_words() == "0 of 4 trials finished, 0 running, 1 failed, 3 without a teacher"
