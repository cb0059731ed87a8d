"""Where weights come from is followed through run folders to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from codir.runs.lineage import hub_ancestor, started_from


def run(folder: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "codir.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_a_student_of_a_local_teacher_is_traced_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "runs" / "teacher", command="finetune", model="FacebookAI/roberta-base")
    student = run(
        tmp_path / "runs" / "student", command="distill", teacher="runs/teacher", student={"layers": 3}
    )
    monkeypatch.chdir(tmp_path)
    assert hub_ancestor("runs/student") == "FacebookAI/roberta-base"
    monkeypatch.chdir("/")
    assert hub_ancestor(str(student)) == "FacebookAI/roberta-base"
    assert hub_ancestor("runs/teacher") is None  # not an id, although it looks like one
    assert hub_ancestor("runs/teacher", near=student.parent) == "FacebookAI/roberta-base"


def test_an_id_is_its_own(tmp_path: Path) -> None:
    assert hub_ancestor("roberta-base") == "roberta-base"
    assert hub_ancestor("a/b") == "a/b"
    assert hub_ancestor(None) is None
    assert hub_ancestor(str(tmp_path)) is None  # a folder that says nothing
    assert hub_ancestor("/gone/away") is None


def test_circles_and_damage_end(tmp_path: Path) -> None:
    circle = run(tmp_path / "a", command="finetune", model=str(tmp_path / "a"))
    assert hub_ancestor(str(circle)) is None
    (circle / "codir.yaml").write_bytes(b"\xff: [")
    assert hub_ancestor(str(circle)) is None
    (circle / "codir.yaml").write_text("- a")
    assert hub_ancestor(str(circle)) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"command": "finetune", "model": "m"}, "m"),
        ({"command": "distill", "teacher": "t"}, "t"),
        ({"command": "distill", "teacher": "t", "student": {"layers": 2, "init": [1, 2]}}, "t"),
        ({"command": "distill", "teacher": "t", "student": {"init": "random"}}, None),
        ({"command": "distill", "teacher": "t", "student": {"config": {"model_type": "bert"}}}, None),
        ({"command": "distill", "teacher": "t", "student": {"model": "s"}}, "s"),
        ({"command": "pretrain", "teacher": None, "student": {"model": "s"}}, "s"),
        ({}, None),
    ],
)
def test_what_weights_started_from(settings: dict[str, Any], expected: str | None) -> None:
    assert started_from(settings) == expected
