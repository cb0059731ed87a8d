"""What the pages show: commands, Python, YAML files; read from README.md, CONTRIBUTING.md and docs/*.md."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("", "console", "bash", "sh")  # tags of fences that hold commands

_FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# (\S+\.ya?ml)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path of the page, relative to the repository.
        line: the line of its fence.
        tag: its language.
        text: what is in it.
    """

    page: str
    line: int
    tag: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}, line {self.line}"


def pages() -> list[str]:
    """Returns all pages, the API reference apart."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = read(page)
    return [Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _FENCE.finditer(text)]


def commands(block: Block) -> list[str]:
    """Returns a block's commands without prompts, comments, continued lines joined; none for other languages."""
    if block.tag not in SHELL:
        return []
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.tag == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    joined = [line if ">" in line else shlex.join(shlex.split(line, comments=True)) for line in lines]
    # a pattern is not quoted: the shell expands it
    return [re.sub(r"'([^' ]*\*[^' ]*)'", r"\1", line) for line in joined if line]


def files(block: Block) -> dict[str, str]:
    """Returns the file that a YAML block shows, if its first line names one."""
    named = _NAMED.match(block.text) if block.tag == "yaml" else None
    return {named[1]: block.text} if named else {}


def spans(page: str) -> list[str]:
    """Returns what stands between backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", read(page)))
