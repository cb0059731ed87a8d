"""Reads GLUE's official test files, which have no labels, and in which every row must get a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from codir.data.encodings import plain_lines, read_text
from codir.data.glue import GLUE, task_folder
from codir.data.rows import require_columns
from codir.data.task import make_split
from codir.deploy.submission import SubmissionFile
from codir.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def find_test_file(file: SubmissionFile, data_dir: str | Path) -> Path | None:
    """Returns the official test file that a file of the submission is predicted from, None if it is not there.

    Args:
        file: the file of the submission.
        data_dir: the folder that holds `CoLA/`, `SST-2/`, ... or the task's own.

    Raises:
        DataError: there is no such folder, or nothing of the task in it.
    """
    folder = task_folder(file.task, data_dir)
    own = folder.resolve() == Path(data_dir).resolve()
    for name in file.tests:
        if own and name.startswith("../"):  # nothing outside of what the user named is looked at
            continue
        path = folder.parent / name[3:] if name.startswith("../") else folder / name
        if path.is_file():
            return path
    return None


def read_test_file(file: SubmissionFile, path: Path) -> tuple[Dataset, list[str]]:
    """Reads an official test file.

    Returns:
        The texts (columns `text`, and `text_pair` for pairs), and what the user should know about them.

    Raises:
        DataError: the file is not the official one: another number of rows, rows that are numbered otherwise, a column
            that is missing, a broken row (except in QQP, whose official files are known to hold some: there the missing
            text is empty, since the row needs a prediction).
    """
    entry = GLUE[file.task]
    lines = plain_lines(read_text(path).text)
    header = [name.strip() for name in lines[0].split("\t")]
    index = next((name for name in ("index", "id") if name in header), "index")
    require_columns(str(path), header, (index, *entry.text))
    if "\t".join(header).endswith(f"\t{entry.label}"):
        raise DataError(
            f"{path} has labels (the column {entry.label!r}), so it is not the official test file of "
            f"{file.name.removesuffix('.tsv')}, which has none."
        )
    if len(lines) - 1 != file.rows:
        raise DataError(
            f"{path} has {len(lines) - 1:,} rows, but the official test set of {file.name} has {file.rows:,}. The "
            "server refuses a submission in which an index is missing or is too many, so a part of a test set cannot "
            "be submitted. Use the file from gluebenchmark.com/tasks."
        )
    columns = [header.index(name) for name in entry.text]
    place = header.index(index)
    texts: list[list[str]] = [[] for _ in columns]
    broken = 0
    for row, line in enumerate(lines[1:]):
        fields = line.split("\t")
        where = f"{path}, line {row + 2}"
        if len(fields) != len(header):
            if not entry.skip_broken:
                raise DataError(
                    f"{where}: {len(fields)} fields, expected {len(header)} ({', '.join(header)})."
                )
            broken += 1
            fields += [""] * (len(header) - len(fields))
        if fields[place].strip() != str(row):
            raise DataError(
                f"{where}: the {index} is {fields[place]!r}, expected {row}. The official file numbers its rows 0 to "
                f"{file.rows - 1}, in order; the server finds the answers by that number."
            )
        for text, column in zip(texts, columns, strict=True):
            text.append(fields[column])
    notes = [f"{path}: {broken} rows have a wrong number of fields (a known fault)."] if broken else []
    return make_split(None, texts[0], texts[1] if len(texts) == 2 else None), notes
