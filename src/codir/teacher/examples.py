"""The examples a cache entry is about, numbered 0..N-1, and the checks that pooled and token-level outputs share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from codir.errors import DataError
from codir.models.tokens import TokenColumns

HALF_MAX = float(np.finfo(np.float16).max)


def read_examples(encoded: Dataset, prefix: str | None) -> TokenColumns:
    """Reads the token columns that the teacher sees.

    Args:
        encoded: data set with token columns and `example_id` 0..N-1 (each once; the row numbers if there is none).
        prefix: of the teacher's token columns; None takes `teacher_` if there is `teacher_input_ids`, else none.

    Raises:
        DataError: there are no examples, or their ids are not 0..N-1.
    """
    if prefix is None:
        prefix = "teacher_" if "teacher_input_ids" in encoded.column_names else ""
    columns = TokenColumns.read(encoded, prefix)
    if not len(columns):
        raise DataError("The data set is empty: there is nothing for the teacher to compute.")
    if not np.array_equal(np.sort(columns.ids), np.arange(len(columns))):
        raise DataError(
            f"The column example_id must hold each of 0..{len(columns) - 1} once, since it numbers the rows of the "
            "cache. Encode the data again instead of selecting from encoded data."
        )
    return columns


def rows_of(ids: Tensor | np.ndarray | Sequence[int], examples: int) -> np.ndarray:
    """Returns example ids as an array; raises `IndexError` if one is not of 0..`examples` - 1."""
    wanted = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids, dtype=np.int64)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= examples):
        raise IndexError(
            f"Example ids {wanted.min()}..{wanted.max()} are outside the cache's 0..{examples - 1}."
        )
    return wanted


def first_bad(ids: np.ndarray, values: Tensor) -> int:
    """Returns the id of the first example of a batch, `values` [B, ...], that has an infinite or undefined number."""
    rows = torch.isfinite(values).reshape(len(values), -1).all(dim=1)
    return int(ids[int((~rows).nonzero()[0])])
