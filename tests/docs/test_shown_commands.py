"""Commands on the pages, run or not, have flags and values that exist; files, recipes and targets they name do too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from docs_pages import ROOT, Block, blocks, commands, pages, read, spans
from docs_runner import NOT_OURS, NOT_RUN

from codir.cli.main import app
from codir.config.config import DistillConfig
from codir.config.library import recipe_names
from codir.config.trainer_arguments import known_arguments
from codir.studies.config import StudyConfig

GROUP: Any = typer.main.get_command(app)


def command_of(name: str) -> Any:
    assert name in GROUP.commands, f"codir has no command {name}"
    return GROUP.commands[name]


def flags_of(*commands: Any) -> set[str]:
    return {each for one in commands for option in one.params for each in (*option.opts, *option.secondary_opts)} | {
        "--help"
    }


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
        left = command_of(words[0]).make_context(words[0], words[1:]).args
        flags = {word.partition("=")[0] for word in left if word.startswith("--")}
        passed_on = {f"--{name.replace('_', '-')}" for name in known_arguments()}
        assert flags <= passed_on, f"{page}: {flags - passed_on}"


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


# of accelerate, torchrun, mkdocs
OTHERS_FLAGS = {"--cpu", "--nnodes", "--rdzv-endpoint", "--nproc_per_node", "--strict"}


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


@pytest.mark.parametrize("page", pages())
def test_settings_in_yaml_exist(page: str) -> None:
    """Files that a page names are run; of the other YAML at least the names are checked."""
    for block in blocks(page):
        if block.tag == "yaml":
            keys = yaml.safe_load(block.text).keys()
            known = DistillConfig if {"recipe", "objectives"} & keys else StudyConfig
            assert keys <= {*known.model_fields, "recipe"}, block.place


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
