"""What becomes of each family of transformers: exact, run without padding, or refused by a sentence; no traceback.

A model of random weights is fine-tuned, predicts, and is distilled. Its answer to a text is the one that transformers
gives to the text alone, whatever stands beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_families import family_dir
from fault_world import QUICK, codir, refused, sentences, succeeded, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

TEXTS = (
    "good film",
    "the bad old dog likes a short question and hates the long answer it never saw",
    "a bird",
    "the cat sees an old red book on a short blue man and it is not very good , is it ?",
)
# Families whose answers padding does not change: they are not even probed, or probed and found exact.
EXACT = [
    *("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "longformer", "modernbert"),
    *("mpnet", "rembert", "roberta", "big_bird", "bloom", "gemma2", "gpt2", "gpt_neo"),
    *("llama", "mistral", "roformer", "squeezebert", "xlnet", "bart", "mbart", "t5"),
]
UNPADDED = ["convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso"]
REFUSED = {"perceiver": "how many layers", "mra": "whatever the text", "reformer": "random numbers"}
NOT_CUT = {"albert": "one list", "funnel": "one list", **dict.fromkeys(("bart", "mbart", "t5"), "decoder")}
FAST = {"modernbert", "deberta-v2", "albert", "longformer", "fnet"}


def some(names: list[str]) -> list[Any]:
    """Returns families as parameters, most of them for the slow tests."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some([*EXACT, *UNPADDED]))
def test_answers_are_those_of_each_text_alone(
    name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder, output = family_dir(tmp_path / "model", name, tiny_tokenizer, seed=5), tmp_path / "answers.jsonl"
    texts = write_csv(tmp_path / "texts.csv", [{"text": text} for text in TEXTS])
    done = succeeded("predict", folder, "--input", texts, "--output", output)
    assert ("without padding" in done.text) == (name in UNPADDED)
    found = [list(json.loads(line)["scores"].values()) for line in output.read_text(encoding="utf-8").splitlines()]
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    if name == "big_bird":
        model.bert.set_attention_type("original_full")
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist() for text in TEXTS]
    np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["mra", "reformer"])
def test_a_model_without_answers_of_its_own_is_refused(
    name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """MRA attends to nothing where its kernel cannot be had: one answer for all. Reformer draws random numbers."""
    folder, output = family_dir(tmp_path / "model", name, tiny_tokenizer), tmp_path / "answers.jsonl"
    texts = write_csv(tmp_path / "texts.csv", [{"text": text} for text in TEXTS])
    assert REFUSED[name] in refused("predict", folder, input=texts, output=output, leaves_nothing=output)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, *UNPADDED, *REFUSED])
def test_each_can_be_distilled_or_says_why_not(
    name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, dev_csv: Path
) -> None:
    """Half of its layers learn from all of them; over the layers, too, where they can be cut."""
    teacher = family_dir(tmp_path / "teacher", name, tiny_tokenizer)
    train = write_csv(tmp_path / "train.csv", sentences(16, seed=3))
    for recipe in ("kd", "pkd"):
        run = tmp_path / recipe
        given = ["--teacher", teacher, "--train", train, "--validation", dev_csv, "--limit-validation", 8]
        done = codir("distill", *given, "--recipe", recipe, "--no-baseline", *QUICK, "--output", run)
        assert "Traceback" not in done.text
        if name in NOT_CUT or name in REFUSED:
            assert done.code == 2, done.text
            assert {**NOT_CUT, **REFUSED}[name] in done.message
            assert not run.exists()
        else:
            assert done.code == 0, done.text


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, *UNPADDED])
def test_each_can_be_fine_tuned(
    name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, dev_csv: Path
) -> None:
    model, run = family_dir(tmp_path / "model", name, tiny_tokenizer), tmp_path / "run"
    train = write_csv(tmp_path / "train.csv", sentences(16, seed=3))
    given = ["--model", model, "--train", train, "--validation", dev_csv, "--limit-validation", 8]
    succeeded("finetune", *given, *QUICK, "--output", run)
