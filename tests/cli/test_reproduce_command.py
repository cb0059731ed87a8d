"""`codir reproduce` on the command line."""

import pytest
from typer.testing import CliRunner

from codir.cli.main import app
from codir.studies.paper import reproduce as workflow

CALL = ["reproduce", "table4", "--model", "m", "--output", "out"]


@pytest.fixture
def asked(monkeypatch):
    """What the command hands to the workflow, which runs nothing."""
    calls = []
    monkeypatch.setattr(workflow, "show_plan", lambda wanted: calls.append(("plan", wanted)))
    monkeypatch.setattr(workflow, "reproduce", lambda wanted: calls.append(("run", wanted)))
    return calls


def test_flags_arrive(asked):
    flags = [
        "--scale",
        "small",
        "--teacher",
        "mrpc=a=b",
        "--pretrained",
        "mlm-pre=c",
        "--tasks",
        "mrpc, cola",
    ]
    more = [
        "--seeds",
        "1-3",
        "--workers",
        "2",
        "--corpus",
        "x.txt",
        "--corpus",
        "y.txt",
        "--set",
        "data.limit_train=5",
    ]
    outcome = CliRunner().invoke(app, [*CALL, *flags, *more])
    assert outcome.exit_code == 0, outcome.output
    ((how, wanted),) = asked
    assert how == "run"
    assert (wanted.table, wanted.scale, wanted.model) == ("table4", "small", "m")
    assert wanted.teachers == {"mrpc": "a=b"}
    assert wanted.pretrained == {"mlm-pre": "c"}
    assert wanted.tasks == ["mrpc", "cola"]
    assert (wanted.seeds, wanted.workers) == ("1-3", 2)
    assert wanted.corpus == ("x.txt", "y.txt")
    assert wanted.overrides == ("data.limit_train=5",)


def test_plan_runs_nothing(asked):
    assert CliRunner().invoke(app, [*CALL, "--plan"]).exit_code == 0
    ((how, wanted),) = asked
    assert (how, wanted.scale) == ("plan", "paper")


@pytest.mark.parametrize(
    "flags", [["--teacher", "runs/mrpc"], ["--pretrained", "=x"], ["--teacher", "mrpc="]]
)
def test_pairs_must_be_pairs(asked, flags):
    outcome = CliRunner().invoke(app, [*CALL, *flags])
    assert outcome.exit_code == 2
    assert "expected NAME=MODEL" in outcome.stderr
    assert not asked


def test_unknown_tables_and_scales_are_refused(asked):
    assert CliRunner().invoke(app, ["reproduce", "table9", "--model", "m", "--output", "o"]).exit_code == 2
    assert CliRunner().invoke(app, [*CALL, "--scale", "tiny"]).exit_code == 2
    assert not asked
