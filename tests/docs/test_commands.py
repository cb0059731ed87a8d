"""Every command and every piece of Python on the pages is run, in order, page by page, in a small made-up world.

What a reader has, the world has: models under the names of the pages (a folder of that name wins over the Hub), GLUE, files.
All of it is tiny, and `SMALLER` adds what makes a command take a second instead of hours. What cannot run here stands in
`NOT_RUN` or `NOT_OURS` with its reason, and is checked as far as it goes; a command that is neither run nor listed fails.
"""

from __future__ import annotations

import glob
import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import typer
from docs_pages import ROOT, Block, blocks, commands, files, pages, read, spans
from docs_world import TEST, hub, write_world
from typer.testing import CliRunner

import codir
from codir.cli.main import app
from codir.recipes.library import recipe_names
from codir.tasks.submission import ROWS

# What is added to a command, by its name: a smaller budget, nothing else. Everything is run as it stands but for this.
SMALLER = {
    "finetune": "--epochs 1 --batch-size 128",
    "distill": "--epochs 1 --batch-size 128",
    "corpus": "--block 32 --workers 1",
    "pretrain": "--steps 2 --batch-size 4 --micro-batch 4",
    "study": "--epochs 1 --batch-size 128 --tasks mrpc --workers 1",
    "latency": "--sequences 32 --rounds 2",
    "reproduce": "--tasks mrpc --seeds 1 --set study.training.epochs=1 --set study.teacher_training.epochs=1",
}
# What is added to single commands besides; the first beginning that fits.
SMALLER_STILL = {
    "study study.yaml": "--seeds 1-2 --recipes kd,codir-fine",
    "study --recipes": "--seeds 1 --recipes kd",
    "latency runs/teacher runs/student --engines": "--no-memory",
    "reproduce table4 --model": "--plan",  # at the paper's scale: hours, also for tiny models
    "reproduce table2 --model": "--plan",  # four pre-trainings first; tests/studies has the whole chain
}
# What Python's calls are given besides.
SMALLER_PYTHON: dict[str, dict[str, Any]] = {
    "finetune": {"training": {"epochs": 1, "batch_size": 128}},
    "distill": {"training": {"epochs": 1, "batch_size": 128}},
    "DistillationArguments": {"num_train_epochs": 1, "per_device_train_batch_size": 128},
}
# For these the additions make no sense: they only look.
UNCHANGED = re.compile(r"codir study --output \S+ --(status|report)|codir reproduce .*--plan")

# Commands of codir that are not run; their flags and values are checked all the same. Beginnings of the command.
NOT_RUN = {
    "codir plan --paper": "run by tests/workflows/test_plan.py, which compares the page's figures too",
    "codir plan --recipe mlm-pre,codir-pre --teacher all-MiniLM-L6-v2": "times a real model for a minute, likewise",
    "codir distill ... --set objectives.logit_l1": "of the objective that tests/test_contributing.py writes and uses",
}
# Commands of others.
NOT_OURS = {
    "make ": "the target is looked for in the Makefile",
    "source .venv/bin/activate": "of the reader's shell",
    "printf ": "run, but by a shell",
    "pip install": "needs a network; extras are looked for in pyproject.toml",
}

# Pages that go on from runs: these commands come first.
_STUDENT = (
    "codir finetune --model roberta-base --task mrpc --output runs/teacher",
    "codir distill --teacher runs/teacher --task mrpc --student-layers 6 --output runs/student",
)
BEFORE = {
    "docs/index.md": (  # what `make demo` leaves
        "codir finetune --model roberta-base --task acceptability --limit-train 1010 --limit-validation 40 --output runs/demo/teacher",
        "codir distill --teacher runs/demo/teacher --task acceptability --limit-train 1010 --limit-validation 40 --output runs/demo/student",
    ),
    "docs/deployment.md": _STUDENT,
    "docs/report.md": _STUDENT,
    "docs/publishing.md": _STUDENT,
    "docs/submission.md": [
        f"codir finetune --model roberta-base --task {task} --output runs/{task}" for task in ("mrpc", "cola")
    ],
}

