"""Objectives by name: the ones here, a user's own, and what is said about mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codir.errors import ConfigError
from codir.losses.base import Needs
from codir.losses.crd import CRD, CRDSettings
from codir.losses.registry import (
    build_objectives,
    find_objective,
    needs_of,
    objective_names,
    settings_for,
)

OWN = """
from codir.losses.base import Needs, Objective, ObjectiveSettings, Term


class OwnSettings(ObjectiveSettings):
    scale: float = 2.0


class Own(Objective):
    name = "own"
    Settings = OwnSettings

    @classmethod
    def needs(cls, settings):
        return Needs(pooled=frozenset({"cls"}))

    def forward(self, step):
        return Term(step.student.logits.sum() * self.settings.scale)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somebodys_objective.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_objective", raising=False)
    return "somebodys_objective:Own"


def test_every_file_is_found_by_its_name() -> None:
    assert {"task", "kd", "crd", "crd_official"} <= set(objective_names())
    for name in objective_names():
        assert find_objective(name).name == name
    assert find_objective("crd") is CRD


def test_a_class_of_ones_own(own: str, context, make_step) -> None:
    objectives = build_objectives({own: {"scale": 3.0}, "task": {}}, context)
    assert list(objectives) == ["own", "task"]  # the class's own name: short, and fit for a module's name
    step = make_step([0])
    assert objectives["own"](step).loss.item() == pytest.approx(3 * step.student.logits.sum().item())
    assert needs_of({own: {}, "kd": {}, "crd": {}}) == Needs(True, frozenset({"cls", "mean"}))


@pytest.mark.parametrize(("name", "message"), [("task", "does too"), ("my.own", "letters")])
def test_a_name_of_its_own(
    own: str, context, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(find_objective(own), "name", name)
    with pytest.raises(ConfigError, match=message):
        build_objectives({"task": {}, own: {}}, context)


def test_unknown_names(own: str) -> None:
    with pytest.raises(
        ConfigError, match=r"'crdd' \(did you mean 'crd'\?\): choose .*crd, crd_official, .*kd, .*mlm, .*task"
    ):
        find_objective("crdd")
    with pytest.raises(ConfigError, match="no objective 'base'"):
        find_objective("base")
    with pytest.raises(ConfigError, match="Cannot import 'no_such_package'"):
        find_objective("no_such_package:Own")
    with pytest.raises(ConfigError, match=r"no objective 'Onw' \(did you mean 'Own'\?\)"):
        find_objective(own.replace("Own", "Onw"))
    with pytest.raises(ConfigError, match="subclass"):
        find_objective("math:sqrt")


def test_settings_are_checked() -> None:
    assert settings_for("crd", {"k": 100}) == CRDSettings(k=100)
    with pytest.raises(ConfigError, match=r"no setting 'temprature' \(did you mean 'temperature'\?\)"):
        settings_for("crd", {"temprature": 0.1})
    with pytest.raises(ConfigError, match=r"crd\.temperature=-1: .*greater than 0"):
        settings_for("crd", {"temperature": -1})
    with pytest.raises(ConfigError, match=r"crd\.k='most'"):
        settings_for("crd", {"k": "most"})
    with pytest.raises(ConfigError, match=r"kd\.weight=-0\.5"):
        settings_for("kd", {"weight": -0.5})
    with pytest.raises(ConfigError, match=r"(?s)crd\.momentum=1\.0.*'temprature'"):
        settings_for("crd", {"temprature": 0.1, "momentum": 1.0})


def test_everything_is_checked_before_anything_is_built(context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CRD, "__init__", lambda *_: pytest.fail("built before the other settings were checked")
    )
    with pytest.raises(ConfigError, match=r"crd_official\.k=0"):
        build_objectives({"crd": {"k": 5}, "crd_official": {"k": 0}}, context)
