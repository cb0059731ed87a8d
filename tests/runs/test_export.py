"""`codir export` as a whole: the folder, the checks, the README's own Python, and what predicts from it afterwards."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_world import World, quiet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.config.config import DataConfig
from codir.deploy import check
from codir.deploy.export import export
from codir.deploy.export_data import calibration_batches, probe_texts, validation_data
from codir.deploy.task_models import choose_models
from codir.engines.folder import MANIFEST, Manifest
from codir.engines.formats import Target
from codir.errors import ConfigError, DataError, ModelError, RunError
from codir.kinds import kind_named
from codir.record.run_data import choose_data
from codir.runs.evaluate import evaluate
from codir.runs.predict import predict

FORMATS = {
    "onnx": "fp32",
    "onnx-int8": "int8",
    "openvino-bf16": "bf16",
    "openvino-int8": "int8",
    "torch-bf16": "bf16",
}
TEXTS = ["the cat is good", "an awful film and a bad song", "good", " ".join(["great dog"] * 60), "hated it"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_folder_and_its_manifest(exports: dict[str, Path], world: World, name: str) -> None:
    folder = exports[name]
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    assert (manifest.format, manifest.precision) == (
        name.removesuffix("-int8").removesuffix("-bf16") if name != "torch-bf16" else name,
        FORMATS[name],
    )
    assert manifest.source == str(world.teacher)
    assert (manifest.task, manifest.max_length) == ("train", 32)  # as in the run's own card
    assert manifest.parameters == sum(
        parameter.numel()
        for parameter in AutoModelForSequenceClassification.from_pretrained(world.teacher).parameters()
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert (folder / "tokenizer.json").is_file()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    figures = manifest.checks
    assert figures["inputs"] == 40 + sum(size for size, _ in check.probe_shapes(64))
    assert (figures["shortest"], figures["longest"]) == (3, 64)
    assert (figures["smallest_batch"], figures["largest_batch"]) == (1, 33)
    assert figures["agreement"] >= 0.97
    if manifest.precision == "fp32":
        assert figures["largest_difference"] < 1e-4
        assert manifest.metrics_after == manifest.metrics_before
    else:
        assert figures["largest_difference"] > 1e-4  # it really computes in something else
    if manifest.precision == "bf16":
        assert manifest.parameters is not None
        stored = sum(
            (folder / name).stat().st_size for name in manifest.files if name.endswith((".bin", "tensors"))
        )
        assert stored < 0.6 * 4 * manifest.parameters  # 16 bits for each, not 32
    assert manifest.metrics_before is not None
    assert manifest.metrics_before["validation"]["accuracy"] > 0.8
    assert figures.get("calibration") == (
        "64 training examples of train" if name == "openvino-int8" else None
    )
    assert (manifest.examples, manifest.main_metric) == ({"validation": 40}, "accuracy")
    assert "dev.csv, texts cut at 32 tokens" in (manifest.data or "")
    leftovers = [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert not leftovers


@pytest.mark.parametrize("name", list(FORMATS))
def test_evaluate_and_predict_take_the_folder(
    exports: dict[str, Path], world: World, name: str, tmp_path: Path
) -> None:
    manifest = Manifest.read(exports[name])
    result = evaluate(exports[name], DataConfig(**world.data()), quiet=True)
    assert result.metrics == manifest.metrics_after
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    rows = {}
    for what, model in (("source", world.teacher), ("export", exports[name])):
        console = quiet()
        done = predict(
            model, tmp_path / "in.txt", tmp_path / f"{what}.jsonl", max_length=500, console=console
        )
        rows[what] = read(tmp_path / f"{what}.jsonl")
        # one text is longer than the positions: cut, counted and said the same way in every engine
        assert (done.truncated, done.max_length) == (1, 64)
        assert "Warning: 1 text is longer than 64 tokens and was cut." in console.file.getvalue()  # type: ignore[attr-defined]
    bound = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.2}[manifest.precision]
    for before, after in zip(rows["source"], rows["export"], strict=True):
        assert after["label"] == before["label"]
        assert after["scores"]["pos"] == pytest.approx(before["scores"]["pos"], abs=bound)


BLOCKED = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'codir', 'datasets')))\n"


def run_snippet(folder: Path, texts: str | None, block: bool = True) -> str:
    """Runs the README's Python in a copy of the folder, where neither torch nor transformers nor codir can be had."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if texts is not None:
        code, count = re.subn(r"(?m)^texts = .*$", lambda _: f"texts = {texts}", code)
        assert count == 1
    result = subprocess.run(
        [sys.executable, "-c", (BLOCKED if block else "") + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8", "torch-bf16"])
def test_the_readmes_python_predicts_from_the_folder_alone(
    exports: dict[str, Path], name: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exports[name], tmp_path / "elsewhere"))
    printed = run_snippet(folder, repr(TEXTS), block=name != "torch-bf16")
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    predict(folder, tmp_path / "in.txt", tmp_path / "o.jsonl", quiet=True)
    assert printed.strip() == str([row["label"] for row in read(tmp_path / "o.jsonl")])
    text = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 18
    assert text.startswith("---\n")
    assert "```console\n" in text.partition("## How it was made")[2]  # the commands
    assert "| validation | accuracy |" in text
    # it cuts where codir cut when it measured, not at the model's 64 positions
    assert "max_length=32" in code
    assert "max_length=64" not in code
    assert "--max-length 32" in text
    assert "Both cut texts at 32 tokens" in text


def test_the_readmes_python_of_a_regression_on_pairs(exports: dict[str, Path], tmp_path: Path) -> None:
    pairs = [("good film", "a cat"), ("bad", "the dog is not good " * 20)]
    printed = run_snippet(exports["regression"], repr(pairs))
    model = AutoModelForSequenceClassification.from_pretrained(
        exports["regression"].parents[1] / "regression"
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(exports["regression"])
    expected = []
    for pair in pairs:
        with torch.no_grad():
            inputs = tokenizer(*pair, truncation=True, max_length=32, return_tensors="pt")
            expected.append(float(model(**inputs).logits))
    assert json.loads(printed) == pytest.approx(expected, abs=1e-4)
    manifest = Manifest.read(exports["regression"])
    assert manifest.checks["answers"] == "scores"
    assert manifest.checks["agreement"] == pytest.approx(1.0)  # correlation of the scores


def test_without_data_built_in_texts_do(world: World, tmp_path: Path) -> None:
    result = export(
        world.teacher,
        tmp_path / "plain",
        "torch-bf16",
        use_run_data=False,
        min_agreement=0.5,
        max_length=20,
        quiet=True,
    )
    assert result.manifest.task is None
    assert result.manifest.metrics_before is None
    assert result.manifest.max_length == 20
    assert result.figures["longest"] == 20
    assert result.manifest.bytes < 0.55 * result.source_bytes
    assert "no metric was measured" in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_difference": 1e-9},
            r"largest difference of a logit is .*the limit 1e-09 \(--max-difference\)",
        ),
        ({"max_drop": -1.0}, r"on validation falls by -?0\.00 points, the limit is -1 \(--max-drop\)"),
    ],
)
def test_over_a_limit_nothing_is_left(
    world: World, tmp_path: Path, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        export(world.teacher, tmp_path / "d" / "o", "torch-bf16", data=DataConfig(**world.data()), **limits)
    assert "Ways on: use fp32: --format openvino --precision fp32" in str(caught.value)
    assert "raise the limit" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        assert list(tmp_path.rglob("model.safetensors"))  # the weights were there already
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "compare_models", stop)
    with pytest.raises(KeyboardInterrupt):
        export(world.teacher, tmp_path / "o", "torch-bf16", quiet=True)
    assert not list(tmp_path.iterdir())


