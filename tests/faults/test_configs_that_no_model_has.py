"""A config.json that no model can have, or whose switches are not codir's, is answered with a sentence or set right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_world import QUICK, refused, sentences, succeeded, unchanged, write_csv
from transformers import BertConfig, BertForMaskedLM

# what is changed in config.json; words of the answer
DAMAGES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "a gap between the classes": ({"id2label": {"0": "negative", "2": "positive"}}, "number 1 is missing"),
    "two classes of one name": ({"id2label": {"0": "good", "1": "good"}}, "one name, 'good'"),
    "hidden size 0": ({"hidden_size": 0}, "hidden_size is 0"),
    "layers as text": ({"num_hidden_layers": "4"}, "num_hidden_layers is '4'"),
    "a million layers": ({"num_hidden_layers": 1_000_000}, "1000000"),
    "a vocabulary of a billion": ({"vocab_size": 10**9}, "describes a model of about"),
    "two positions": ({"max_position_embeddings": 2}, "positions for 2 tokens"),
    "heads that do not divide": ({"num_attention_heads": 5}, "5 attention heads do not divide a width of 32"),
    "padding outside of the vocabulary": ({"pad_token_id": 7_000}, "pad_token_id is 7000"),
    "unknown activation": ({"hidden_act": "gelo"}, "did you mean 'gelu'"),
    "dropout of five": ({"hidden_dropout_prob": 5}, "dropout"),
    "unknown family": ({"model_type": "brt"}, "did you mean 'bert'"),
    "a config that is a list": ("[1, 2]", "it holds [1, 2]"),
    "nothing at all": ("", "cannot be read as JSON"),
}


def _damage(folder: Path, change: dict[str, Any] | str) -> None:
    path = folder / "config.json"
    if isinstance(change, str):
        path.write_bytes(change.encode("utf-8", "surrogatepass"))
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", sentences(12))


@pytest.mark.parametrize("what", DAMAGES)
def test_a_config_that_no_model_has_is_refused_at_once(
    what: str, tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    change, words = DAMAGES[what]
    folder = tiny_model_dir()
    _damage(folder, change)
    output = tmp_path / "predictions.jsonl"
    start = time.monotonic()
    with unchanged(output):
        message = refused("predict", folder, "--input", texts, "--output", output)
    assert words in message
    assert str(folder) in message
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("what", ["a million layers", "hidden size 0", "a gap between the classes"])
def test_every_command_says_it(what: str, tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path) -> None:
    change, words = DAMAGES[what]
    good, folder, out = tiny_model_dir(), tiny_model_dir(), tmp_path / "out"
    _damage(folder, change)
    data = ("--train", texts, "--validation", texts)
    for command in (
        ("finetune", "--model", folder, *data, "--output", out),
        ("distill", "--teacher", folder, *data, "--output", out),
        ("distill", "--teacher", good, "--student", folder, *data, "--output", out),
        ("distill", "--teacher", good, "--student-config", folder / "config.json", *data, "--output", out),
        ("evaluate", folder, "--validation", texts),
        ("export", folder, "--format", "torch-bf16", "--output", out),
        ("latency", folder),
        ("corpus", "--tokenizer", folder, "--input", texts, "--output", out),
    ):
        assert words in refused(*command, leaves_nothing=out), command


def test_a_student_larger_than_the_machine_is_refused(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "config.json"
    wide.write_text(
        json.dumps({"model_type": "bert", "hidden_size": 4_000_000, "num_hidden_layers": 2, "num_attention_heads": 2})
    )
    out = tmp_path / "out"
    message = refused(
        *("distill", "--teacher", tiny_model_dir(), "--student-config", wide),
        *("--train", texts, "--validation", texts, "--output", out),
        leaves_nothing=out,
    )
    assert "GB of memory" in message


SWITCHES: dict[str, dict[str, Any]] = {
    "attentions": {"output_attentions": True},
    "attentions, which sdpa has not": {"output_attentions": True, "attn_implementation": "sdpa"},
    "hidden states": {"output_hidden_states": True},
    "tuples": {"return_dict": False},
    "an attention that is not installed": {"_attn_implementation": "flash_attention_2"},
    "chunks of a length that divides no text": {"chunk_size_feed_forward": 7},
}


@pytest.mark.parametrize("what", SWITCHES)
def test_switches_of_the_output_in_a_folder_change_no_answer(
    what: str, tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir()
    succeeded("predict", folder, "--input", texts, "--output", tmp_path / "before.jsonl")
    _damage(folder, SWITCHES[what])
    succeeded("predict", folder, "--input", texts, "--output", tmp_path / "after.jsonl")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()


def test_a_teacher_with_all_switches_on_trains_students(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """Through a checkpoint, which is where they died, and into the student's own config, which must not have them."""
    base = tiny_model_dir()
    _damage(base, {"output_attentions": True, "output_hidden_states": True, "return_dict": False})
    data = ("--train", texts, "--validation", texts)
    succeeded("finetune", "--model", base, *data, *QUICK, "--output", tmp_path / "teacher")
    (tmp_path / "teacher" / "codir-manifest.json").unlink()  # which says that nobody changed anything
    _damage(tmp_path / "teacher", {"output_attentions": True, "output_hidden_states": True, "torchscript": True})
    student = tmp_path / "student"
    succeeded(
        "distill",
        *data,
        *QUICK,
        recipe="pkd",
        teacher=tmp_path / "teacher",
        output=student,
        cache_dir=tmp_path / "cache",
        no_baseline=True,
    )
    saved = json.loads((student / "config.json").read_text())
    assert not [name for name, value in saved.items() if name.startswith("output_") and value]
    succeeded("evaluate", student, "--validation", texts)


def test_switches_in_a_masked_language_model_and_in_a_corpus_are_passed_over(
    tiny_tokenizer: Any, texts: Path, tmp_path: Path
) -> None:
    """`codir corpus` copies the model's config.json, from which `codir pretrain` makes a student."""
    folder, corpus = tmp_path / "model", tmp_path / "corpus"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(**sizes, vocab_size=len(tiny_tokenizer), max_position_embeddings=64)).save_pretrained(
        folder
    )
    tiny_tokenizer.save_pretrained(folder)
    _damage(folder, {"output_attentions": True, "output_hidden_states": True, "use_return_dict": False})
    plain = tmp_path / "plain.txt"
    plain.write_text("\n\n".join(row["text"] for row in sentences(60)))
    succeeded("corpus", "--tokenizer", folder, "--input", plain, "--block", "24", "--output", corpus)
    quick = ("--steps", "2", "--batch-size", "4", "--precision", "fp32")
    run = ("pretrain", "--recipe", "mlm-pre", "--corpus", corpus, *quick)
    succeeded(*run, "--output", tmp_path / "fresh")
    succeeded(*run, "--student", folder, "--output", tmp_path / "again")
    succeeded("augment", model=folder, train=texts, copies="1", output=tmp_path / "more.jsonl")
    for name in ("fresh", "again"):
        saved = json.loads((tmp_path / name / "config.json").read_text())
        assert not [each for each, value in saved.items() if each.startswith("output_") and value]
