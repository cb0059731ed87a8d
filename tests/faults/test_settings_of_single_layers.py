"""Settings with one entry a layer go with the layers: a student's layer computes as the layer it was copied from.

Longformer's windows, ModernBERT's and others' kinds of attention, GPT Neo's runs of kinds; lists that have the depth's
length by chance (DeBERTa's, X-MOD's, several end-of-text tokens) stay whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fault_families import family_dir
from fault_world import QUICK, codir, flags, refused, succeeded
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

KD = ("--recipe", "kd", "--no-baseline", *QUICK)


def given(teacher: Path, train: Path, dev: Path, output: Path, init: str, *more: Any) -> list[Any]:
    """Returns the arguments of a distillation of the layers `init`."""
    files = ["--train", train, "--validation", dev, "--limit-train", 8, "--limit-validation", 8]
    given = flags(teacher=teacher, output=output, set=f"student.init={init}")
    return ["distill", *files, *given, *KD, *more]


def config_of(folder: Path) -> dict[str, Any]:
    """Returns what a model folder says of its model."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "settings", "init", "expected"),
    [
        ("longformer", {}, "[1, 4]", {"attention_window": [4, 16]}),
        ("modernbert", {}, "[2, 3]", {"layer_types": ["sliding_attention", "full_attention"]}),
        pytest.param(
            "modernbert",
            {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
            "[4]",
            {"layer_types": ["full_attention"]},
            marks=pytest.mark.slow,
        ),
        ("gpt_neo", {}, "[2, 4]", {"attention_layers": ["local", "local"]}),
        ("deberta-v2", {"num_hidden_layers": 2}, "[2]", {"pos_att_type": ["p2c", "c2p"]}),
        pytest.param(
            "xmod",
            {"num_hidden_layers": 2, "languages": ["en_XX", "de_DE"]},
            "[2]",
            {"languages": ["en_XX", "de_DE"]},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["windows", "every-nth", "listed", "runs", "words-by-chance", "languages-by-chance"],
)
def test_they_go_with_the_layers(
    name: str,
    settings: dict[str, Any],
    init: str,
    expected: dict[str, Any],
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    train_csv: Path,
    dev_csv: Path,
) -> None:
    teacher = family_dir(tmp_path / "teacher", name, tiny_tokenizer, **settings)
    run = tmp_path / "run"
    succeeded(*given(teacher, train_csv, dev_csv, run, init))
    found = config_of(run)
    assert {key: found[key] for key in expected} == expected
    # and what was saved can be read again
    again = AutoModelForSequenceClassification.from_pretrained(run)
    assert again.config.num_hidden_layers == len(json.loads(init))


def test_a_student_of_random_weights_has_them_too(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, train_csv: Path, dev_csv: Path
) -> None:
    teacher = family_dir(tmp_path / "teacher", "longformer", tiny_tokenizer)
    run = tmp_path / "run"
    succeeded(*given(teacher, train_csv, dev_csv, run, "random", "--student-layers", 2))
    assert config_of(run)["attention_window"] == [8, 16]  # of the layers it would be compared with


@pytest.mark.slow
def test_a_students_student(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, train_csv: Path, dev_csv: Path
) -> None:
    """A student's student: the lists are cut a second time."""
    teacher = family_dir(tmp_path / "teacher", "longformer", tiny_tokenizer)
    first, second = tmp_path / "first", tmp_path / "second"
    succeeded(*given(teacher, train_csv, dev_csv, first, "[1, 2, 4]"))
    succeeded(*given(first, train_csv, dev_csv, second, "[1, 3]"))
    assert config_of(second)["attention_window"] == [4, 16]


def test_layers_that_compute_by_their_number_are_not_moved(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, train_csv: Path, dev_csv: Path
) -> None:
    """GPT-2 can divide a layer's attention by its number, which no setting can say of another place."""
    settings = {"scale_attn_by_inverse_layer_idx": True}
    teacher = family_dir(tmp_path / "teacher", "gpt2", tiny_tokenizer, **settings)
    run = tmp_path / "run"
    message = refused(*given(teacher, train_csv, dev_csv, run, "[2, 4]"), leaves_nothing=run)
    assert "scale_attn_by_inverse_layer_idx" in message
    assert "--student-init first" in message


@pytest.mark.parametrize("init", ["spread", "random"])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_with_a_decoder_is_not_cut(
    name: str,
    init: str,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    train_csv: Path,
    dev_csv: Path,
) -> None:
    teacher, run = family_dir(tmp_path / "teacher", name, tiny_tokenizer), tmp_path / "run"
    message = refused(*given(teacher, train_csv, dev_csv, run, init), leaves_nothing=run)
    assert name in message
    assert "decoder" in message
    assert "--student" in codir("distill", "--help").text
    assert "--student" in message
