"""A tokenizer that does not fit the model beside it is set right where that is beyond doubt, and refused where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from fault_world import QUICK, codir, flags, refused, sentences, succeeded, write_csv

LABELS = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 70,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", sentences(12))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("pairs") / "pairs.csv", sentences(12, pairs=True))


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Saves a random model, with weights large enough to tell texts apart, and a tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _set(path: Path, **changes: Any) -> None:
    """Changes entries of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def _add_tokens(folder: Path, *tokens: str) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)


def _scores(file: Path) -> list[dict[str, float]]:
    return [json.loads(line)["scores"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("added", [("newword",), ("one more", "two more", "three more")])
def test_tokens_without_embeddings_are_refused_by_every_command(
    added: tuple[str, ...], model: Path, own_model: Path, texts: Path, tmp_path: Path
) -> None:
    out, data = tmp_path / "out", flags(train=texts, validation=texts)
    _add_tokens(own_model, *added)
    for command in (
        ("predict", own_model, *flags(input=texts)),
        ("finetune", *data, *flags(model=own_model)),
        ("distill", *data, *flags(recipe="kd", teacher=own_model)),
        ("distill", *data, *flags(recipe="kd", teacher=model, student=own_model)),
    ):
        message = refused(*command, output=out, leaves_nothing=out)
        assert repr(added[-1]) in message, command
        assert "embeddings for 71 tokens" in message


def test_a_vocabulary_with_a_gap_is_as_long_as_its_last_number(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["?"] = 90
    (folder / "tokenizer.json").write_text(json.dumps(content))
    message = refused("predict", folder, "--input", texts, "--output", tmp_path / "out.jsonl")
    assert "ids up to 90 ('?')" in message


def test_added_tokens_with_their_embeddings_are_welcome(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """The way out that the refusal names."""
    folder = tiny_model_dir()
    _add_tokens(folder, "newword")
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(72)
    model.save_pretrained(folder)
    succeeded("predict", folder, "--input", texts, "--output", tmp_path / "out.jsonl")


def test_one_token_type_is_enough_for_pairs(tiny_tokenizer: Any, pairs: Path, tmp_path: Path) -> None:
    """A RoBERTa knows one token type, and a tokenizer in BERT's format gives two, one for each text of a pair."""
    config = hf.RobertaConfig(
        **SIZES, **LABELS, vocab_size=71, type_vocab_size=1, pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    folder = _save(hf.RobertaForSequenceClassification(config), tiny_tokenizer, tmp_path / "roberta")
    data = ("--train", pairs, "--validation", pairs, "--text-pair", "text_pair")
    succeeded("finetune", "--model", folder, *data, *QUICK, "--output", tmp_path / "teacher")
    out = tmp_path / "out.jsonl"
    succeeded("predict", tmp_path / "teacher", "--input", pairs, "--text-pair", "text_pair", "--output", out)
    # what is saved says it, too, for whoever loads the folder without codir
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "teacher")
    inputs = tokenizer("the cat", "a dog", return_tensors="pt")
    assert "token_type_ids" not in inputs
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").eval()
    first = json.loads(out.read_text().splitlines()[0])
    with torch.inference_mode():
        logits = model(**tokenizer(first["text"], first["text_pair"], return_tensors="pt")).logits
    assert torch.softmax(logits, 1)[0, 0].item() == pytest.approx(first["scores"]["negative"], abs=1e-5)


def test_a_model_that_takes_no_token_types_gets_none(tiny_tokenizer: Any, pairs: Path, tmp_path: Path) -> None:
    config = hf.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=71, **LABELS)
    folder = _save(hf.DistilBertForSequenceClassification(config), tiny_tokenizer, tmp_path / "distilbert")
    out = tmp_path / "out.jsonl"
    succeeded("predict", folder, "--input", pairs, "--text-pair", "text_pair", "--output", out)


def test_more_token_types_than_the_model_has_are_refused(
    tiny_model_dir: Callable[..., Path], pairs: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir()
    content = json.loads((folder / "tokenizer.json").read_text())
    text = json.dumps(content["post_processor"]).replace('"type_id": 1', '"type_id": 4')
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": json.loads(text)}))
    out = tmp_path / "out.jsonl"
    message = refused("predict", folder, "--input", pairs, "--text-pair", "text_pair", "--output", out)
    assert "token types up to 4, and the model knows 2" in message


def _decoder(kind: str) -> Any:
    # one more: Qwen's tokenizers have a token of their own, which is added where it is missing
    special = {"bos_token_id": 2, "eos_token_id": 3, "vocab_size": 72, **LABELS}
    if kind == "gpt2":
        config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=70, **special)
        return hf.GPT2ForSequenceClassification(config)
    config = hf.Qwen2Config(**SIZES, num_key_value_heads=2, **special)
    return hf.Qwen2ForSequenceClassification(config)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
@pytest.mark.parametrize("of_config", [None, 3])
def test_a_padding_token_that_only_the_tokenizer_knows_is_used(
    kind: str, of_config: int | None, tiny_tokenizer: Any, texts: Path, tmp_path: Path
) -> None:
    """Decoders judge a text at the last token that is not padding: with another padding token at a wrong one."""
    folder = _save(_decoder(kind), tiny_tokenizer, tmp_path / "model")
    _set(folder / "config.json", pad_token_id=of_config)
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    succeeded("predict", folder, "--input", texts, "--output", together)
    succeeded("predict", folder, "--input", texts, "--batch-size", "1", "--output", alone)
    for one, other in zip(_scores(together), _scores(alone), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({round(each["negative"], 4) for each in _scores(alone)}) > 6


def test_a_fine_tuned_decoder_has_the_padding_token_in_its_config(
    tiny_tokenizer: Any, texts: Path, tmp_path: Path
) -> None:
    folder, output = _save(_decoder("gpt2"), tiny_tokenizer, tmp_path / "model"), tmp_path / "teacher"
    data = ("--train", texts, "--validation", texts)
    succeeded("finetune", "--model", folder, *data, *QUICK, "--output", output)
    assert json.loads((output / "config.json").read_text())["pad_token_id"] == 0


def test_a_padding_token_that_only_the_config_knows_is_used(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir()
    succeeded("predict", folder, "--input", texts, "--output", tmp_path / "before.jsonl")
    _set(folder / "tokenizer_config.json", pad_token=None)
    succeeded("predict", folder, "--input", texts, "--output", tmp_path / "after.jsonl")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()


def test_no_padding_token_at_all_is_said_with_a_way_out_that_works(
    tiny_tokenizer: Any, texts: Path, tmp_path: Path
) -> None:
    folder, out = _save(_decoder("gpt2"), tiny_tokenizer, tmp_path / "model"), tmp_path / "out.jsonl"
    _set(folder / "config.json", pad_token_id=None)
    _set(folder / "tokenizer_config.json", pad_token=None)
    _set(folder / "tokenizer.json", padding=None)  # of a call with padding, which would name a token, too
    message = refused("predict", folder, "--input", texts, "--output", out)
    assert '"pad_token": "[SEP]"' in message
    _set(folder / "tokenizer_config.json", pad_token="[SEP]")
    succeeded("predict", folder, "--input", texts, "--output", out)


def test_an_encoder_that_pads_with_another_token_has_the_tokenizer_of_another_model(
    tiny_tokenizer: Any, texts: Path, tmp_path: Path
) -> None:
    """A BERT's tokenizer beside a RoBERTa, whose positions begin after its padding token."""
    config = hf.RobertaConfig(**SIZES, **LABELS, vocab_size=71, type_vocab_size=2, pad_token_id=1)
    folder = _save(hf.RobertaForSequenceClassification(config), tiny_tokenizer, tmp_path / "roberta")
    out = tmp_path / "out.jsonl"
    message = refused("predict", folder, "--input", texts, "--output", out)
    assert "pads with id 0 ('[PAD]'), and its config.json says pad_token_id 1" in message
    _set(folder / "config.json", pad_token_id=0)
    succeeded("predict", folder, "--input", texts, "--output", out)


def test_a_tokenizer_that_is_far_smaller_than_its_model_is_noticed(
    tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_model_dir(vocab_size=3_000)
    done = codir("predict", folder, "--input", texts, "--output", tmp_path / "out.jsonl")
    assert done.code == 0, done.text
    assert "has 71 tokens, and the model embeddings for 3,000" in done.text


UNREADABLE: dict[str, tuple[str, str, str]] = {
    "cut off": ("tokenizer.json", '{"version": "1.0", "trunc', "tokenizer.json is damaged"),
    "a list": ("tokenizer.json", "[]", "tokenizer.json is damaged"),
    "an object without words": ("tokenizer.json", "{}", "cannot be read"),
    "settings cut off": ("tokenizer_config.json", '{"a": ', "tokenizer_config.json is damaged"),
    "settings as a list": ("tokenizer_config.json", "[]", "tokenizer_config.json is damaged"),
    "a number for a token": ("tokenizer_config.json", '{"pad_token": 5}', "cannot be read"),
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_tokenizer_that_is_there_and_cannot_be_read_is_not_called_missing(
    how: str, own_model: Path, texts: Path, tmp_path: Path
) -> None:
    name, content, words = UNREADABLE[how]
    (own_model / name).write_text(content)
    message = refused("predict", own_model, input=texts, output=tmp_path / "out.jsonl")
    assert words in message
    assert "Copy the tokenizer's files again" in message
    assert "config.json or another" not in message


def test_no_tokenizer_is_called_missing(tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path) -> None:
    folder = tiny_model_dir()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "holds no tokenizer" in refused("predict", folder, input=texts, output=tmp_path / "out.jsonl")


@pytest.mark.parametrize("what", ["model", "tokenizer of a folder"])
def test_code_that_comes_with_a_model_is_never_run_nor_offered(
    what: str, tiny_model_dir: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder, trace = tiny_model_dir(), tmp_path / "trace"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    if what == "model":
        _set(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"})
    else:
        shutil.move(folder / "tokenizer.json", folder / "vocab.own")
        _set(
            folder / "tokenizer_config.json",
            tokenizer_class="Own",
            auto_map={"AutoTokenizer": ["own.Own", None]},
        )
    message = refused("predict", folder, "--input", texts, "--output", tmp_path / "out.jsonl")
    assert "trust_remote_code" not in message
    if what == "model":
        assert "runs no code that comes with a model" in message
    assert not trace.exists()


@pytest.mark.parametrize("length", ["512", -1, [128]])
def test_a_length_that_is_none_is_refused(
    length: Any, texts: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path]
) -> None:
    model = tiny_model_dir(layers=1)
    _set(model / "tokenizer_config.json", model_max_length=length)
    output = tmp_path / "scores.jsonl"
    message = refused("predict", model, "--input", texts, "--output", output, leaves_nothing=tmp_path)
    assert f"model_max_length is {length!r}" in message
    assert "tokenizer_config.json" in message
