"""Files as spreadsheets and other countries write them: other delimiters, columns without a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fault_world import QUICK, refused, sentences, succeeded, write_csv


@pytest.fixture
def read(model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Returns the texts of a file as `codir predict` reads them."""

    def predicted(file: Path, *flags: str) -> list[str]:
        output = tmp_path / "o.jsonl"
        succeeded("predict", model, "--input", file, "--output", output, "--overwrite", *flags)
        return [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()]

    return predicted


@pytest.fixture
def refuses(model: Path, tmp_path: Path) -> Callable[..., str]:
    """Returns what `codir finetune` says of a training file that it has to refuse."""
    run = tmp_path / "run"
    start = ("finetune", "--model", model, "--output", run)
    return lambda file, *flags: refused(*start, "--train", file, *flags, leaves_nothing=run)


@pytest.mark.parametrize(
    ("delimiter", "flag"),
    [(";", ";"), ("\t", "tab"), ("\t", "\t"), ("|", "pipe"), ("§", "§")],
)
def test_any_character_can_stand_between_fields(
    delimiter: str, flag: str, read: Callable[..., list[str]], tmp_path: Path
) -> None:
    texts = ["it costs 4,5", 'she said "no"', "two\nlines", f"a{delimiter}b", "it's; a|b,c"]
    for ending in ("csv", "tsv"):
        if (ending, delimiter) == ("tsv", "\t"):
            continue
        file = write_csv(tmp_path / f"a.{ending}", [{"n": 1, "text": text} for text in texts], delimiter=delimiter)
        assert read(file, "--delimiter", flag) == texts


@pytest.mark.parametrize(("delimiter", "name"), [(";", ";"), ("\t", "tab"), ("|", "|")])
def test_another_delimiter_is_seen_and_the_flag_is_named(
    delimiter: str, name: str, refuses: Callable[..., str], tmp_path: Path
) -> None:
    # commas in the texts, as in half of Europe, must not hide it
    for text in ("good film", "a good, long film, really"):
        file = write_csv(tmp_path / "a.csv", [{"text": text, "label": "x"}] * 3, delimiter=delimiter)
        assert f"add --delimiter '{name}' (data.delimiter in YAML)" in refuses(file)
    file = tmp_path / "a.tsv"
    file.write_text("text,label\na,b\n")
    assert "add --delimiter ','" in refuses(file)


def test_what_is_no_delimiter(refuses: Callable[..., str], tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", sentences(20))
    for wrong in (";;", "", '"', "\n", "tabs"):
        assert f"The delimiter {wrong!r} is not one character" in refuses(file, "--delimiter", wrong)


def test_yaml_and_the_run_say_it(model: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", sentences(24), delimiter="\t")
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(f"data: {{train: {file}, validation: {file}, delimiter: tab}}")
    succeeded("finetune", "--model", model, "--config", config, *QUICK, "--output", run)
    assert yaml.safe_load((run / "codir.yaml").read_text())["data"]["delimiter"] == "\t"
    shown = succeeded("latency", run, "--rounds", 1, "--sequences", 4, "--batch", 4, "--no-memory").text
    assert "cannot be read" not in shown
    more = tmp_path / "more.csv"
    more.write_text("id\ttext\n1\ta good, old film\n2\ta bad one\n")
    config.write_text(f"recipe: kd\ndata: {{train: {file}, validation: {file}, unlabeled: {more}, delimiter: tab}}")
    student = ("--student-layers", 1, *QUICK, "--no-baseline", "--output", tmp_path / "student")
    assert f"2 unlabelled texts of {more}" in succeeded("distill", "--teacher", run, "--config", config, *student).text


# Each: a header, rows, and what the texts then are.
PASSED_OVER = {
    "several empty columns at the end": (["text", "label", "", "", ""], ["{}", "x", "", "", ""]),
    "an empty column between": (["text", "", "label", ""], ["{}", "", "x", ""]),
    "row numbers of two programs": (["", "", "text", "label"], ["{n}", "{n}", "{}", "x"]),
    "a name twice that is not asked for": (["note", "text", "note"], ["a", "{}", "b"]),
}


@pytest.mark.parametrize("name", list(PASSED_OVER))
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_columns_without_a_name_are_passed_over(
    name: str, delimiter: str, read: Callable[..., list[str]], tmp_path: Path
) -> None:
    header, cells = PASSED_OVER[name]
    header = [each.replace("\t", " ") for each in header] if delimiter == "\t" else header
    texts = ["a good film", '"bad, or so"' if delimiter != "\t" else "bad, or so", "it was"]
    lines = [header, *([cell.format(text, n=n) for cell in cells] for n, text in enumerate(texts))]
    file = tmp_path / "a.csv"
    file.write_text("".join(delimiter.join(line) + "\r\n" for line in lines), newline="")
    assert read(file, "--delimiter", delimiter) == [text.strip('"') for text in texts]


def test_a_text_that_was_cut_is_no_column_without_a_name(refuses: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label,,\ngood film,x,,\nwell, it was bad,y,\nfine,x,,\n")
    message = refuses(file)
    assert (
        f"{file}, line 3: 'y' stands in column 3, which has no name in the header and is empty in other rows" in message
    )
    file.write_text('text,label,,\n"two\nlines",x,,\nbad,y,,why\n')
    assert f"{file}, line 4: 'why' stands in column 4" in refuses(file)


def test_names_that_are_asked_for_stand_once(refuses: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label,,text\na,x,,b\n")
    assert "the header names ['text'] more than once" in refuses(file)
    file.write_text(",,\na,x,b\n")
    assert f"{file} has no column 'text'" in refuses(file)


def test_another_delimiter_is_seen_behind_quotes(
    read: Callable[..., list[str]], refuses: Callable[..., str], tmp_path: Path
) -> None:
    """Every field in quotes and a mark at the beginning, as spreadsheets export: the comma then breaks line 1."""
    file = tmp_path / "a.csv"
    lines = ['"text";"label";', '"a ""good"" film; long";"x";', '"bad";"y";']
    file.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    assert "add --delimiter ';'" in refuses(file)
    assert read(file, "--delimiter", ";") == ['a "good" film; long', "bad"]
    file.write_text('text,label\n"a; b"c,x\n')  # broken, but not by its delimiter
    assert "--delimiter" not in refuses(file)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_a_file_that_names_its_delimiter(
    first: str, read: Callable[..., list[str]], refuses: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    lines = [first, "text;label", "a film, good;x", '"b;c";y']
    for end in ("\n", "\r\n"):
        file.write_text(end.join(lines), newline="", encoding="utf-8-sig")
        assert read(file) == read(file, "--delimiter", ";") == ["a film, good", "b;c"]
    file.write_text("\n".join([*lines, "d;e;f"]))
    assert "line 5: 3 fields" in refuses(file)
    file.write_text("\n".join([*lines, ";x"]))
    assert "line 5: the text in column 'text' is empty" in refuses(file)
