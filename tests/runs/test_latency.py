"""Latency: what is measured, what is refused before anything runs, and what the file and the tables say."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import begin, die, end, needs_fork
from small_world import World, quiet
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from codir.config.config import DataConfig
from codir.deploy import latency as latency_module
from codir.deploy import latency_models, memory
from codir.deploy.latency import busy_words, latency
from codir.deploy.latency_models import choose, score_of, short_names
from codir.deploy.latency_table import LatencyResult, LatencyRow
from codir.engines.folder import MANIFEST, Manifest
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.files import write_json
from codir.measure.timing import RealLengths, Timing

FAST: dict[str, Any] = {
    "batch": 4,
    "max_length": 16,
    "rounds": 2,
    "sequences": 8,
    "memory": False,
}


@pytest.fixture
def two(tiny_model_dir) -> list[Path]:
    """Returns a teacher of four layers and a student of two."""
    return [tiny_model_dir(), tiny_model_dir(layers=2)]


def timing(milliseconds: float = 10.0, spread: float = 0.1, speedup: float = 1.0) -> Timing:
    same = {"speedup_low": speedup, "speedup_high": speedup, "rounds": (milliseconds,) * 3}
    place = {"padded": True, "device": "cpu", "dtype": "float32", "threads": 2}
    sizes = {"sequences": 64, "batch_size": 32, "max_length": 128}
    return Timing(milliseconds, spread, speedup, **same, **sizes, **place)


def row(name: str = "teacher", **settings: Any) -> LatencyRow:
    real = RealLengths(1, 30, 5.0, 9.0, 6.0, 160.0, 1.0, 20.0)
    values: dict[str, Any] = {"path": f"runs/{name}", "engine": "torch", "precision": "fp32", "layers": 12}
    values |= {"parameters": 124_600_000, "embedding_parameters": 39_000_000, "bytes": 498_000_000}
    values |= {"timing": timing(), "real": {"1": real, "32": dataclasses.replace(real, batch_size=32)}}
    values |= {"peak_memory": 700_000_000, "score": 0.8765, "metric": "accuracy"}
    return LatencyRow(name, **{**values, **settings})


def result(*rows: LatencyRow, **settings: Any) -> LatencyResult:
    conditions = {"batch": 32, "max_length": 128, "rounds": 3, "sequences": 64, "threads": 2, "device": "cpu"}
    conditions |= {"texts": "mnli, validation", "tokens": 20.0, "load_before": 0.1, "load_after": 1.9}
    return LatencyResult(tuple(rows), {"cpu": "A CPU", "gpus": []}, conditions, "mnli", **settings)


# --- measuring ------------------------------------------------------------------------------------------------------


def test_two_models_from_flags_to_file(two, tmp_path) -> None:
    console, output, before = quiet(), tmp_path / "out" / "latency.json", torch.get_num_threads()
    found = latency(two, **FAST, threads=before + 1, output=output, console=console)
    assert torch.get_num_threads() == before  # they are the measurement's alone
    teacher, student = found.rows
    assert (teacher.layers, student.layers) == (4, 2)
    assert teacher.parameters is not None
    assert student.parameters is not None
    assert teacher.parameters > student.parameters > (student.embedding_parameters or 0) > 0
    assert teacher.bytes == (two[0] / "model.safetensors").stat().st_size
    assert (teacher.engine, teacher.precision, teacher.path) == ("torch", "fp32", str(two[0]))
    assert (teacher.timing.padded, teacher.timing.sequences, len(teacher.timing.rounds)) == (True, 8, 2)
    assert (teacher.timing.batch_size, teacher.timing.max_length, teacher.timing.threads) == (
        4,
        16,
        before + 1,
    )
    assert teacher.timing.speedup == 1
    assert student.timing.speedup_low <= student.timing.speedup <= student.timing.speedup_high
    assert list(student.real) == ["1", "4"]
    assert (student.real["1"].requests, student.real["4"].requests) == (16, 4)
    assert 0 < student.real["1"].p50 <= student.real["1"].p95
    assert found.task == "acceptability"
    assert "made-up sentences" in found.conditions["texts"]
    assert found.conditions["threads"] == before + 1
    assert found.conditions["sequences"] == 8
    assert found.machine["versions"]["torch"]
    assert LatencyResult.from_json(json.loads(output.read_text())) == found
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Padded: batches of 4 sequences of 16 tokens" in shown
    assert "made-up sentences of the built-in task acceptability" in shown
    assert f"Written to {output}" in shown


def test_sequences_are_padded_then_as_long_as_they_are(two, monkeypatch) -> None:
    shapes: list[tuple[int, ...]] = []
    real = latency_models.load

    def load(*arguments: Any) -> Any:
        model = real(*arguments)
        model.register_forward_pre_hook(
            lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        return model

    monkeypatch.setattr(latency_models, "load", load)
    latency(two[:1], **{**FAST, "rounds": 1}, quiet=True)
    # a batch to see that it runs, one to warm up, two timed; then requests, never padded to 16 on principle
    assert shapes[:4] == [(4, 16)] * 4
    singles = [shape for shape in shapes[4:] if shape[0] == 1]
    assert singles
    assert len({length for _, length in singles}) > 1


def test_models_with_different_inputs_and_positions(tiny_model_dir, tiny_tokenizer, tmp_path) -> None:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 12}
    folder = tmp_path / "distilled"
    config = DistilBertConfig(vocab_size=len(tiny_tokenizer), **sizes)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    texts = tmp_path / "texts.txt"
    texts.write_text("the film was good\n" + "a dog and " * 10 + "a cat\n")
    found = latency([tiny_model_dir(), folder], DataConfig(validation=str(texts)), **FAST, quiet=True)
    assert [each.layers for each in found.rows] == [4, 2]
    assert (found.task, found.conditions["texts"]) == ("texts", str(texts))
    notes = "\n".join(found.notes)
    assert "distilled has positions for 12 tokens: its inputs were cut there" in notes
    assert "2 of 4 texts are longer than 12 tokens for distilled" in notes
    assert "There are only 2 texts: they were repeated to fill a batch of 4" in notes


def test_a_file_with_columns_needs_no_labels(two, tmp_path) -> None:
    file = tmp_path / "dev.csv"
    file.write_text("review,reply\n" + "a good film,yes\n" * 9)
    data = DataConfig(validation=str(file), text="review", text_pair="reply")
    found = latency(two[:1], data, **FAST, quiet=True)
    assert found.rows[0].timing.sequences == 8
    assert found.conditions["tokens"] == 7  # [CLS] a good film [SEP] yes [SEP]
    with pytest.raises(DataError, match="stars"):
        latency(two[:1], DataConfig(validation=str(file), text="stars"), **FAST, quiet=True)


def test_what_an_engine_cannot_do_is_left_out_and_said(two, monkeypatch) -> None:
    real = latency_models.load

    def load(path: str, engine: str) -> Any:
        if engine == "torch-compiled":
            raise ConfigError("The engine torch-compiled needs a C++ compiler, and there is none.\nMore.")
        return real(path, engine)

    monkeypatch.setattr(latency_models, "load", load)
    console = quiet()
    found = latency(two[:1], None, ["torch-compiled", "torch"], **FAST, console=console)
    assert [each.engine for each in found.rows] == ["torch"]
    assert found.left_out == (
        (two[0].name, "torch-compiled", "The engine torch-compiled needs a C++ compiler, and there is none."),
    )
    assert f"Left out: {two[0].name} in torch-compiled" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="Nothing could be measured"):
        latency(two[:1], None, ["torch-compiled"], **FAST, quiet=True)


def test_a_model_that_torch_cannot_run_is_an_error(two, monkeypatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(latency_models, "load", broken)
    with pytest.raises(ModelError, match="does not run in torch: mat1"):
        latency(two[:1], **FAST, quiet=True)


def test_exported_for_the_measurement_and_beside_an_exported_folder(
    world: World, exports: dict[str, Path], monkeypatch
) -> None:
    made: list[Path] = []
    real, real_load = latency_models.export_files, latency_models.load

    def export_files(model: Any, target: Any, folder: Path, *rest: Any) -> None:
        made.append(folder)
        real(model, target, folder, *rest)

    loaded: list[Any] = []

    def load(*arguments: Any) -> Any:
        loaded.append(real_load(*arguments))
        return loaded[-1]

    monkeypatch.setattr(latency_models, "export_files", export_files)
    monkeypatch.setattr(latency_models, "load", load)
    found = latency(
        [world.teacher, exports["onnx"]], None, ["torch", "openvino-fp32"], **FAST, threads=2, quiet=True
    )
    # the same threads for all
    assert [each.timing.threads for each in found.rows] == [2, 2, 2]
    assert loaded[1].compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert loaded[2].session.get_session_options().intra_op_num_threads == 2
    assert [(each.name, each.engine, each.precision) for each in found.rows] == [
        ("teacher", "torch", "fp32"),
        ("teacher", "openvino-fp32", "fp32"),
        ("onnx", "onnxruntime", "fp32"),
    ]
    assert found.left_out == ()
    assert {each.parameters for each in found.rows} == {found.rows[0].parameters}
    assert all(each.bytes and each.layers == 4 for each in found.rows)
    assert [each.examples for each in found.rows] == [40, None, 40]
    assert found.rows[0].score == found.rows[2].score  # in fp32, on the same examples
    assert len(made) == 1
    assert not made[0].exists()


def test_an_export_that_fails_is_left_out(two, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise ModelError("m cannot be exported to ONNX: the operator aten.x has no counterpart there.")

    monkeypatch.setattr(latency_models, "export_files", refuse)
    found = latency(two[:1], None, ["torch", "onnxruntime"], **FAST, quiet=True)
    assert [each[1:] for each in found.left_out] == [
        ("onnxruntime", "m cannot be exported to ONNX: the operator aten.x has no counterpart there.")
    ]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_of_a_model_in_its_own_process(tiny_model_dir, tiny_classifier) -> None:
    folder = tiny_model_dir(width=512, layers=4)
    weights = 4 * sum(each.numel() for each in tiny_classifier(width=512, layers=4).parameters())
    batch = {name: torch.ones(2, 16, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    peak = memory.peak_memory(folder, "torch", batch, threads=1)
    # 25 MB of weights; the interpreter and torch (300 MB) are not in it
    assert 0.8 * weights < peak < weights + 60e6


def test_memory_of_a_process_that_fails(tmp_path, monkeypatch) -> None:
    with pytest.raises(RunError, match=r"failed: .*ModelError.*does not exist"):
        memory.peak_memory(tmp_path / "missing", "torch", {"input_ids": torch.ones(1, 4, dtype=torch.long)})


def test_unknown_memory_is_a_note(two, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise RunError("The process was killed.")

    monkeypatch.setattr(latency_module, "peak_memory", fail)
    found = latency(two[:1], **{**FAST, "memory": True}, quiet=True)
    assert found.rows[0].peak_memory is None
    assert any("memory of" in note and "was killed" in note for note in found.notes)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_missing_package_names_the_extra(two, monkeypatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for engine in ("onnxruntime", "openvino", "openvino-int8"):
        with pytest.raises(ConfigError, match=r"codir\[export\]"):
            latency(two, None, ["torch", engine])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "no model to measure"),
        (
            {"engines": ["torch", "openvinos"]},
            r"--engines openvinos: unknown.*did you mean 'openvino'",
        ),
        ({"engines": [""]}, "names none"),
        ({"batch": 0}, "--batch 0 must be at least 1"),
        ({"threads": 0}, "--threads 0 must be at least 1"),
        ({"max_length": 2}, "at least 4"),
    ],
)
def test_settings_that_are_refused(two, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        latency(**{"models": two, **FAST, **settings})


def test_no_texts_and_folders_that_are_no_models(two, tmp_path) -> None:
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(DataError, match=r"empty|no rows|no texts"):
        latency(two, DataConfig(validation=str(tmp_path / "empty.csv")), **FAST)
    with pytest.raises(ModelError, match="does not exist"):
        latency([tmp_path / "missing"], **FAST)
    with pytest.raises(ModelError, match=r"config\.json is missing; it holds empty.csv"):
        latency([tmp_path], **FAST)


def test_output_is_checked_before_anything_runs(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(latency_models, "load", None)  # nothing is loaded
    there = tmp_path / "latency.json"
    there.write_text("{}")
    with pytest.raises(RunError, match=r"exists already.*--overwrite"):
        latency(two, **FAST, output=there)
    with pytest.raises(RunError, match="is a folder"):
        latency(two, **FAST, output=tmp_path)
    assert there.read_text() == "{}"


def test_devices(two, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"--device cude: unknown.*'cuda'"):
        choose(two, None, "cude")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        choose(two, None, "cuda")
    with pytest.raises(ConfigError, match="torch-fp16 is for --device cuda"):
        choose(two, ["torch-fp16"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [line.precision for line in choose(two[:1], ["torch", "torch-fp16"], "cuda")] == ["fp32", "fp16"]
    monkeypatch.setattr(latency_models.extras, "require", lambda _: None)
    with pytest.raises(ConfigError, match="openvino is for the CPU"):
        choose(two, ["torch", "openvino"], "cuda")


# --- exported folders -----------------------------------------------------------------------------------------------


def deployed(folder: Path, **settings: Any) -> Path:
    """Writes a manifest into a folder with a file."""
    folder.mkdir(exist_ok=True)
    (folder / "openvino_model.xml").write_text("graph")
    values = {"format": "openvino", "quantize": "int8", "precision": "int8", "engine": "openvino"}
    Manifest(**{**values, "source": "runs/s", "source_digest": "", **settings}).write(folder)
    return folder


def test_an_exported_folder_runs_in_its_own_engine(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(latency_models.extras, "require", lambda _: None)
    int8 = deployed(tmp_path / "int8")
    fp32 = deployed(tmp_path / "fp32", quantize="none", precision="fp32")
    lines = choose([two[0], int8, fp32], ["torch", "torch-bf16"])
    assert [(line.engine, line.precision) for line in lines] == [
        ("torch", "fp32"),
        ("torch-bf16", "bf16"),
        ("openvino-int8", "int8"),
        ("openvino-fp32", "fp32"),
    ]
    assert all(line.target is None for line in lines)
    assert [line.engine for line in choose([int8], ["openvino-int8"])] == ["openvino-int8"]
    with pytest.raises(ConfigError, match="--engines torch: an exported folder runs in its own"):
        choose([int8], ["torch"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="runs on the CPU only"):
        choose([int8], None, "cuda")
    (int8 / MANIFEST).write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        choose([int8])


# --- names and scores -----------------------------------------------------------------------------------------------


def test_short_names() -> None:
    assert short_names(["runs/teacher", "runs/student"]) == ["teacher", "student"]
    assert short_names(["a/run", "b/run", "c/other"]) == ["a/run", "b/run", "other"]
    assert short_names(["x/a/run", "y/a/run"]) == ["x/a/run", "y/a/run"]
    assert short_names(["a/run", "a/run"]) == ["a/run", "a/run (2)"]
    assert short_names(["roberta-base"]) == ["roberta-base"]


def test_scores_of_run_folders(tiny_model_dir) -> None:
    folder = tiny_model_dir()
    (line,) = choose([folder])
    assert score_of(line) is None
    write_json(folder / "metrics.json", {"main_metric": "f1", "metrics": {"f1": 0.8, "accuracy": 0.7}})
    assert score_of(line) == ("f1", 0.8, None)
    # it was computed in fp32: nobody knows what 16 bits make of it
    assert [score_of(each) for each in choose([folder], ["torch-compiled", "torch-bf16"])] == [
        ("f1", 0.8, None),
        None,
    ]
    rows = [
        {"role": role, "metrics": {"f1": value}}
        for role, value in (("teacher", 0.9), ("finetune", 0.5), ("kd", 0.6), ("codir", 0.7))
    ]
    counts = {"validation_examples": {"validation": 408, "other": 3}}
    write_json(folder / "metrics.json", {"main_metric": "f1", "comparison": {"rows": rows}})
    assert score_of(line) == ("f1", 0.7, None)
    write_json(folder / "metrics.json", {"main_metric": "f1", "comparison": {"rows": rows[:2]}, **counts})
    assert score_of(line) == ("f1", 0.5, 408)
    for foreign in ({"accuracy": 1}, [], {"main_metric": "f1", "metrics": {"f1": None}}):
        write_json(folder / "metrics.json", foreign)
        assert score_of(line) is None
    (folder / "metrics.json").write_text("{")
    assert score_of(line) is None


def test_a_run_s_own_score_and_an_export_s_are_on_the_same_examples() -> None:
    run = row("student", score=0.8150, metric="f1", examples=408)
    same = row("same", score=0.8169, metric="f1", examples=408)
    notes: list[str] = []
    assert latency_module._same_examples([row("plain", score=None), run, same], notes)[1:] == [run, same]
    assert notes == []
    fewer = row("fewer", score=0.9, metric="f1", examples=50)
    other = row("other", score=0.7, metric="accuracy", examples=408)
    older = row("older", score=0.6, metric="f1", examples=None)
    rows = latency_module._same_examples([run, same, fewer, other, older], notes)
    (note,) = notes
    assert [each.score for each in rows] == [0.8150, 0.8169, None, None, None]
    assert "student's is f1 on 408 examples" in note
    assert "fewer in torch: f1 on 50 examples" in note
    assert "other in torch: accuracy on 408 examples" in note
    assert "older in torch: f1 on an unknown number of examples" in note


def test_the_run_s_own_texts_and_score(world: World, tmp_path: Path) -> None:
    found = latency([world.teacher], **FAST, quiet=True)
    assert found.conditions["texts"] == f"{world.dev}, as in {world.teacher}/codir.yaml"
    own = json.loads((world.teacher / "metrics.json").read_text())["metrics"]["accuracy"]
    assert (found.rows[0].score, found.rows[0].metric, found.rows[0].examples) == (own, "accuracy", 40)
    assert (
        "made-up"
        in latency([world.teacher], None, use_run_data=False, **FAST, quiet=True).conditions["texts"]
    )
    run = Path(shutil.copytree(world.teacher, tmp_path / "run"))
    text = (run / "codir.yaml").read_text()
    (run / "codir.yaml").write_text(text.replace(str(world.dev), "gone.csv"))
    found = latency([run], **FAST, quiet=True)
    assert "made-up" in found.conditions["texts"]
    assert any("cannot be read any more" in note and "gone.csv" in note for note in found.notes)


# --- kill -9 --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")
def test_the_memory_s_process_ends_with_its_parent(tiny_model_dir) -> None:
    program = (
        "import sys, torch\n"
        "from codir.deploy import memory\n"
        "memory.peak_memory(sys.argv[1], 'torch', {'input_ids': torch.ones(1, 4, dtype=torch.long)})\n"
    )
    before = set(Path(tempfile.gettempdir()).glob("codir-memory-*"))
    with subprocess.Popen([sys.executable, "-c", program, str(tiny_model_dir())]) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until = time.monotonic() + 60
        while not (found := children.read_text().split()) and time.monotonic() < until:
            time.sleep(0.02)
        (child,) = found
        time.sleep(0.3)  # it is on its way: importing torch
        parent.kill()
    until = time.monotonic() + 20
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)
    assert set(Path(tempfile.gettempdir()).glob("codir-memory-*")) == before


def _runs(process: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@needs_fork
def test_folders_of_a_killed_process_are_swept(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Died(BaseException):
        pass

    def die_writing(model: Any, target: Any, folder: Path, *_: Any) -> None:
        (folder / "model.onnx").write_text("weights")
        die()

    def refuse(model: Any, target: Any, folder: Path, *_: Any) -> None:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]  # what was left is gone
        raise Died

    monkeypatch.setattr(latency_models, "export_files", die_writing)
    work = functools.partial(latency, two[:1], None, ["onnxruntime"], **FAST, quiet=True)
    assert end(begin(work)) == -signal.SIGKILL
    (left,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (left / "model.onnx").is_file()
    monkeypatch.setattr(latency_models, "export_files", refuse)
    with pytest.raises(Died):
        work()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


# --- the file and the tables ----------------------------------------------------------------------------------------


def test_json_round_trip_and_foreign_files() -> None:
    made = result(
        row(), row("student", score=None, metric=None), notes=("busy",), left_out=(("a", "b", "c"),)
    )
    values = json.loads(json.dumps(made.to_json()))
    assert LatencyResult.from_json(values) == made
    for foreign in ({}, [], {"rows": []}, "text", None):
        with pytest.raises(RunError, match="not the JSON that `codir latency"):
            LatencyResult.from_json(foreign)
    with pytest.raises(RunError, match="layout 0, and this codir reads 1"):
        LatencyResult.from_json({**values, "schema": 0})
    for part in ("rows", "conditions", "notes"):
        with pytest.raises(RunError, match="damaged"):
            LatencyResult.from_json({name: value for name, value in values.items() if name != part})
    del values["rows"][0]["timing"]["speedup"]
    with pytest.raises(RunError, match="damaged"):
        LatencyResult.from_json(values)


def test_tables_fit_and_say_what_was_measured() -> None:
    long = row(
        "a-model-with-a-very-long-name/weights",
        engine="onnxruntime-int8",
        precision="int8",
        timing=timing(1234.5, 123.4, 123.45),
        real={
            size: RealLengths(int(size), 9, 12345.6, 23456.7, 1.0, 12345.6, 1.0, 20.0) for size in ("1", "32")
        },
    )
    made = result(row(), long, left_out=(("teacher", "torch-compiled", "no compiler"),))
    console = quiet()
    console.width = 100
    for table in made.to_rich():
        console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert "…" not in shown
    cells = "124.6M|39.0M|498.0 MB|10.00 ±0.10|1234 ±123.4|123x|0.8765|700.0 MB|23457"
    for cell in cells.split("|"):
        assert cell in shown
    assert "accuracy" in shown
    assert "batches of 32 sequences of 128 tokens" in shown
    assert "Left out: teacher in torch-compiled: no compiler" in made.words()
    assert "Texts: mnli, validation. Measured on A CPU, 2 threads" in made.words()[0]


def test_markdown_escapes_and_has_both_tables() -> None:
    text = result(row("a|b"), row("student", score=0.5, metric="f1")).to_markdown()
    assert "a\\|b" in text
    tables = re.findall(r"(?m)^\| model .*$", text)
    assert len(tables) == 2
    assert tables[1].endswith("| memory | score |")  # two metrics: none of them is the heading
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in lines[:4]} == {10}


def test_a_busy_machine_is_named() -> None:
    calm = [row()]
    assert busy_words(calm, 0.2, 2.1, threads=2, cores=2) == []
    assert busy_words(calm, None, None, threads=2, cores=2) == []
    assert busy_words(calm, 1.4, 2.1, threads=1, cores=2) == []  # there is a core for the other process
    (words,) = busy_words(calm, 1.4, 3.9, threads=2, cores=2)
    assert "load average 1.4 at the start; 3.9 at the end" in words
    (words,) = busy_words([row(), row("s", timing=timing(10, 2.0))], 0.1, 2.0, threads=2, cores=2)
    assert "the rounds of s in torch differ by ±20%" in words
