"""Runs that are unfinished, old, damaged, moved, or no runs: what there is is shown, and what is not is named."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from reading import gather
from small_world import World

import codir
from codir.errors import ConfigError, RunError


def parts(missing: list[tuple[str, str]]) -> dict[str, str]:
    return dict(missing)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_config(run: Path, change: Callable[[Any], None]) -> None:
    content = yaml.safe_load((run / "codir.yaml").read_text())
    change(content)
    (run / "codir.yaml").write_text(yaml.safe_dump(content))


def test_a_run_that_was_stopped_early(copy_of: Path) -> None:
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
    missing = parts(report.missing)
    assert "holds no model yet" in missing["similarity"]
    assert "curves" not in missing  # the last line of a training under way is no damage


def test_a_run_that_failed_says_why(copy_of: Path) -> None:
    def failed(content: Any) -> None:
        content["state"] = "failed"
        content["attempts"][-1] |= {"state": "failed", "error": "TrainingDivergedError: the loss is nan"}

    edit(copy_of / "run.json", failed)
    (copy_of / "metrics.json").unlink()
    report = gather(copy_of, models=False)
    assert not report.finished
    assert "failed" in report.words[0]
    assert "the loss is nan" in report.words[0]


def test_a_run_that_has_only_begun(tmp_path: Path, copy_of: Path) -> None:
    run = tmp_path / "begun"
    run.mkdir()
    shutil.copy(copy_of / "codir.yaml", run)
    report = gather(run)
    assert not report.finished
    assert report.curves == []
    assert "log.jsonl" in parts(report.missing)["curves"]


def test_a_run_of_an_older_codir(copy_of: Path) -> None:
    def older(content: Any) -> None:
        comparison = content["comparison"]
        for key in ("constant", "tests", "seeds"):
            comparison.pop(key)
        for row in comparison["rows"]:
            row["timing"] = None
        del content["costs"], content["validation_examples"]

    edit(copy_of / "metrics.json", older)
    for name in ("contrast.safetensors", "trained.json", "run.json", "environment.json"):
        (copy_of / name).unlink()
    edit_config(
        copy_of, lambda config: [config.pop(key) for key in ("command", "cache_tokens_gb") if key in config]
    )
    report = gather(copy_of)
    assert report.finished
    (panel,) = report.panels
    assert panel.constant == 0.5  # from the labels
    assert panel.models[-1].milliseconds is None
    missing = parts(report.missing)
    assert "codir latency" in missing["times"]
    assert "contrast.safetensors is not there" in missing["the contrast's shared space"]
    assert [len(figure.switches[0]) for figure in report.clouds] == [1, 1]  # each model's last layer
    assert "last layer of the teacher" in report.clouds[0].title
    assert report.similarities
    assert report.disagreements


def test_settings_of_another_version_are_no_obstacle(copy_of: Path) -> None:
    edit_config(copy_of, lambda config: config["data"].update(not_yet_known=3))
    edit_config(copy_of, lambda config: config["training"].update(not_yet_known=3))
    assert gather(copy_of).confusions


def test_the_teacher_is_gone(copy_of: Path) -> None:
    edit_config(copy_of, lambda config: config.update(teacher="/nowhere/teacher"))
    report = gather(copy_of)
    missing = parts(report.missing)
    assert "/nowhere/teacher does not exist" in missing["teacher"]
    assert {"similarity", "disagreements"} <= set(missing)
    assert [figure.title for figure in report.confusions] == ["CoDIR student", "Undistilled student"]
    assert [figure.switches[0][0][0] for figure in report.clouds] == ["CoDIR student"]
    assert report.panels[0].models[0].name == "teacher"


def test_the_teacher_is_on_a_hub_that_cannot_be_reached(copy_of: Path) -> None:
    edit_config(copy_of, lambda config: config.update(teacher="someone/teacher"))
    report = gather(copy_of)
    assert "the Hugging Face Hub cannot be reached" in parts(report.missing)["teacher"]
    assert report.confusions


def test_the_data_are_gone(copy_of: Path) -> None:
    edit_config(copy_of, lambda config: config["data"].update(validation="/nowhere/dev.csv"))
    report = gather(copy_of)
    missing = parts(report.missing)
    for part in ("similarity", "representations", "confusions", "disagreements"):
        assert "/nowhere/dev.csv" in missing[part]
    assert report.panels
    assert report.curves


def test_paths_are_found_from_where_the_run_lies(
    report_world: World, copy_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(report_world.teacher, tmp_path / "models" / "teacher")
    shutil.copy(report_world.dev, tmp_path / "dev.csv")

    def relative(config: Any) -> None:
        config["teacher"] = "models/teacher"
        config["data"]["validation"] = "dev.csv"
        config["data"]["train"] = "elsewhere/train.csv"

    edit_config(copy_of, relative)
    elsewhere = tmp_path / "elsewhere-else"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    report = gather(copy_of)
    assert report.similarities
    assert report.missing == []
    assert report.panels[0].models[0].layers == 4


@pytest.mark.parametrize(
    ("name", "part"),
    [("metrics.json", "results"), ("run.json", "state of the run"), ("environment.json", "environment")],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(copy_of: Path, name: str, part: str) -> None:
    (copy_of / name).write_text('{"half": ')
    report = gather(copy_of, models=False)
    assert str(copy_of / name) in parts(report.missing)[part]
    assert report.curves
    if name == "metrics.json":
        assert not report.finished
        assert "results are missing or damaged" in report.words[0]


def test_a_damaged_configuration_leaves_the_results(copy_of: Path) -> None:
    (copy_of / "codir.yaml").write_text("data: [unclosed")
    report = gather(copy_of)
    assert "damaged" in parts(report.missing)["configuration"]
    assert report.panels
    assert report.curves


def test_a_table_of_another_kind_is_named(copy_of: Path) -> None:
    edit(copy_of / "metrics.json", lambda content: content.update(comparison={"rows": [{"name": 3}]}))
    report = gather(copy_of, models=False)
    assert "comparison" in parts(report.missing)["table"]
    assert report.panels == []


def test_damaged_lines_of_the_log_are_counted(copy_of: Path) -> None:
    log = copy_of / "log.jsonl"
    log.write_text("garbage\n\x00\x01\n" + log.read_text() + '[1, 2]\n{"loss_task": "high", "step": 1}\n')
    report = gather(copy_of, models=False)
    assert parts(report.missing)["curves"] == f"{log} is damaged; left out: line 1, 2"
    assert report.curves


def test_a_log_that_was_cut_is_named_with_its_line(copy_of: Path) -> None:
    log = copy_of / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], lines[3][:9]]))
    report = gather(copy_of, models=False)
    assert f"line 4 of {log}, its last, is cut off" in parts(report.missing)["curves"]
    assert report.curves


def test_the_start_is_that_of_the_attempt_with_the_results(copy_of: Path) -> None:
    def refused_before(content: dict[str, Any]) -> None:
        own = content["attempts"][0]
        own["started"] = "2026-05-05T05:05:05+00:00"
        failed = {
            "started": "2020-01-01T00:00:00+00:00",
            "ended": "2020-01-01T00:00:01+00:00",
            "state": "failed",
        }
        content.update(started=failed["started"], attempts=[failed, own])

    edit(copy_of / "run.json", refused_before)
    assert parts(gather(copy_of, models=False).facts)["started"] == "2026-05-05T05:05:05+00:00"


def test_a_name_of_the_hub_is_told_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="on the Hub is not enough"):
        gather("user/some-model")
    with pytest.raises(RunError) as caught:
        gather(tmp_path / "none")
    assert "Hub" not in str(caught.value)


def test_a_truncated_contrast_is_named(copy_of: Path) -> None:
    path = copy_of / "contrast.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    report = gather(copy_of)
    assert f"{path} is damaged" in parts(report.missing)["the contrast's shared space"]
    assert report.clouds


def test_a_contrast_of_other_models_is_named(copy_of: Path, report_world: World) -> None:
    from safetensors.torch import load_file, save_file

    path = copy_of / "contrast.safetensors"
    tensors = load_file(path)
    tensors["crd/teacher.weight"] = tensors["crd/teacher.weight"][:, :-32].contiguous()
    save_file(tensors, path)
    report = gather(copy_of)
    assert "do not fit" in parts(report.missing)["the contrast's shared space"]
    assert len(report.clouds) == 2


def test_damaged_weights_cost_what_needs_them_only(copy_of: Path) -> None:
    weights = copy_of / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    report = gather(copy_of)
    assert "truncated or damaged" in parts(report.missing)["CoDIR student"]
    assert [figure.title for figure in report.confusions] == ["Teacher", "Undistilled student"]
    assert report.panels


def test_what_is_no_run_is_refused_with_the_way_out(
    copy_of: Path, tmp_path: Path, report_world: World
) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"")
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (report_world.dev, "is a file"),
        (other, "neither a run nor a study: it holds cat.jpg"),
        (copy_of / "comparison" / "kd", f"Report the run: codir report {copy_of}"),
        (tmp_path, f"codir report {copy_of}"),
    ):
        with pytest.raises(RunError, match=message.replace("(", r"\(")):
            gather(path)
    with pytest.raises(ConfigError, match="--no-models"):
        codir.report(copy_of, examples=1)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of everything inside a JSON value, inner nodes too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, part in inner for each in ((*path, key), *leaves(part, (*path, key)))]


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "environment.json", "codir.yaml"])
def test_no_value_of_a_wrong_kind_stops_the_report(copy_of: Path, name: str) -> None:
    """Each value in turn is replaced by some of another kind: of an older codir, a newer one, or a careless hand."""
    path = copy_of / name
    whole = yaml.safe_load(path.read_text()) if name.endswith("yaml") else json.loads(path.read_text())
    odds = ("x", None, [1], {"a": 1}, -1.5, float("nan"))
    for number, place in enumerate(leaves(whole)):
        for odd in (odds[number % 6], odds[(number + 3) % 6]):  # all six would take long
            content = copy.deepcopy(whole)
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            path.write_text(yaml.safe_dump(content) if name.endswith("yaml") else json.dumps(content))
            try:
                report = gather(copy_of, models=False)
            except Exception as error:
                raise AssertionError(f"{name}: {place} = {odd!r}") from error
            assert report.words
            for text in (report.title, report.subtitle, *report.words):
                assert isinstance(text, str)
