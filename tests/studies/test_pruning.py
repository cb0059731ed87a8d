"""Trials of a search that fall behind are stopped, and what was stopped is never run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_world import quiet

from codir.studies import pruning
from codir.studies.pruning import STARTUP, behind
from codir.studies.run import study
from codir.studies.survey import Outcome

GOOD = [Outcome("finished", 0.8 + n / 100, (0.6 + n / 100, 0.7, 0.8 + n / 100)) for n in range(5)]


def test_median() -> None:
    # the median of the five after the first evaluation is 0.62
    assert behind([0.61], GOOD, "median")
    assert not behind([0.63], GOOD, "median")
    # the best so far counts: one bad evaluation is no reason
    assert not behind([0.75, 0.1], GOOD, "median")
    assert behind([0.61, 0.65], GOOD, "median")
    assert not behind([0.61], GOOD, "none")


def test_nobody_is_stopped_before_enough_have_finished() -> None:
    few = GOOD[: STARTUP - 1]
    for how in ("median", "halving"):
        assert not behind([0.0], few, how)
        assert not behind([0.0], [*few, Outcome("failed"), Outcome("pruned", 0.1, (0.1,))], how)


def test_halving_lets_the_better_half_go_on() -> None:
    assert behind([0.1], GOOD, "halving")
    assert not behind([0.99], GOOD, "halving")
    assert not behind([0.99, 0.99], GOOD, "halving")


def test_a_pruned_trial_is_finished_as_pruned_and_not_repeated(
    study_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    here: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def verdict(values: Sequence[float], others: Sequence[Outcome], how: str) -> bool:
        asked.append((len(values), len(others)))
        return len(values) == 2 and len(others) == 1

    monkeypatch.setattr(pruning, "behind", verdict)
    settings = study_settings(
        tmp_path / "s",
        recipes=["kd"],
        seeds=[1],
        strategy="random",
        space={"training.learning_rate": [1e-3, 2e-3, 3e-3]},
        trials=3,
        pruning="median",
        training={"epochs": 3, "batch_size": 8, "precision": "fp32"},
    )
    result = study(**settings, console=quiet())
    assert len(result.pruned) == 1
    assert [each.phase for each in result.results].count("search") == 2
    assert [each.phase for each in result.results].count("final") == 1
    # the last evaluation is not asked about, the final trial never
    assert asked == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]
    folder = tmp_path / "s" / "trials" / result.pruned[0]
    content = json.loads((folder / "pruned.json").read_text())
    assert len(content["values"]) == 2
    assert content["score"] == content["values"][-1]
    assert not (folder / "checkpoints").exists()
    assert not (folder / "model.safetensors").exists()
    chosen = {str(dict(each.settings)) for each in result.results if each.phase == "final"}
    assert chosen <= {str(dict(each.settings)) for each in result.results if each.phase == "search"}
    assert len(here) == 4
    study(**{**settings, "resume": True}, console=quiet())
    assert len(here) == 4


def test_tpe_trains_what_it_proposes(
    study_settings: Callable[..., dict[str, Any]], tmp_path: Path, here: list[str]
) -> None:
    settings = study_settings(
        tmp_path / "s",
        recipes=["kd"],
        seeds=[1],
        strategy="tpe",
        trials=4,
        parallel=2,
        space={
            "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "objectives.kd.weight": [0.5, 0.9],
        },
    )
    result = study(**settings, console=quiet())
    searched = [each for each in result.results if each.phase == "search"]
    (final,) = [each for each in result.results if each.phase == "final"]
    assert len(searched) == 4
    best = max(searched, key=lambda each: each.score)
    assert final.score >= 0
    assert any(dict(each.settings) == dict(final.settings) for each in searched if each.score == best.score)
    assert final.seed == 1
    assert {each.seed for each in searched} == {0}
    before = len(here)
    study(**{**settings, "resume": True}, console=quiet())
    assert len(here) == before == 5
