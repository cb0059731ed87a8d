"""Students that are another model, made of a config, or cut out of another model's encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

from codir.errors import ConfigError, ModelError
from codir.models.loading import encoder_shape
from codir.models.origins import load_origin, student_from_config, student_from_model
from codir.models.student import build_student

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
}
DISTIL: dict[str, Any] = {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50}
NAMES = {0: "bad", 1: "middling", 2: "good"}
LABELS: dict[str, Any] = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}


def noisy(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def bert_teacher(**changes: Any) -> PreTrainedModel:
    return noisy(hf.BertForSequenceClassification(hf.BertConfig(**{**SIZES, **LABELS, **changes})), 1)


def saved(folder: Path, model: PreTrainedModel, names: tuple[str, ...] | None = None) -> PreTrainedModel:
    if names is not None:
        model.config.id2label = dict(enumerate(names))
    noisy(model, 2).save_pretrained(folder)
    return model


def same(one: PreTrainedModel, other: PreTrainedModel, *parts: str) -> bool:
    names = [name for name in one.state_dict() if any(part in name for part in parts)]
    assert names
    return all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in names)


# --- another model as it is


def test_a_classifier_with_the_teachers_classes_is_kept(tmp_path: Path) -> None:
    """In whatever order and case they are."""
    other = saved(
        tmp_path,
        hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL, num_labels=3)),
        ("Good", "bad", "MIDDLING"),
    )
    student = student_from_model(tmp_path, bert_teacher())
    assert same(student, other, "")
    assert student.config.id2label == other.config.id2label


@pytest.mark.parametrize("teacher", [bert_teacher(), bert_teacher(num_labels=1, problem_type="regression")])
def test_one_with_other_classes_is_made_anew_by_the_seed(tmp_path: Path, teacher: PreTrainedModel) -> None:
    other = saved(
        tmp_path,
        hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL, num_labels=3)),
        ("a", "b", "c"),
    )
    one, again, third = (student_from_model(tmp_path, teacher, seed=seed) for seed in (1, 1, 2))
    assert one.config.id2label == teacher.config.id2label
    assert one.config.problem_type == (teacher.config.problem_type or "single_label_classification")
    assert same(one, other, "distilbert")
    assert same(one, again, "classifier")
    assert not torch.equal(one.classifier.weight, third.classifier.weight)
    assert one.classifier.weight.shape != other.classifier.weight.shape or not same(one, other, "classifier")


def test_an_encoder_without_classifier_and_one_that_is_deeper(tmp_path: Path) -> None:
    encoder = saved(tmp_path, hf.ElectraModel(hf.ElectraConfig(**SIZES, embedding_size=16)))
    student = student_from_model(tmp_path, bert_teacher())
    assert student.config.id2label == NAMES
    assert torch.equal(student.get_input_embeddings().weight, encoder.get_input_embeddings().weight)
    with pytest.raises(ModelError, match="deeper"):
        student_from_model(tmp_path, build_student(bert_teacher(), 2))


# --- a config


def test_a_narrower_config(tmp_path: Path) -> None:
    settings = {**SIZES, "hidden_size": 16, "num_hidden_layers": 2}
    student = student_from_config({"model_type": "bert", **settings}, bert_teacher(), seed=4)
    assert (encoder_shape(student).layers, encoder_shape(student).width) == (2, 16)
    assert student.config.id2label == NAMES
    hf.BertConfig(**settings).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json", hf.BertConfig.from_pretrained(tmp_path)):
        assert same(student_from_config(source, bert_teacher(), seed=4), student, "")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 16}, "model_type"),
        ("nothing.json", "no config file"),
        ({"model_type": "bert", **SIZES, "num_hidden_layers": 5}, "deeper"),
    ],
)
def test_a_config_of_no_student(config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_from_config(config, bert_teacher())


# --- another model's encoder, and the teacher's classifier


def test_layers_of_a_masked_language_model_and_head_of_the_teacher(tmp_path: Path) -> None:
    """It has no pooler, and so has the teacher's."""
    teacher, other = bert_teacher(), saved(tmp_path, hf.BertForMaskedLM(hf.BertConfig(**SIZES)))
    made = load_origin(tmp_path, teacher)
    assert same(made, other, "embeddings", "encoder")
    assert same(made, teacher, "pooler", "classifier")
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


def test_its_own_pooler_is_kept_and_its_own_classifier_is_not(tmp_path: Path) -> None:
    """Not even where its shape fits."""
    other = saved(tmp_path, hf.BertForSequenceClassification(hf.BertConfig(**SIZES, num_labels=3)))
    made = load_origin(tmp_path, bert_teacher())
    assert same(made, bert_teacher(), "classifier")
    assert same(made, other, "pooler", "encoder", "embeddings")


def test_a_narrower_model_gets_a_new_classifier_by_the_seed(tmp_path: Path) -> None:
    other = saved(tmp_path, hf.BertModel(hf.BertConfig(**SIZES)))
    teacher, state = bert_teacher(hidden_size=64), torch.random.get_rng_state()
    one, again, third = (load_origin(tmp_path, teacher, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.classifier.weight.shape == (3, 32)
    assert torch.equal(one.classifier.weight, again.classifier.weight)
    assert not torch.equal(one.classifier.weight, third.classifier.weight)
    assert same(one.bert, other, "encoder")


def test_roberta_and_distilbert_take_the_whole_head(tmp_path: Path) -> None:
    roberta = noisy(hf.RobertaForSequenceClassification(hf.RobertaConfig(**SIZES, num_labels=3)), 1)
    saved(tmp_path / "roberta", hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES)))
    made = load_origin(tmp_path / "roberta", roberta)
    assert same(made, roberta, "classifier.dense", "classifier.out_proj")
    assert not same(made, roberta, "encoder")
    distil = noisy(hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL)), 1)
    saved(tmp_path / "distil", hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)))
    assert same(load_origin(tmp_path / "distil", distil), distil, "pre_classifier", "classifier")


def test_another_family_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, hf.RobertaModel(hf.RobertaConfig(**SIZES)))
    with pytest.raises(ConfigError, match=r"roberta model and the teacher a bert model.*student\.model"):
        load_origin(tmp_path, bert_teacher())
