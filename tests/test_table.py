"""The one table: what is said in each format, and that nothing in it is a sign of the format's own."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest

from codir.printing import log_to
from codir.table import Column, Table, Tabular

HOSTILE = "a|b_[red]$x^2$ & 50% \\input{x} <script>\x1b[31m\nnext"


@pytest.fixture
def table() -> Table:
    columns = (Column("model", left=True), Column("accuracy", "{:.2f}".format, name="acc"), Column("time"))
    rows = ((HOSTILE, 0.8751234, "-0.3 to 1"), ("kd", math.nan, None))
    return Table("Scores of [all]", columns, rows, "Note <i>", rule_after=1, bold=[1])


def test_values_stay_whole_in_pandas_and_csv(table: Table) -> None:
    assert list(table.to_pandas()["acc"]) == [0.8751234, None]
    back = list(csv.DictReader(io.StringIO(table.to_csv(), newline="")))
    assert float(back[0]["acc"]) == 0.8751234
    assert (back[0]["model"], back[1]["acc"]) == (HOSTILE, "")


def test_markdown_parses_back(table: Table) -> None:
    lines = table.to_markdown().splitlines()
    assert lines[0] == r"**Scores of \[all\]**"
    assert lines[3] == "| --- | ---: | ---: |"
    cells = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", lines[4])[1:-1]]
    assert cells[0] == " ".join(HOSTILE.replace("\x1b", "\\x1b").split()).replace("\\input", "\\input")
    assert cells[1:] == ["0.88", "-0.3 to 1"]
    assert lines[5] == "| kd | - | - |"
    assert lines[-1] == r"Note \<i\>"


def test_terminal_shows_names_as_they_are_and_folds_no_number(table: Table) -> None:
    for width in (100, 40):
        console = log_to(file := io.StringIO())
        console.width = width
        console.print(table.to_rich())
        said = file.getvalue()
        assert max(map(len, said.splitlines())) <= width
        assert "\x1b" not in said
        for whole in ("0.88", "-0.3 to 1"):
            assert whole in said
        assert width < 100 or "a|b_[red]$x^2$ & 50% \\input{x} <script>\\x1b[31m" in said


def test_notebooks_read_nothing_in_it_as_html(table: Table) -> None:
    page = table._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr") == 3
    assert "<p>Scores of [all]</p>" in page


def test_latex_is_escaped_and_ruled(table: Table) -> None:
    lines = table.to_latex().splitlines()
    assert lines[3] == r"\begin{tabular}{lrr}"
    line = lines[7]
    assert r"a\textbar{}b\_{[}red{]}\$x\textasciicircum{}2\$ \& 50\% \textbackslash{}input\{x\}" in line
    assert line.endswith(r"& 0.88 & $-$0.3 to 1 \\")
    assert not re.search(r"(?<!\\)[%#_]", line)
    assert lines[8] == r"\midrule"
    hyphened = Table("t", (Column("n", left=True),), (("codir-fine-2",),))
    assert r"codir-fine-2 \\" in hyphened.to_latex()


def test_a_result_that_is_a_table_has_every_format(table: Table) -> None:
    class Result(Tabular):
        def table(self) -> Table:
            return table

    assert Result().to_markdown() == table.to_markdown()
    assert Result()._repr_html_() == table._repr_html_()
    assert len(Result().to_pandas()) == Result().to_rich().row_count == 2
