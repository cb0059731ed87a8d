"""A console that is not UTF-8 never ends a command: what it has not got is said in other signs, files stay UTF-8."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_world import QUICK, codir_process, flags, refused, sentences, write_csv

import codir as library

# Hindi, an emoji, an arrow and half a character, as a file name with other bytes gives it
LABELS = ("नकारात्मक", "positive → ±🙂")
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "läßt – train.csv", sentences(24, labels=LABELS))


class _Console(io.TextIOWrapper):
    """Standard output of a machine with another encoding, inside this process."""

    def __init__(self, encoding: str):
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, write_through=True)

    def shown(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)


def _spoken(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object) -> tuple[int, str]:
    """Runs `codir` with both streams in an encoding; returns its exit code and what they show."""
    from importlib.metadata import entry_points

    out, err = _Console(encoding), _Console(encoding)
    (command,) = entry_points(group="console_scripts", name="codir")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "argv", ["codir", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.load()()
    code = end.value.code
    return code if isinstance(code, int) else int(code is not None), out.shown() + err.shown()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "koi8-r"])
def test_finetune_evaluate_and_predict_end_well(
    tmp_path: Path,
    train: Path,
    tiny_model_dir: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    run = tmp_path / "läuft …" if encoding == "ascii" else tiny_model_dir(labels=LABELS, layers=1)
    if encoding == "ascii":
        model = tiny_model_dir(labels=LABELS, layers=1)
        given = ["finetune", *flags(model=model, train=train, validation=train, output=run), *QUICK]
        code, said = _spoken(monkeypatch, encoding, *given)
        assert code == 0, said
        assert json.loads((run / "run.json").read_text(encoding="utf-8"))["state"] == "finished"
        assert LABELS[0] in (run / "README.md").read_text(encoding="utf-8")
    code, said = _spoken(monkeypatch, encoding, "evaluate", run, "--validation", train)
    assert code == 0, said
    assert "accuracy" in said
    output = tmp_path / "पूर्वानुमान.jsonl"
    code, said = _spoken(monkeypatch, encoding, "predict", run, "--input", train, "--output", output)
    assert code == 0, said
    assert "\\u092a" in said  # the name of the file, written out
    labels = {json.loads(line)["label"] for line in output.read_text(encoding="utf-8").splitlines()}
    assert labels <= set(LABELS)


def test_a_process_of_its_own_ends_well(train: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    model = tiny_model_dir(labels=LABELS, layers=1)
    plain = tmp_path / "train.csv"  # the C locale cannot even hand over another name
    plain.write_bytes(train.read_bytes())
    done = codir_process("evaluate", model, "--validation", plain, env=C_LOCALE)
    assert done.code == 0, done.text
    assert "accuracy" in done.text


def test_errors_usage_and_help_are_said_on_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = _spoken(monkeypatch, "ascii", "evaluate", tmp_path / "モデル", "--validation", "x.csv")
    assert code == 2
    assert "Error:" in said
    assert "\\u30e2" in said
    code, said = _spoken(monkeypatch, "ascii", "evaluate", "--ヘルプ…")
    assert code == 2
    assert "\\u30d8" in said
    for command in ("distill", "pretrain", "study", "publish"):
        code, said = _spoken(monkeypatch, "ascii", command, "--help")
        assert code == 0, said
    code, said = _spoken(monkeypatch, "ascii", "recipes")
    assert code == 0, said
    assert "codir-fine" in said


def test_python_ends_well_too(
    train: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # no command line sets anything up there, and the console may be the caller's own
    from rich.console import Console

    model, output = tiny_model_dir(labels=LABELS, layers=1), tmp_path / "ä.jsonl"
    stream, own = _Console("ascii"), _Console("ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        library.predict(model, train, output)
    library.predict(model, train, output, overwrite=True, console=Console(file=own, width=300))
    assert "\\xe4.jsonl" in stream.shown()
    assert "\\xe4.jsonl" in own.shown()


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems allow Unicode alone")
def test_a_file_name_that_is_not_unicode(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    assert "caf\\udce9.csv" in refused("evaluate", name, "--validation", "x.csv")
    Path(name).write_text("text\n")
    assert "caf\\udce9.csv" in refused("evaluate", tiny_model_dir(layers=1), "--validation", name)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    message = refused("evaluate", tmp_path / "a\x1b[2Jb\rc", "--validation", "x.csv")
    assert "\x1b" not in message
    assert r"a\x1b[2Jb\rc" in message
