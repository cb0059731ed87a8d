"""A tiny distillation, finished once, that the tests of gathering read or copy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runs"))
from small_world import TRAINING, World, quiet, sentences, write_table

HOSTILE = "<script>alert('good')</script> &amp; [bold]x[/bold] \u202egood"


@pytest.fixture(scope="session")
def report_world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., Any],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> World:
    """Returns data files, one with a hostile text, and a fine-tuned tiny teacher."""
    from codir import finetune

    folder = tmp_path_factory.mktemp("report-world")
    train = write_table(folder / "train.csv", sentences(64, seed=1))
    rows = sentences(40, seed=2)
    rows[7]["review"] = HOSTILE
    dev = write_table(folder / "dev.csv", rows)
    encoder = folder / "encoder"
    tiny_classifier(layers=4, seed=7).base_model.save_pretrained(encoder)
    tiny_tokenizer.save_pretrained(encoder)
    made = World(folder, train, dev, folder / "teacher", folder / "regression", folder / "cache")
    training = {**TRAINING, "num_train_epochs": 5}
    finetune(model=str(encoder), data=made.data(), training=training, output=made.teacher, console=quiet())
    return made


@pytest.fixture(scope="session")
def distilled(report_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a finished run with all comparison students. Read it only; `copy_of` gives one to damage."""
    from codir import distill

    output = tmp_path_factory.mktemp("report-runs") / "student"
    return distill(**report_world.settings(output, kd=True), console=quiet()).output


@pytest.fixture
def copy_of(distilled: Path, tmp_path: Path) -> Path:
    """Returns a copy of the finished run, to be changed: without its manifest, which would tell of it first."""
    copy = Path(shutil.copytree(distilled, tmp_path / "run"))
    (copy / "codir-manifest.json").unlink()
    return copy
