"""Runs that are unfinished, damaged, moved, or no runs: what there is is shown, and what is not is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from reading import gather
from small_world import World

from codir.errors import RunError


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(json.dumps(content))  # which is YAML, too


def test_a_run_that_was_stopped_early(copy_of: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy_of / "comparison")
    for name in ("metrics.json", "table.md", "README.md", "config.json", "model.safetensors", "trained.json"):
        (copy_of / name).unlink()
    (copy_of / "contrast.safetensors").unlink()
    lines = (copy_of / "log.jsonl").read_text().splitlines()
    (copy_of / "log.jsonl").write_text("\n".join(lines[:2]) + '\n{"loss": 0.7, "loss_ta')  # half a line
    edit(copy_of / "run.json", lambda content: content.update(state="interrupted"))
    report = gather(copy_of)
    assert not report.finished
    assert "was interrupted" in report.words[0]
    assert f"step {json.loads(lines[1])['step']}" in report.words[0]
    assert report.panels == []
    assert {curve.name for curve in report.curves} >= {"crd loss", "crd accuracy"}
    assert report.config
    missing = dict(report.missing)
    assert "holds no model yet" in missing["similarity"]
    assert "curves" not in missing  # the last line of a training under way is no damage
    # one that has only begun
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(copy_of / "codir.yaml", begun)
    report = gather(begun)
    assert (report.finished, report.curves) == (False, [])
    assert "log.jsonl" in dict(report.missing)["curves"]


def test_a_run_that_failed_says_why_and_one_after_it_when_it_started(copy_of: Path) -> None:
    def failed(content: Any) -> None:
        own = {**content["attempts"][0], "started": "2026-05-05T05:05:05+00:00"}
        times = {"started": "2020-01-01T00:00:00+00:00", "ended": "2020-01-01T00:00:01+00:00"}
        content["attempts"] = [own, {**times, "state": "failed", "error": "TrainingDivergedError: it is nan"}]
        content["state"] = "failed"

    edit(copy_of / "run.json", failed)
    report = gather(copy_of, examples=0)
    assert not report.finished
    assert "failed" in report.words[0]
    assert "it is nan" in report.words[0]
    assert dict(report.facts)["started"] == "2026-05-05T05:05:05+00:00"  # of the attempt with the results


def test_the_teacher_is_gone_or_on_a_hub_that_cannot_be_reached(copy_of: Path) -> None:
    edit(copy_of / "codir.yaml", lambda config: config.update(teacher="/nowhere/teacher"))
    report = gather(copy_of)
    missing = dict(report.missing)
    assert "/nowhere/teacher does not exist" in missing["teacher"]
    assert {"similarity", "disagreements"} <= set(missing)
    assert [figure.title for figure in report.confusions] == ["CoDIR student", "Undistilled student"]
    assert [figure.switches[0][0][0] for figure in report.clouds] == ["CoDIR student"]
    assert report.panels[0].models[0].name == "teacher"
    edit(copy_of / "codir.yaml", lambda config: config.update(teacher="someone/teacher"))
    report = gather(copy_of, examples=5)
    assert "the Hugging Face Hub cannot be reached" in dict(report.missing)["teacher"]
    assert report.confusions


@pytest.mark.parametrize("value", ["/nowhere/dev.csv", 3])
def test_the_data_are_gone_or_not_understood(copy_of: Path, value: Any) -> None:
    edit(copy_of / "codir.yaml", lambda config: config["data"].update(validation=value))
    report = gather(copy_of)
    for part in ("similarity", "representations", "confusions", "disagreements"):
        assert str(value) in dict(report.missing)[part]
    assert report.panels
    assert report.curves


def test_paths_are_found_from_where_the_run_lies(
    report_world: World, copy_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(report_world.teacher, tmp_path / "models" / "teacher")
    shutil.copy(report_world.dev, tmp_path / "dev.csv")

    def relative(config: Any) -> None:
        config["teacher"] = "models/teacher"
        config["data"] |= {"validation": "dev.csv", "train": "elsewhere/train.csv"}

    edit(copy_of / "codir.yaml", relative)
    monkeypatch.chdir(tmp_path / "models")
    report = gather(copy_of, examples=5)
    assert report.similarities
    assert report.missing == []
    assert report.panels[0].models[0].layers == 4


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("metrics.json", "results"),
        ("run.json", "state of the run"),
        ("environment.json", "environment"),
        ("codir.yaml", "configuration"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(copy_of: Path, name: str, part: str) -> None:
    for text in ('{"half": ', "[1, 2]"):
        (copy_of / name).write_text(text)
        report = gather(copy_of, examples=0)
        assert f"{copy_of / name} is damaged" in dict(report.missing)[part]
        assert report.curves
        assert bool(report.panels) == (name != "metrics.json")
        assert report.finished == (name in ("environment.json", "codir.yaml"))
    if name == "metrics.json":
        assert "results are missing or damaged" in report.words[0]


def test_a_table_of_another_kind_is_named(copy_of: Path) -> None:
    edit(copy_of / "metrics.json", lambda content: content.update(comparison={"rows": [{"name": 3}]}))
    report = gather(copy_of, examples=0)
    assert "comparison" in dict(report.missing)["table"]
    assert report.panels == []


def test_damaged_lines_of_the_log_are_named(copy_of: Path) -> None:
    log = copy_of / "log.jsonl"
    whole = log.read_text()
    lines = whole.splitlines()
    for text, bad in (
        (f"garbage\n\x00\x01\n{whole}[1, 2]\n" + '{"loss_task": "high", "step": 1}\n', "line 1, 2 of"),
        ("\n".join([*lines[:3], lines[3][:9]]), "line 4 of 4"),  # cut off
    ):
        log.write_text(text)
        report = gather(copy_of, examples=0)
        assert str(log) in dict(report.missing)["curves"]
        assert bad in dict(report.missing)["curves"]
        assert report.curves


def test_damaged_weights_and_contrasts_cost_what_needs_them_only(copy_of: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy_of / "contrast.safetensors"
    tensors = load_file(path)
    other = {"crd/teacher.weight": tensors["crd/teacher.weight"][:, :-32].contiguous()}  # of other models
    save_file({**tensors, **other}, path)
    assert "of other models" in dict(gather(copy_of, examples=5).missing)["the contrast's shared space"]
    path.write_bytes(path.read_bytes()[:100])
    report = gather(copy_of, examples=5)
    assert f"{path} is damaged" in dict(report.missing)["the contrast's shared space"]
    # each model's last layer
    assert ["last layer of the teacher" in figure.title for figure in report.clouds] == [True, False]
    path.unlink()
    assert "is not there" in dict(gather(copy_of, examples=5).missing)["the contrast's shared space"]
    weights = copy_of / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    report = gather(copy_of, examples=5)
    assert "truncated or damaged" in dict(report.missing)["CoDIR student"]
    assert [figure.title for figure in report.confusions] == ["Teacher", "Undistilled student"]
    assert report.panels


def test_what_is_no_run_is_refused_with_the_way_out(
    copy_of: Path, tmp_path: Path, report_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"")
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (Path("user/some-model"), "on the Hub is not enough"),
        (report_world.dev, "is a file"),
        (other, "neither a run nor a study: it holds cat.jpg"),
        (copy_of / "comparison" / "kd", f"Report the run: codir report {copy_of}"),
        (tmp_path, f"codir report {copy_of}"),
    ):
        with pytest.raises(RunError) as caught:
            gather(path)
        assert message in str(caught.value)
        assert ("Hub" in str(caught.value)) == (message == "on the Hub is not enough")
