"""Data files and models that most tests of faults start from, made once; whoever changes one takes a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def saved(
    tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Callable[..., Any], tiny_tokenizer: Any
) -> Callable[..., Path]:
    """Returns a factory that saves a tiny classifier (arguments of `tiny_classifier`) and its tokenizer."""

    def make(folder: Path | None = None, **settings: Any) -> Path:
        folder = folder or tmp_path_factory.mktemp("model")
        tiny_classifier(**settings).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def model(saved: Callable[..., Path]) -> Path:
    """Returns a classifier of two layers and the classes `negative` and `positive`; to be read only."""
    return saved(layers=2, width=16)


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """Returns a copy of `model`, to be changed."""
    return Path(shutil.copytree(model, tmp_path / "own-model"))


@pytest.fixture(scope="session")
def mlm(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """Returns a masked language model of one layer; to be read only."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("mlm")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
