"""Data files that most tests of faults start from; models come from `tiny_model_dir` of tests/conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_world import sentences, write_csv


@pytest.fixture(scope="session")
def train_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 48 learnable rows with the columns text and label (`negative`, `positive`)."""
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", sentences(48, seed=1))


@pytest.fixture(scope="session")
def dev_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 24 more of them."""
    return write_csv(tmp_path_factory.mktemp("data") / "dev.csv", sentences(24, seed=2))