PAGES = [
    page for page in pages() if any(commands(block) for block in blocks(page)) or "```python" in read(page)
]
RUN = [page for page in PAGES if page != "CONTRIBUTING.md"]  # its Python: tests/test_contributing.py


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


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    write_world(folder)
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a copy of the world the current folder."""
    folder = tmp_path / "reader"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CODIR_CACHE", str(folder / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    for name in ROWS:  # the official test sets have up to 390,965 rows
        monkeypatch.setitem(ROWS, name, TEST)
    return folder


@pytest.fixture(scope="session")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], None]:
    """Makes the runs of commands in the current folder; a copy of them where another page had them made."""
    kept = tmp_path_factory.mktemp("before")

    def make(commands: Sequence[str]) -> None:
        if not commands:
            return
        copy = kept / hashlib.sha256("\n".join(commands).encode()).hexdigest()
        if copy.is_dir():
            shutil.copytree(copy, "runs")
            return
        for command in commands:
            run(smaller(command))
        shutil.copytree("runs", copy)

    return make


@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs(
    page: str, here: Path, made_before: Callable[[Sequence[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(page)
    for block in found:
        for name, text in files(block).items():
            (here / name).write_text(text, encoding="utf-8")
    made_before(BEFORE.get(page, ()))
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
            key: {**kwargs.get(key, {}), **each} if isinstance(each, dict) else each
            for key, each in budget.items()
        }
        return function(*args, **{**kwargs, **merged})

    return call


def run_python(block: Block, names: dict[str, object]) -> None:
    """Runs a block of Python where those before it on the page left off."""
    lines = "\n" * block.line  # so that a traceback names the line of the page
    exec(compile(lines + block.text, str(ROOT / block.page), "exec"), names)


# --- what is not run ----------------------------------------------------------------------------------------------


GROUP: Any = typer.main.get_command(app)


def command_of(name: str) -> Any:
    assert name in GROUP.commands, f"codir has no command {name}"
    return GROUP.commands[name]


def flags_of(*commands: Any) -> set[str]:
    return {
        each for one in commands for option in one.params for each in (*option.opts, *option.secondary_opts)
    } | {"--help"}


ALL = [(page, command) for page in pages() for block in blocks(page) for command in commands(block)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page}:{text[:60]}" for page, text in ALL])
def test_flags_and_values_are_known(page: str, command: str) -> None:
    if not command.startswith(("codir ", *NOT_OURS)):
        pytest.fail(f"{page}: neither run nor listed: {command}")
    if command.startswith("make "):
        assert re.search(rf"^{command.split()[1]}:", read("Makefile"), flags=re.MULTILINE)
    for extra in re.findall(r"codir\[([a-z,]+)\]", command):
        for name in extra.split(","):
            assert re.search(rf"^{name} = \[", read("pyproject.toml"), flags=re.MULTILINE), name
    ours = re.search(r"codir (?=[a-z])(.*)", command) if not command.startswith(("pip", "git")) else None
    if ours is not None:
        words = [word for word in shlex.split(ours[1]) if word != "..."]
        # fails on unknown flags, on values of a wrong type, on arguments too many or too few; runs nothing
        command_of(words[0]).make_context(words[0], words[1:])


@pytest.mark.parametrize("page", pages())
def test_commands_in_the_text_have_the_flags(page: str) -> None:
    for span in spans(page):
        words = span.split()
        if words[0] != "codir" or len(words) < 2 or not words[1].isalpha():
            continue
        known = flags_of(command_of(words[1]))
        flags = {word.partition("=")[0].rstrip(",.") for word in words[2:] if word.startswith("--")}
        assert flags <= known, f"{page}: `{span}`: {flags - known}"


def known_flags() -> set[str]:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    return flags_of(GROUP, *GROUP.commands.values()) | set(re.findall(r"\"(--[a-z-]+)\"", scripts))


OTHERS_FLAGS = {
    "--cpu",
    "--nnodes",
    "--rdzv-endpoint",
    "--nproc_per_node",
    "--strict",
}  # of accelerate, torchrun, mkdocs


@pytest.mark.parametrize("page", pages())
def test_flags_in_the_text_exist(page: str) -> None:
    said = {flag for span in spans(page) for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", span)}
    assert said <= known_flags() | OTHERS_FLAGS, said - known_flags() - OTHERS_FLAGS


@pytest.mark.parametrize("page", pages())
def test_files_and_recipes_that_pages_name_exist(page: str) -> None:
    text = read(page)
    for script in re.findall(r"benchmarks/[\w/-]+\.(?:py|yaml)", text):
        assert (ROOT / script).is_file(), f"{page}: {script}"
    for names in re.findall(r"--recipes? ([a-z0-9,-]+)", text):
        for recipe in names.strip(",").split(","):
            assert recipe in recipe_names(), f"{page}: {recipe}"
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", read("Makefile"), flags=re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("start", [*NOT_RUN, *NOT_OURS])
def test_nothing_is_excused_that_no_page_shows(start: str) -> None:
    assert any(command.startswith(start) for _, command in ALL), start


def test_a_page_that_shows_nonsense_would_fail(tmp_path: Path) -> None:
    block = Block("x.md", 1, "", "codir finetune --modell a --task sst2 \\\n  --output b  # a comment\n")
    (command,) = commands(block)
    assert command == "codir finetune --modell a --task sst2 --output b"
    with pytest.raises(Exception, match="--modell"):
        test_flags_and_values_are_known("x.md", command)
    with pytest.raises(pytest.fail.Exception, match="neither run nor listed"):
        test_flags_and_values_are_known("x.md", "rm -rf /")
