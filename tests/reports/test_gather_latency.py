"""Measured times and exported folders beside a run's own students."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from small_world import World

from codir.deployment.folder import Manifest
from codir.errors import RunError
from codir.reports.contents import ReportedModel
from codir.reports.gather import gather
from codir.workflows.latency_table import LatencyResult, LatencyRow
from codir.workflows.timing import RealLengths, Timing


def timing(milliseconds: float, speedup: float) -> Timing:
    rounds = (milliseconds - 0.5, milliseconds, milliseconds + 1.0)
    return Timing(
        milliseconds, 0.75, speedup, speedup, speedup, rounds, 64, 16, 32, True, "cpu", "float32", 1
    )


def row(path: Path, engine: str, precision: str, milliseconds: float, **values: Any) -> LatencyRow:
    settings = {"blocks": 2, "parameters": 1, "embedding_parameters": 1, "bytes": 5, **values}
    return LatencyRow(
        name=path.name,
        path=str(path),
        engine=engine,
        precision=precision,
        timing=timing(milliseconds, 8.0 / milliseconds),
        **settings,
    )


def write(path: Path, *rows: LatencyRow, task: str = "train") -> Path:
    result = LatencyResult(tuple(rows), {"cpu": "A Processor"}, {"batch": 16}, task)
    path.write_text(json.dumps(result.to_json()))
    return path


def requests(texts: int, p50: float, p95: float) -> RealLengths:
    return RealLengths(texts, 10, p50, p95, p50, 100.0, 1.0, 20.0)


def by_name(models: Any) -> dict[str, ReportedModel]:
    return {model.name: model for model in models}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(tmp_path / "deploy", str(tmp_path / "run"))


def export(folder: Path, source: str, **values: Any) -> Path:
    """Writes what is an exported folder to those who only read its manifest."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"12345")
    settings = dict(
        format="onnx",
        quantize="int8",
        precision="int8",
        engine="onnxruntime",
        source=source,
        source_digest="",
        parameters=77,
        metrics_after={"validation": {"accuracy": 0.75}},
    )
    Manifest(**{**settings, **values}).write(folder)
    return folder


def test_measured_times_take_the_place_of_the_runs_own(
    copy_of: Path, report_world: World, exported: Path
) -> None:
    plain = by_name(gather(copy_of, models=False).panels[0].models)
    assert plain["CoDIR student"].measured != ""
    shape = plain["CoDIR student"].parameters
    write(
        copy_of / "latency.json",
        row(report_world.teacher, "torch", "fp32", 8.0, blocks=4, parameters=plain["teacher"].parameters),
        row(
            *(copy_of, "torch", "fp32", 4.0),
            parameters=shape,
            real={"1": requests(1, 5.0, 9.0), "16": requests(16, 50.0, 70.0)},
            peak_memory=1_000,
        ),
        row(copy_of, "torch-bf16", "bf16", 2.0, score=0.8, metric="accuracy"),
        row(exported, "onnxruntime", "int8", 1.0, score=0.75, metric="accuracy", parameters=77),
        row(report_world.folder / "encoder", "torch", "fp32", 6.0, score=0.9, metric="f1"),
    )
    report = gather(copy_of, models=False)
    models = by_name(report.panels[0].models)
    assert models["teacher"].milliseconds == 8.0
    # students of one shape take one time
    for name in ("CoDIR student", "KD student", "undistilled student"):
        assert models[name].milliseconds == 4.0
        assert (models[name].low, models[name].high) == (3.5, 5.0)
        assert models[name].speedup == 2.0
        assert models[name].score == plain[name].score
    assert models["CoDIR student"].requests == {1: (5.0, 9.0), 16: (50.0, 70.0)}
    assert models["CoDIR student"].peak_memory == 1_000
    # the headline says what the table says
    assert "at 2.00 times its speed" in report.words[0]
    assert len({model.measured for model in models.values()}) == 1
    assert "A Processor" in models["teacher"].measured
    assert "32 tokens" in models["teacher"].measured
    assert models["CoDIR student (torch-bf16)"].role == "codir"
    assert models["CoDIR student (torch-bf16)"].engine == "torch-bf16"
    assert models["CoDIR student (torch-bf16)"].score == 0.8
    export = models["deploy (onnxruntime int8)"]
    assert (export.score, export.group, export.bytes) == (0.75, "onnxruntime int8", 5)
    assert export.kept == pytest.approx(0.75 / plain["teacher"].score)
    assert export.role == "codir"  # what it was made from
    assert "encoder" not in models  # of no model of the run
    assert "encoder" in dict(report.missing)["times"]
    assert report.panels[0].models[0].name == "teacher"
    # named once more, its line is there already
    again = gather(copy_of, models=False, exported=[exported])
    assert [model.name for model in again.panels[0].models] == list(models)


def test_an_export_without_a_measurement_has_its_score(copy_of: Path, exported: Path) -> None:
    report = gather(copy_of, models=False, exported=[exported])
    line = report.panels[0].models[-1]
    assert (line.name, line.engine, line.score) == ("deploy (onnxruntime int8)", "onnxruntime", 0.75)
    assert (line.parameters, line.bytes, line.milliseconds) == (77, 5, None)
    assert line.metrics == {"accuracy": 0.75}


def test_an_export_measured_without_a_score_gets_it(copy_of: Path, exported: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "times.json", row(exported, "onnxruntime", "int8", 1.0))
    report = gather(copy_of, models=False, latency=file, exported=[exported])
    line = by_name(report.panels[0].models)["deploy (onnxruntime int8)"]
    assert (line.milliseconds, line.score) == (1.0, 0.75)


def test_a_named_file_must_be_one(copy_of: Path, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(RunError, match="is no file"):
        gather(copy_of, models=False, latency=tmp_path / "none.json")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(asdict(timing(1.0, 1.0))))
    with pytest.raises(RunError, match=r"other\.json"):
        gather(copy_of, models=False, latency=other)
    with pytest.raises(RunError, match="is no exported model"):
        gather(copy_of, models=False, exported=[copy_of])
    (exported / "deployment.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        gather(copy_of, models=False, exported=[exported])


def test_a_damaged_file_that_only_lies_there_is_named(copy_of: Path) -> None:
    (copy_of / "latency.json").write_text("{}")
    report = gather(copy_of, models=False)
    assert "latency.json" in dict(report.missing)["times"]
    assert report.panels[0].models[0].milliseconds is not None  # the run's own
