"""The token columns of an encoded data set, read once into flat arrays instead of row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset

from codir.errors import DataError
from codir.models.padding import INPUT_COLUMNS


@dataclass(frozen=True)
class TokenColumns:
    """Token columns of N examples.

    Attributes:
        ids: [N] int64, the column `example_id`, or 0..N-1 where there is none.
        offsets: [N+1] int64; example n's tokens are `values[column][offsets[n]:offsets[n + 1]]`.
        values: flat arrays by column, named without prefix.
    """

    ids: np.ndarray
    offsets: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def read(cls, encoded: Dataset, prefix: str = "") -> TokenColumns:
        """Reads the columns `{prefix}input_ids`, `{prefix}attention_mask`, `{prefix}token_type_ids`.

        Raises:
            DataError: `{prefix}input_ids` is missing, or columns differ in their lengths.
        """
        if f"{prefix}input_ids" not in encoded.column_names:
            raise DataError(
                f"The data set has no column '{prefix}input_ids' but {', '.join(encoded.column_names)}: "
                "tokenise it first."
            )
        found = [column for column in INPUT_COLUMNS if f"{prefix}{column}" in encoded.column_names]
        extra = ["example_id"] if "example_id" in encoded.column_names else []
        chosen = encoded.select_columns([*(prefix + column for column in found), *extra])
        table = cast(pa.Table, chosen.with_format("arrow")[:])
        offsets: np.ndarray | None = None
        values: dict[str, np.ndarray] = {}
        for column in found:
            starts, values[column] = _flat(table.column(prefix + column))
            if offsets is None:
                offsets = starts
            elif not np.array_equal(offsets, starts):
                raise DataError(
                    f"The columns '{prefix}input_ids' and '{prefix}{column}' differ in length: "
                    "encode the data again."
                )
        assert offsets is not None
        ids = table.column("example_id").to_numpy() if extra else np.arange(len(encoded))
        return cls(ids.astype(np.int64), offsets, values)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Returns the [N] token counts."""
        return np.diff(self.offsets)

    def row(self, number: int) -> dict[str, Any]:
        """Returns the arrays of one example, as `pad_batch` takes them."""
        start, end = self.offsets[number], self.offsets[number + 1]
        return {column: flat[start:end] for column, flat in self.values.items()}

    def batches(self, size: int, one_length: bool = False) -> Iterator[np.ndarray]:
        """Yields row numbers in batches of similar length, the longest first (so memory peaks at once).

        `one_length`: rows of different lengths are never in one batch, so that none is padded.
        """
        order = np.argsort(-self.lengths, kind="stable")
        ends = np.flatnonzero(np.diff(self.lengths[order])) + 1 if one_length else []
        for group in np.split(order, ends):
            for start in range(0, len(group), size):
                yield group[start : start + size]


def _flat(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets [N+1], starting at 0, and the flat values of an Arrow list column."""
    offsets = [np.zeros(1, dtype=np.int64)]
    values: list[np.ndarray] = []
    total = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if not len(chunk):
            continue
        starts = np.asarray(chunk.offsets.to_numpy(), dtype=np.int64)
        # a slice keeps its parent's buffers, hence the subtraction; flatten() takes only the slice's values
        offsets.append(starts[1:] - starts[0] + total)
        values.append(chunk.flatten().to_numpy(zero_copy_only=False))
        total += len(values[-1])
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int64)
    return np.concatenate(offsets), flat
