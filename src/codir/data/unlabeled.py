"""Texts without labels beside a task's training split: which of them are used, and how both become one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from codir.data.files import read_texts
from codir.data.task import Kind, limit, make_split
from codir.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Key = tuple[str, ...]
SOURCE_DIGEST = "source_digest"
"""Column in which a copy names the example that it was made from."""


@dataclass
class Unlabeled:
    """Texts without labels that are used.

    Attributes:
        split: columns `text` and, for pairs, `text_pair`.
        notes: sentences the user should read: how many there are, how many were left out and why.
    """

    split: Dataset
    notes: list[str] = field(default_factory=list)


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
) -> Unlabeled:
    """Reads texts without labels; of the files only the text columns are looked at.

    Left out are texts that also stand in a validation split, however they are spelt (upper or lower case, blanks; of
    pairs in either order), since a teacher's answer to them would be trained on; copies of such texts with words
    replaced, where the file says what it was made from (the column `source_digest` of `codir augment`); texts that
    repeat a training text exactly, which has its label; and repeats of each other.

    Args:
        files: `.txt` (a text a line, not for pairs), or files with columns.
        train: the training split, as it is used.
        validation: all validation splits, whole.
        text: column of the text.
        text_pair: column of the second text; None for single texts.
        most: use a fixed random subset of this many.
        delimiter: of CSV files, if not what the ending says.
        encoding: of text files that are not UTF-8.

    Raises:
        DataError: a file cannot be read, lacks a column, holds an empty text (with file and line); nothing is left.
    """
    held = {_plain(key) for split in validation.values() for key in _keys(split)}
    held_digests = {source_digest(key) for key in held}
    columns = [text, *([text_pair] if text_pair else [])]
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
            optional=(SOURCE_DIGEST, "source"),
        )
        notes += rows.notes
        found: list[Key] = list(zip(*(rows.columns[name] for name in columns), strict=True))
        kept: list[Key] = []
        in_validation = copied = repeated = 0
        for key, source in zip(found, rows.columns.get(SOURCE_DIGEST, [None] * len(found)), strict=True):
            if _plain(key) in held:
                in_validation += 1
            elif isinstance(source, str) and source in held_digests:
                copied += 1
            elif key in seen:
                repeated += 1
            else:
                seen.add(key)
                kept.append(key)
        reasons = [
            f"{count:,} {why}"
            for count, why in (
                (in_validation, "that stand in the validation data"),
                (copied, "that are copies of validation texts"),
                (repeated, "that repeat a training text or each other"),
            )
            if count
        ]
        if not kept:
            raise DataError(
                f"{path}: none of its {len(found):,} texts can be used: {' and '.join(reasons)} are left out. "
                "Give other texts, or leave the file out."
            )
        without = f" without {' and '.join(reasons)}" if reasons else ""
        notes.append(f"{len(kept):,} unlabelled texts of {path}{without}: the teacher labels them.")
        if SOURCE_DIGEST not in rows.columns and _counts_rows(rows.columns.get("source", [])):
            notes.append(
                f"{path} seems to hold copies of training texts by an older `codir augment`, without saying of which: "
                "if rows are held out of the training data, copies of them are trained on. Make it anew."
            )
        texts += kept
    split = make_split(None, [key[0] for key in texts], [key[1] for key in texts] if text_pair else None)
    used = limit(split, most)
    if len(used) < len(split):
        notes.append(f"Of {len(split):,} unlabelled texts {len(used):,} are used (a fixed random subset).")
    return Unlabeled(used, notes)


def united(train: Dataset, unlabeled: Dataset | None, kind: Kind) -> Dataset:
    """Returns one split, labelled rows first; the label of the others is None."""
    if unlabeled is None:
        return train
    columns = [name for name in ("text", "text_pair") if name in train.column_names]
    texts = {name: [*train[name], *unlabeled[name]] for name in columns}
    labels = [*train["label"], *[None] * len(unlabeled)]
    names = getattr(train.features["label"], "names", None)
    return make_split(kind, texts["text"], texts.get("text_pair"), labels, names)


def source_digest(texts: Key) -> str:
    """Returns a digest of an example, by which its copies name it: 64 bits, the same however its texts are spelt."""
    return xxhash.xxh3_64_hexdigest("\0".join(_plain(texts)).encode())


def _counts_rows(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, int) for value in values)


def _keys(split: Dataset) -> Iterator[Key]:
    columns = [list(split[name]) for name in ("text", "text_pair") if name in split.column_names]
    return zip(*columns, strict=True)


def _plain(key: Key) -> Key:
    """Returns what is the same for texts that differ in case, blanks or, of pairs, in order only."""
    return tuple(sorted(" ".join(text.casefold().split()) for text in key))
