"""Tasks from the user's own files (CSV, TSV, JSON lines, JSON, Parquet) or from a Hub data set, by column names."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codir.data.labels import read_labels
from codir.data.reading import FORMATS, from_hub, read_lines, read_rows
from codir.data.rows import Rows, arrow_rows, require_columns
from codir.data.task import Kind, Task, TaskData, hold_out, make_split
from codir.errors import ConfigError, DataError
from codir.kinds import kind_named

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

logger = logging.getLogger(__name__)

DEFAULT_HOLDOUT = 0.1  # share of the training rows, where nobody says more


def load_files(
    train: str | Path | None,
    validation: str | Path | None = None,
    *,
    text: str,
    label: str,
    text_pair: str | None = None,
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    metrics: Sequence[str] | None = None,
    main_metric: str | None = None,
    holdout: float | None = None,
    seed: int = 0,
    delimiter: str | None = None,
    encoding: str | None = None,
    hub_config: str | None = None,
) -> TaskData:
    """Loads a task from files or Hub data sets.

    The rules: a text is never interpreted ("NA" and "null" are texts), an empty one is an error. Labels are classes or
    scores as `LabelColumn.kind` says; classes are those of the training split, in the order of the file where it names
    them (ClassLabel), else by value if all are plain numbers, else as text. A label missing or NaN is an error, and so
    are one class in two spellings and a validation label that training does not have.

    Args:
        train: a file, or the id of a Hub data set (`owner/name`, its split `train`; `owner/name:split` for another);
            None to load a validation split only, which then needs `labels` or `kind="regression"`.
        validation: likewise (a Hub id means its split `validation`). None: the Hub data set's own split `validation`
            if it has one, else a part of the training rows, drawn by `seed` and stratified by class, is held out.
        text: column of the text.
        label: column of the label.
        text_pair: column of the second text, for pairs.
        kind: overrides what the labels look like.
        labels: class names in the order of their ids (for example a teacher's); None: those of the training split.
        name: of the task; the name of the training file if None.
        metrics: names from `codir.data.metrics`; accuracy and macro F1, or Pearson and Spearman, if None.
        main_metric: the one that chooses checkpoints; the first of `metrics` if None (regression: the mean).
        holdout: share of the training rows held out as the split `holdout`; a Hub data set's own validation split is
            then not read. None: a tenth, as the split `validation`, and only where there is no validation split.
        seed: of that draw.
        delimiter: of CSV files, if not what the ending says.
        encoding: of text files that are not UTF-8.
        hub_config: configuration of a Hub data set.

    Raises:
        DataError: for everything wrong with the data, with file and line.
        ConfigError: for arguments that do not fit together.
    """
    if train is None and validation is None:
        raise ConfigError("Give a training file, a validation file, or both.")
    if holdout is not None and not 0.0 < holdout < 1.0:
        raise ConfigError(f"The share of rows held out must lie between 0 and 1, not {holdout}.")
    if holdout is not None and validation is not None:
        raise ConfigError(
            f"The rows to validate on are either held out ({holdout}) or those of {validation}."
        )
    if text_pair == text or label in (text, text_pair):
        raise ConfigError(
            f"The columns for text, second text and label must differ: {text!r}, {text_pair!r}, {label!r}."
        )
    columns = [text, *([text_pair] if text_pair else []), label]
    notes: list[str] = []

    def read(source: str | Path, split: str) -> Rows:
        rows = _read(source, split, columns, delimiter, encoding, hub_config)
        notes.extend(rows.notes)
        for column in columns[:-1]:
            rows.texts(column)
        return rows

    train_rows = read(train, "train") if train is not None else None
    if (
        validation is None
        and holdout is None
        and train is not None
        and _is_hub(train)
        and _hub_has_validation(str(train), hub_config)
    ):
        validation = str(train).partition(":")[0]
    validation_rows = None
    if validation is not None:
        validation_rows = read(validation, "validation")

    found = read_labels(train_rows, validation_rows, columns[:-1], label, kind, labels)
    kind, names = found.kind, found.names
    notes += found.notes

    def split(rows: Rows) -> Dataset:
        second = rows.columns[text_pair] if text_pair else None
        return make_split(found.kind, rows.columns[text], second, found.of(rows), found.names)

    train_split = split(train_rows) if train_rows is not None else None
    if validation_rows is not None:
        validation_split = split(validation_rows)
    else:
        assert train_split is not None
        train_split, validation_split = hold_out(train_split, kind, holdout or DEFAULT_HOLDOUT, seed)
        unasked = "No validation split was given: " if holdout is None else ""
        notes.append(
            f"{unasked}{len(validation_split)} of {len(train_split) + len(validation_split)} "
            f"training rows were held out{' (stratified by class' if kind_named(kind).has_classes else ' (at random'}, "
            f"seed {seed})."
        )
    for note in notes:
        logger.info(note)
    chosen = tuple(metrics or kind_named(kind).default_metrics)
    default_main = kind_named(kind).main_metric if metrics is None else chosen[0]
    task = Task(
        name=name or Path(str(train if train is not None else validation)).stem,
        kind=kind,
        text=tuple(columns[:-1]),
        label=label,
        labels=names,
        metrics=chosen,
        main_metric=main_metric or default_main,
    )
    source = ", ".join(str(place) for place in (train, validation) if place is not None)
    split_name = "validation" if holdout is None else "holdout"
    return TaskData(task, train_split, {split_name: validation_split}, notes, source)


def load_texts(
    path: str | Path,
    *,
    text: str = "text",
    text_pair: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Loads unlabelled texts for prediction: columns `text` and, for pairs, `text_pair`.

    Args:
        path: a `.txt` file (one text a line), or a file with columns.
        text: column of the text (not for `.txt`).
        text_pair: column of the second text; a `.txt` file cannot hold pairs.
        delimiter: of CSV files, if not what the ending says.
        encoding: of a text file that is not UTF-8.

    Raises:
        DataError: with file and line; an empty line is an error, since each line gets one prediction.
    """
    rows = read_texts(path, text=text, text_pair=text_pair, delimiter=delimiter, encoding=encoding)
    for note in rows.notes:
        logger.info(note)
    return make_split(None, rows.columns[text], rows.columns[text_pair] if text_pair else None)


def read_texts(
    path: str | Path,
    *,
    text: str,
    text_pair: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    optional: Sequence[str] = (),
) -> Rows:
    """Reads unlabelled texts as `load_texts` does, and `optional` columns where the file has them.

    Raises:
        DataError: with file and line.
    """
    columns = [text, *([text_pair] if text_pair else [])]
    if Path(path).suffix.lower() == ".txt":
        if text_pair is not None:
            raise DataError(
                f"{path}: a plain text file cannot hold pairs of texts. Use {', '.join(FORMATS[:-1])}."
            )
        rows = read_lines(path, text, encoding)
    else:
        rows = read_rows(path, columns, delimiter, optional, encoding)
    for column in columns:
        rows.texts(column)
    return rows


def _is_hub(source: str | Path) -> bool:
    """A source that is no file, has no known ending and looks like `name` or `owner/name` is a Hub data set."""
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?(:[\w.-]+)?", source) is not None
        and Path(source).suffix.lower() not in FORMATS
        and not source.startswith(".")
        and not Path(source).exists()
    )


def _read(
    source: str | Path,
    split: str,
    columns: Sequence[str],
    delimiter: str | None,
    encoding: str | None,
    hub_config: str | None,
) -> Rows:
    if not _is_hub(source):
        return read_rows(source, columns, delimiter, encoding=encoding)
    repository, _, wanted = str(source).partition(":")
    data = from_hub(repository, hub_config, wanted or split)
    where = f"{repository} (split {wanted or split})"
    require_columns(where, data.column_names, columns)
    if not len(data):
        raise DataError(f"{where} is empty: it has no rows.")
    # `datasets` keeps selections as indices beside the table; asked for all rows in this format it gives one table
    table = cast("pyarrow.Table", data.select_columns(list(columns)).with_format("arrow")[:])
    return arrow_rows(where, table.replace_schema_metadata(data.features.arrow_schema.metadata))


def _hub_has_validation(source: str, config: str | None) -> bool:
    from datasets import get_dataset_split_names

    repository, _, wanted = source.partition(":")
    if wanted not in ("", "train"):
        return False
    try:
        return "validation" in get_dataset_split_names(repository, config)
    except Exception as error:  # the data were loaded, so a failure here only means that we cannot know
        logger.info("The splits of %s could not be listed: %s", repository, error)
        return False
