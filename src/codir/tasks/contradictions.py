"""Counts the texts that a file labels in more than one way."""

from __future__ import annotations

from collections.abc import Sequence

from codir.tasks.reading import Rows


def contradictions(rows: Rows, texts: Sequence[str], label: str, labels: Sequence[int | float]) -> str | None:
    """Says how many texts stand in a file with several labels, and where the first one does; None if none does.

    Blanks around a text make no other text.

    Args:
        rows: the split.
        texts: its one or two text columns.
        label: its label column.
        labels: the class ids or scores of its rows.
    """
    columns = [list(map(str.strip, rows.values[name])) for name in texts]
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    of_first = dict(
        zip(reversed(keys), reversed(labels), strict=True)
    )  # of equal keys the last one given stays
    unlike = [
        row for row, (key, given) in enumerate(zip(keys, labels, strict=True)) if of_first[key] != given
    ]
    if not unlike:
        return None

    def place(row: int) -> str:
        return f"{rows.unit} {rows.places[row]} ({rows.values[label][row]!r})"

    twice = {keys[row] for row in unlike}
    found = [row for row, key in enumerate(keys) if key in twice]
    second = next(row for row in unlike if keys[row] == keys[found[0]])
    one, several = ("pair of texts", "pairs of texts") if len(texts) == 2 else ("text", "texts")
    what = f"{len(twice):,} {several} stand" if len(twice) > 1 else f"One {one} stands"
    return (
        f"{what} in {rows.source} with more than one label ({len(found):,} rows), first in {place(found[0])} and "
        f"{place(second)}: at most one of them can be right."
    )