def test_refusals(world: World, exports: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"already holds an exported model.*never overwrites"):
        export("no/such/model", exports["onnx"], "onnx")
    with pytest.raises(
        ConfigError, match=r"int8 is calibrated on real inputs, so it needs data.*--format onnx"
    ):
        export(world.teacher, tmp_path / "o", "openvino", quantize="int8", use_run_data=False)
    with pytest.raises(ConfigError, match=r"is an exported model already.*Export the model it was made from"):
        export(exports["onnx"], tmp_path / "o", "openvino")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        export(tmp_path, tmp_path / "o", "onnx")
    with pytest.raises(DataError, match=r"none\.csv"):
        export(world.teacher, tmp_path / "o", "torch-bf16", data=DataConfig(validation="none.csv"))
    with pytest.raises(ConfigError, match="calibration must be at least 1"):
        export(world.teacher, tmp_path / "o", "onnx", calibration=0)
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_said_before_any_work(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r'pip install "codir\[export\]"'):
        export(world.teacher, tmp_path / "o", "openvino")
    assert not list(tmp_path.iterdir())


def test_calibration_without_training_data_is_said(world: World) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    tokenizer = AutoTokenizer.from_pretrained(world.teacher)
    data = DataConfig(**world.data(train=None))
    task = validation_data(model, data)
    batches, words, (note,) = calibration_batches(model, tokenizer, data, task, 20)
    assert words == "20 validation examples of dev"
    assert "There are no training data" in note
    assert [len(batch["input_ids"]) for batch in batches] == [8, 8, 4]
    both = DataConfig(**world.data())
    task = validation_data(model, both)
    batches, words, notes = calibration_batches(model, tokenizer, both, task, 20)
    assert (words, notes) == ("20 training examples of train", [])
    # none of them is a validation example
    held = {tuple(tokenizer(text)["input_ids"]) for text in task.validation["validation"]["text"]}
    for batch in batches:
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            assert tuple(row[mask == 1].tolist()) not in held


