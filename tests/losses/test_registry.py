"""Losses by name: the ones here, a user's own, what is said about mistakes; and their weighted sum (Eq. 1)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from codir.errors import ConfigError
from codir.losses.base import Needs, Term, weighted_sum
from codir.losses.crd import CRD, CRDSettings
from codir.losses.registry import (
    build_objectives,
    check_objectives,
    find_objective,
    needs_of,
    objective_names,
    predicts,
    settings_for,
    taught_by,
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


def test_every_loss_is_found_by_its_name() -> None:
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
    assert taught_by({"task": {}, own: {}, "attention_kl": {}}) == [own, "attention_kl"]
    assert [predicts({name: {}}) for name in ("mlm", "kd", "crd", own)] == [True, True, False, False]


@pytest.mark.parametrize(("name", "message"), [("task", "does too"), ("my.own", "letters")])
def test_a_name_of_its_own(own: str, context, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setattr(find_objective(own), "name", name)
    with pytest.raises(ConfigError, match=message):
        build_objectives({"task": {}, own: {}}, context)


def test_unknown_names(own: str) -> None:
    with pytest.raises(
        ConfigError, match=r"'crdd' \(did you mean 'crd'\?\): choose .*crd, crd_official, .*kd, .*mlm, .*task"
    ):
        find_objective("crdd")
    with pytest.raises(ConfigError, match="Cannot import 'no_such_package'"):
        find_objective("no_such_package:Own")
    with pytest.raises(ConfigError, match=r"no objective 'Onw' \(did you mean 'Own'\?\)"):
        find_objective(own.replace("Own", "Onw"))
    with pytest.raises(ConfigError, match="subclass"):
        find_objective("math:sqrt")


def test_settings_are_checked() -> None:
    assert settings_for("crd", {"k": 100}) == CRDSettings(k=100)
    for name, given, message in (
        ("crd", {"temprature": 0.1}, r"no setting 'temprature' \(did you mean 'temperature'\?\)"),
        ("crd", {"temperature": -1}, r"crd\.temperature=-1: .*greater than 0"),
        ("crd", {"k": "most"}, r"crd\.k='most'"),
        ("kd", {"weight": -0.5}, r"kd\.weight=-0\.5"),
        ("crd", {"temprature": 0.1, "momentum": 1.0}, r"(?s)crd\.momentum=1\.0.*'temprature'"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_for(name, given)


def test_what_a_loss_can_learn_from(context, corpus) -> None:
    with pytest.raises(ConfigError, match="for labelled examples use 'task'"):
        check_objectives({"mlm": {}}, context)
    with pytest.raises(ConfigError, match="use 'mlm' or 'kd'"):
        check_objectives({"task": {}}, corpus)
    check_objectives({"mlm": {}, "kd": {}, "crd": {}}, corpus)


def test_everything_is_checked_before_anything_is_built(context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRD, "__init__", lambda *_: pytest.fail("built before the other settings were checked"))
    with pytest.raises(ConfigError, match=r"crd_official\.k=0"):
        build_objectives({"crd": {"k": 5}, "crd_official": {"k": 0}}, context)


def test_sum_and_gradients() -> None:
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in [("a", 1.5), ("b", -2.0), ("c", 7.0)]}
    weights = {"a": 1.0, "b": 0.7, "c": 0.1, "unused": 5.0}
    loss = weighted_sum({name: Term(leaf * 1) for name, leaf in leaves.items()}, weights)
    assert loss.item() == pytest.approx(1.5 * 1.0 - 2.0 * 0.7 + 7.0 * 0.1)
    loss.backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(weights[name])


def test_a_term_of_weight_zero_cannot_spoil_the_sum() -> None:
    good, bad = torch.tensor(2.0, requires_grad=True), torch.tensor(torch.nan, requires_grad=True)
    loss = weighted_sum({"good": Term(good * 1), "bad": Term(bad * 1)}, {"good": 3.0, "bad": 0.0})
    loss.backward()
    assert loss.item() == 6.0
    assert bad.grad is None
    assert weighted_sum({"good": Term(good * 1)}, {"good": 0.0}).requires_grad
