"""A saved tokenizer for the tests of corpora."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Returns a model folder without weights: the tiny tokenizer and a config with 64 positions."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(tiny_tokenizer), max_position_embeddings=64, hidden_size=32, num_attention_heads=2
    ).save_pretrained(folder)
    return folder
