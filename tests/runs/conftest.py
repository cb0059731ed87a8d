"""The fine-tuned teacher that the tests of whole workflows share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_world import TRAINING, World, quiet, sentences, write_table
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="package")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., Any],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> World:
    """Returns data files and two fine-tuned tiny teachers, made once."""
    from codir import finetune

    folder = tmp_path_factory.mktemp("world")
    train = write_table(folder / "train.csv", sentences(96, seed=1, pairs=True))
    dev = write_table(folder / "dev.csv", sentences(40, seed=2, pairs=True))
    encoder = folder / "encoder"
    tiny_classifier(layers=4, seed=7).base_model.save_pretrained(encoder)
    tiny_tokenizer.save_pretrained(encoder)
    made = World(folder, train, dev, folder / "teacher", folder / "regression", folder / "cache")
    training = {**TRAINING, "epochs": 6}
    finetune(model=str(encoder), data=made.data(), training=training, output=made.teacher, console=quiet())
    finetune(
        model=str(encoder),
        data=made.data(label="score"),
        training={**training, "epochs": 15},
        output=made.regression,
        console=quiet(),
    )
    return made
