"""The example of CONTRIBUTING.md works as it stands: one file and one line, and its test passes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import codir.losses
from codir.config.config import DistillConfig
from codir.config.loading import load
from codir.losses.registry import LOSSES, find_objective, objective_names

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Puts the loss's file where Python finds it, and its line into the registry; returns the test's code."""
    text = PAGE.read_text(encoding="utf-8")
    objective, line, test = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "logit_l1.py").write_text(objective, encoding="utf-8")
    monkeypatch.setattr(codir.losses, "__path__", [*codir.losses.__path__, str(tmp_path)])
    for name, place in ast.literal_eval(f"{{{line}}}").items():
        monkeypatch.setitem(LOSSES, name, place)
    yield test
    sys.modules.pop("codir.losses.logit_l1", None)
    vars(codir.losses).pop("logit_l1", None)


def test_the_example_passes_its_own_test(example: str) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(example, "CONTRIBUTING.md", "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_one_file_is_enough_to_use_it(example: str) -> None:
    assert "logit_l1" in objective_names()
    assert find_objective("logit_l1").name == "logit_l1"
    config = load(
        DistillConfig, overrides=["teacher=t", "output=o", "data.task=sst2", "objectives.logit_l1.weight=0.5"]
    )
    assert config.objectives["logit_l1"] == {"weight": 0.5, "start": 0.0, "end": 1.0, "normalized": False}


def test_it_is_gone_without_the_file() -> None:
    assert "logit_l1" not in objective_names()


@pytest.mark.parametrize("target", ["test", "check", "format", "test-slow", "bench"])
def test_the_make_targets_it_names_exist(target: str) -> None:
    assert f"`make {target}`" in PAGE.read_text(encoding="utf-8") or f"make {target} " in PAGE.read_text(
        encoding="utf-8"
    )
    assert re.search(rf"^{target}:", (PAGE.parent / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_other_pages_name_this_version() -> None:
    citation = yaml.safe_load((PAGE.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == codir.__version__
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Sun"
    assert f"## [{codir.__version__}]" in (PAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
