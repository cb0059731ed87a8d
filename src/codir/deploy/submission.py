"""What GLUE's server takes: names, headers, words and numbers of rows, and the test files these are predicted from.

The server (gluebenchmark.com) wants one flat zip archive with one tab separated file for each test set, eleven with
the diagnostic set, each with the columns `index` and `prediction`, and a prediction for every row of the test set: it
answers "not all ids present in task" otherwise (nyu-mll/GLUE-baselines, issue 14). Names and header are those of jiant,
by the people who made GLUE; numbers of rows and bytes those of BERT on STILTs (github.com/zphang/bert_on_stilts), whose
submissions the server took; WNLI without a model is filled with the majority class, as in appendix B.1 of Devlin et al.
2019.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codir.data.encodings import plain_lines, read_text
from codir.data.glue import GLUE, task_folder
from codir.data.reading import require_columns
from codir.data.task import make_split
from codir.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

HEADER = "index\tprediction"
LOWEST, HIGHEST = 0.0, 5.0
DIAGNOSTIC = "AX.tsv"  # scored apart from the nine tasks, and its data are a download of their own

# Rows of each official test set, without header.
ROWS = {
    "CoLA.tsv": 1063,
    "SST-2.tsv": 1821,
    "MRPC.tsv": 1725,
    "STS-B.tsv": 1379,
    "QQP.tsv": 390965,
    "MNLI-m.tsv": 9796,
    "MNLI-mm.tsv": 9847,
    "QNLI.tsv": 5463,
    "RTE.tsv": 3000,
    "WNLI.tsv": 146,
    "AX.tsv": 1104,
}


@dataclass(frozen=True)
class SubmissionFile:
    """One file of the archive."""

    name: str
    task: str  # whose model predicts it; MNLI's predicts three files
    words: tuple[str, ...]  # what is written for each class of the task, index = class id; empty: a score from 0 to 5
    fill: tuple[str, ...]  # what is written, row by row in turns, where there is no model
    # The official test file, relative to the task's folder or (`../`) to the one around it; the first that exists.
    tests: tuple[str, ...] = ("test.tsv",)

    @property
    def rows(self) -> int:
        """The number of rows of the official test set."""
        return ROWS[self.name]

    def filled(self) -> list[str]:
        """Returns predictions for every row without a model."""
        return [self.fill[row % len(self.fill)] for row in range(self.rows)]


_BINARY = ("0", "1")
_MNLI, _QNLI, _RTE = (GLUE[name].task.labels or () for name in ("mnli", "qnli", "rte"))
_ENTAILS = ("entailment",)
_AX = (
    "../AX/AX.tsv",
    "../AX.tsv",
    "../AX/test.tsv",
    "../diagnostic/diagnostic.tsv",
    "diagnostic.tsv",
    "AX.tsv",
)
# Filled with the most frequent class of the training data (of the development data where those are even; for WNLI, like
# BERT's authors, that of the test data). A constant has no correlation at all (0/0), so STS-B gets two values in turns.
_FILES = (
    SubmissionFile("CoLA.tsv", "cola", _BINARY, ("1",)),
    SubmissionFile("SST-2.tsv", "sst2", _BINARY, ("1",)),
    SubmissionFile("MRPC.tsv", "mrpc", _BINARY, ("1",)),
    SubmissionFile("STS-B.tsv", "stsb", (), ("2.0", "3.0")),
    SubmissionFile("QQP.tsv", "qqp", _BINARY, ("0",)),
    SubmissionFile("MNLI-m.tsv", "mnli", _MNLI, _ENTAILS, ("test_matched.tsv",)),
    SubmissionFile("MNLI-mm.tsv", "mnli", _MNLI, _ENTAILS, ("test_mismatched.tsv",)),
    SubmissionFile("QNLI.tsv", "qnli", _QNLI, _ENTAILS),
    SubmissionFile("RTE.tsv", "rte", _RTE, _ENTAILS),
    SubmissionFile("WNLI.tsv", "wnli", _BINARY, ("0",)),
    SubmissionFile(DIAGNOSTIC, "mnli", _MNLI, _ENTAILS, _AX),
)
FILES: Mapping[str, SubmissionFile] = {file.name: file for file in _FILES}


def archive_bytes(predictions: Mapping[str, Iterable[str]]) -> bytes:
    """Returns the archive: flat, in the order of `FILES`, each with a line for every prediction, numbered from 0.

    It holds no times: the same predictions give the same bytes (with the same version of zlib).
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            lines = [HEADER, *(f"{row}\t{word}" for row, word in enumerate(predictions[name]))]
            assert len(lines) - 1 == FILES[name].rows, f"{name}: {len(lines) - 1:,} rows"
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16  # as on Unix, wherever it is written
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, ("\n".join(lines) + "\n").encode("ascii"))
    return buffer.getvalue()


def find_test_file(file: SubmissionFile, data_dir: str | Path) -> Path | None:
    """Returns the official test file that a file of the submission is predicted from, None if it is not there.

    `data_dir` holds `CoLA/`, `SST-2/`, ..., or is the task's own folder, outside of which nothing is looked at.

    Raises:
        DataError: There is no such folder, or nothing of the task in it.
    """
    folder = task_folder(file.task, data_dir)
    own = folder.resolve() == Path(data_dir).resolve()
    for name in file.tests:
        path = folder.parent / name[3:] if name.startswith("../") else folder / name
        if path.is_file() and not (own and name.startswith("../")):
            return path
    return None


def read_test_file(file: SubmissionFile, path: Path) -> tuple[Dataset, list[str]]:
    """Reads an official test file: its texts (`text`, and `text_pair` for pairs), and what the user should know of it.

    Raises:
        DataError: The file is not the official one: another number of rows, rows that are numbered otherwise, a column
            that is missing, a broken row (except in QQP, whose official files are known to hold some: there the missing
            text is empty, since the row needs a prediction).
    """
    entry = GLUE[file.task]
    lines = plain_lines(read_text(path))
    header = [name.strip() for name in lines[0].split("\t")]
    index = next((name for name in ("index", "id") if name in header), "index")
    require_columns(str(path), header, (index, *entry.text))
    if header[-1] == entry.label:
        raise DataError(
            f"{path} has labels (the column {entry.label!r}), so it is not the official test file, which has none."
        )
    if len(lines) - 1 != file.rows:
        raise DataError(
            f"{path} has {len(lines) - 1:,} rows, but the official test set of {file.name} has {file.rows:,}, and a "
            "part of a test set cannot be submitted. Use the file from gluebenchmark.com/tasks."
        )
    rows, broken = [], 0
    for number, line in enumerate(lines[1:]):
        fields, where = line.split("\t"), f"{path}, line {number + 2}"
        if len(fields) != len(header):
            if not entry.skip_broken:
                raise DataError(f"{where}: {len(fields)} fields, expected {len(header)} ({', '.join(header)}).")
            broken += 1
            fields += [""] * (len(header) - len(fields))
        row = dict(zip(header, fields, strict=False))
        if row[index].strip() != str(number):
            raise DataError(
                f"{where}: the {index} is {row[index]!r}, expected {number}: the official file numbers its rows in "
                "order, and the server finds the answers by that number."
            )
        rows.append([row[name] for name in entry.text])
    first, *second = map(list, zip(*rows, strict=True))
    notes = [f"{path}: {broken} rows have a wrong number of fields (a known fault)."] if broken else []
    return make_split(None, first, second[0] if second else None), notes
