"""The manifest notices every change, a folder is made whole or not at all; formats that make sense."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codir.engines.folder import MANIFEST, Manifest, Target, is_deployed, new_folder, require_new
from codir.errors import ConfigError, FolderInUseError, ModelError, RunError

ONNX = {"format": "onnx", "quantize": "none", "precision": "fp32", "engine": "onnxruntime"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "student"
    made.mkdir()
    (made / "model.onnx").write_bytes(b"graph" * 100)
    (made / "model.onnx.data").write_bytes(b"weights" * 100)
    (made / "tokenizer.json").write_text("{}")
    (made / "README.md").write_text("# student\n")
    Manifest.model_validate({**ONNX, "source": "runs/student", "inputs": ("input_ids",)}).write(made)
    return made


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert (manifest.format, manifest.engine, manifest.inputs) == ("onnx", "onnxruntime", ("input_ids",))
    assert sorted(manifest.files) == ["model.onnx", "model.onnx.data", "tokenizer.json"]
    assert manifest.bytes == 500 + 700  # not the tokenizer
    assert is_deployed(folder)
    assert not is_deployed(folder.parent)
    (folder / "README.md").write_text("my own words\n")
    manifest.check_files(folder)  # people may write there


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[350] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.onnx.data", lambda p: p.write_bytes(b"x" * 693), r"is truncated: it has 693 bytes where 700"),
        ("model.onnx.data", _flip, r"the content of model\.onnx\.data has changed"),
        ("model.onnx", Path.unlink, r"model\.onnx is missing.*codir export"),
        ("model.onnx", lambda p: p.write_bytes(b"x" * 501), r"model\.onnx has 501 bytes where 500"),
    ],
)
def test_damage_to_a_file_is_found(folder: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    damage(folder / name)
    with pytest.raises(ModelError, match=message):
        Manifest.read(folder).check_files(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "onnx", ', r"deployment\.json is damaged.*codir export"),
        ("[]", r"deployment\.json is damaged: it"),
        (json.dumps({**ONNX, "files": {"a": {"bytes": 1, "digest": "x"}}}), "damaged: 'source'"),
        (json.dumps({"files": {"../outside": {"bytes": 1, "digest": "x"}}}), "outside of the folder"),
    ],
)
def test_a_damaged_manifest_is_said_to_be(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        Manifest.read(folder)
    assert str(caught.value).count("json is damaged") <= 1  # said once


def test_a_folder_without_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no exported folder: deployment\.json is missing"):
        Manifest.read(tmp_path)


def test_a_new_folder_gets_its_name_at_the_end_or_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "deploy" / "student"
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), new_folder(output) as folder:  # noqa: PT012
            (folder / "model").write_text("x")
            raise error
        assert not list(tmp_path.iterdir())
    with new_folder(output) as folder:
        (folder / "model").write_text("x")
        assert not output.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["deploy", "student", "model"]


def test_what_is_there_is_never_overwritten(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RunError, match="already holds an exported model, and codir export never overwrites"):
        require_new(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(RunError, match=r"full is not empty"):
        require_new(tmp_path / "full")
    for output in ("full/a", "full/a/x", "full/a/x/y"):
        with pytest.raises(RunError, match="a is a file"), new_folder(tmp_path / output):
            pass
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as made:
        (made / "b").touch()
    assert (tmp_path / "empty" / "b").exists()
    meanwhile = tmp_path / "meanwhile"
    with pytest.raises(RunError, match="never overwrites"), new_folder(meanwhile):  # noqa: PT012
        meanwhile.mkdir()
        (meanwhile / "precious").touch()
    assert [path.name for path in meanwhile.iterdir()] == ["precious"]


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    output = tmp_path / "student"
    program = (
        "import sys; from pathlib import Path; from codir.engines.folder import new_folder\n"
        "with new_folder(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(FolderInUseError, match=rf"is writing {output}\. .*--output"), new_folder(output):
            pass
        other.kill()  # leaves what it had
    assert not output.exists()
    with new_folder(output) as folder:
        assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(
    ("words", "name", "engine", "kind", "precision"),
    [
        (("onnx",), "onnx fp32", "onnxruntime", "fp32", "fp32"),
        (("onnx", "int8"), "onnx int8", "onnxruntime", "int8", "fp32"),
        (("openvino",), "openvino bf16", "openvino", "bf16", "bf16"),
        (("openvino", "none", "fp32"), "openvino fp32", "openvino", "fp32", "fp32"),
        (("openvino", "int8"), "openvino int8", "openvino", "int8", "bf16"),
        (("torch-bf16",), "torch-bf16", "torch-bf16", "bf16", "bf16"),
    ],
)
def test_defaults(words: tuple[str, ...], name: str, engine: str, kind: str, precision: str) -> None:
    target = Target.of(*words)
    assert (str(target), target.engine, target.kind, target.precision) == (name, engine, kind, precision)
    assert target.needs_data == (name == "openvino int8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("onxx",),
            r"--format onxx: unknown \(did you mean 'onnx'\?\)\. Known are onnx, openvino, torch-bf16",
        ),
        (("onnx", "in8"), r"--quantize in8: unknown \(did you mean 'int8'\?\)"),
        (("onnx", None, "fp23"), r"--precision fp23: unknown \(did you mean 'fp32'\?\)"),
        (("torch-bf16", "int8"), r"torch-bf16 is bf16.*--format openvino --quantize int8"),
        (("torch-bf16", None, "fp32"), r"torch-bf16 is bf16.*--format onnx"),
        (("onnx", "int8", "bf16"), r"onnx has no bf16.*--format openvino --precision bf16"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target.of(*words)
