"""The nine GLUE tasks (WNLI among them), from the Hub or from a folder in GLUE's own tab separated format.

Choices: the main metric is the one of the paper's table (CoLA Matthews, MRPC F1, QQP accuracy); STS-B, which the paper
leaves out, uses GLUE's own: the mean of Pearson and Spearman. GLUE is taken as it is, so that scores stay comparable:
empty texts are kept and counted in the notes. A row with too few or too many fields is an error with file and line,
except in QQP, whose official files are known to hold some: there they are left out and counted, as everybody does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codir.data.encodings import plain_lines, read_text
from codir.data.reading import require_columns
from codir.data.task import Task, TaskData, make_split
from codir.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class _Entry:
    """A GLUE task and where its columns are."""

    task: Task  # its columns are those on the Hub
    folder: str  # in GLUE's archive
    text: tuple[str, ...]  # header of each text column in the TSV files
    label: str  # header of the label column there
    skip_broken: bool  # leave out rows with a wrong number of fields (a known fault of the official files)


def _key(name: str) -> str:
    """`SST-2`, `sst_2` and `sst2` are one name."""
    return name.lower().replace("-", "").replace("_", "")


# Per task: its folder, columns, classes, metrics, and where they have other names in the files: the
# header of the text columns and of the label.
_TABLE: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("CoLA", "sentence", "unacceptable acceptable", "matthews accuracy", "", ""),
    ("SST-2", "sentence", "negative positive", "accuracy", "", ""),
    (
        "MRPC",
        "sentence1 sentence2",
        "not_equivalent equivalent",
        "f1 accuracy",
        "#1 String|#2 String",
        "Quality",
    ),
    ("STS-B", "sentence1 sentence2", "", "pearson spearman pearson_spearman", "", "score"),
    ("QQP", "question1 question2", "not_duplicate duplicate", "accuracy f1", "", "is_duplicate"),
    (
        *("MNLI", "premise hypothesis", "entailment neutral contradiction", "accuracy"),
        *("sentence1|sentence2", "gold_label"),
    ),
    ("QNLI", "question sentence", "entailment not_entailment", "accuracy", "", ""),
    ("RTE", "sentence1 sentence2", "entailment not_entailment", "accuracy", "", ""),
    ("WNLI", "sentence1 sentence2", "not_entailment entailment", "accuracy", "", ""),
)


def _entry(folder: str, text: str, labels: str, metrics: str, headers: str, label: str) -> _Entry:
    kind = "classification" if labels else "regression"
    names, columns, scores = tuple(labels.split()) or None, tuple(text.split()), metrics.split()
    main = scores[0] if labels else "pearson_spearman"
    task = Task(_key(folder), kind, columns, "label", names, tuple(scores), main)
    return _Entry(task, folder, tuple(headers.split("|")) if headers else columns, label or "label", folder == "QQP")


GLUE: Mapping[str, _Entry] = {entry.task.name: entry for entry in (_entry(*row) for row in _TABLE)}

_COLA_COLUMNS = ["source", "label", "mark", "sentence"]


def glue_task(name: str) -> Task | None:
    """Returns the GLUE task of that name (case and hyphens do not matter), or None."""
    entry = GLUE.get(_key(name))
    return entry.task if entry else None


def load_glue(
    name: str, data_dir: str | Path | None = None, *, train: bool = True, validation: bool = True
) -> TaskData:
    """Loads a GLUE task; arguments as `codir.load_task`.

    Raises:
        ConfigError: no such task.
        DataError: no such folder, a broken file (with its line), or the Hub cannot be reached.
    """
    entry = GLUE.get(_key(name))
    if entry is None:
        raise ConfigError(f"GLUE has no task {name!r}{nearest(_key(name), GLUE)}. It has {', '.join(GLUE)}.")
    suffixes = ("_matched", "_mismatched") if entry.task.name == "mnli" else ("",)
    data = TaskData(entry.task, None, {}, source=f"{HUB}/{entry.task.name}")
    if data_dir is None:
        data.train = _from_hub(entry, "train") if train else None
        for split in [f"validation{suffix}" for suffix in suffixes] if validation else ():
            data.validation[split] = _from_hub(entry, split)
        return data
    folder = task_folder(entry.task.name, data_dir)
    data.source = str(folder)
    data.train = _from_tsv(entry, folder / "train.tsv", data.notes) if train else None
    for suffix in suffixes if validation else ():
        path = folder / f"dev{suffix}.tsv"
        if path.exists() or not data.validation:  # the mismatched split may be missing, the main one not
            data.validation[f"validation{suffix}"] = _from_tsv(entry, path, data.notes)
    for note in data.notes:
        logger.info(note)
    return data


def task_folder(name: str, data_dir: str | Path) -> Path:
    """Returns the folder of a task (a key of `GLUE`): the subfolder of `data_dir` named after it, or `data_dir` itself.

    Raises:
        DataError: there is no such folder, or nothing of the task in it.
    """
    entry, folder = GLUE[name], Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"The data folder {folder} does not exist or is not a folder.")
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and _key(inner.name) == entry.task.name:
            return inner
    own = GLUE.get(_key(folder.name))
    if any(folder.glob("dev*.tsv")) or (folder / "train.tsv").exists():
        if own is None or own is entry:
            return folder
        raise DataError(f"{folder} holds {own.task.name}, but the task is {entry.task.name}.")
    found = ", ".join(sorted(inner.name for inner in folder.iterdir())) or "nothing"
    raise DataError(
        f"{folder} holds neither a folder {entry.folder} nor train.tsv and dev.tsv of {entry.task.name}. "
        f"It holds: {found}."
    )


def _from_tsv(entry: _Entry, path: Path, notes: list[str]) -> Dataset:
    """Reads one of GLUE's files: tabs separate, line feeds end rows, and a quote is a character like any other."""
    task, lines = entry.task, plain_lines(read_text(path))
    first = 0 if task.name == "cola" else 1
    header = [name.strip() for name in lines[0].split("\t")] if first else _COLA_COLUMNS
    require_columns(str(path), header, (*entry.text, entry.label))
    columns = [header.index(name) for name in entry.text]
    rows: list[tuple[str, ...]] = []
    labels: list[float] = []
    broken = empty = 0
    for number, line in enumerate(lines[first:], first + 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) == len(header):
            rows.append(tuple(fields[column] for column in columns))
            labels.append(_label(task, fields[header.index(entry.label)].strip(), f"{path}, line {number}"))
            empty += not all(text.strip() for text in rows[-1])
        elif entry.skip_broken:
            broken += 1
        else:
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields, expected {len(header)} ({', '.join(header)})."
            )
    if not rows:
        raise DataError(f"{path} is empty: it has no rows.")
    if broken:
        notes.append(f"{path}: {broken} rows with a wrong number of fields were left out (a known fault of the file).")
    if empty:
        notes.append(f"{path}: {empty} rows have an empty text and were kept, as GLUE scores them.")
    texts = [list(column) for column in zip(*rows, strict=True)]
    return make_split(task.kind, texts[0], texts[1] if task.pairs else None, labels, task.labels)


