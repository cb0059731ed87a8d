"""Square brackets, emoji codes, pipes and tags in names are text wherever they are shown: terminal, Markdown, page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fault_world import QUICK, codir, refused, sentences, succeeded, write_csv

LABELS = ("[/INST]", "a|b\n`c` <b>:bug:[bold]")
FLAT = "a|b `c` <b>:bug:[bold]"  # the second one on one line


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "d[/d]"
    folder.mkdir(parents=True)  # `d[` is a folder: a closing tag in a path
    return write_csv(folder / "[red]train|x.csv", sentences(24, labels=LABELS))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, train: Path, tiny_classifier, tiny_tokenizer) -> Path:
    """Returns a student distilled from a teacher, both in folders with brackets in their names."""
    folder = tmp_path_factory.mktemp("runs")
    teacher, output = folder / "teacher [/t] :cat:", folder / "x[/x]|y"
    tiny_classifier(labels=LABELS, layers=2).save_pretrained(teacher)
    tiny_tokenizer.save_pretrained(teacher)
    given = ["--teacher", teacher, "--train", train, "--validation", train, "--output", output, *QUICK]
    done = succeeded("distill", *given, "--student-layers", "1", "--recipe", "kd", "--no-baseline")
    assert "teacher [/t] :cat:" in done.text
    return output


def _cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_tables_of_the_card_keep_their_columns(student: Path) -> None:
    card = (student / "README.md").read_text(encoding="utf-8")
    assert r"\[/INST\]" in card
    assert r"a\|b \`c\` \<b\>:bug:\[bold\]" in card
    tables = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({_cells(line) for line in table.splitlines()}) == 1, table


def test_what_is_printed_has_the_names_as_they_are(student: Path, train: Path, tmp_path: Path) -> None:
    done = succeeded("evaluate", student, "--validation", train)
    assert "x[/x]|y" in done.text
    output = tmp_path / "p[" / "p] :bug:.jsonl"
    output.parent.mkdir()
    done = succeeded("predict", student, "--input", train, "--output", output)
    assert "p[/p] :bug:.jsonl" in done.text.replace("\n", "")


def test_the_page_shows_them_as_text(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    output = tmp_path / "page.html"
    succeeded("report", student, "--output", output)
    page = output.read_text(encoding="utf-8")
    body = page[page.index("<body") :]
    assert "[/INST]" in body
    assert "<b>:bug:" not in page


def test_an_error_names_them(tmp_path: Path, train: Path) -> None:
    assert "no[/no] :bug:" in refused("evaluate", tmp_path / "no[/no] :bug:", "--validation", train)
    done = codir("evaluate", "--no[/such]", "x")
    assert done.code == 2
    assert "--no[/such]" in done.text


@pytest.mark.parametrize("command", ["finetune", "distill", "pretrain", "evaluate", "report", "export", "study"])
def test_help_loses_nothing_in_brackets(command: str) -> None:
    # a hint like `codir[onnx]` would vanish if rich read it
    done = succeeded(command, "--help")
    assert "pip install codir " not in done.text
    assert 'codir"' not in done.text


def test_a_study_of_such_a_name(tmp_path: Path) -> None:
    assert "s[/s].yaml" in refused("study", tmp_path / "s[/s].yaml")
