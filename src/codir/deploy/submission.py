"""What GLUE's server takes: the one place that knows each file's name, header, words, number of rows and kind.

The server (gluebenchmark.com) wants one flat zip archive with one tab separated file for each test set, eleven with
the diagnostic set, each with the columns `index` and `prediction`, and a prediction for every row of the test set. Its
own page (FAQ 1) cannot be read from here; what is written below was put together from, and agrees in, these:

- names and header: jiant, by the people who made GLUE (`jiant/scripts/postproc/glue_submission_formatter.py`, and
  `_write_glue_preds` of jiant 1 with `strict_glue_format`: only the two columns, no quoting, STS-B clipped to 0..5);
- numbers of rows: the dataset card of nyu-mll/glue, the `wc -l` of a submission in the README of BERT on STILTs
  (github.com/zphang/bert_on_stilts), TensorFlow Datasets, jiant 1 (MNLI, AX), and the official test files at hand;
- the bytes: that repository's `cache/submission_template` (WNLI, all 0, and AX): line feeds, rows numbered from 0;
- all files are wanted, and what one has no model for is taken from a sample submission (gluebenchmark.com's CBOW.zip):
  the guide "Evaluate Your Model with GLUE Benchmark" of Keras. BERT's authors filled WNLI with the majority class
  (Devlin et al. 2019, appendix B.1);
- every index must be there: the server answers "not all ids present in task" (nyu-mll/GLUE-baselines, issue 14).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from codir.data.glue import GLUE
from codir.data.task import Task

HEADER = ("index", "prediction")
LOWEST, HIGHEST = 0.0, 5.0

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
    """One file of the archive.

    Attributes:
        name: its name in the archive.
        task: name of the GLUE task whose model predicts it; MNLI's predicts three files.
        words: what is written for each class of the task, index = class id; None: a score from 0 to 5.
        tests: where the official test file is, relative to the task's folder or (from `../`) to the one around it; the
            first that exists is read.
        fill: what is written, row by row in turns, where there is no model.
    """

    name: str
    task: str
    words: tuple[str, ...] | None
    tests: tuple[str, ...]
    fill: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows of the official test set."""
        return ROWS[self.name]

    @property
    def glue(self) -> Task:
        """The GLUE task."""
        return GLUE[self.task].task

    @property
    def wanted(self) -> str:
        """The allowed predictions, in words."""
        if self.words is None:
            return f"a number from {LOWEST:g} to {HIGHEST:g}"
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def filled(self) -> list[str]:
        """Returns predictions for every row without a model."""
        return [self.fill[row % len(self.fill)] for row in range(self.rows)]

    def fill_words(self) -> str:
        """Says what `filled` returns."""
        return f"always {self.fill[0]}" if len(self.fill) == 1 else f"{' and '.join(self.fill)} in turns"


def _file(
    name: str, task: str, words: Sequence[str] | None, *fill: str, tests: Sequence[str] = ("test.tsv",)
) -> SubmissionFile:
    return SubmissionFile(name, task, tuple(words) if words else None, tuple(tests), fill)


_BINARY = ("0", "1")
_MNLI = GLUE["mnli"].task.labels
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
    _file("CoLA.tsv", "cola", _BINARY, "1"),
    _file("SST-2.tsv", "sst2", _BINARY, "1"),
    _file("MRPC.tsv", "mrpc", _BINARY, "1"),
    _file("STS-B.tsv", "stsb", None, "2.0", "3.0"),
    _file("QQP.tsv", "qqp", _BINARY, "0"),
    _file("MNLI-m.tsv", "mnli", _MNLI, "entailment", tests=("test_matched.tsv",)),
    _file("MNLI-mm.tsv", "mnli", _MNLI, "entailment", tests=("test_mismatched.tsv",)),
    _file("QNLI.tsv", "qnli", GLUE["qnli"].task.labels, "entailment"),
    _file("RTE.tsv", "rte", GLUE["rte"].task.labels, "entailment"),
    _file("WNLI.tsv", "wnli", _BINARY, "0"),
    _file("AX.tsv", "mnli", _MNLI, "entailment", tests=_AX),
)
FILES: Mapping[str, SubmissionFile] = {file.name: file for file in _FILES}
DIAGNOSTIC = "AX.tsv"  # scored apart from the nine tasks, and its data are a download of their own


def score_word(score: float) -> str:
    """Returns a score as it is written, clipped to 0..5: `3.141593`."""
    return f"{min(max(score, LOWEST), HIGHEST):.6f}"


def member_bytes(predictions: Iterable[str]) -> bytes:
    """Returns one file of the archive: the header, then a line for each prediction, numbered from 0."""
    lines = ["\t".join(HEADER), *(f"{row}\t{word}" for row, word in enumerate(predictions))]
    return ("\n".join(lines) + "\n").encode("ascii")


def archive_bytes(members: Mapping[str, bytes]) -> bytes:
    """Returns the archive: flat, in the order of `FILES`, without times.

    The same predictions give the same bytes (with the same version of zlib).
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16  # as on Unix, wherever it is written
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name])
    return buffer.getvalue()