def _label(task: Task, raw: str, place: str) -> float:
    """Returns a class id (from the class's name or its number) or a score."""
    if task.labels is not None:
        if raw in task.labels:
            return task.labels.index(raw)
        if raw.isdecimal() and int(raw) < len(task.labels):
            return int(raw)
        raise DataError(f"{place}: the label {raw!r} is none of {task.name}'s: {', '.join(task.labels)}.")
    try:
        score = float(raw)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{place}: the score {raw!r} is not a finite number.")
    return score


def _from_hub(entry: _Entry, split: str) -> Dataset:
    from datasets import ClassLabel, load_dataset

    task = entry.task
    try:
        data = load_dataset(HUB, task.name, split=split)
    except Exception as error:  # a dozen types, from several libraries
        raise DataError(
            f"GLUE's {task.name} could not be fetched from the Hub ({HUB}): {type(error).__name__}: {error}. "
            "Offline, give a folder in GLUE's own format with --data-dir "
            f"(it holds {entry.folder}/train.tsv and so on)."
        ) from error
    require_columns(f"{HUB}/{task.name}", data.column_names, (*task.text, task.label))
    feature = data.features[task.label]
    if task.labels is not None and isinstance(feature, ClassLabel) and tuple(feature.names) != task.labels:
        raise DataError(f"{HUB}/{task.name} has the classes {feature.names}; codir knows {list(task.labels)}.")
    pair = list(data[task.text[1]]) if task.pairs else None
    return make_split(task.kind, list(data[task.text[0]]), pair, list(data[task.label]), task.labels)
