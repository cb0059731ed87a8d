"""Examples and texts without labels from the user's own files, or from Hub data sets, by column names."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import xxhash

from codir.data.encodings import plain_lines, read_text
from codir.data.labels import read_labels
from codir.data.reading import FORMATS, Rows, arrow_rows, from_hub, read_rows, require_columns
from codir.data.task import Kind, Task, TaskData, hold_out, limit, make_split
from codir.errors import ConfigError, DataError
from codir.kinds import kind_named

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

logger = logging.getLogger(__name__)

DEFAULT_HOLDOUT = 0.1  # share of the training rows, where nobody says more
SOURCE_DIGEST = "source_digest"
"""Column in which a copy names the example that it was made from."""
Key = tuple[str, ...]


def load_files(
    train: str | Path | None,
    validation: str | Path | None = None,
    *,
    text: str,
    label: str,
    text_pair: str | None = None,
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    holdout: float | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> TaskData:
    """Loads a task from files or Hub data sets.

    The rules: a text is never interpreted ("NA" and "null" are texts), an empty one is an error. Labels are classes or
    scores as they look; classes are those of the training split, in the order of the file where it names them
    (ClassLabel), else by value if all are plain numbers, else as text. A label missing or NaN is an error, and so are
    one class in two spellings and a validation label that training does not have.

    Args:
        train: a file, or the id of a Hub data set (`owner/name`, its split `train`; `owner/name:split` for another);
            None to load a validation split only, which then needs `labels` or `kind="regression"`.
        validation: likewise (a Hub id means its split `validation`). None: the Hub data set's own split `validation`
            if it has one, else a part of the training rows is held out, the same ones always, stratified by class.
        text: column of the text.
        label: column of the label.
        text_pair: column of the second text, for pairs.
        kind: overrides what the labels look like.
        labels: class names in the order of their ids (for example a teacher's); None: those of the training split.
        holdout: share of the training rows held out as the split `holdout`; a Hub data set's own validation split is
            then not read. None: a tenth, as the split `validation`, and only where there is no validation split.
        delimiter: of CSV files, if not what the ending says.
        encoding: of text files that are not UTF-8.

    Raises:
        DataError: for everything wrong with the data, with file and line.
        ConfigError: for arguments that do not fit together.
    """
    if train is None and validation is None:
        raise ConfigError("Give a training file, a validation file, or both.")
    if text_pair == text or label in (text, text_pair):
        raise ConfigError(
            f"The columns for text, second text and label must differ: {text!r}, {text_pair!r}, {label!r}."
        )
    columns = [text, *([text_pair] if text_pair else []), label]

    def read(source: str | Path, split: str) -> Rows:
        if _is_hub(source):
            rows = _hub_rows(str(source), split, columns)
        else:
            rows = read_rows(source, columns, delimiter, encoding=encoding)
        for column in columns[:-1]:
            rows.require_texts(column)
        return rows

    def as_split(rows: Rows) -> Dataset:
        second = rows.columns[text_pair] if text_pair else None
        return make_split(found.kind, rows.columns[text], second, found.of(rows), found.names)

    train_rows = read(train, "train") if train is not None else None
    if validation is None and holdout is None and _hub_has_validation(train):
        validation = str(train).partition(":")[0]
    validation_rows = read(validation, "validation") if validation is not None else None
    found = read_labels(train_rows, validation_rows, columns[:-1], label, kind, labels)
    notes, of_kind = list(found.notes), kind_named(found.kind)
    train_split = as_split(train_rows) if train_rows is not None else None
    if validation_rows is not None:
        validation_split = as_split(validation_rows)
    else:
        assert train_split is not None, "one of both is given"
        train_split, validation_split = hold_out(train_split, found.kind, holdout or DEFAULT_HOLDOUT, seed=0)
        notes.append(
            f"{'No validation split was given: ' if holdout is None else ''}{len(validation_split)} of "
            f"{len(train_split) + len(validation_split)} training rows were held out "
            f"({'stratified by class' if of_kind.has_classes else 'at random'}, seed 0)."
        )
    for note in notes:
        logger.info(note)
    task = Task(
        name=Path(str(train if train is not None else validation)).stem,
        kind=found.kind,
        text=tuple(columns[:-1]),
        label=label,
        labels=found.names,
        metrics=tuple(of_kind.default_metrics),
        main_metric=of_kind.main_metric,
    )
    source = ", ".join(str(place) for place in (train, validation) if place is not None)
    name = "validation" if holdout is None else "holdout"
    return TaskData(task, train_split, {name: validation_split}, notes, source)


def _is_hub(source: str | Path | None) -> bool:
    """A source that is no file, has no known ending and looks like `name` or `owner/name` is a Hub data set."""
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?(:[\w.-]+)?", source) is not None
        and Path(source).suffix.lower() not in FORMATS
        and not source.startswith(".")
        and not Path(source).exists()
    )


def _hub_rows(source: str, split: str, columns: Sequence[str]) -> Rows:
    repository, _, wanted = source.partition(":")
    data = from_hub(repository, None, wanted or split)
    where = f"{repository} (split {wanted or split})"
    require_columns(where, data.column_names, columns)
    if not len(data):
        raise DataError(f"{where} is empty: it has no rows.")
    # `datasets` keeps selections as indices beside the table; asked for all rows in this format it gives one table
    table = cast("pyarrow.Table", data.select_columns(list(columns)).with_format("arrow")[:])
    return arrow_rows(where, table.replace_schema_metadata(data.features.arrow_schema.metadata))


def _hub_has_validation(source: str | Path | None) -> bool:
    from datasets import get_dataset_split_names

    repository, _, wanted = str(source).partition(":")
    if not _is_hub(source) or wanted not in ("", "train"):
        return False
    try:
        return "validation" in get_dataset_split_names(repository)
    except Exception as error:  # the data were loaded, so a failure here only means that we cannot know
        logger.info("The splits of %s could not be listed: %s", repository, error)
        return False


# --- texts without labels


def read_texts(
    path: str | Path,
    *,
    text: str = "text",
    text_pair: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    optional: Sequence[str] = (),
) -> Rows:
    """Reads texts without labels, and `optional` columns where the file has them.

    Args:
        path: a `.txt` file (one text a line, not for pairs), or a file with columns.
        text: column of the text (not for `.txt`).
        text_pair: column of the second text.
        delimiter: of CSV files, if not what the ending says.
        encoding: of a text file that is not UTF-8.
        optional: further columns.

    Raises:
        DataError: with file and line; an empty line is an error, since each line gets one prediction.
    """
    columns = [text, *([text_pair] if text_pair else [])]
    if Path(path).suffix.lower() != ".txt":
        rows = read_rows(path, columns, delimiter, optional, encoding)
    elif text_pair is None:
        rows = Rows(str(path), "line", {text: plain_lines(read_text(path, encoding))})
    else:
        raise DataError(f"{path}: a plain text file cannot hold pairs of texts. Use {', '.join(FORMATS[:-1])}.")
    for column in columns:
        rows.require_texts(column)
    return rows


def load_texts(path: str | Path, *, text: str = "text", text_pair: str | None = None, **options: str | None) -> Dataset:
    """Loads texts for prediction, columns `text` and, for pairs, `text_pair`; arguments and errors as `read_texts`."""
    rows = read_texts(path, text=text, text_pair=text_pair, **options)  # type: ignore[arg-type]
    return make_split(None, rows.columns[text], rows.columns[text_pair] if text_pair else None)


def load_unlabeled(
    files: Sequence[str | Path],
    train: Dataset,
    validation: Mapping[str, Dataset],
    *,
    text: str = "text",
    text_pair: str | None = None,
    most: int | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> tuple[Dataset, list[str]]:
    """Reads texts without labels for a training; of the files only the text columns are looked at.

    Left out are texts that also stand in a validation split, however they are spelt (upper or lower case, blanks; of
    pairs in either order), since a teacher's answer to them would be trained on; copies of such texts with words
    replaced, where the file says what it was made from (the column `source_digest` of `codir augment`); texts that
    repeat a training text exactly, which has its label; and repeats of each other.

    Args:
        files: as `read_texts` reads them; its other arguments hold for all of them.
        train: the training split, as it is used.
        validation: all validation splits, whole.
        most: use a fixed random subset of this many.

    Returns:
        The texts that are used (columns `text` and, for pairs, `text_pair`), and sentences on what was left out.

    Raises:
        DataError: a file cannot be read, lacks a column, holds an empty text (with file and line); nothing is left.
    """
    held = {_plain(key) for split in validation.values() for key in _keys(split)}
    held_digests = {source_digest(key) for key in held}
    seen = set(_keys(train))
    texts: list[Key] = []
    notes: list[str] = []
    for path in files:
        rows = read_texts(
            path,
            text=text,
            text_pair=text_pair,
            delimiter=delimiter,
            encoding=encoding,
            optional=(SOURCE_DIGEST,),
        )
        keys = list(zip(*(rows.columns[name] for name in (text, text_pair) if name), strict=True))
        kept: list[Key] = []
        left_out: Counter[str] = Counter()
        for key, source in zip(keys, rows.columns.get(SOURCE_DIGEST, [None] * len(keys)), strict=True):
            if _plain(key) in held:
                left_out["stand in the validation data"] += 1
            elif isinstance(source, str) and source in held_digests:
                left_out["are copies of validation texts"] += 1
            elif key in seen:
                left_out["repeat a training text or each other"] += 1
            else:
                seen.add(key)
                kept.append(key)
        reasons = " and ".join(f"{count:,} that {reason}" for reason, count in sorted(left_out.items()))
        if not kept:
            raise DataError(
                f"{path}: none of its {len(keys):,} texts can be used: {reasons} are left out. Give other texts, or "
                "leave the file out."
            )
        without = f" without {reasons}" if reasons else ""
        notes.append(f"{len(kept):,} unlabelled texts of {path}{without}: the teacher labels them.")
        texts += kept
    split = make_split(None, [key[0] for key in texts], [key[1] for key in texts] if text_pair else None)
    used = limit(split, most)
    if len(used) < len(split):
        notes.append(f"Of {len(split):,} unlabelled texts {len(used):,} are used (a fixed random subset).")
    return used, notes


def united(train: Dataset, unlabeled: Dataset | None, kind: Kind) -> Dataset:
    """Returns one split, labelled rows first; the label of the others is None."""
    if unlabeled is None:
        return train
    pairs = "text_pair" in train.column_names
    texts = [[*train[name], *unlabeled[name]] for name in ("text", "text_pair")[: 1 + pairs]]
    labels = [*train["label"], *[None] * len(unlabeled)]
    names = getattr(train.features["label"], "names", None)
    return make_split(kind, texts[0], texts[1] if pairs else None, labels, names)


def source_digest(texts: Key) -> str:
    """Returns a digest of an example, by which its copies name it: 64 bits, the same however its texts are spelt."""
    return xxhash.xxh3_64_hexdigest("\0".join(_plain(texts)).encode())


def _keys(split: Dataset) -> Iterator[Key]:
    return zip(*(split[name] for name in ("text", "text_pair") if name in split.column_names), strict=True)


def _plain(key: Key) -> Key:
    """Returns what is the same for texts that differ in case, blanks or, of pairs, in order only."""
    return tuple(sorted(" ".join(text.casefold().split()) for text in key))
