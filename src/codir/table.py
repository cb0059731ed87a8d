"""The one table of codir: made once of values, shown in the terminal, a notebook, Markdown, LaTeX, CSV or pandas.

    table = Table("Scores", (Column("model", left=True), Column("accuracy", "{:.4f}".format)), (("kd", 0.81),))

A result that is a table (`Comparison`, an evaluation) subclasses `Tabular`, returns it from `table()`, and so has
`to_rich`, `to_markdown`, `to_pandas` and a notebook's view of it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codir import markdown
from codir.printing import Table as RichTable
from codir.printing import printable, text
from codir.printing import table as rich_table

if TYPE_CHECKING:
    import pandas

Value = str | int | float | None
DASH = "-"


@dataclass(frozen=True)
class Column:
    """One column: its heading, how a value that is known is shown, its name among records, and its side.

    Attributes:
        heading: the words above it.
        show: makes a value text; by default as it is.
        name: the key in records, pandas and CSV, where values stand unrounded; by default the heading.
        left: aligned to the left, as words are; numbers stand on the right.
    """

    heading: str
    show: Callable[[Any], str] = str
    name: str | None = None
    left: bool = False

    def cell(self, value: Value) -> str:
        """Returns a value as text; None and what is not a number as a dash."""
        unknown = value is None or (isinstance(value, float) and math.isnan(value))
        return DASH if unknown else self.show(value)


@dataclass(frozen=True)
class Table:
    """Rows of values under columns, a title above them and a note below.

    Attributes:
        rows: a value for each column.
        rule_after: a line is drawn after this many rows, where the format can; 0 for none.
        bold: the rows that stand out in the terminal, by number.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    rule_after: int = 0
    bold: Sequence[int] = ()

    def cells(self) -> list[list[str]]:
        """Returns the rows as text."""
        return [[c.cell(value) for c, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def _names(self) -> list[str]:
        return [column.name or column.heading for column in self.columns]

    def _known(self) -> list[list[Value]]:
        return [[None if isinstance(v, float) and math.isnan(v) else v for v in row] for row in self.rows]

    def records(self) -> list[dict[str, Value]]:
        """Returns a dictionary of plain values for each row; NaN becomes None, so that it is JSON."""
        return [dict(zip(self._names(), row, strict=True)) for row in self._known()]

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the values as they are, not rounded, under the columns' names."""
        import pandas

        return pandas.DataFrame(self._known(), columns=self._names(), dtype=object)

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
        left = [column.left for column in self.columns]
        title = f"**{markdown.inline(self.title)}**\n\n" if self.title else ""
        note = f"\n{markdown.inline(self.note)}\n" if self.note else ""
        return title + markdown.table([column.heading for column in self.columns], self.cells(), left) + note

    def _repr_html_(self) -> str:
        """Returns the table as notebooks show it; nothing in it is read as HTML."""
        sides = ["left" if column.left else "right" for column in self.columns]

        def line(tag: str, cells: Sequence[str]) -> str:
            parts = zip(sides, cells, strict=True)
            row = (
                f'<{tag} style="text-align:{side}">{html.escape(printable(cell))}</{tag}>'
                for side, cell in parts
            )
            return f"<tr>{''.join(row)}</tr>"

        title = f"<caption>{html.escape(printable(self.title))}</caption>" if self.title else ""
        head = line("th", [column.heading for column in self.columns])
        body = "".join(line("td", row) for row in self.cells())
        note = f"<p>{html.escape(printable(self.note))}</p>" if self.note else ""
        return f"<table>{title}<thead>{head}</thead><tbody>{body}</tbody></table>{note}"

    def to_latex(self) -> str:
        """Returns a `table` environment with the rules of booktabs; names are escaped."""
        caption = escape_latex(f"{self.title}. {self.note}" if self.note else self.title)
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


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets as it is; newlines become spaces."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_row(cells: Sequence[str]) -> str:
    # a hyphen before a number is a minus sign
    shown = (re.sub(r"(?<![\w-])-(?=\d)", "$-$", escape_latex(cell)) for cell in cells)
    return " & ".join(shown) + r" \\"
