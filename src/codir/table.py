"""The one table of codir: made once of values, shown in the terminal, a notebook, Markdown, LaTeX, CSV or pandas.

    table = Table("Scores", (Column("model", left=True), Column("accuracy", "{:.4f}".format)), (("kd", 0.81),))

Names, classes and paths are text in each of them: nothing ends a cell, a line or a code span.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codir.printing import Table as RichTable
from codir.printing import printable, text
from codir.printing import table as rich_table

if TYPE_CHECKING:
    import pandas

Value = str | int | float | None
DASH = "-"


def inline(text: object) -> str:
    """Returns text on one line, in a sentence or a table's cell, in which Markdown and HTML mean nothing."""
    return re.sub(r"[\\`*_{}\[\]<>#|~$&]", r"\\\g<0>", " ".join(printable(text).split()))


def code(text: object) -> str:
    """Returns text that fits between single backticks of Markdown."""
    return " ".join(printable(text).split()).replace("`", "'")


def fence(text: str, language: str) -> str:
    """Returns a code block of Markdown whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{printable(text)}\n{fence}"


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    show: Callable[[Any], str] = str  # makes a value that is known text
    name: str | None = None  # in pandas and CSV, where values stand unrounded; else the heading
    left: bool = False  # aligned to the left, as words are; numbers stand on the right

    def cell(self, value: Value) -> str:
        """Returns a value as text; None and what is not a number as a dash."""
        return DASH if _unknown(value) else self.show(value)


def _unknown(value: Value) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True)
class Table:
    """Rows of values under columns, a title above them and a note below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    rule_after: int = 0  # a line is drawn after this many rows; 0 for none
    bold: Sequence[int] = ()  # numbers of the rows that stand out in the terminal

    def cells(self) -> list[list[str]]:
        """Returns the rows as text."""
        return [[c.cell(value) for c, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the values as they are, not rounded, under the columns' names."""
        import pandas

        rows = [[None if _unknown(value) else value for value in row] for row in self.rows]
        return pandas.DataFrame(rows, columns=[c.name or c.heading for c in self.columns], dtype=object)

    def to_csv(self) -> str:
        """Returns the values as they are; None is empty."""
        return self.to_pandas().to_csv(index=False, lineterminator="\n")

    def to_rich(self) -> RichTable:
        """Returns the table for the terminal; where it is narrow, names and headings fold, numbers never."""
        title = text(self.title, "bold") if self.title else None
        shown = rich_table(title, self.note or None, collapse_padding=True)
        cells = self.cells()
        for number, column in enumerate(self.columns):
            width = max((len(row[number]) for row in cells), default=0)
            least, side = (min(width, 12), "left") if column.left else (width, "right")
            shown.add_column(column.heading, justify=side, overflow="fold", min_width=least)
        for number, row in enumerate(cells):
            style = "bold" if number in self.bold else None
            shown.add_row(*row, style=style, end_section=number + 1 == self.rule_after)
        return shown

    def to_markdown(self) -> str:
        """Returns title, table (GitHub's) and note; what Markdown would read as its own is escaped."""
        rows = [[column.heading for column in self.columns], *self.cells()]
        lines = [f"| {' | '.join(map(inline, row))} |" for row in rows]
        lines.insert(1, f"| {' | '.join('---' if column.left else '---:' for column in self.columns)} |")
        title = f"**{inline(self.title)}**\n\n" if self.title else ""
        note = f"\n{inline(self.note)}\n" if self.note else ""
        return title + "\n".join(lines) + "\n" + note

    def _repr_html_(self) -> str:
        import pandas

        rows = [[printable(cell) for cell in row] for row in self.cells()]
        frame = pandas.DataFrame(rows, columns=[column.heading for column in self.columns])
        title, note = (f"<p>{html.escape(printable(each))}</p>" for each in (self.title, self.note))
        return title + frame.to_html(index=False, border=0) + note

    def to_latex(self) -> str:
        """Returns a `table` environment with the rules of booktabs; names are escaped."""
        caption = _escape_latex(f"{self.title}. {self.note}" if self.note else self.title)
        rows = [_latex_row(row) for row in self.cells()]
        if 0 < self.rule_after < len(rows):
            rows.insert(self.rule_after, r"\midrule")
        lines = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in self.columns)}}}",
            *(r"\toprule", _latex_row([column.heading for column in self.columns]), r"\midrule"),
            *(*rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"),
        ]
        return "\n".join(lines) + "\n"


class Tabular:
    """A result that is shown as one table."""

    def table(self) -> Table:
        """Returns the table."""
        raise NotImplementedError

    def to_rich(self) -> RichTable:
        """Returns the table for the terminal."""
        return self.table().to_rich()

    def to_markdown(self) -> str:
        """Returns the table in GitHub's Markdown."""
        return self.table().to_markdown()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the table's values, not rounded."""
        return self.table().to_pandas()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


# After a line break `[` would start an optional argument.
_LATEX = {character: f"\\{character}" for character in "{}$&#%_"} | {"[": "{[}", "]": "{]}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
_LATEX |= {"±": r"$\pm$", "×": r"$\times$"}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_row(cells: Sequence[str]) -> str:
    # a hyphen before a number is a minus sign
    shown = (re.sub(r"(?<![\w-])-(?=\d)", "$-$", _escape_latex(cell)) for cell in cells)
    return " & ".join(shown) + r" \\"
