"""What a training took is counted over all attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_world import TRAINING, World, quiet
from transformers import TrainerCallback

from codir import distill
from codir.files import read_json
from codir.training.callbacks import TrainingClock


class Die(TrainerCallback):
    """Ends the training at step 13 as a crash does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 13:
            raise KeyError("stopped by the test")


def test_seconds_of_an_attempt_that_was_killed_count(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every attempt takes 100 seconds by this clock, whenever it is asked
    monkeypatch.setattr(TrainingClock, "seconds", property(lambda clock: clock.before + 100.0))
    settings: dict[str, Any] = {
        "baseline": False,
        "training": {**TRAINING, "num_train_epochs": 2, "eval_steps": 5},
    }
    broken = tmp_path / "broken"
    with pytest.raises(KeyError, match="stopped by the test"):
        distill(**world.settings(broken, **settings), console=quiet(), timing=False, callbacks=[Die()])
    distill(**world.settings(broken, **settings, resume=True), console=quiet(), timing=False)
    distill(**world.settings(tmp_path / "whole", **settings), console=quiet(), timing=False)
    assert read_json(broken / "trained.json")["seconds"] == 200.0
    assert read_json(tmp_path / "whole" / "trained.json")["seconds"] == 100.0


def test_the_clock_runs() -> None:
    clock = TrainingClock(before=5.0)
    first = clock.seconds
    assert 5.0 <= first <= clock.seconds < 65.0
    assert TrainingClock(**clock.state()["args"]).before >= first
