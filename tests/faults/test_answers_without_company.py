"""What a model answers to a text depends on neither the texts beside it nor those before it.

ConvBERT's convolutions, FNet's Fourier transform and MobileBERT's neighbours see the padding; BigBird changes its
attention with the first short text it gets. `codir` gives the answer that the text gets alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_families import family_dir
from fault_world import QUICK, refused, sentences, succeeded, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from codir.models.check import check_model
from codir.models.loading import load_classifier

TEXTS = (
    "good film",
    "the bad old dog likes a short question and hates the long answer it never saw",
    "a bird",
)


def texts_file(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Writes texts without labels."""
    return write_csv(path, [{"text": text} for text in texts])


def answered(model: Path, texts: Path, output: Path, *more: Any) -> tuple[list[list[float]], str]:
    """Returns what `codir predict` answers, [n, C], and everything it said."""
    done = succeeded("predict", model, "--input", texts, "--output", output, *more)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [list(row["scores"].values()) for row in rows], done.text


def alone(folder: Path, texts: Sequence[str] = TEXTS) -> list[list[float]]:
    """Returns the probabilities for each text alone, by transformers itself."""
    model, tokenizer = (each.from_pretrained(folder) for each in (AutoModelForSequenceClassification, AutoTokenizer))
    found = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            logits = model(**inputs).logits
        found.append(logits[0].softmax(-1).tolist())
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("convbert", "fnet", "mobilebert", "xlnet"),
    ],
)
def test_not_on_those_beside_it(name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    folder = family_dir(tmp_path / "model", name, tiny_tokenizer)
    found, said = answered(folder, texts_file(tmp_path / "texts.csv"), tmp_path / "all.jsonl")
    np.testing.assert_allclose(found, alone(folder), atol=2e-6)
    if name != "xlnet":  # padding on the left does no harm there
        assert "without padding" in said
        assert str(folder) in said
    found, _ = answered(folder, tmp_path / "texts.csv", tmp_path / "one.jsonl", "--batch-size", 1)
    np.testing.assert_allclose(found, alone(folder), atol=2e-6)


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2"])
def test_nothing_is_said_of_models_that_are_exact(
    name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = family_dir(tmp_path / "model", name, tiny_tokenizer)
    found, said = answered(folder, texts_file(tmp_path / "texts.csv"), tmp_path / "all.jsonl")
    np.testing.assert_allclose(found, alone(folder), atol=2e-6)
    assert "padding" not in said


def test_not_on_those_before_it(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """BigBird attends in blocks until its first short text, and fully from then on."""
    folder = family_dir(tmp_path / "model", "big_bird", tiny_tokenizer)
    long = " ".join(TEXTS[1].split() * 3)
    first, _ = answered(folder, texts_file(tmp_path / "long.csv", [long]), tmp_path / "long.jsonl")
    both, _ = answered(
        folder, texts_file(tmp_path / "both.csv", ["a cat", long]), tmp_path / "both.jsonl", "--batch-size", 1
    )
    assert first[0] == both[1]
    model = load_classifier(folder)
    check_model(model, tiny_tokenizer, "it")
    assert model.config.attention_type == "original_full"  # so that a copy of it, loaded by itself, answers alike


def test_not_of_a_teacher(
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tiny_model_dir: Callable[..., Path],
    dev_csv: Path,
) -> None:
    """A student learns the same from the cache, whose batches are of similar length, and from a teacher in the step."""
    teacher = family_dir(tmp_path / "teacher", "convbert", tiny_tokenizer)
    student, train = tiny_model_dir(layers=1), write_csv(tmp_path / "train.csv", sentences(16, seed=3))
    given = ["distill", "--teacher", teacher, "--student", student, "--train", train, "--validation", dev_csv]
    learned = []
    for cache in ("--cache", "--no-cache"):
        run = tmp_path / cache
        succeeded(*given, "--recipe", "kd", "--no-baseline", *QUICK, cache, "--output", run)
        learned.append(AutoModelForSequenceClassification.from_pretrained(run).state_dict())
    for name, weight in learned[0].items():
        torch.testing.assert_close(learned[1][name], weight, atol=1e-4, rtol=0)


def test_not_of_an_export(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """The check compares the padded with the unpadded; an export answers as its source does to a text alone."""
    folder = family_dir(tmp_path / "model", "convbert", tiny_tokenizer)
    exported, texts = tmp_path / "exported", texts_file(tmp_path / "texts.csv")
    done = succeeded("export", folder, "--format", "torch-bf16", "--no-data", "--output", exported)
    assert "Padding changes" in done.text
    assert "Padding changes" in (exported / "README.md").read_text(encoding="utf-8")
    found, _ = answered(exported, texts, tmp_path / "all.jsonl")
    np.testing.assert_allclose(found, alone(folder), atol=2e-2)
    found_alone, _ = answered(exported, texts, tmp_path / "one.jsonl", "--batch-size", 1)
    np.testing.assert_allclose(found, found_alone, atol=1e-2)


def test_a_format_in_which_a_model_cannot_be_run(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """There is no Fourier transform of bf16 on a CPU."""
    folder, output = family_dir(tmp_path / "model", "fnet", tiny_tokenizer), tmp_path / "exported"
    given = ["export", folder, "--format", "torch-bf16", "--no-data", "--output", output]
    assert "cannot be run" in refused(*given, leaves_nothing=output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convbert", "mobilebert"])
def test_not_of_a_graph(name: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    pytest.importorskip("onnxruntime")
    folder = family_dir(tmp_path / "model", name, tiny_tokenizer)
    exported, texts = tmp_path / "exported", texts_file(tmp_path / "texts.csv")
    succeeded("export", folder, "--format", "onnx", "--no-data", "--output", exported)
    found, _ = answered(exported, texts, tmp_path / "all.jsonl")
    np.testing.assert_allclose(found, alone(folder), atol=1e-4)


def test_a_decoder_made_of_an_encoder_by_a_switch_is_refused(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = family_dir(tmp_path / "model", "roberta", tiny_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    command = ["predict", folder, "--input", texts_file(tmp_path / "t.csv"), "--output", tmp_path / "p.jsonl"]
    message = refused(*command, leaves_nothing=tmp_path)
    assert "the same answer whatever the text" in message
    assert "is_decoder" in message
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": False}))
    succeeded(*command)
