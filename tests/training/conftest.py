"""The models that the training tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent.parent / "runs"),
]  # training_job.py, killing.py


@pytest.fixture(scope="package")
def models(tmp_path_factory, tiny_classifier, tiny_tokenizer) -> Path:
    """Returns a folder with a teacher of 4 layers, a student of 2, their tokenizer, and the teacher's cache."""
    folder = tmp_path_factory.mktemp("models")
    tiny_classifier(layers=4, seed=1).save_pretrained(folder / "teacher")
    tiny_classifier(layers=2, seed=2).save_pretrained(folder / "student")
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    return folder