def test_submit_takes_task_and_length_of_an_export(
    exports: dict[str, Path], tmp_path: Path, world: World
) -> None:
    folder = Path(shutil.copytree(exports["onnx"], tmp_path / "mrpc"))
    values = json.loads((folder / MANIFEST).read_text())
    changes = {"task": "mrpc", "max_length": 48, "reads": {**values["reads"], "pairs": True}}
    (folder / MANIFEST).write_text(json.dumps({**values, **changes}))
    for entry in (str(folder), f"mrpc={folder}"):
        chosen = choose_models([entry])["mrpc"]
        assert (chosen.model, chosen.max_length, chosen.notes) == (str(folder), 48, ())
    assert "not on rte" in choose_models([f"rte={folder}"])["rte"].notes[0]
    with pytest.raises(ConfigError, match="was trained on pairs of texts"):
        choose_models([f"sst2={folder}"])
    with pytest.raises(ConfigError, match="does not say which GLUE task"):
        choose_models([str(exports["onnx"])])  # its task is a file


# --- the run's own data ---------------------------------------------------------------------------------------------


def moved(world: World, place: Path, **changes: Any) -> Path:
    """Copies the teacher's run folder; `changes` are of the data section of its `codir.yaml`."""
    run = Path(shutil.copytree(world.teacher, place))
    content = yaml.safe_load((run / "codir.yaml").read_text())
    content["data"].update(changes)
    (run / "codir.yaml").write_text(yaml.safe_dump(content))
    return run


def test_a_run_is_measured_on_its_own_data(world: World, tmp_path: Path) -> None:
    console = quiet()
    result = export(world.teacher, tmp_path / "o", "torch-bf16", console=console)
    own = json.loads((world.teacher / "metrics.json").read_text())
    assert result.before is not None
    assert result.before.score == own["metrics"]["accuracy"]
    manifest = Manifest.read(tmp_path / "o")
    assert (manifest.task, manifest.max_length, manifest.examples) == (own["task"], 32, {"validation": 40})
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"Data: as in {world.teacher}/codir.yaml: " in printed
    assert "torch fp32" in printed
    assert "%" in printed
    assert f"Written to {tmp_path / 'o'}" in printed
    # single settings win over the run's, whole data replace them
    few = export(
        world.teacher,
        tmp_path / "few",
        "torch-bf16",
        data={"limit_validation": 10},
        max_length=16,
        max_drop=100,
        min_agreement=0,
        quiet=True,
    )
    assert (few.manifest.examples, few.manifest.max_length) == ({"validation": 10}, 16)


