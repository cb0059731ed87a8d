"""Runs what a page shows, with a budget for tests; says what is not run and why."""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Block, blocks, commands, files, pages, read
from typer.testing import CliRunner

import codir
from codir.cli.main import app

# What is added to a command, by its name: a smaller budget, nothing else. Everything is run as it stands but for this.
SMALLER = {
    "finetune": "--epochs 1 --batch-size 128",
    "distill": "--epochs 1 --batch-size 128 --no-baseline",
    "augment": "--copies 2 --candidates 4 --limit-train 64",
    "corpus": "--block 32 --workers 1",
    "pretrain": "--steps 2 --batch-size 4 --micro-batch 4",
    "study": "--epochs 1 --batch-size 128 --tasks mrpc --workers 0",
    "latency": "--sequences 32 --rounds 2 --no-memory",  # the memory takes a process for each model
    "reproduce": "--tasks mrpc --seeds 1 --workers 0 --set study.training.num_train_epochs=1 "
    "--set study.teacher_training.num_train_epochs=1",
}
# What is added to single commands besides; the first beginning that fits.
SMALLER_STILL = {
    "export runs/demo/student": "--limit-validation 200 --calibration 50",
    "export runs/student --format openvino --quantize int8": "--calibration 16",
    "study study.yaml": "--seeds 1-2 --recipes kd,codir-plus",
    "study --recipes": "--seeds 1 --recipes kd --limit-train 128 --set teacher_training.num_train_epochs=1",
    "reproduce table4 --model": "--plan",  # at the paper's scale: hours, also for tiny models
    "reproduce table2 --model": "--plan",  # four pre-trainings first; tests/studies has the whole chain
}
# What Python's calls are given besides.
SMALLER_PYTHON: dict[str, dict[str, Any]] = {
    "finetune": {"training": {"num_train_epochs": 1, "per_device_train_batch_size": 128}},
    "distill": {"training": {"num_train_epochs": 1, "per_device_train_batch_size": 128}},
    "DistillationArguments": {"num_train_epochs": 1, "per_device_train_batch_size": 128},
}
# For these the additions make no sense: they only look.
UNCHANGED = re.compile(r"codir study --output \S+ --(status|report)|codir reproduce .*--plan")

# Commands of codir that are not run; their flags and values are checked all the same. Beginnings of the command.
NOT_RUN = {
    "codir distill ... --set objectives.logit_l1": "of the objective that tests/test_contributing.py writes and uses"
}
# Commands of others.
NOT_OURS = {
    "make ": "the target is looked for in the Makefile",
    "source .venv/bin/activate": "of the reader's shell",
    "printf ": "run, but by a shell",
    "pip install": "needs a network; extras are looked for in pyproject.toml",
}

# Pages that go on from runs: these commands come first.
_MRPC, _SST2 = (
    (
        f"codir finetune --model roberta-base --task {task} --output runs/teacher",
        f"codir distill --teacher runs/teacher --task {task} --student-layers 6 --output runs/student",
    )
    for task in ("mrpc", "sst2")
)
_ACCEPTABILITY = "--task acceptability --limit-train 510 --limit-validation 40"
_DEMO = (  # stands in for `make demo`
    f"codir finetune --model roberta-base {_ACCEPTABILITY} --output runs/demo/teacher",
    f"codir distill --teacher runs/demo/teacher {_ACCEPTABILITY} --output runs/demo/student",
)
BEFORE = {
    "docs/index.md": _DEMO,
    "docs/deployment.md": _SST2,
    "docs/report.md": _MRPC,
    "docs/sharing.md": _MRPC,
}


def with_something_to_run() -> list[str]:
    """Returns the pages that show commands or Python."""
    shown = [page for page in pages() if any(commands(each) for each in blocks(page)) or "```python" in read(page)]
    return [page for page in shown if page != "CONTRIBUTING.md"]  # its Python: tests/test_contributing.py


def run(command: str) -> None:
    """Runs a command of codir in this process."""
    arguments: list[str] = []
    for word in shlex.split(command)[1:]:
        arguments += sorted(glob.glob(word)) if "*" in word else [word]
    outcome = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, arguments)
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise AssertionError(f"{command}\n{outcome.output}") from outcome.exception
    assert outcome.exit_code == 0, f"{command}\n{outcome.output}"


def smaller(command: str) -> str:
    """Returns the command with the budget of a test."""
    if UNCHANGED.match(command):
        return command
    parts = [command, SMALLER.get(command.split()[1], "")]
    parts += [more for start, more in SMALLER_STILL.items() if command.startswith(f"codir {start}")][:1]
    return " ".join(part for part in parts if part)


def why_not(command: str) -> str | None:
    """Returns why a command is not run, None if it is."""
    return next((why for start, why in {**NOT_RUN, **NOT_OURS}.items() if command.startswith(start)), None)


def run_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files that a page shows, then runs its commands and Python in their order, in the current folder."""
    found = blocks(page)
    for block in found:
        for name, text in files(block).items():
            Path(name).write_text(text, encoding="utf-8")
    for name, budget in SMALLER_PYTHON.items():
        monkeypatch.setattr(codir, name, with_budget(getattr(codir, name), budget))
    names: dict[str, object] = {"__name__": page}
    for block in found:
        for command in commands(block):
            if command.startswith("printf "):
                subprocess.run(command, shell=True, check=True)
            elif why_not(command) is None:
                assert command.startswith("codir "), f"{block.place}: neither run nor listed: {command}"
                run(smaller(command))
        if block.tag == "python":
            run_python(block, names)


def with_budget(function: Callable[..., Any], budget: dict[str, Any]) -> Callable[..., Any]:
    """Returns the function with a test's budget among its keywords."""

    def call(*args: Any, **kwargs: Any) -> Any:
        merged = {
            key: {**kwargs.get(key, {}), **each} if isinstance(each, dict) else each for key, each in budget.items()
        }
        return function(*args, **{**kwargs, **merged})

    return call


def run_python(block: Block, names: dict[str, object]) -> None:
    """Runs a block of Python where those before it on the page left off."""
    lines = "\n" * block.line  # so that a traceback names the line of the page
    exec(compile(lines + block.text, str(ROOT / block.page), "exec"), names)
