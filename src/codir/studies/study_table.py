"""One table, four dresses: the terminal (rich), Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from codir import markdown
from codir.markdown import inline
from codir.printing import Table, table, text

Value = str | int | float | None
DASH = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: as shown.
        text: shows a value that is not None; by default as it is.
        name: heading in CSV, where the values stand as they are; by default `heading`.
        left: aligned to the left, as names are.
    """

    heading: str
    text: Callable[[Value], str] = str
    name: str | None = None
    left: bool = False

    def show(self, value: Value) -> str:
        """Returns a value as text; None and what is not a number as a dash."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return DASH
        return self.text(value)


@dataclass(frozen=True)
class StudyTable:
    """A table before it is put into a format.

    Attributes:
        title: a line above it.
        columns: of every row.
        rows: the values, one for each column.
        note: a line below it; empty for none.
        rule_after: draw a line after this many rows (0: none), where the format can.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    rule_after: int = 0

    def cells(self) -> list[list[str]]:
        """Returns the rows as text."""
        return [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows
        ]

    def to_rich(self) -> Table:
        """Returns the table for the terminal; names are never read as markup, numbers never folded."""
        shown = table(text(self.title, "bold"), self.note or None, collapse_padding=True)
        rows = self.cells()
        for number, column in enumerate(self.columns):
            width = max((len(row[number]) for row in rows), default=0)
            justify: Literal["left", "right"] = "left" if column.left else "right"
            shown.add_column(
                column.heading,
                justify=justify,
                overflow="fold",
                min_width=min(width, 18) if column.left else width,
            )
        for number, row in enumerate(rows, start=1):
            shown.add_row(*row, end_section=number == self.rule_after)
        return shown

    def to_markdown(self) -> str:
        """Returns title, table (GitHub's) and note; what Markdown would read as its own is escaped."""
        left = [column.left for column in self.columns]
        body = markdown.table([column.heading for column in self.columns], self.cells(), left)
        note = f"\n{inline(self.note)}\n" if self.note else ""
        return f"**{inline(self.title)}**\n\n{body}{note}"

    def to_csv(self) -> str:
        """Returns the values as they are, not rounded, under the columns' names; None is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name or column.heading for column in self.columns])
        for row in self.rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
        return file.getvalue()

    def to_latex(self) -> str:
        """Returns a `table` environment with the rules of booktabs; names are escaped."""
        form = "".join("l" if column.left else "r" for column in self.columns)
        lines = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape_latex(self.title)}{'. ' if self.note else ''}{escape_latex(self.note)}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            _latex_row([column.heading for column in self.columns]),
            r"\midrule",
        ]
        for number, row in enumerate(self.cells(), start=1):
            lines.append(_latex_row(row))
            if number == self.rule_after and number < len(self.rows):
                lines.append(r"\midrule")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would start an optional argument
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
}


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets as it is; newlines become spaces."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_row(cells: Sequence[str]) -> str:
    # a hyphen before a number is a minus sign
    shown = (re.sub(r"(?<![\w-])-(?=\d)", "$-$", escape_latex(cell)) for cell in cells)
    return " & ".join(shown) + r" \\"