def test_the_run_s_files_are_looked_for_beside_it(world: World, tmp_path: Path) -> None:
    shutil.copy(world.dev, tmp_path / "dev.csv")
    run = moved(world, tmp_path / "runs" / "teacher", train=None, validation="dev.csv")
    result = export(run, tmp_path / "o", "torch-bf16", quiet=True)
    assert result.manifest.examples == {"validation": 40}


def test_data_that_are_gone(world: World, tmp_path: Path) -> None:
    run = moved(world, tmp_path / "run", train="gone.csv", validation="gone.csv")
    result = export(run, tmp_path / "o", "torch-bf16", min_agreement=0.5, quiet=True)
    assert result.before is None
    assert result.manifest.max_length == 32  # what the run was cut at is known all the same
    (note,) = result.notes
    assert "No metric was measured" in note
    assert "gone.csv" in note
    assert "--no-data" in note
    with pytest.raises(DataError, match=r"cannot be read any more.*gone\.csv.*Name them anew"):
        export(run, tmp_path / "p", "openvino", quantize="int8")
    assert not (tmp_path / "p").exists()
    (run / "codir.yaml").write_text("data: [")
    chosen = choose_data([run], None)
    assert chosen.config is None
    assert "codir.yaml are not used: the file is damaged" in (chosen.words or "")


def test_which_data_are_chosen(world: World, exports: dict[str, Path], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for models in (
        [world.teacher],
        [plain, world.teacher],
        [exports["onnx"]],
        [world.teacher / "comparison" / "kd"],
    ):
        chosen = choose_data(models, {"limit_validation": 7})
        assert chosen.run == world.teacher / "codir.yaml"
        assert chosen.config is not None
        assert (chosen.config.validation, chosen.config.limit_validation) == (str(world.dev), 7)
    assert choose_data([world.teacher], None, use_run=False).config is None
    named = choose_data([world.teacher], {"task": "acceptability"})
    length = world.data()["max_length"]  # that of the run, as in its training
    assert (named.config, named.run) == (DataConfig(task="acceptability", max_length=length), None)
    with pytest.raises(ConfigError, match="--text: of which data"):
        choose_data([plain], {"text": "review"})


def test_cut_texts_are_told_of_once(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = export(
        world.teacher,
        tmp_path / "o",
        "torch-bf16",
        max_length=8,
        min_agreement=0,
        max_drop=100,
        quiet=True,
    )
    assert "longer than" not in caplog.text
    (note,) = [note for note in result.notes if "longer than" in note]
    assert re.match(r"\d+ of 40 validation examples are longer than 8 tokens and were cut", note)


@pytest.mark.parametrize("name", ["onnx", "onnx-int8"])
def test_the_graph_names_nothing_of_the_machine(exports: dict[str, Path], name: str) -> None:
    graph = (exports[name] / "model.onnx").read_bytes()
    assert b'File "' not in graph
    assert sys.prefix.encode() not in graph


# --- the checks alone ------------------------------------------------------------------------------------------------


def test_figures_against_plain_arithmetic() -> None:
    compared = check.Comparison()
    compared.add(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[0.0, 1.5], [1.0, 1.25]]))
    compared.add(np.array([[3.0, 0.0]]), np.array([[3.0, 0.0]]))
    figures = compared.figures(kind_named("classification"))
    assert (figures["inputs"], figures["largest_difference"]) == (3, 1.0)
    assert figures["mean_difference"] == pytest.approx((0.5 + 1.0 + 0.25) / 6)
    assert figures["agreement"] == pytest.approx(2 / 3)
    assert (figures["changed"], figures["finite"]) == (1, True)
    with pytest.raises(ModelError, match=r"shape \[1, 2\] where the source gives \[3, 2\]"):
        compared.add(np.zeros((3, 2)), np.zeros((1, 2)))


def test_answers_are_compared_on_the_task_s_examples() -> None:
    compared = check.Comparison()
    # made up: both answers change, and one difference is large
    compared.add(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[9.0, 1.0], [2.0, 1.0]]))
    logits = np.array([[0.0, 0.1], [0.0, 3.0], [2.0, 0.0], [1.0, 0.0]])
    compared.add(logits, np.array([[0.1, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), real=True)
    figures = compared.figures(kind_named("classification"))
    assert (figures["inputs"], figures["largest_difference"]) == (6, 9.0)
    assert (figures["answered"], figures["changed"], figures["agreement"]) == (4, 2, 0.5)
    (words,) = check.over_limits(figures, check.Limits(None), None)
    assert "2 of 4 validation examples get another answer (agreement 50.00%, the limit is 97.00%)" in words
    assert "about 1 of these the source was itself undecided" in words
    assert words.endswith("--min-agreement 0.50 accepts that")
    scores = check.Comparison()
    before, after = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [3.5], [2.9]])
    scores.add(before, after)
    figures = scores.figures(kind_named("regression"))
    assert figures["agreement"] == pytest.approx(np.corrcoef(before[:, 0], after[:, 0])[0, 1])
    (words,) = check.over_limits(figures, check.Limits(None, 0.999), None)
    assert "the scores of 3 inputs correlate by" in words


def test_nan_is_over_every_limit() -> None:
    broken = check.Comparison()
    broken.add(np.ones((2, 2)), np.array([[1.0, np.nan], [1.0, 1.0]]))
    figures = broken.figures(kind_named("classification"))
    assert check.over_limits(figures, check.Limits(None, 0.0, 100.0), None) == [
        "it gives NaN or infinity for some inputs"
    ]


def test_limits_by_precision() -> None:
    none = (None, None, None)
    assert check.Limits.of(Target.of("onnx"), *none) == check.Limits(1e-3, 0.97, 0.5)
    assert check.Limits.of(Target.of("openvino"), *none) == check.Limits(None, 0.97, 0.5)
    assert check.Limits.of(Target.of("onnx", "int8"), 0.2, 0.9, 2.0) == check.Limits(0.2, 0.9, 2.0)
    ways = check.ways_on(Target.of("openvino", "int8"), 300)
    assert "--calibration 1200" in ways
    assert "--format onnx --quantize int8" in ways
    for words in (("onnx",), ("onnx", "int8"), ("openvino",)):
        assert "raise the limit" in check.ways_on(Target.of(*words), 300)


@pytest.mark.parametrize(("limit", "longest"), [(64, 64), (4, 4), (None, 512), (3, 3)])
def test_probes_have_all_lengths(tiny_tokenizer: Any, limit: int | None, longest: int) -> None:
    texts = probe_texts(None)
    assert {isinstance(text, str) for text in texts} == {True, False}
    batches = list(check.probes(texts, tiny_tokenizer, check.probe_shapes(limit)))
    widths = [batch["input_ids"].shape[1] for batch in batches]
    assert (min(widths), max(widths)) == (3, longest)
    for batch in batches:
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    if longest >= 34:
        assert {batch["input_ids"].shape[0] for batch in batches} >= {1, 33}
        assert any((batch["attention_mask"] == 0).any() for batch in batches)


def test_the_command_stays_off_the_network_and_prints_no_chatter(
    exports: dict[str, Path], world: World
) -> None:
    folder = exports["openvino-int8"]
    lines = (world.folder / "int8.txt").read_text().splitlines()
    assert "NETWORK" not in "".join(lines)
    assert "exported to openvino int8" in lines[0]
    assert lines[-1].startswith(f"Written to {folder}.")
    assert len([line for line in lines if line.strip()]) < 12
