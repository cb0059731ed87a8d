"""Markdown in which names, classes and paths are text: nothing in them ends a cell, a line or a code span."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codir.printing import printable


def inline(text: object) -> str:
    """Returns text on one line, in a sentence or a table's cell, in which Markdown and HTML mean nothing."""
    return re.sub(r"[\\`*_{}\[\]<>#|~$&]", r"\\\g<0>", " ".join(printable(text).split()))


def code(text: object) -> str:
    """Returns text that fits between single backticks."""
    return " ".join(printable(text).split()).replace("`", "'")


def fence(text: str, language: str) -> str:
    """Returns a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int | Sequence[bool] = 1) -> str:
    """Returns a table of GitHub's, all cells as text.

    Args:
        headings: of the columns.
        rows: their cells.
        left: which columns are words, aligned on the left, or how many of the first ones; the others are numbers.
    """
    words = [number < left for number in range(len(headings))] if isinstance(left, int) else left
    aligned = ["---" if each else "---:" for each in words]
    lines = [list(map(inline, headings)), aligned, *(list(map(inline, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
