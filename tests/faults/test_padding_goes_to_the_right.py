"""A tokenizer that pads on the left does not move the states of its neighbours: positions are counted from the left."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_families import family
from fault_world import QUICK, succeeded, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

TEXTS = (
    "good film",
    "the bad old dog likes a short question and hates the long answer it never saw",
    "a bird",
)


@pytest.fixture
def left(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns a tokenizer to be saved as one that pads on the left; it gives no token types."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def save(tokenizer: PreTrainedTokenizerBase, folder: Path, side: str) -> None:
    """Saves a tokenizer that pads on a side."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "padding_side": side}), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder).padding_side == side


@pytest.mark.parametrize(
    "name",
    ["bert", "gpt2", "qwen2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "llama"))],
)
def test_answers_are_those_of_each_text_alone(name: str, tmp_path: Path, left: PreTrainedTokenizerBase) -> None:
    """Decoders find their last token by the padding token, on whatever side it stands."""
    more = {"vocab_size": 80} if name == "qwen2" else {}  # its tokenizer adds a token of its own
    model, folder, output = family(name, left, **more), tmp_path / "model", tmp_path / "answers.jsonl"
    model.save_pretrained(folder)
    save(left, folder, "left")
    texts = write_csv(tmp_path / "texts.csv", [{"text": text} for text in TEXTS])
    succeeded("predict", folder, "--input", texts, "--output", output)
    found = [list(json.loads(line)["scores"].values()) for line in output.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist() for text in TEXTS]
    np.testing.assert_allclose(found, alone, atol=2e-6)


def test_a_training_over_pooled_states_does_not_see_the_side(
    tmp_path: Path,
    left: PreTrainedTokenizerBase,
    tiny_model_dir: Callable[..., Path],
    train_csv: Path,
    dev_csv: Path,
) -> None:
    learned = []
    for side in ("right", "left"):
        teacher, run = tiny_model_dir(layers=2), tmp_path / side
        save(left, teacher, side)
        succeeded(
            "distill",
            "--teacher",
            teacher,
            "--train",
            train_csv,
            "--validation",
            dev_csv,
            "--output",
            run,
            "--limit-train",
            16,
            "--recipe",
            "codir-fine",
            "--no-baseline",
            "--set",
            "objectives.crd.k=8",
            *QUICK,
        )
        learned.append(AutoModelForSequenceClassification.from_pretrained(run).state_dict())
    assert all(torch.equal(weight, learned[1][name]) for name, weight in learned[0].items())
    # and whoever takes the student elsewhere has it padded as it was trained
    assert AutoTokenizer.from_pretrained(run).padding_side == "right"
