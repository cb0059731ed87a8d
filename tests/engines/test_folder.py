"""The manifest notices every change, a folder is made whole or not at all; formats that make sense."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codir.engines.folder import MANIFEST, Manifest, is_deployed, new_folder, require_new
from codir.engines.formats import Target
from codir.errors import ConfigError, FolderInUseError, ModelError, RunError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "student"
    made.mkdir()
    (made / "model.onnx").write_bytes(b"graph" * 100)
    (made / "model.onnx.data").write_bytes(b"weights" * 100)
    (made / "tokenizer.json").write_text("{}")
    (made / "README.md").write_text("# student\n")
    Manifest("onnx", "none", "fp32", "onnxruntime", "runs/student", "d", inputs=("input_ids",)).write(made)
    return made


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert (manifest.format, manifest.engine, manifest.inputs) == ("onnx", "onnxruntime", ("input_ids",))
    assert sorted(manifest.files) == ["model.onnx", "model.onnx.data", "tokenizer.json"]
    assert manifest.bytes == 500 + 700  # not the tokenizer
    manifest.check_files(folder)
    assert is_deployed(folder)
    assert not is_deployed(folder.parent)
    (folder / "README.md").write_text("my own words\n")
    manifest.check_files(folder)  # people may write there


def _truncate(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights" * 99)


def _flip(folder: Path) -> None:
    path = folder / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[350] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"model\.onnx\.data is truncated: it has 693 bytes where 700 were written"),
        (_flip, r"the content of model\.onnx\.data has changed"),
        (lambda f: (f / "model.onnx").unlink(), r"model\.onnx is missing.*codir export"),
        (
            lambda f: (f / "model.onnx").write_bytes(b"x" * 501),
            r"model\.onnx has 501 bytes where 500 were written",
        ),
    ],
)
def test_damage_to_a_file_is_found(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        Manifest.read(folder).check_files(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "onnx", ', r"deployment\.json is damaged.*codir export"),
        ("[]", "damaged: no JSON object"),
        ('{"format": "onnx"}', "damaged.*missing"),
        ('{"schema": 99}', r"newer codir \(layout 99"),
    ],
)
def test_a_damaged_manifest_is_said_to_be(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        Manifest.read(folder)
    assert str(caught.value).count("json is damaged") <= 1  # said once


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside"])
def test_files_outside_are_refused(folder: Path, name: str) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    values["files"] = {name: {"bytes": 1, "digest": "x"}}
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="outside of the folder"):
        Manifest.read(folder)


def test_keys_of_a_later_version_do_not_hurt(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**values, "colour": "blue"}))
    assert Manifest.read(folder).format == "onnx"


def test_a_folder_without_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no exported folder: deployment\.json is missing"):
        Manifest.read(tmp_path)


def test_a_new_folder_gets_its_name_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "deploy" / "student"
    with new_folder(output) as folder:
        (folder / "model").write_text("x")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["model"]
    assert [path.name for path in output.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with new_folder(tmp_path / "student") as folder:
            (folder / "model").write_text("x")
            raise error

    with pytest.raises(error):
        write()
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_overwritten(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RunError, match="already holds an exported model, and codir export never overwrites"):
        require_new(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(RunError, match=r"full is not empty"):
        require_new(tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        require_new(tmp_path / "full" / "a")
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as made:
        (made / "b").touch()
    assert (tmp_path / "empty" / "b").exists()


def test_something_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "student"

    def write() -> None:
        with new_folder(output):
            output.mkdir()
            (output / "precious").touch()

    with pytest.raises(RunError, match="never overwrites"):
        write()
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    for output in ("afile/x", "afile/x/y"):
        with (
            pytest.raises(RunError, match=r"afile is a file\. Choose another"),
            new_folder(tmp_path / output),
        ):
            pass


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
        with (
            pytest.raises(FolderInUseError, match=rf"is writing {output}\. .*--output"),
            new_folder(output),
        ):
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
        (("openvino", "int8", "fp32"), "openvino int8", "openvino", "int8", "fp32"),
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
        (("torch-bf16", "int8"), r"torch-bf16 has no int8.*--format openvino --quantize int8"),
        (("torch-bf16", None, "fp32"), r"torch-bf16 is bf16.*--format onnx"),
        (("onnx", None, "bf16"), r"onnx has no bf16.*--format openvino --precision bf16"),
        (("onnx", "int8", "bf16"), r"onnx has no bf16"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target.of(*words)
