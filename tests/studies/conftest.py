"""A tiny teacher, data, and studies of them, for the tests of studies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runs"))
from small_world import TRAINING, World, quiet, sentences, write_table

TRIAL_TRAINING = {key: value for key, value in TRAINING.items() if key != "seed"}


@pytest.fixture(scope="package")
def study_world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., Any],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> World:
    """Returns data files and a fine-tuned tiny teacher."""
    from codir import finetune

    folder = tmp_path_factory.mktemp("studies")
    train = write_table(folder / "train.csv", sentences(48, seed=1))
    dev = write_table(folder / "dev.csv", sentences(24, seed=2))
    encoder = folder / "encoder"
    tiny_classifier(layers=4, seed=7).base_model.save_pretrained(encoder)
    tiny_tokenizer.save_pretrained(encoder)
    made = World(folder, train, dev, folder / "teacher", folder / "none", folder / "cache")
    training = {**TRAINING, "num_train_epochs": 3}
    finetune(model=str(encoder), data=made.data(), training=training, output=made.teacher, console=quiet())
    return made


@pytest.fixture(scope="package")
def study_settings(study_world: World) -> Callable[..., dict[str, Any]]:
    """Returns a factory of settings for `codir.study`: two recipes, one task, two seeds, one epoch, in this process."""

    def make(output: Path, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "recipes": ["finetune", "kd"],
            "tasks": {"good": study_world.data()},
            "teachers": {"good": str(study_world.teacher)},
            "student": {"layers": 2},
            "seeds": [1, 2],
            "training": dict(TRIAL_TRAINING),
            "cache_dir": str(study_world.cache),
            "workers": 0,
            "output": str(output),
        }
        return {key: value for key, value in {**settings, **changes}.items() if value is not None}

    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that gets the key of each training of a student."""
    from codir.runs import distill as module

    counted: list[str] = []
    train = module.train_into

    def counting(folder: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append("/".join(folder.path.parts[-3:]))
        return train(folder, *args, **kwargs)

    monkeypatch.setattr(module, "train_into", counting)
    return counted
