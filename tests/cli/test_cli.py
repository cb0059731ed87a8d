"""The commands turn flags into a configuration and hand it to a workflow; failures become messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import codir.runs
from codir.errors import DataError, InterruptedRunError

DISTILL = ["distill", "--teacher", "t", "--task", "sst2", "--output", "o"]
FINETUNE = ["finetune", "--model", "m", "--task", "sst2", "--output", "o"]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, workflow: str = "distill") -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(codir.runs, workflow, SimpleNamespace(**{workflow: fail}), raising=False)


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill"], ["--teacher runs/teacher", "--output runs/student", "--task sst2"]),
        (["finetune"], ["--model roberta-base", "--task sst2"]),
        (["evaluate", "runs/s"], ["--task sst2", "--validation dev.csv"]),
        ([*DISTILL, "--train", "a.csv"], ["exclude each other", "--task", "--train"]),
        ([*DISTILL, "--epochs", "0"], ["--epochs: training.num_train_epochs is 0.0"]),
        ([*DISTILL, "--precision", "fp8"], ["--precision", "'fp8'", "'bf16'"]),
        ([*DISTILL, "--student-init", "frist"], ["--student-init", "did you mean 'first'"]),
        (
            [*DISTILL, "--student", "m", "--student-layers", "3"],
            ["--student", "--student-layers", "leave out"],
        ),
        ([*DISTILL, "--set", "training.learnin_rate=1"], ["did you mean 'learning_rate'"]),
        ([*DISTILL, "--set", "nonsense"], ["key=value"]),
        ([*DISTILL, "--recipe", "codir"], ["no recipe 'codir'", "codir-fine"]),
        ([*DISTILL, "--config", "no-such.yaml"], ["no-such.yaml", "No such file"]),
        (["recipes", "kdd"], ["did you mean 'kd'"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    run: Any, arguments: list[str], words: list[str], calls: list[Any]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert not calls
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "arguments", [["distil"], [*DISTILL, "--epoch", "3"], [*DISTILL, "--seed", "x"], ["predict", "m"]]
)
def test_misspelt_commands_and_flags(run: Any, arguments: list[str], calls: list[Any]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert not calls
    assert "Traceback" not in result.output


def test_an_error_of_a_workflow_is_a_message(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, DataError("dev.csv, line 3: [no label] " + "x" * 300))
    result = run(*DISTILL)
    assert result.exit_code == 2
    # whole, with its brackets, in one line: it can be searched for and copied
    assert result.stderr == "Error: dev.csv, line 3: [no label] " + "x" * 300 + "\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_disks_that_cannot_be_written(run: Any, number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "runs/student/model.safetensors"))
    result = run(*DISTILL)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "runs/student/model.safetensors" in result.stderr


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "input/output error")])
def test_bugs_keep_their_traceback(run: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    result = run(*DISTILL)
    assert result.exception is error


def test_an_interrupt_says_how_to_go_on(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    result = run(*DISTILL)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    failing(monkeypatch, KeyboardInterrupt(), "predict")
    result = run("predict", "m", "--input", "a", "--output", "b")
    assert result.exit_code == 130
    assert "--resume" not in result.stderr


def test_a_run_that_saved_before_it_stopped(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, InterruptedRunError("Stopped at step 12."))
    result = run(*DISTILL)
    assert (result.exit_code, result.stderr) == (130, "Stopped at step 12.\n")


def test_a_real_process_that_gets_ctrl_c(run: Any) -> None:
    program = (
        "import codir.runs, os, signal, time\n"
        "from types import SimpleNamespace\n"
        "def wait(config):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
        "codir.runs.distill = SimpleNamespace(distill=wait)\n"
        "from codir.cli.main import run\n"
        "run()\n"
    )
    # A shell without job control starts its background jobs with SIGINT ignored; children inherit that.
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import signal; signal.signal({int(signal.SIGINT)}, signal.default_int_handler)\n{program}",
            *DISTILL,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 130
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr
