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
    """A GLUE task and where its columns are.

    Attributes:
        task: the task; its columns are those on the Hub.
        folder: name of its folder in GLUE's archive.
        text: header of each text column in the TSV files (CoLA has no header: see `_COLA_COLUMNS`).
        label: header of the label column there.
        skip_broken: leave out rows with a wrong number of fields (a known fault of the official files).
    """

    task: Task
    folder: str
    text: tuple[str, ...]
    label: str
    skip_broken: bool = False


def _entry(
    folder: str,
    text: tuple[str, ...],
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...] = ("accuracy",),
    main: str = "",
    headers: tuple[str, ...] = (),
    label: str = "label",
    skip_broken: bool = False,
) -> _Entry:
    kind = "regression" if labels is None else "classification"
    task = Task(_key(folder), kind, text, "label", labels, metrics, main or metrics[0])
    return _Entry(task, folder, headers or text, label, skip_broken)


def _key(name: str) -> str:
    """`SST-2`, `sst_2` and `sst2` are one name."""
    return name.lower().replace("-", "").replace("_", "")


_PAIR, _QUESTIONS = ("sentence1", "sentence2"), ("question1", "question2")
_NLI = ("entailment", "not_entailment")
_ENTRIES = (
    _entry("CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
    _entry("SST-2", ("sentence",), ("negative", "positive")),
    _entry(
        "MRPC",
        _PAIR,
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
        headers=("#1 String", "#2 String"),
        label="Quality",
    ),
    _entry(
        "STS-B", _PAIR, None, ("pearson", "spearman", "pearson_spearman"), "pearson_spearman", label="score"
    ),
    _entry(
        "QQP",
        _QUESTIONS,
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        label="is_duplicate",
        skip_broken=True,
    ),
    _entry(
        "MNLI",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        headers=_PAIR,
        label="gold_label",
    ),
    _entry("QNLI", ("question", "sentence"), _NLI),
    _entry("RTE", _PAIR, _NLI),
    _entry("WNLI", _PAIR, _NLI[::-1]),
)
GLUE: Mapping[str, _Entry] = {entry.task.name: entry for entry in _ENTRIES}

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
    mnli = entry.task.name == "mnli"
    suffixes = (("_matched", "_mismatched") if mnli else ("",)) if validation else ()
    data = TaskData(entry.task, None, {})
    if data_dir is None:
        data.source = f"{HUB}/{entry.task.name}"
        data.train = _from_hub(entry, "train") if train else None
        data.validation = {
            f"validation{suffix}": _from_hub(entry, f"validation{suffix}") for suffix in suffixes
        }
        return data
    folder = task_folder(entry.task.name, data_dir)
    data.source = str(folder)
    if train:
        data.train = _from_tsv(entry, folder / "train.tsv", data.notes)
    for suffix in suffixes:
        path = folder / f"dev{suffix}.tsv"
        if path.exists() or not data.validation:  # the mismatched split may be missing, the main one not
            data.validation[f"validation{suffix}"] = _from_tsv(entry, path, data.notes)
    for note in data.notes:
        logger.info(note)
    return data


def task_folder(name: str, data_dir: str | Path) -> Path:
    """Returns a task's folder: the subfolder of `data_dir` named after the task, or `data_dir` itself.

    Args:
        name: a key of `GLUE`.
        data_dir: the folder that holds `CoLA/`, `SST-2/`, ... or the task's own.

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
    lines = plain_lines(read_text(path))
    if entry.task.name == "cola":
        header, first = _COLA_COLUMNS, 0
    else:
        header, first = [name.strip() for name in lines[0].split("\t")], 1
    require_columns(str(path), header, (*entry.text, entry.label))
    columns = [header.index(name) for name in entry.text]
    label_column = header.index(entry.label)
    texts: list[list[str]] = [[] for _ in columns]
    labels: list[float] = []
    broken = empty = 0
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            if entry.skip_broken:
                broken += 1
                continue
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields, expected {len(header)} ({', '.join(header)})."
            )
        labels.append(_label(entry, fields[label_column].strip(), f"{path}, line {number}"))
        for text, column in zip(texts, columns, strict=True):
            text.append(fields[column])
        empty += any(not fields[column].strip() for column in columns)
    if not labels:
        raise DataError(f"{path} is empty: it has no rows.")
    if broken:
        notes.append(
            f"{path}: {broken} rows with a wrong number of fields were left out (a known fault of the file)."
        )
    if empty:
        notes.append(f"{path}: {empty} rows have an empty text and were kept, as GLUE scores them.")
    pair = texts[1] if len(texts) == 2 else None
    ids = labels if entry.task.labels is None else [int(label) for label in labels]
    return make_split(entry.task.kind, texts[0], pair, ids, entry.task.labels)


def _label(entry: _Entry, raw: str, place: str) -> float:
    """Returns a class id (from the class's name or its number) or a score."""
    names = entry.task.labels
    if names is not None:
        if raw in names:
            return names.index(raw)
        if raw.isdecimal() and int(raw) < len(names):
            return int(raw)
        raise DataError(f"{place}: the label {raw!r} is none of {entry.task.name}'s: {', '.join(names)}.")
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
        raise DataError(
            f"{HUB}/{task.name} has the classes {feature.names}; codir knows {list(task.labels)}."
        )
    pair = list(data[task.text[1]]) if task.pairs else None
    return make_split(task.kind, list(data[task.text[0]]), pair, list(data[task.label]), task.labels)
