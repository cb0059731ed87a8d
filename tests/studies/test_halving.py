"""Successive halving: who goes on, with how much, and that it can be stopped anywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_world import quiet

from codir.errors import InterruptedRunError, RunError
from codir.studies import halving as module
from codir.studies.halving import Arm, Rung, halve, rungs


@pytest.mark.parametrize(
    ("arms", "epochs", "expected"),
    [
        (1, 4, [(1, 4, 2)]),
        (2, 4, [(2, 4, 2)]),
        (3, 4, [(3, 2, 1), (2, 4, 2)]),
        (6, 4, [(6, 1, 1), (3, 2, 1), (2, 4, 2)]),
        (6, 3, [(6, 1, 1), (3, 2, 1), (2, 3, 2)]),
        (8, 1, [(8, 1, 1), (4, 1, 1), (2, 1, 2)]),
        (6, 0.5, [(6, 1, 1), (3, 1, 1), (2, 1, 2)]),
    ],
)
def test_rungs(arms: int, epochs: float, expected: list[tuple[int, int, int]]) -> None:
    assert rungs(arms, epochs) == [Rung(*each) for each in expected]


class Studies:
    """Stands for `study`: scores by the name of the arm, and what was asked for."""

    def __init__(self, scores: dict[str, float | None]):
        self.scores = scores
        self.asked: list[dict[str, Any]] = []

    def __call__(self, console: Any, report: bool, **values: Any) -> Any:
        assert not report
        self.asked.append(values)
        results = [
            SimpleNamespace(recipe=name, score=self.scores[name], seed=seed)
            for name in values["recipes"]
            for seed in values["seeds"]
            if self.scores[name] is not None
        ]
        return SimpleNamespace(results=results, failed={"data/x": "it broke"})


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scores: dict[str, float | None]
) -> tuple[Any, Studies]:
    stand_in = Studies(scores)
    monkeypatch.setattr(module, "study", stand_in)
    arms = [Arm(name.partition("-lr")[0], float(name.partition("-lr")[2])) for name in scores]
    found = halve(
        arms, rungs(len(arms), 4), tmp_path, lambda rung: {"training": {"epochs": rung.epochs}}, quiet()
    )
    return found, stand_in


def test_the_better_half_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = {"a-lr1": 0.1, "a-lr2": 0.6, "b-lr1": 0.5, "b-lr2": 0.2, "c-lr1": 0.55, "c-lr2": 0.3}
    found, studies = run(monkeypatch, tmp_path, dict(scores))
    assert [list(each["recipes"]) for each in studies.asked] == [
        list(scores),
        ["a-lr2", "c-lr1", "b-lr1"],
        ["a-lr2", "c-lr1"],
    ]
    assert [each["training"]["epochs"] for each in studies.asked] == [1, 2, 4]
    assert [each["seeds"] for each in studies.asked] == [[1], [1], [1, 2]]
    assert [each["output"] for each in studies.asked] == [str(tmp_path / f"rung-{n}") for n in (1, 2, 3)]
    assert studies.asked[0]["recipes"]["a-lr2"] == {
        "recipe": "a",
        "settings": {"training.learning_rate": 2.0},
    }
    assert [(each.arm.name, each.rung) for each in found] == [
        ("a-lr2", 3),
        ("c-lr1", 3),
        ("b-lr1", 2),
        ("c-lr2", 1),
        ("b-lr2", 1),
        ("a-lr1", 1),
    ]


def test_of_equal_scores_the_first_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _ = run(monkeypatch, tmp_path, {"a-lr1": 0.5, "b-lr1": 0.5, "c-lr1": 0.5})
    assert [each.arm.recipe for each in found] == ["a", "b", "c"]


def test_one_that_fails_drops_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, studies = run(monkeypatch, tmp_path, {"a-lr1": None, "b-lr1": 0.5, "c-lr1": float("nan")})
    assert list(studies.asked[1]["recipes"]) == ["b-lr1"]
    assert found[0].arm.recipe == "b"
    assert [each.score for each in found[1:]] == [None, None]
    with pytest.raises(RunError, match=r"All candidates failed in rung 1.*\n.*it broke"):
        run(monkeypatch, tmp_path, {"a-lr1": None, "b-lr1": None, "c-lr1": None})


def test_a_stop_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(**values: Any) -> Any:
        raise InterruptedRunError("codir study --resume")

    monkeypatch.setattr(module, "study", stopped)
    with pytest.raises(InterruptedRunError, match=r"rung 1 of 1\. The same command with --resume"):
        halve([Arm("kd", 1.0)], rungs(1, 1), tmp_path, lambda rung: {}, quiet())
