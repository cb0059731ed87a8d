"""The packaged evidence: read into entries, and a damaged file says where."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from codir.config.evidence import load_evidence
from codir.errors import RunError

ENTRY: dict[str, Any] = {
    "study": "baselines",
    "recipe": "pkd",
    "settings": {"training.learning_rate": 5e-5},
    "task": "mrpc",
    "kind": "classification",
    "metric": "f1",
    "train_examples": 3668,
    "teacher": {"blocks": 6, "width": 384, "score": 0.85},
    "student": {"layers": 3, "width": 384, "parameters": 17_400_000},
    "epochs": 3,
    "steps": 345,
    "seeds": 5,
    "scores": [0.81, 0.82, 0.8, 0.81, 0.81],
    "mean": 0.81,
    "sd": 0.007,
    "kept": 95.3,
    "over_kd": {"mean": 0.8, "low": -0.1, "high": 1.7, "seeds": {"1": 0.5, "2": 1.1}},
    "seconds": 130.0,
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_an_entry_is_read(tmp_path: Path) -> None:
    found = load_evidence(write(tmp_path / "e.json", {"entries": [ENTRY], "versions": {"torch": "2.13"}}))
    (entry,) = found.entries
    assert (entry.recipe, entry.examples, entry.layers, entry.seeds) == ("pkd", 3668, 3, 5)
    assert entry.depth == 0.5
    assert entry.narrowness == 1.0
    assert entry.over_kd is not None
    assert entry.over_kd.high == 1.7
    assert entry.over_kd.seeds == {1: 0.5, 2: 1.1}
    assert entry.over_undistilled is None
    # a learning rate makes no other recipe of it
    assert (entry.learning_rate, entry.settings, entry.tuned) == (5e-5, {}, True)
    plain = {**ENTRY, "settings": {}, "learning_rate": 2e-5, "split": "holdout"}
    (entry,) = load_evidence(write(tmp_path / "p.json", {"entries": [plain]})).entries
    assert (entry.learning_rate, entry.tuned, entry.split) == (2e-5, False, "holdout")
    assert found.recipes == ("pkd",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ([], "no list `entries`"),
        ({"entries": []}, "no entries"),
        ({"entries": [ENTRY, {**ENTRY, "kept": None}]}, "entry 2"),
        ({"entries": [{key: value for key, value in ENTRY.items() if key != "steps"}]}, "'steps' is missing"),
        ({"entries": [{**ENTRY, "seeds": 0}]}, "at least 1"),
        ({"entries": [{**ENTRY, "over_kd": {"mean": 1}}]}, "'low' is missing"),
        (
            {"entries": [{**ENTRY, "over_undistilled": {**ENTRY["over_kd"], "high": "inf"}}]},
            "entry 1.*finite",
        ),
        ({"entries": [{**ENTRY, "over_kd": {**ENTRY["over_kd"], "seeds": {"1": "x"}}}]}, "entry 1.*'x'"),
        ({"entries": ["pkd"]}, "entry 1"),
    ],
)
def test_a_damaged_file_says_where(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "e.json", content)
    with pytest.raises(RunError, match=message) as raised:
        load_evidence(path)
    assert str(path) in str(raised.value)
    assert "--evidence" in str(raised.value)


def test_a_missing_file_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"does not exist.*--evidence FILE"):
        load_evidence(tmp_path / "none.json")


def test_the_packaged_file_is_whole() -> None:
    if not files("codir.config").joinpath("evidence.json").is_file():
        pytest.skip("evidence.json is written by benchmarks/evidence.py draw")
    assert "kd" in load_evidence().recipes
