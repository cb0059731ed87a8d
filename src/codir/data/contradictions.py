"""Counts the texts that a file labels in more than one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codir.data.rows import Rows, compute, encoded


def contradictions(rows: Rows, texts: Sequence[str], label: str, labels: np.ndarray) -> str | None:
    """Says how many texts stand in a file with several labels, and where the first one does; None if none does.

    Blanks around a text make no other text.

    Args:
        rows: the split.
        texts: its one or two text columns.
        label: its label column.
        labels: the class ids or scores of its rows.
    """
    keys = np.zeros(len(rows), np.int64)
    for name in texts:
        values, codes = encoded(_trimmed(rows.columns[name]))
        keys = np.unique(keys * len(values) + codes, return_inverse=True)[1]
    of_key = np.empty(len(rows), labels.dtype)
    of_key[keys[::-1]] = labels[::-1]  # of equal keys the last one written stays: the first row's
    unlike = np.flatnonzero(of_key[keys] != labels)
    if not len(unlike):
        return None

    def place(row: int) -> str:
        return f"{rows.unit} {rows.places[row]} ({rows.values[label][row]!r})"

    twice = np.unique(keys[unlike])
    found = np.flatnonzero(np.isin(keys, twice))
    second = next(int(row) for row in unlike if keys[row] == keys[found[0]])
    one, several = ("pair of texts", "pairs of texts") if len(texts) == 2 else ("text", "texts")
    what = f"{len(twice):,} {several} stand" if len(twice) > 1 else f"One {one} stands"
    return (
        f"{what} in {rows.source} with more than one label ({len(found):,} rows), first in {place(int(found[0]))} and "
        f"{place(second)}: at most one of them can be right."
    )


def _trimmed(column: Any) -> Any:
    if isinstance(column, list):
        return [text.strip() for text in column]
    return compute().utf8_trim_whitespace(column)
