from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runs"))  # killing.py


@pytest.fixture
def encoded() -> Callable[..., Dataset]:
    """Returns a factory of encoded data sets with texts of 3 to 20 random tokens."""

    def make(count: int = 40, seed: int = 0, prefix: str = "") -> Dataset:
        rng = np.random.default_rng(seed)
        ids = [rng.integers(5, 60, size=rng.integers(3, 20)).tolist() for _ in range(count)]
        return Dataset.from_dict(
            {
                f"{prefix}input_ids": ids,
                f"{prefix}attention_mask": [[1] * len(row) for row in ids],
                "example_id": list(range(count)),
            }
        )

    return make
