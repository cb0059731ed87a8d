"""A student's encoder from another model, its classifier from the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from codir.errors import ConfigError, ModelError
from codir.models.origins import load_origin
from codir.models.student import build_student

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
}
NAMES = {0: "bad", 1: "middling", 2: "good"}


def noisy(model: hf.PreTrainedModel, seed: int) -> hf.PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def bert_teacher(**changes: object) -> hf.PreTrainedModel:
    config = hf.BertConfig(**{**SIZES, **changes}, id2label=NAMES, label2id={v: k for k, v in NAMES.items()})
    return noisy(hf.BertForSequenceClassification(config), 1)


def same(one: hf.PreTrainedModel, other: hf.PreTrainedModel, names: list[str]) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in names)


def named(model: hf.PreTrainedModel, *parts: str) -> list[str]:
    found = [name for name in model.state_dict() if any(part in name for part in parts)]
    assert found
    return found


def test_layers_of_a_masked_language_model_and_head_of_the_teacher(tmp_path: Path) -> None:
    """It has no pooler, and so has the teacher's."""
    teacher = bert_teacher()
    other = noisy(hf.BertForMaskedLM(hf.BertConfig(**SIZES)), 2)
    other.save_pretrained(tmp_path)
    made = load_origin(tmp_path, teacher)
    assert same(made, other, named(made, "embeddings", "encoder"))
    assert same(made, teacher, named(made, "pooler", "classifier"))
    assert made.config.id2label == NAMES
    assert not made.training
    student = build_student(made, init=[1, 4])
    for mine, theirs in ((0, 0), (1, 3)):
        layer = student.bert.encoder.layer[mine].state_dict()
        assert all(torch.equal(layer[k], v) for k, v in other.bert.encoder.layer[theirs].state_dict().items())
    with torch.no_grad():  # nothing is shared with the teacher
        for parameter in made.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for parameter in teacher.parameters())


def test_pooler_of_an_encoder_that_has_one(tmp_path: Path) -> None:
    teacher = bert_teacher()
    other = noisy(hf.BertModel(hf.BertConfig(**SIZES)), 2)
    other.save_pretrained(tmp_path)
    made = load_origin(tmp_path, teacher)
    assert torch.equal(made.bert.pooler.dense.weight, other.pooler.dense.weight)
    assert same(made, teacher, named(made, "classifier"))


def test_a_classifier_for_other_classes_is_not_taken(tmp_path: Path) -> None:
    """Not even where its shape fits."""
    teacher = bert_teacher()
    other = noisy(hf.BertForSequenceClassification(hf.BertConfig(**SIZES, num_labels=3)), 2)
    other.save_pretrained(tmp_path)
    made = load_origin(tmp_path, teacher)
    assert same(made, teacher, named(made, "classifier"))
    assert same(made, other, named(made, "pooler", "encoder", "embeddings"))
    assert made.config.id2label == NAMES


def test_a_narrower_model_gets_a_new_classifier_by_the_seed(tmp_path: Path) -> None:
    teacher = bert_teacher(hidden_size=64)
    other = noisy(hf.BertModel(hf.BertConfig(**SIZES)), 2)
    other.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    one, again, third = (load_origin(tmp_path, teacher, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.classifier.weight.shape == (3, 32)
    assert torch.equal(one.classifier.weight, again.classifier.weight)
    assert not torch.equal(one.classifier.weight, third.classifier.weight)
    assert torch.equal(one.bert.encoder.layer[2].output.dense.bias, other.encoder.layer[2].output.dense.bias)


def test_roberta_and_distilbert_take_the_whole_head(tmp_path: Path) -> None:
    roberta = noisy(hf.RobertaForSequenceClassification(hf.RobertaConfig(**SIZES, num_labels=3)), 1)
    noisy(hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES)), 2).save_pretrained(tmp_path / "roberta")
    made = load_origin(tmp_path / "roberta", roberta)
    assert same(made, roberta, named(made, "classifier.dense", "classifier.out_proj"))
    assert not same(made, roberta, named(made, "encoder"))
    sizes: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50}
    distil = noisy(hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**sizes)), 1)
    noisy(hf.DistilBertModel(hf.DistilBertConfig(**sizes)), 2).save_pretrained(tmp_path / "distil")
    made = load_origin(tmp_path / "distil", distil)
    assert same(made, distil, named(made, "pre_classifier", "classifier"))


def test_regression(tmp_path: Path) -> None:
    config = hf.BertConfig(**SIZES, num_labels=1, problem_type="regression")
    teacher = noisy(hf.BertForSequenceClassification(config), 1)
    noisy(hf.BertModel(hf.BertConfig(**SIZES)), 2).save_pretrained(tmp_path)
    made = load_origin(tmp_path, teacher)
    assert (made.config.num_labels, made.config.problem_type) == (1, "regression")
    assert same(made, teacher, named(made, "classifier"))


def test_another_family_is_refused(tmp_path: Path) -> None:
    noisy(hf.RobertaModel(hf.RobertaConfig(**SIZES)), 2).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"roberta model and the teacher a bert model.*student\.model"):
        load_origin(tmp_path, bert_teacher())
    with pytest.raises(ModelError, match="does not exist"):
        load_origin(tmp_path / "gone" / "away" / "far", bert_teacher())
