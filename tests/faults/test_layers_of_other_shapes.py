"""Models whose layers are not one encoder's: an encoder with a decoder, layers that change the length of a text.

A student learns from their answers; losses over their layers are refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_families import family_dir
from fault_world import QUICK, refused, succeeded, write_csv
from transformers import PreTrainedTokenizerBase

KINDS = {"bart": "decoder", "t5": "decoder", "funnel": "length"}


@pytest.fixture
def given(tmp_path: Path, train_csv: Path, dev_csv: Path) -> Callable[..., list[Any]]:
    """Returns the arguments of a distillation, with a cache of its own."""

    def make(teacher: Path, student: Path, recipe: str, *more: Any) -> list[Any]:
        files = ["--train", train_csv, "--validation", dev_csv, "--limit-validation", 8]
        paths = ["--output", tmp_path / "run", "--cache-dir", tmp_path / "cache"]
        models = ["--teacher", teacher, "--student", student]
        more = (*more, "--set", "objectives.crd.k=8") if recipe == "codir-fine" else more
        return ["distill", *models, *files, *paths, "--recipe", recipe, "--no-baseline", *QUICK, *more]

    return make


@pytest.mark.parametrize("recipe", ["codir-fine", "pkd", "tinybert"])
@pytest.mark.parametrize("name", KINDS)
def test_losses_over_a_teachers_layers_are_refused(
    name: str,
    recipe: str,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    given: Callable[..., list[Any]],
) -> None:
    teacher = family_dir(tmp_path / "teacher", name, tiny_tokenizer)
    student = family_dir(tmp_path / "student", "bert", tiny_tokenizer, num_hidden_layers=2)
    message = refused(*given(teacher, student, recipe), leaves_nothing=tmp_path / "run")
    assert "teacher" in message.lower()
    assert KINDS[name] in message
    assert "--recipe kd" in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["bart", "funnel"])
def test_losses_over_a_students_layers_are_refused(
    name: str,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tiny_model_dir: Callable[..., Path],
    given: Callable[..., list[Any]],
) -> None:
    student = family_dir(tmp_path / "student", name, tiny_tokenizer)
    message = refused(*given(tiny_model_dir(), student, "codir-fine"), leaves_nothing=tmp_path / "run")
    assert "student" in message
    assert KINDS[name] in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "name",
    [
        "bart",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "funnel", "big_bird")),
    ],
)
def test_their_answers_can_be_learned(
    name: str,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tiny_model_dir: Callable[..., Path],
    given: Callable[..., list[Any]],
) -> None:
    teacher = family_dir(tmp_path / "teacher", name, tiny_tokenizer)
    succeeded(*given(teacher, tiny_model_dir(layers=1), "kd"))
    page = tmp_path / "report.html"
    succeeded("report", tmp_path / "run", "--output", page)
    assert page.is_file()


def test_a_model_that_runs_at_no_length_is_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    settings = {"num_landmarks": 8, "segment_means_seq_len": 64, "conv_kernel_size": 5}
    model = family_dir(tmp_path / "model", "nystromformer", tiny_tokenizer, **settings)
    texts, output = write_csv(tmp_path / "texts.csv", [{"text": "a cat"}]), tmp_path / "answers.jsonl"
    message = refused("predict", model, "--input", texts, "--output", output, leaves_nothing=output)
    assert str(model) in message
