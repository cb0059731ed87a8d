"""What is frozen gets no gradient, and nothing else is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

from codir.errors import ConfigError, ModelError
from codir.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification
from codir.models.freezing import describe_frozen, freeze, parameters_of

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
}
MODELS = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**SIZES)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**SIZES)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(dim=32, n_layers=3, n_heads=2, hidden_dim=64, vocab_size=50)
    ),
    "electra": lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**SIZES, embedding_size=16)),
    "modernbert": lambda: hf.ModernBertForSequenceClassification(
        hf.ModernBertConfig(**SIZES, pad_token_id=0, cls_token_id=1, sep_token_id=2)
    ),
}


def frozen(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("family", MODELS)
def test_embeddings_and_a_layer(family: str) -> None:
    model = MODELS[family]()
    freeze(model, ["embeddings", 2])
    names = {name for name, _ in model.named_parameters()}
    layers = ".layer.1." if ".layer.1." in " ".join(names) else ".layers.1."
    expected = {name for name in names if ".embeddings" in name or layers in name}
    assert frozen(model) == expected
    assert any("embeddings" in name for name in expected)
    assert any(layers in name for name in expected)
    assert len(expected) < len(names) / 2
    text = describe_frozen(model, ["embeddings", 2])
    count = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    assert text.startswith("the embeddings, layer 2: ")
    assert f"{count:,} of " in text


def test_what_is_below_layer_one_of_electra_is_its_embeddings() -> None:
    model = MODELS["electra"]()
    freeze(model, ["embeddings"])
    assert "electra.embeddings_project.weight" in frozen(model)
    assert len(parameters_of(model, [0])) == len(frozen(model))


def test_layers_are_counted_from_one() -> None:
    model = MODELS["bert"]()
    freeze(model, [1, 3])
    assert {name.split(".")[3] for name in frozen(model)} == {"0", "2"}


@pytest.mark.parametrize("number", [4, -1])
def test_a_layer_that_is_not_there(number: int) -> None:
    model = MODELS["bert"]()
    with pytest.raises(ConfigError, match=r"student\.freeze names layer .* 1 to 3"):
        freeze(model, [1, number])
    assert not frozen(model)


def test_a_bilstm() -> None:
    model = BiLstmForSequenceClassification(
        BiLstmConfig(vocab_size=30, embedding_size=8, hidden_size=8, num_hidden_layers=2, classifier_size=8)
    )
    freeze(model, ["embeddings", 1])
    assert "bilstm.embeddings.weight" in frozen(model)
    assert all(".embeddings." in name or ".layers.0." in name for name in frozen(model))


def test_shared_layers_cannot_be_frozen_but_their_embeddings_can() -> None:
    model = hf.AlbertForSequenceClassification(hf.AlbertConfig(**SIZES, embedding_size=16))
    with pytest.raises(ModelError, match="ALBERT"):
        freeze(model, [1])
    freeze(model, ["embeddings"])
    assert frozen(model)
    assert all("embeddings" in name for name in frozen(model))


def test_a_family_without_embeddings_of_that_name() -> None:
    model = hf.XLNetForSequenceClassification(
        hf.XLNetConfig(vocab_size=30, d_model=16, n_layer=2, n_head=2, d_inner=16)
    )
    with pytest.raises(ModelError, match="not understood"):
        freeze(model, ["embeddings"])


def test_a_frozen_copy_stays_frozen() -> None:
    model = MODELS["bert"]()
    freeze(model, ["embeddings"])
    assert frozen(copy.deepcopy(model)) == frozen(model)
    loss = model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == ("embeddings" in name), name
