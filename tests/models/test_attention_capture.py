"""Queries, keys and values as every family hands them to its attention."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as hf

from codir.errors import ModelError
from codir.models.representations import TokenView, capture_attention, represent, require_attention

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
SPECIAL = dict.fromkeys(["pad_token_id"], 0) | dict.fromkeys(
    ["eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"], 1
)
FAMILIES = {
    "bert": lambda: (hf.BertForSequenceClassification, hf.BertConfig(**SMALL)),
    "roberta": lambda: (hf.RobertaForSequenceClassification, hf.RobertaConfig(**SMALL)),
    "electra": lambda: (hf.ElectraForSequenceClassification, hf.ElectraConfig(**SMALL)),
    "distilbert": lambda: (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(dim=32, n_layers=3, n_heads=2, hidden_dim=64, vocab_size=100),
    ),
    "modernbert": lambda: (hf.ModernBertForSequenceClassification, hf.ModernBertConfig(**SMALL, **SPECIAL)),
}


def inputs() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return {
        "input_ids": torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(0)),
        "attention_mask": mask,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_and_keys_give_the_attention_of_the_eager_model(family):
    kind, config = FAMILIES[family]()
    torch.manual_seed(0)
    model = kind(config).eval()
    _, other = FAMILIES[family]()
    other._attn_implementation = "eager"
    eager = kind(other).eval()
    eager.load_state_dict(model.state_dict())
    batch = inputs()
    expected = eager(**batch, output_attentions=True).attentions

    views = [TokenView(what, layer) for what in ("query", "key", "value") for layer in (1, 3)]
    found = represent(model, batch, tokens=views)
    for layer in (1, 3):
        query, key = (
            found.tokens[TokenView(what, layer)].unflatten(2, (2, 16)).transpose(1, 2) for what in ("query", "key")
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(16)
        scores = scores.masked_fill(~found.mask[:, None, None, :], -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), expected[layer - 1], atol=1e-6, rtol=1e-5)


def test_looking_changes_neither_the_outputs_nor_the_model():
    kind, config = FAMILIES["bert"]()
    model = kind(config).eval()
    before = model.config._attn_implementation
    batch = inputs()
    plain = model(**batch).logits
    seen = represent(model, batch, tokens=[TokenView("value", 2)]).logits
    torch.testing.assert_close(plain, seen)
    assert model.config._attn_implementation == before
    assert "codir" not in str(model.config.to_dict())


def test_gradients_reach_the_queries():
    kind, config = FAMILIES["bert"]()
    model = kind(config)
    view = TokenView("query", 2)
    represent(model, inputs(), tokens=[view]).tokens[view].sum().backward()
    layers = model.bert.encoder.layer
    assert layers[1].attention.self.query.weight.grad is not None
    assert layers[1].attention.self.value.weight.grad is None
    assert layers[0].output.dense.weight.grad is not None


def test_only_the_layers_asked_for_are_kept():
    kind, config = FAMILIES["bert"]()
    model = kind(config)
    with capture_attention(model, [2]) as found:
        model(**inputs())
    assert set(found) == {2}
    with pytest.raises(ModelError, match="not of layer 4"), capture_attention(model, [4]):
        model(**inputs())


@pytest.mark.parametrize(
    "model",
    [
        lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**SMALL)),
        lambda: hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**SMALL, relative_attention=True)),
        lambda: torch.nn.Linear(2, 2),
    ],
)
def test_attention_with_a_bias_by_position_is_refused(model):
    with pytest.raises(ModelError, match=r"The teacher is a .*cannot be compared"):
        require_attention(model(), "The teacher")


def test_a_window_shorter_than_the_text_is_refused():
    kind, config = FAMILIES["modernbert"]()
    config.local_attention = 4
    model = kind(config)
    with pytest.raises(ModelError, match=r"window of \d"), capture_attention(model, [2]):
        model(**inputs())


def test_hidden_views_start_at_the_embeddings():
    kind, config = FAMILIES["bert"]()
    model = kind(config).eval()
    batch = inputs()
    states = model(**batch, output_hidden_states=True).hidden_states
    found = represent(model, batch, tokens=[TokenView("hidden", 0), TokenView("hidden", 3)])
    torch.testing.assert_close(found.tokens[TokenView("hidden", 0)], states[0])
    torch.testing.assert_close(found.tokens[TokenView("hidden", 3)], states[3])
    assert found.mask.tolist() == batch["attention_mask"].bool().tolist()
